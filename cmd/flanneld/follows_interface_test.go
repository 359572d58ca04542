package main_test

import (
	"context"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"testing"
	"time"

	"flanneld/pkg/ip"
	"flanneld/pkg/lab"
)

// The NIC's MTU changes: the device, subnet.env and new pods follow.
func TestMTUFollows(t *testing.T) { everyFamily(t, testMTUFollows) }

func testMTUFollows(t *testing.T, v variant) {
	n := newNetwork(t, 2, v, nil)
	h, peer := n.nodes[0], n.nodes[1]
	var devices []string // by which packets of this size go
	switch v.backend.name {
	case "vxlan":
		devices = []string{vtepOf(v.families.list()[len(v.families.list())-1])}
	case "udp":
		devices = []string{tunDevice}
	}
	for _, mtu := range []int{9000, 1400, 1500} {
		check(t, peer.SetMTU("eth0", mtu))
		check(t, h.SetMTU("eth0", mtu))
		want := strconv.Itoa(mtu - n.overhead())
		took := n.wait(slow(2*time.Second), "MTU "+want, func() string {
			for _, h := range n.nodes {
				if env := h.daemon.Env()["FLANNEL_MTU"]; env != want {
					return fmt.Sprintf("subnet.env of %s says %s", h.Name, env)
				}
				for _, dev := range devices {
					if real, err := h.MTU(dev); err != nil || strconv.Itoa(real) != want {
						return fmt.Sprintf("%s of %s has %d, %v", dev, h.Name, real, err)
					}
				}
			}
			return ""
		})
		t.Logf("MTU %d: followed after %s", mtu, took)
		h.addPod()
		peer.addPod()
		if real, err := h.pod.MTU("eth0"); err != nil || strconv.Itoa(real) != want {
			t.Errorf("a new pod has the MTU %d, %v; want %s", real, err, want)
		}
		for _, f := range v.families.list() {
			_, err := h.pod.Transfer(n.ctx, peer.pod.In(f), 10<<20)
			check(t, err)
		}
	}
}

// The interface has another address: the lease says so, and the peers follow,
// while all keep their subnets.
func TestAddressFollows(t *testing.T) { everyFamily(t, testAddressFollows) }

func testAddressFollows(t *testing.T, v variant) {
	t.Parallel() // to the other variants
	n := newNetwork(t, 3, v, nil)
	h := n.nodes[0]
	subnet := h.subnet()
	next := map[ip.Family][]string{ip.V4: {"192.168.0.77/24", "192.168.0.78/24"}, ip.V6: {"fd00::77/64", "fd00::78/64"}}
	var addrs []string
	for _, f := range v.families.list() {
		addrs = append(addrs, next[f]...)
	}
	for _, addr := range addrs {
		now := mustPrefix(addr)
		check(t, h.DelAddr("eth0", netip.PrefixFrom(h.Of(ip.FamilyOf(now.Addr())), now.Bits())))
		check(t, h.AddAddr("eth0", now))
		h.SetAddr(now.Addr())
		begin := time.Now()
		n.wait(slow(5*time.Second), "the lease to say "+addr, func() string {
			if e := n.get(h.key()); e == nil || !strings.Contains(e.value, `"`+now.Addr().String()+`"`) {
				return fmt.Sprint(e)
			}
			return ""
		})
		for _, other := range n.nodes {
			other.waitPeers(slow(5*time.Second)-time.Since(begin), other.others()...)
		}
		// The hosts have to find the new address on their link, too.
		ctx, cancel := context.WithTimeout(n.ctx, slow(5*time.Second)-time.Since(begin))
		for _, other := range n.nodes[1:] {
			for _, f := range v.families.list() {
				check(t, h.pod.WaitPing(ctx, other.pod.In(f).Addr))
				check(t, other.pod.WaitPing(ctx, h.pod.In(f).Addr))
			}
		}
		cancel()
		t.Logf("%s: the lease and all peers followed after %s", addr, time.Since(begin))
		if h.subnet() != subnet {
			t.Errorf("the subnet is %s, before it was %s", h.subnet(), subnet)
		}
		n.pingAll()
	}
	if code := h.daemon.ExitCode(); code != -1 {
		t.Errorf("the daemon ended with status %d", code)
	}
}

func TestVXLANMTUTooLarge(t *testing.T) {
	t.Parallel()
	n := newConfigured(t, vxlan, settings{"Backend": map[string]any{"Type": "vxlan", "MTU": 1501}})
	h := n.addNode(lab.HostOptions{})
	h.start()
	h.waitLog("Backend.MTU 1501 is more than the MTU 1500 of the interface eth0")
	n.put("config", n.config(settings{"Backend": map[string]any{"Type": "vxlan", "MTU": 1400}}))
	h.waitReady()
	if got := h.daemon.Env()["FLANNEL_MTU"]; got != "1350" {
		t.Errorf("FLANNEL_MTU=%s", got)
	}
	if mtu, err := h.MTU(vtep); err != nil || mtu != 1350 {
		t.Errorf("MTU %d, %v", mtu, err)
	}

	t.Log("what was right once gets too large: the interface's MTU counts, the lease is kept")
	check(t, h.SetMTU("eth0", 1300))
	n.wait(soon, "the MTU", func() string {
		if mtu, err := h.MTU(vtep); err != nil || mtu != 1250 || h.daemon.Env()["FLANNEL_MTU"] != "1250" {
			return fmt.Sprint(mtu, err, h.daemon.Env())
		}
		return ""
	})
	h.waitLog("cannot say what it should: network configuration: Backend.MTU 1400 is more than the MTU 1300")
	n.delete(h.key())
	n.waitKey(soon, h.key(), "the lease to be back", func(e *entry) bool { return e != nil })
}
