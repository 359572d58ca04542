package main_test

import (
	"fmt"
	"net"
	"path/filepath"
	"slices"
	"testing"
	"time"
)

// A host that is upgraded keeps the device and what flannel made on it, in place,
// and loses what flannel left of peers that are gone: but for its routes, which
// could be anyone's.
func TestVXLANAdoptsFlannels(t *testing.T) {
	for _, v := range []variant{vxlan, vxlan.in(dualStack)} {
		t.Run(v.name(), func(t *testing.T) { testVXLANAdoptsFlannels(t, v) })
	}
}

func testVXLANAdoptsFlannels(t *testing.T, v variant) {
	n := newNetwork(t, 2, v, nil)
	h, peer := n.nodes[0], n.nodes[1]
	views := peer.peer().views()
	before := map[string]int{}
	for _, p := range views {
		_, index, err := h.HardwareAddr(p.vtep())
		check(t, err)
		before[p.vtep()] = index
	}
	left := n.stranger("10.5.250.0/24", "192.168.0.250")
	gone := net.HardwareAddr{2, 3, 3, 3, 3, 3}
	n.witness(peer, h, func() {
		n.witness(h, peer, func() {
			h.restart(func() {
				for _, p := range views {
					h.run("ip", "route", "replace", p.subnet.String(), "via", p.subnet.Addr().String(), "dev", p.vtep(), "onlink", "proto", "boot")
				}
				for _, p := range left.views() {
					check(t, h.AddNeighbour(p.vtep(), p.subnet.Addr(), gone))
					check(t, h.AddFDB(p.vtep(), gone, p.public))
					h.run("ip", "route", "add", p.subnet.String(), "via", p.subnet.Addr().String(), "dev", p.vtep(), "onlink", "proto", "boot")
				}
			})
		})
	})
	h.waitPeers(soon, peer.peer())
	for dev, index := range before {
		if _, now, err := h.HardwareAddr(dev); err != nil || now != index {
			t.Errorf("%s was %d and is %d, %v", dev, index, now, err)
		}
	}
	for _, p := range left.views() {
		hasRoute(t, h, fmt.Sprintf("%s via %s dev %s onlink proto", p.subnet, p.subnet.Addr(), p.vtep()))
	}
}

// Two networks on the same hosts, a daemon and a device for each: whatever
// happens to one, the other does not notice.
func TestVXLANTwoNetworks(t *testing.T) {
	t.Parallel()
	n := newNetwork(t, 2, vxlan, nil)
	h, peer := n.nodes[0], n.nodes[1]
	other := n.config(settings{"Network": "10.6.0.0/16", "Backend": map[string]any{"Type": "vxlan", "VNI": 2}})
	check(t, n.admin.put(n.ctx, "/other/config", other, 0))
	second := func(h *node) *node {
		t.Helper()
		s := *h
		var err error
		s.daemon, err = h.StartFlanneld(daemonBinary, "-etcd-prefix=/other", "-subnet-file="+filepath.Join(h.Dir, "other.env"))
		check(t, err)
		s.waitReady()
		return &s
	}
	// on lists a device's index and all that is on it.
	on := func(dev string) []string {
		t.Helper()
		_, index, err := h.HardwareAddr(dev)
		check(t, err)
		addrs := must(h.Addrs(dev))(t)
		return slices.Concat([]string{fmt.Sprint(index, addrs)}, must(h.Neighbours(dev))(t), must(h.FDB(dev))(t))
	}
	n.witness(h, peer, func() {
		n.witness(peer, h, func() {
			s, far := second(h), second(peer)
			n.wait(soon, "the second tunnel to lead to the other host", func() string {
				_, err := h.Ping(n.ctx, far.subnet().Addr(), time.Second)
				if err != nil {
					return err.Error()
				}
				return ""
			})
			before := on("flannel.2")
			h.restart(func() {})
			n.pause(time.Second)
			if now := on("flannel.2"); !slices.Equal(now, before) {
				t.Errorf("the first daemon was started again; flannel.2 had %q and has %q", before, now)
			}
			before = on(vtep)
			s.daemon.Kill()
			s = second(h)
			n.pause(time.Second)
			if now := on(vtep); !slices.Equal(now, before) {
				t.Errorf("the second daemon was started again; %s had %q and has %q", vtep, before, now)
			}
			if _, err := h.Ping(n.ctx, far.subnet().Addr(), 2*time.Second); err != nil {
				t.Error(err)
			}
			_ = s
		})
	})
}

// The NIC gets another name: the tunnel does not care.
func TestVXLANNICRenamed(t *testing.T) {
	n := newNetwork(t, 2, vxlan, nil)
	h, peer := n.nodes[0], n.nodes[1]
	_, index, err := h.HardwareAddr(vtep)
	check(t, err)
	n.witness(h, peer, func() {
		check(t, h.RenameLink("eth0", "ens3"))
		h.waitLog("the external interface is ens3 now")
		n.pause(time.Second)
	})
	if _, now, err := h.HardwareAddr(vtep); err != nil || now != index {
		t.Errorf("the device was %d and is %d, %v", index, now, err)
	}
	h.waitPeers(0, peer.peer())
}

// The cluster goes over to another backend, host by host, and back: nothing is
// left of the one before.
func TestBackendChanges(t *testing.T) {
	n := newNetwork(t, 2, vxlan.in(dualStack), nil)
	for _, v := range []variant{hostGW.in(dualStack), vxlan.in(dualStack)} {
		n.variant = v
		n.put("config", n.config(nil))
		for _, h := range n.nodes {
			h.restart(func() {})
		}
		for _, h := range n.nodes {
			h.waitPeers(soon, h.others()...)
			for _, dev := range []string{vtep, vtep6} {
				if _, _, err := h.HardwareAddr(dev); (err == nil) != (v.backend.name == vxlanBackend.name) {
					t.Errorf("%s with %s: looking for %s: %v", h.Name, v.name(), dev, err)
				}
			}
		}
		n.pingAll()
	}
}

// A lease that no longer says where its tunnel ends is in force as it last was,
// also after a restart, and until it is removed.
func TestVXLANGarbledData(t *testing.T) {
	t.Parallel()
	n := newNetwork(t, 2, vxlan, nil)
	h, other := n.nodes[0], n.nodes[1].peer()
	bad := stranger("10.5.200.0/24", "192.168.0.200")
	n.putPeer(bad)
	h.waitPeers(soon, other, bad)
	for _, data := range []string{`{"VNI":1,"VtepMAC":"nonsense"}`, `"x"`, `{}`, `{"VtepMAC":"ff:ff:ff:ff:ff:ff"}`} {
		n.put(bad.key(), fmt.Sprintf(`{"PublicIP":"%s","BackendType":"vxlan","BackendData":%s}`, bad.public, data))
		n.wait(soon, "the status to say so", func() string { return lacks(h.daemon.Status(), "1 leases unusable") })
		n.pause(100 * time.Millisecond)
		h.waitPeers(0, other, bad)
	}
	h.restart(func() {})
	n.pause(time.Second)
	h.waitPeers(0, other, bad)
	n.delete(bad.key())
	h.waitPeers(20*time.Second, other) // it lingers
}
