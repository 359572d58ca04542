package main_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"flanneld/pkg/lab"
)

// Without being told, the daemon finds out which of etcd's APIs the network is in.
// Each case is a network of its own in one etcd that has both.
func TestAPIIsFound(t *testing.T) {
	t.Parallel()
	n := newLab(t, hostGW)
	n.startEtcd(lab.EtcdOptions{})
	admins := map[string]admin{"2": n.admin, "3": newAdminV3(t, n.etcd)}
	config := n.config(nil)
	for _, c := range []struct {
		name string
		has  map[string][]string // versions, by key
		want string              // the version
		why  string
	}{
		{"v2-alone", map[string][]string{"config": {"2"}}, "2", "the network's configuration is there"},
		{"v3-alone", map[string][]string{"config": {"3"}}, "3", "the network's configuration is there"},
		{"both", map[string][]string{"config": {"2", "3"}}, "3", "there are no leases in either"},
		{"moving", map[string][]string{"config": {"2", "3"}, "subnets/10.5.200.0-24": {"2"}}, "2", "there are leases in version 2 alone"},
		{"moved", map[string][]string{"config": {"2", "3"}, "subnets/10.5.200.0-24": {"2", "3"}}, "3", "there are leases in version 3"},
	} {
		t.Run(c.name, func(t *testing.T) {
			for key, versions := range c.has {
				value := config
				if key != "config" {
					value = n.backend.lease(stranger("10.5.200.0/24", "192.168.0.200"))
				}
				for _, version := range versions {
					check(t, admins[version].put(n.ctx, "/"+c.name+"/"+key, value, 0))
				}
			}
			h := n.addNode(lab.HostOptions{}, "-etcd-prefix=/"+c.name)
			h.start()
			h.waitReady()
			if line := fmt.Sprintf("using version %s of etcd's API: ", c.want); strings.Count(h.daemon.Log(), line) != 1 || !strings.Contains(h.daemon.Log(), c.why) {
				t.Errorf("the log does not say once %q and %q", line, c.why)
			}
			for version, a := range admins {
				e, err := a.get(n.ctx, "/"+c.name+"/"+h.key())
				check(t, err)
				if (e != nil) != (version == c.want) {
					t.Errorf("in version %s the lease is %v", version, e)
				}
			}
		})
	}
}

// Of two configurations that differ neither is taken, until a person says which.
func TestAPIIsAmbiguous(t *testing.T) {
	t.Parallel()
	n := newConfigured(t, hostGW, nil)
	v3 := newAdminV3(t, n.etcd)
	check(t, v3.put(n.ctx, keyPrefix+"/config", n.config(settings{"Network": "10.6.0.0/16"}), 0))
	waiting, told := n.addNode(lab.HostOptions{}), n.addNode(lab.HostOptions{}, "-etcd-api=2")
	waiting.start()
	for _, text := range []string{"two network configurations that differ", `10.5.0.0/16`, `10.6.0.0/16`, "-etcd-api=2 or -etcd-api=3"} {
		waiting.waitLog(text)
		n.wait(soon, "the status to say so", func() string { return lacks(waiting.daemon.Status(), text) })
	}
	told.start()
	told.waitReady()
	if s := told.subnet().String(); !strings.HasPrefix(s, "10.5.") {
		t.Errorf("told to use version 2, it has %s", s)
	}
	n.pause(3 * time.Second) // several tries
	if c := strings.Count(waiting.daemon.Log(), "that differ"); c != 1 {
		t.Errorf("the log says %d times that they differ", c)
	}
	if waiting.daemon.EnvText() != "" {
		t.Errorf("it has taken %s", waiting.subnet())
	}
	n.delete("config")
	waiting.waitReady()
	if s := waiting.subnet().String(); !strings.HasPrefix(s, "10.6.") {
		t.Errorf("with version 3 alone, it has %s", s)
	}
}

// A server that has no v2 API, as none has from 3.6 on.
func TestAPIOfNewServer(t *testing.T) {
	t.Parallel()
	n := newLab(t, vxlan)
	n.startEtcd(lab.EtcdOptions{})
	h, wrong, right := n.addNode(lab.HostOptions{}), n.addNode(lab.HostOptions{}, "-etcd-api=2"), n.addNode(lab.HostOptions{}, "-etcd-api=3")
	for _, node := range n.nodes {
		node.start()
	}
	h.waitLog("no network configuration at /coreos.com/network/config")
	n.put("config", n.config(nil))
	h.waitReady()
	h.waitLog("using version 3 of etcd's API: the network's configuration is there")
	right.waitReady()
	right.waitLog("using version 3 of etcd's API, as -etcd-api says")
	wrong.waitLog("does not offer the v2 API")
	if wrong.daemon.EnvText() != "" {
		t.Errorf("it has taken %s", wrong.subnet())
	}
}

// Each host has one etcd lease, whatever happened to it and its key.
func TestLeasesInEtcd(t *testing.T) {
	t.Parallel()
	n := newNetwork(t, 3, vxlan, nil)
	c, err := n.etcd.ClientV3()
	check(t, err)
	defer func() { check(t, c.Close()) }()
	oneEach := func(when string) {
		t.Helper()
		n.wait(soon, "one etcd lease for each host "+when, func() string {
			r, err := c.Leases(n.ctx)
			check(t, err)
			if len(r.Leases) != len(n.nodes) {
				return fmt.Sprintf("there are %d", len(r.Leases))
			}
			return ""
		})
	}
	oneEach("at first")
	h := n.nodes[0]
	for i := range 10 {
		if i%2 == 0 {
			h.daemon.Kill()
		} else {
			_, err := h.daemon.Stop(soon)
			check(t, err)
		}
		h.start()
		h.waitReady()
	}
	oneEach("after restarts")
	back := func() {
		t.Helper()
		n.waitKey(soon, h.key(), "the lease for a whole day", func(e *entry) bool {
			return e != nil && e.ttl > 86000*time.Second && e.value == n.backend.lease(h.peer())
		})
	}
	for range 3 {
		n.delete(h.key())
		back()
		n.put(h.key(), "garbage") // without an end, until it is mended
		back()
		n.expire(h.key())
		back()
	}
	oneEach("after the key was gone")
	old := h.subnet()
	n.putPeer(stranger(old.String(), "192.168.0.200"))
	n.wait(soon, "another subnet", func() string {
		if s := h.subnet(); s == old {
			return "subnet is still " + s.String()
		}
		return ""
	})
	oneEach("after the subnet changed")
}
