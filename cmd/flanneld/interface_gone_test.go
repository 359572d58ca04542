package main_test

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"flanneld/pkg/ip"
)

func TestInterfaceRenamed(t *testing.T) {
	n := newNetwork(t, 2, hostGW, nil)
	h := n.nodes[0]
	check(t, h.LinkDown("eth0"))
	check(t, h.RenameLink("eth0", "ens3"))
	took := n.wait(slow(time.Second), "the route to be back", func() string {
		all, err := h.Routes()
		check(t, err)
		for _, r := range all {
			if strings.HasPrefix(r, n.nodes[1].peer().route()+" dev ens3") {
				return ""
			}
		}
		return fmt.Sprintf("routes are %q", all)
	})
	t.Logf("the route is back after %s", took)
}

// With the interface down nothing can be reached, so the host is not ready.
func TestInterfaceDown(t *testing.T) { inParallel(t, everyVariant, testInterfaceDown) }

func testInterfaceDown(t *testing.T, v variant) {
	n := newNetwork(t, 1, v, nil)
	h := n.nodes[0]
	peer := stranger("10.5.200.0/24", "192.168.0.205")
	n.putPeer(peer)
	h.daemon.Kill()
	// etcd is reached by eth1 meanwhile.
	check(t, h.AddNIC("eth1", n.sw, mustPrefix("192.168.0.99/24").Addr()))
	check(t, h.LinkDown("eth0"))
	h.start("-iface=eth0")
	n.wait(soon, "the status to say so", func() string {
		if s := h.daemon.Status(); !strings.Contains(s, "not ready: ") || !strings.Contains(s, ", eth0 is down") {
			return "status is " + s
		}
		return ""
	})
	n.pause(100 * time.Millisecond)
	select {
	case <-h.daemon.Notify.Ready():
		t.Error("it is ready all the same")
	default:
	}
	check(t, h.LinkUp("eth0"))
	h.waitReady()
	check(t, h.DelLink("eth1")) // so that the way to the peer is by eth0 alone
	h.waitPeers(0, peer)
}

func TestAddressGone(t *testing.T) { inParallel(t, everyFamily, testAddressGone) }

func testAddressGone(t *testing.T, v variant) {
	n := newNetwork(t, 1, v, nil)
	h := n.nodes[0]
	for _, f := range v.families.list() {
		addr := netip.PrefixFrom(h.Of(f), map[ip.Family]int{ip.V4: 24, ip.V6: 64}[f])
		check(t, h.DelAddr("eth0", addr))
		want := "interface eth0 no longer has the address " + h.Of(f).String()
		h.waitLog(want)
		n.wait(soon, "the status to say so", func() string {
			if s := h.daemon.Status(); !strings.Contains(s, want) {
				return "status is " + s
			}
			return ""
		})
		back := strings.Count(h.daemon.Log(), "is there again")
		check(t, h.AddAddr("eth0", addr))
		n.wait(soon, "the interface to be there again", func() string {
			if strings.Count(h.daemon.Log(), "is there again") == back {
				return "nothing is said of it"
			}
			return ""
		})
	}
}
