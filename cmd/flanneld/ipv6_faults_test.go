package main_test

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"flanneld/pkg/ip"
	"flanneld/pkg/lab"
)

// A host's router announces another prefix: there is an address of the new one, which is looked for
// on the link before it can be used, and the old one is deprecated and goes. No packet of IPv4 is
// lost meanwhile.
func TestRenumbered(t *testing.T) {
	t.Parallel()
	n := newNetwork(t, 2, vxlan.in(dualStack), nil)
	h, other := n.nodes[0], n.nodes[1]
	subnets := h.peer().subnets()
	four := n.startWitnessIn(ip.V4, h, other)
	check(t, h.Sysctl("net.ipv6.conf.eth0.accept_dad", "1"))
	old := netip.PrefixFrom(h.Of(ip.V6), 64)
	check(t, other.AddRoute(lab.Route{Dst: mustPrefix("fd00:0:0:9::/64"), Dev: "eth0"}))
	h.run("ip", "addr", "add", "fd00:0:0:9::3/64", "dev", "eth0")
	h.run("ip", "addr", "change", old.String(), "dev", "eth0", "preferred_lft", "0", "valid_lft", "5")
	h.run("ip", "route", "add", "fd00::/64", "dev", "eth0", "metric", "300")
	h.waitAddress(soon, "fd00:0:0:9::3")
	n.waitPings()
	n.wait(soon, "the old address to go", func() string {
		if out := h.run("ip", "-6", "addr", "show", "dev", "eth0"); strings.Contains(out, old.Addr().String()+"/") {
			return out
		}
		return ""
	})
	four()
	n.waitPings()
	if now := h.peer().subnets(); now != subnets {
		t.Errorf("the host had %s and has %s", subnets, now)
	}
}

// IPv6 is switched off on what carries it, and comes back by itself where it is the daemon's.
func TestIPv6Disabled(t *testing.T) {
	t.Parallel()
	n := newNetwork(t, 2, vxlan.in(dualStack), nil)
	h := n.nodes[0]
	four := n.startWitnessIn(ip.V4, h, n.nodes[1])
	h.run("sh", "-c", "echo 1 >/proc/sys/net/ipv6/conf/"+vtep6+"/disable_ipv6")
	begin := time.Now()
	n.wait(soon, "the address to be back", func() string {
		addrs, err := h.Addrs(vtep6, ip.V6)
		if err != nil || len(addrs) != 1 {
			return fmt.Sprint(addrs, err)
		}
		return ""
	})
	h.waitPeers(soon, h.others()...)
	t.Logf("all is back after %s", time.Since(begin))
	n.waitPings()
	four()
}

// Two machines say that they have one IPv6 address: the second is refused, whatever their IPv4
// addresses are.
func TestOneIPv6Address(t *testing.T) {
	t.Parallel()
	n := newConfigured(t, vxlan.in(dualStack), nil)
	first, second := n.addNode(lab.HostOptions{}), n.addNode(lab.HostOptions{})
	first.become("1111", "node")
	first.start()
	first.waitReady()
	lease := n.get(first.key()).value
	second.become("2222", "node")
	second.start("-public-ipv6=" + first.Of(ip.V6).String())
	second.waitLog("is also that of the machine")
	n.pause(time.Second)
	if now := n.get(first.key()).value; now != lease {
		t.Errorf("the lease was %s and is %s", lease, now)
	}
	select {
	case <-second.daemon.Notify.Ready():
		t.Error("the second is ready all the same")
	default:
	}
}
