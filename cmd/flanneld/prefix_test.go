package main_test

import (
	"strings"
	"testing"

	"flanneld/pkg/lab"
)

// A prefix is written as flannel takes it: in version 2 of the API a slash more or less is
// nothing, in version 3 one in front is a part of each key. Commands go by the same keys.
func TestPrefixForms(t *testing.T) {
	t.Parallel()
	n := newLab(t, hostGW)
	n.startEtcd(lab.EtcdOptions{})
	admins := map[string]admin{"2": n.admin, "3": newAdminV3(t, n.etcd)}
	for _, c := range []struct{ version, prefix, root string }{
		{"2", "a/net", "/a/net"},
		{"2", "//b//net/", "/b/net"},
		{"3", "c/net", "c/net"},
		{"3", "d/net//", "d/net"},
		{"3", "//e//net/", "/e/net"},
		{"3", "", ""},
	} {
		t.Run(c.version+"="+c.prefix, func(t *testing.T) {
			key := func(k string) string { return strings.TrimPrefix(c.root+"/"+k, map[string]string{"": "/"}[c.root]) }
			a := admins[c.version]
			check(t, a.put(n.ctx, key("config"), n.config(nil), 0))
			peer := stranger("10.5.200.0/24", "192.168.0.200")
			check(t, a.put(n.ctx, key(peer.key()), n.backend.lease(peer), 0))
			h := n.addNode(lab.HostOptions{}, "-etcd-prefix="+c.prefix)
			h.start()
			h.waitReady()
			h.waitPeers(soon, peer)
			lease := key(h.key())
			if e, err := a.get(n.ctx, lease); err != nil || e == nil {
				t.Errorf("there is no lease at %s: %v", lease, err)
			}
			must(h.daemon.Stop(soon))(t)
			if code, out := h.act("-release"); code != 0 || !strings.Contains(out, "released "+h.subnet().String()) {
				t.Errorf("-release: status %d, %s", code, out)
			}
			if e, err := a.get(n.ctx, lease); err != nil || e != nil {
				t.Errorf("after -release there is %s, %v", e, err)
			}
			check(t, a.delete(n.ctx, key("config")))
			check(t, a.delete(n.ctx, key(peer.key())))
		})
	}
}

// A network moves to the keys that a daemon with the same options looks at.
func TestMigrationKeepsPrefix(t *testing.T) {
	t.Parallel()
	n := newLab(t, hostGW)
	n.startEtcd(lab.EtcdOptions{})
	v3 := newAdminV3(t, n.etcd)
	check(t, n.admin.put(n.ctx, "/old/net/config", n.config(nil), 0))
	h := n.addNode(lab.HostOptions{}, "-etcd-prefix=old/net")
	h.start()
	h.waitReady()
	subnet := h.subnet()
	if code, out := h.act("-etcd-migrate"); code != 0 {
		t.Fatalf("status %d, %s", code, out)
	}
	for _, key := range []string{"old/net/config", "old/net/" + h.key()} {
		if e, err := v3.get(n.ctx, key); err != nil || e == nil {
			t.Errorf("nothing is at %s, %v", key, err)
		}
	}
	must(h.daemon.Stop(soon))(t)
	h.start("-etcd-api=3")
	h.waitReady()
	if h.subnet() != subnet {
		t.Errorf("the subnet was %s and is %s", subnet, h.subnet())
	}
}

// In version 3 a slash in front makes another key. Who looks at the wrong one is told.
func TestSlashInFrontOfPrefix(t *testing.T) {
	t.Parallel()
	n := newLab(t, vxlan)
	n.startEtcd(lab.EtcdOptions{})
	check(t, n.admin.put(n.ctx, "coreos.com/network/config", n.config(nil), 0))
	check(t, n.admin.put(n.ctx, "/other/config", n.config(nil), 0))
	with, without := n.addNode(lab.HostOptions{}), n.addNode(lab.HostOptions{}, "-etcd-prefix=other", "-etcd-api=3")
	with.start()
	without.start()
	with.waitLog("no network configuration at /coreos.com/network/config; there is one at coreos.com/network/config: if that is the network's, say -etcd-prefix=coreos.com/network")
	without.waitLog("no network configuration at other/config; there is one at /other/config: if that is the network's, say -etcd-prefix=/other")
	check(t, n.admin.put(n.ctx, "/coreos.com/network/config", n.config(nil), 0))
	with.waitReady()
}

// What names one network is one state file: with etcd away, the daemon starts from it.
func TestStateFileOfPrefix(t *testing.T) {
	inParallel(t, slowVariants, func(t *testing.T, v variant) {
		n := newConfigured(t, v, nil)
		h := n.addNode(lab.HostOptions{})
		h.start()
		h.waitReady()
		subnet := h.subnet()
		must(h.daemon.Stop(soon))(t)
		n.etcd.Kill()
		same := []string{"-etcd-prefix=//coreos.com/network/"}
		if v.store.name == etcdV2.name {
			same = []string{"-etcd-prefix=coreos.com/network/", "-etcd-api=2"}
		}
		h.start(same...)
		h.waitReady()
		if h.subnet() != subnet {
			t.Errorf("the subnet was %s and is %s", subnet, h.subnet())
		}
	})
}
