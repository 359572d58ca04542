package main_test

import (
	"fmt"
	"net"
	"net/netip"
	"path/filepath"
	"slices"
	"testing"
	"time"
)

// A host that is upgraded keeps the device and what flannel made on it, in place,
// and loses what flannel left of peers that are gone: but for its routes, which
// could be anyone's.
func TestVXLANAdoptsFlannels(t *testing.T) {
	n := newNetwork(t, 2, vxlan, nil)
	h, peer := n.nodes[0], n.nodes[1]
	_, index, err := h.HardwareAddr(vtep)
	check(t, err)
	gone := net.HardwareAddr{2, 3, 3, 3, 3, 3}
	n.witness(peer, h, func() {
		n.witness(h, peer, func() {
			h.restart(func() {
				base := peer.subnet().Addr().String()
				h.run("ip", "route", "replace", peer.subnet().String(), "via", base, "dev", vtep, "onlink", "proto", "boot")
				check(t, h.AddNeighbour(vtep, netip.MustParseAddr("10.5.250.0"), gone))
				check(t, h.AddFDB(vtep, gone, netip.MustParseAddr("192.168.0.250")))
				h.run("ip", "route", "add", "10.5.250.0/24", "via", "10.5.250.0", "dev", vtep, "onlink", "proto", "boot")
			})
		})
	})
	h.waitPeers(soon, peer.peer())
	if _, now, err := h.HardwareAddr(vtep); err != nil || now != index {
		t.Errorf("the device was %d and is %d, %v", index, now, err)
	}
	hasRoute(t, h, "10.5.250.0/24 via 10.5.250.0 dev flannel.1 onlink proto")
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
	n := newNetwork(t, 2, vxlan, nil)
	for _, v := range []variant{hostGW, vxlan} {
		n.variant = v
		n.put("config", n.config(nil))
		for _, h := range n.nodes {
			h.restart(func() {})
		}
		for _, h := range n.nodes {
			h.waitPeers(soon, h.others()...)
			if _, _, err := h.HardwareAddr(vtep); (err == nil) != (v.backend.name == vxlanBackend.name) {
				t.Errorf("%s with %s: looking for %s: %v", h.Name, v.name(), vtep, err)
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
