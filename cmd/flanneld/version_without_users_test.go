package main_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	daemon "flanneld/cmd/flanneld"
	"flanneld/pkg/lab"
)

const etcdPassword = "open-sesame-4711"

// userArgs are the options with which a daemon is the user flannel.
func userArgs() []string { return []string{"-etcd-username=flannel", "-etcd-password=" + etcdPassword} }

// newUsersNetwork returns a lab of so many hosts whose network is in version 3 of etcd's
// API, which has users, while anyone can write version 2. The lab's admin is anyone.
func newUsersNetwork(t *testing.T, hosts int, v variant) (*network, adminV3) {
	t.Helper()
	v.store = etcdV2
	n := newLab(t, v)
	n.startEtcd(lab.EtcdOptions{})
	check(t, n.etcd.EnableAuthV3(n.ctx, "root-password-1234"))
	check(t, n.etcd.AddUserV3(n.ctx, "flannel", etcdPassword, keyPrefix+"/*"))
	root := newAdminV3(t, n.etcd).(adminV3)
	check(t, root.put(n.ctx, keyPrefix+"/config", n.config(nil), 0))
	for range hosts {
		n.addNode(lab.HostOptions{}, userArgs()...)
	}
	for _, h := range n.nodes {
		h.start()
	}
	n.readyWithPods()
	return n, root
}

// What someone without a password writes moves no host, whether it starts, starts for
// the first time or runs.
func TestIntruderInOpenVersion(t *testing.T) {
	t.Parallel()
	n, _ := newUsersNetwork(t, 2, hostGW)
	forged := func(of *node) peer { return stranger(of.subnet().String(), "192.168.0.66") }
	restarts := func(when string) {
		t.Helper()
		before := []string{n.nodes[0].subnet().String(), n.nodes[1].subnet().String()}
		for i, h := range n.nodes[:2] {
			h.restart(func() {})
			h.waitLog("using version 3 of etcd's API")
			if s := h.subnet().String(); s != before[i] {
				t.Errorf("%s: %s had %s and has %s", when, h.Name, before[i], s)
			}
		}
		fresh := n.addNode(lab.HostOptions{}, userArgs()...)
		fresh.start()
		fresh.waitReady()
		for _, h := range n.nodes {
			h.waitPeers(soon, h.others()...)
		}
	}
	n.witness(n.nodes[0], n.nodes[1], func() {
		n.put("config", n.config(settings{"Network": "10.66.0.0/16"}))
		restarts("another configuration")
		n.put("config", n.config(nil))
		for _, h := range n.nodes[:2] {
			n.putPeer(forged(h))
		}
		n.putPeer(stranger("10.5.66.0/24", "192.168.0.66"))
		restarts("the same configuration, and leases")
		n.nodes[2].waitLog("version 2 has one, too, that anyone can write: it is not used")
	})
}

// While version 3 refuses our password, nobody follows what is in version 2: who runs
// keeps what it has, who starts takes what it had, and who is new waits.
func TestRefusedWhileVersion2IsOpen(t *testing.T) {
	t.Parallel()
	n, root := newUsersNetwork(t, 3, hostGW)
	runs, starts, other := n.nodes[0], n.nodes[1], n.nodes[2]
	for _, h := range []*node{runs, starts} {
		h.waitSaved(other.peer().name())
	}
	n.put("config", n.config(nil))
	n.putPeer(stranger(other.subnet().String(), "192.168.0.66"))
	n.putPeer(stranger("10.5.66.0/24", "192.168.0.66"))
	waits := n.addNode(lab.HostOptions{}, userArgs()...)
	known := n.nodes[:3] // without the new one
	keep := func(when string) {
		t.Helper()
		for _, h := range known {
			var want []peer
			for _, o := range known {
				if o != h {
					want = append(want, o.peer())
				}
			}
			h.waitPeers(0, want...)
		}
		if env := waits.daemon.EnvText(); env != "" {
			t.Errorf("%s: the new host has taken %s", when, env)
		}
	}
	n.witness(runs, other, func() {
		n.witness(other, starts, func() {
			if _, err := root.UserChangePassword(n.ctx, "flannel", "changed-0815"); err != nil {
				t.Fatal(err)
			}
			check(t, n.etcd.Restart(n.ctx)) // it forgets the tokens that it gave
			starts.daemon.Kill()
			starts.start()
			waits.start()
			n.wait(soon, "the running host to miss etcd", func() string { return lacks(runs.daemon.Status(), "etcd cannot be used since") })
			for _, h := range []*node{starts, waits} {
				h.waitLog("wrong -etcd-username or -etcd-password")
			}
			starts.waitReady()
			waits.waitLog("if version 2 is right, say -etcd-api=2")
			n.pause(3 * time.Second) // several tries
			keep("with another password")
			if _, err := root.UserChangePassword(n.ctx, "flannel", etcdPassword); err != nil {
				t.Fatal(err)
			}
			waits.waitReady()
			for _, h := range n.nodes {
				n.wait(soon, "the store to be in order again", func() string { return has(h.daemon.Status(), "etcd") })
				h.waitPeers(soon, h.others()...)
			}

			t.Log("the role is revoked")
			known = n.nodes[:4]
			waits = n.addNode(lab.HostOptions{}, userArgs()...)
			if _, err := root.UserRevokeRole(n.ctx, "flannel", "flannel"); err != nil {
				t.Fatal(err)
			}
			waits.start()
			waits.waitLog("permission denied")
			starts.daemon.Kill()
			starts.start()
			starts.waitReady()
			n.pause(time.Second)
			keep("without a role")
			if _, err := root.UserGrantRole(n.ctx, "flannel", "flannel"); err != nil {
				t.Fatal(err)
			}
			waits.waitReady()
		})
	})
}

// has is the text if it has something in it.
func has(text, what string) string {
	if lacks(text, what) == "" {
		return text
	}
	return ""
}

// A host goes on in the version that it used, also where another one would not know
// which it is.
func TestVersionUsedBefore(t *testing.T) {
	t.Parallel()
	n := newLab(t, hostGW)
	n.startEtcd(lab.EtcdOptions{})
	v3 := newAdminV3(t, n.etcd)
	check(t, v3.put(n.ctx, keyPrefix+"/config", n.config(nil), 0))
	h, fresh := n.addNode(lab.HostOptions{}), n.addNode(lab.HostOptions{})
	h.start()
	h.waitReady()
	subnet := h.subnet()
	n.put("config", n.config(settings{"Network": "10.66.0.0/16"}))
	h.restart(func() {})
	h.waitLog("using version 3 of etcd's API: this host used it before")
	if s := h.subnet(); s != subnet {
		t.Errorf("it had %s and has %s", subnet, s)
	}
	fresh.start()
	fresh.waitLog("two network configurations that differ")
	n.delete("config")
	fresh.waitReady()

	t.Log("version 2 alone has a configuration, and anyone can write it, while version 3 has users")
	must(h.daemon.Stop(soon))(t)
	check(t, v3.delete(n.ctx, keyPrefix+"/config"))
	check(t, n.etcd.EnableAuthV3(n.ctx, "root-password-1234"))
	check(t, n.etcd.AddUserV3(n.ctx, "flannel", etcdPassword, keyPrefix+"/*"))
	n.put("config", n.config(settings{"Network": "10.66.0.0/16"}))
	late := n.addNode(lab.HostOptions{}, userArgs()...)
	late.start()
	late.waitLog(fmt.Sprintf("no network configuration at %s/config in version 3 of etcd's API, which asks for a user; version 2 has one that anyone can write: if that is the network's, say -etcd-api=2", keyPrefix))
	n.pause(2 * time.Second)
	if env := late.daemon.EnvText(); env != "" {
		t.Errorf("it has taken %s", env)
	}
	late.daemon.Kill()
	late.start("-etcd-api=2")
	late.waitReady()
}

// Who moves a network out of a version that anyone can write is told what comes from
// there; a daemon goes to the version with users, and not back.
func TestMigrationFromOpenVersion(t *testing.T) {
	t.Parallel()
	v := hostGW
	v.store = etcdV2
	n := newNetwork(t, 1, v, nil)
	h := n.nodes[0]
	n.putPeer(stranger("10.5.66.0/24", "192.168.0.66"))
	check(t, n.etcd.EnableAuthV3(n.ctx, "root-password-1234"))
	check(t, n.etcd.AddUserV3(n.ctx, "flannel", etcdPassword, keyPrefix+"/*"))
	h.args = userArgs()
	h.restart(func() {})
	h.waitLog("using version 2 of etcd's API: the network's configuration is there, and this host used it before; anyone can write it, and version 3 asks for a user")
	for _, c := range []struct {
		args []string
		did  string
	}{{[]string{"-etcd-migrate", "-dry-run"}, "would copy"}, {[]string{"-etcd-migrate"}, "copied"}} {
		code, out := h.act(c.args...)
		for _, line := range []string{
			"version 2 is open, and version 3 has users: anyone who reaches etcd may have written each of the following",
			c.did + " reservation 10.5.66.0/24 of 192.168.0.66 (no machine named)",
			fmt.Sprintf("%s lease %s of %s (%s), 23h59m left", c.did, h.subnet(), h.Addr, daemon.Machine()),
			fmt.Sprintf("%s the network's configuration %q", c.did, n.config(nil)),
		} {
			if code != 0 || !strings.Contains(out, line) {
				t.Errorf("status %d, %q without %q", code, out, line)
			}
		}
	}
	n.put("config", n.config(settings{"Network": "10.66.0.0/16"}))
	subnet := h.subnet()
	h.restart(func() {})
	h.waitLog("using version 3 of etcd's API")
	if s := h.subnet(); s != subnet {
		t.Errorf("it had %s and has %s", subnet, s)
	}
}
