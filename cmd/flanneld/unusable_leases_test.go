package main_test

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"flanneld/pkg/lab"
)

// A lease that cannot be used owns nothing: a host whose key is deleted beside it keeps
// its subnet.
func TestUnusableLeaseOwnsNothing(t *testing.T) {
	t.Parallel()
	n := newNetwork(t, 2, hostGW, settings{"SubnetMax": "10.5.100.0"})
	h, peer := n.nodes[0], n.nodes[1]
	subnet := h.subnet()
	around := stranger("10.5.0.0/17", "192.168.0.200")
	n.putPeer(around)
	for _, h := range n.nodes {
		h.waitLog("lease " + around.name() + " cannot be used")
	}
	n.witnessAll(func() {
		n.delete(h.key())
		n.waitKey(soon, h.peer().key(), "the key to be back", func(e *entry) bool { return e != nil })
		h.waitLog("claimed it again")
		peer.waitPeers(soon, h.peer())
		n.pause(time.Second)
	})
	if h.subnet() != subnet {
		t.Errorf("the host moved from %s to %s", subnet, h.subnet())
	}
}

// No lease may send packets round in circles, to ourselves or to everybody.
func TestLeasesWithAddressesOfNoHost(t *testing.T) {
	t.Parallel()
	// Hosts live inside Network, and pods above them.
	n := newNetwork(t, 2, vxlan, settings{"Network": "192.168.0.0/16", "SubnetMin": "192.168.10.0", "SubnetMax": "192.168.250.0"})
	h, other := n.nodes[0], n.nodes[1]
	pod := other.pod.Addr
	check(t, h.AddNIC("eth1", n.sw, netip.MustParseAddr("192.168.0.77")))
	bad := map[string]string{
		"192.168.251.0/24": "192.168.252.9", // each inside the other
		"192.168.252.0/24": "192.168.251.9",
		"192.168.253.0/24": pod.String(),
		"192.168.254.0/24": "192.168.0.255", // everybody
		"192.168.255.0/24": "192.168.0.77",  // this host, by another interface
		"192.168.0.0/24":   "192.168.0.99",  // the hosts' own network
		"192.168.128.0/17": "192.168.0.98",  // all of those
	}
	good := stranger("192.168.8.0/24", "192.168.0.97")
	n.putPeer(good)
	for subnet, public := range bad {
		n.putPeer(stranger(subnet, public))
	}
	for subnet := range bad {
		h.waitLog("lease " + stranger(subnet, "192.0.2.1").name() + " cannot be used")
	}
	h.waitPeers(soon, other.peer(), good)
	n.witnessAll(func() {
		n.pause(time.Second)
		h.waitPeers(0, other.peer(), good)
	})
	for subnet := range bad {
		if c := strings.Count(h.daemon.Log(), "lease "+stranger(subnet, "192.0.2.1").name()+" cannot be used"); c != 1 {
			t.Errorf("%s is mentioned %d times", subnet, c)
		}
	}
	for _, want := range []string{"the network of eth0", "cannot answer"} {
		h.waitLog(want)
	}
}

// Where hosts live inside Network, no subnet that holds the address of one is given to
// another, or used if a person did that.
func TestSubnetsHoldNoHosts(t *testing.T) {
	t.Parallel()
	around := settings{"Network": "192.168.0.0/24", "SubnetLen": 30, "SubnetMin": "192.168.0.4", "SubnetMax": "192.168.0.8"}
	n := newConfigured(t, hostGW, around)
	h, other := n.addNode(lab.HostOptions{}), n.addNode(lab.HostOptions{})
	other.start()
	other.waitReady()
	if want := netip.MustParsePrefix("192.168.0.8/30"); other.subnet() != want || other.Addr.String() != "192.168.0.4" {
		t.Fatalf("%s has %s, want %s", other.Addr, other.subnet(), want)
	}
	h.start()
	h.waitLog("no free subnet")
	around["SubnetMax"] = "192.168.0.12"
	n.put("config", n.config(around))
	h.waitReady()
	if want := netip.MustParsePrefix("192.168.0.12/30"); h.subnet() != want {
		t.Fatalf("%s has %s, want %s", h.Addr, h.subnet(), want)
	}
	n.putPeer(stranger("192.168.0.4/30", "192.168.0.200"))
	h.waitLog("192.168.0.4/30 holds 192.168.0.4, the address of the host that has the lease 192.168.0.8/30")
	h.waitPeers(soon, other.peer())
}

// A Network without SubnetLen is divided into three, as flannel divides it; what a host
// has that is of another length it keeps.
func TestSmallNetwork(t *testing.T) { inParallel(t, everyVariant, testSmallNetwork) }

func testSmallNetwork(t *testing.T, v variant) {
	n := newConfigured(t, v, settings{"Network": "10.5.0.0/24"})
	first := n.addNode(lab.HostOptions{})
	mine := stranger("10.5.0.128/25", first.Addr.String())
	n.putPeer(mine)
	first.start()
	first.waitReady()
	if first.subnet() != mine.subnet {
		t.Fatalf("the host has %s, and had %s", first.subnet(), mine.subnet)
	}
	second := n.addNode(lab.HostOptions{})
	second.start()
	n.readyWithPods()
	if s := second.subnet().String(); s != "10.5.0.64/26" {
		t.Errorf("the second host has %s", s)
	}
	n.pingAll()
}
