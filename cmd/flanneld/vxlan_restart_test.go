package main_test

import (
	"bytes"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"flanneld/pkg/lab"
)

// A daemon that is killed, stopped, or replaced by another binary, and started
// again: nobody who sends notices.
func TestVXLANRestartUnseen(t *testing.T) {
	for _, v := range []variant{vxlan, vxlan.in(dualStack)} {
		t.Run(v.name(), func(t *testing.T) { testVXLANRestartUnseen(t, v) })
	}
}

func testVXLANRestartUnseen(t *testing.T, v variant) {
	n := newNetwork(t, 2, v, nil)
	h, peer := n.nodes[0], n.nodes[1]
	// what is the same afterwards: subnets, MACs, and indices of devices
	same := func() (all []string) {
		t.Helper()
		for _, own := range h.peer().views() {
			mac, index, err := h.HardwareAddr(own.vtep())
			check(t, err)
			all = append(all, fmt.Sprintf("%s, %s with %s, index %d", own.subnet, own.vtep(), mac, index))
		}
		return all
	}
	before := same()
	for name, stop := range map[string]func(){
		"kill -9": func() { h.daemon.Kill() },
		"SIGTERM": func() { must(h.daemon.Stop(soon))(t) },
		"another binary": func() {
			other := filepath.Join(t.TempDir(), "flanneld")
			binary := must(os.ReadFile(daemonBinary))(t)
			check(t, lab.WriteProgram(other, binary, 0o755))
			h.daemon.Kill()
			h.runs(h.StartFlanneld(other))
			h.waitReady()
			h.daemon.Kill()
		},
	} {
		t.Log(name)
		n.witness(peer, h, func() {
			n.witness(h, peer, func() {
				h.stream(peer, func() {
					stop()
					h.start()
					h.waitReady()
					h.waitPeers(soon, peer.peer())
				})
			})
		})
		if now := same(); !slices.Equal(now, before) {
			t.Errorf("%s: there is %q, and was %q", name, now, before)
		}
	}
}

// What peers become while the daemon is down is seen at its start: nothing old
// stays.
func TestVXLANPeersChangeMeanwhile(t *testing.T) {
	n := newNetwork(t, 2, vxlan, nil)
	h, other := n.nodes[0], n.nodes[1].peer()
	moved, gone, same := stranger("10.5.201.0/24", "192.168.0.201"), stranger("10.5.202.0/24", "192.168.0.202"), stranger("10.5.203.0/24", "192.168.0.203")
	for _, p := range []peer{moved, gone, same} {
		n.putPeer(p)
	}
	h.waitPeers(soon, other, moved, gone, same)
	h.waitSaved(gone.name())
	h.daemon.Kill()
	moved.public = netip.MustParseAddr("192.168.0.211") // and with it its MAC
	n.putPeer(moved)
	n.delete(gone.key())
	begin := time.Now()
	h.start()
	h.waitPeers(slow(soon), other, moved, gone, same) // one lingers
	if took := time.Since(begin); took > slow(time.Second) {
		t.Errorf("right after %s", took)
	} else {
		t.Logf("right after %s", took)
	}
	n.pingAll()
	t.Parallel()
	h.waitPeers(2*soon, other, moved, same)
}

// The MAC address outlives the device, and a reboot: it is that of the device,
// else that of the lease, else one that the same host derives each time.
func TestVXLANKeepsItsMAC(t *testing.T) {
	n := newNetwork(t, 2, vxlan, nil)
	h, peer := n.nodes[0], n.nodes[1]
	derived := h.mac().String()
	if derived == peer.mac().String() {
		t.Errorf("both hosts have the MAC %s", derived)
	}
	is := func(when, want string) {
		t.Helper()
		if mac := h.mac().String(); mac != want {
			t.Errorf("%s: MAC %s, want %s", when, mac, want)
		}
		h.waitPeers(soon, peer.peer())
		peer.waitPeers(soon, h.peer())
	}
	given := net.HardwareAddr{2, 7, 7, 7, 7, 7}
	subnet := h.subnet()
	h.restart(func() { check(t, h.SetHardwareAddr(vtep, given)) })
	is("the device has one", given.String())
	h.restart(func() { check(t, h.DelLink(vtep)) })
	is("the device is gone, the lease has it", given.String())
	h.restart(func() {
		check(t, h.DelLink(vtep))
		check(t, os.Remove(h.daemon.SubnetFile))
	})
	is("rebooted", given.String())
	check(t, h.DelLink(vtep))
	n.wait(slow(time.Second), "the device to be back", func() string {
		if _, _, err := h.HardwareAddr(vtep); err != nil {
			return err.Error()
		}
		return ""
	})
	is("deleted while the daemon runs", given.String())
	if h.subnet() != subnet {
		t.Errorf("the subnet is %s, it was %s", h.subnet(), subnet)
	}
	h.restart(func() {
		n.delete(h.key())
		check(t, h.DelLink(vtep))
	})
	is("neither a device nor a lease", derived)
}

// What bears the device's name and is not as it should be is made anew.
func TestVXLANWrongDevice(t *testing.T) {
	t.Parallel()
	n := newNetwork(t, 2, vxlan, nil)
	h, peer := n.nodes[0], n.nodes[1]
	mac := h.mac().String()
	for _, wrong := range []string{
		"type bridge",
		"type vxlan id 7 dev eth0 local " + h.Addr.String() + " dstport 8472 nolearning",
		"type vxlan id 1 dev eth0 local " + h.Addr.String() + " dstport 4789 nolearning",
		"type vxlan id 1 dev eth0 local " + h.Addr.String() + " dstport 8472 learning",
		"type vxlan id 1 dev eth0 local " + h.Addr.String() + " dstport 8472 nolearning proxy",
		"type vxlan id 1 dev eth0 local " + h.Addr.String() + " dstport 8472 nolearning gbp",
		"type vxlan id 1 local " + h.Addr.String() + " dstport 8472 nolearning",
		"type vxlan id 1 dev eth0 group 239.1.1.1 dstport 8472 nolearning",
	} {
		h.restart(func() {
			check(t, h.DelLink(vtep))
			h.run(append([]string{"ip", "link", "add", vtep}, strings.Fields(wrong)...)...)
			h.run("ip", "link", "set", vtep, "address", mac)
		})
		link := h.run("ip", "-d", "link", "show", vtep)
		if !strings.Contains(link, "vxlan id 1 local "+h.Addr.String()+" dev eth0 srcport 0 0 dstport 8472 nolearning") ||
			strings.Contains(link, "proxy") || strings.Contains(link, "gbp") || h.mac().String() != mac {
			t.Errorf("%s has become: %s", wrong, link)
		}
		h.waitPeers(soon, peer.peer())
		n.pingAll()
	}
}

// Checksums of encapsulated packets can be left to software, also after the
// device had to be made again.
func TestVXLANTxChecksumOffload(t *testing.T) {
	v := vxlan
	v.backend.config = `{"Type":"vxlan","TxChecksumOffload":false}`
	n := newNetwork(t, 2, v, nil)
	h := n.nodes[0]
	is := func(want string) {
		t.Helper()
		n.wait(slow(time.Second), "tx-checksum-ip-generic "+want, func() string {
			if got := h.run("ethtool", "-k", vtep); !strings.Contains(got, "tx-checksum-ip-generic: "+want) {
				return got
			}
			return ""
		})
	}
	is("off")
	check(t, h.DelLink(vtep))
	n.wait(soon, "the device", func() string {
		if _, _, err := h.HardwareAddr(vtep); err != nil {
			return err.Error()
		}
		return ""
	})
	is("off")
	h.run("ethtool", "-K", vtep, "tx-checksum-ip-generic", "on")
	is("off")
	n.pingAll()

	t.Log("by default it is as the operator has it")
	n.put("config", n.config(settings{"Backend": map[string]any{"Type": "vxlan"}}))
	h.restart(func() {})
	for _, set := range []string{"on", "off"} {
		h.run("ethtool", "-K", vtep, "tx-checksum-ip-generic", set)
		h.run("ip", "link", "set", vtep, "mtu", "1200") // something to put right
		n.wait(soon, "the MTU", func() string {
			if mtu, err := h.MTU(vtep); err != nil || mtu != 1450 {
				return fmt.Sprint(mtu, err)
			}
			return ""
		})
		is(set)
	}
}

// The daemon is stopped for long, and misses more notifications than the kernel
// keeps for it: it finds out what happened.
func TestNotificationsLost(t *testing.T) { everyVariant(t, testNotificationsLost) }

func testNotificationsLost(t *testing.T, v variant) {
	n := newNetwork(t, 3, v, nil)
	h := n.nodes[0]
	want := h.others()
	h.daemon.Kill()
	h.start("-v=1")
	h.waitReady()
	check(t, h.daemon.Freeze())
	var batch bytes.Buffer
	for i := range 60_000 {
		fmt.Fprintf(&batch, "route replace 10.99.%d.0/24 via %s proto 4\n", i%250, []string{"192.168.0.250", "192.168.0.251"}[i/250%2])
	}
	file := filepath.Join(t.TempDir(), "batch")
	check(t, os.WriteFile(file, batch.Bytes(), 0o600))
	h.run("ip", "-batch", file)
	must(h.DelRoutesByProtocol(ourRoutes))(t)
	h.run("ip", "-batch", file)
	check(t, h.daemon.Thaw())
	h.waitLog("notifications were lost")
	h.waitPeers(slow(time.Second), want...)
	n.pingAll()
	hasRoute(t, h, "10.99.7.0/24 via 192.168.0.251")
}
