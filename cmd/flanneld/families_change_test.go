package main_test

import (
	"fmt"
	"slices"
	"testing"

	"flanneld/pkg/ip"
	"flanneld/pkg/lab"
)

// IPv6 is turned on in a network that runs, is turned off again, and on once more to stay, when
// IPv4 goes: no packet of a family is lost while it is on. Hosts that have not changed yet, and a
// flannel that knows nothing of IPv6, have IPv4 all the while; IPv6 grows with each host.
func TestFamiliesChange(t *testing.T) {
	withWitness(t, slowVariants, func(t *testing.T, v variant) { testFamiliesChange(t, v) })
}

func testFamiliesChange(t *testing.T, v variant) {
	n := newLab(t, v.in(dualStack)) // the hosts have both addresses
	n.families = ipv4Only
	n.startEtcd(lab.EtcdOptions{})
	n.put("config", n.config(nil))
	for range 3 {
		n.addNode(lab.HostOptions{}).start()
	}
	n.readyWithPods()
	first := n.nodes[0]
	old := stranger("10.5.200.0/24", "192.168.0.200") // a flannel that has IPv4 alone, whatever happens
	n.putPeer(old)
	subnets, keys := map[*node]string{}, map[*node]string{}
	for _, h := range n.nodes {
		subnets[h], keys[h] = h.subnet().String(), h.key()
		h.waitPeers(soon, append(h.others(), old)...)
	}
	// change has all hosts follow a configuration, some of them when they are started again, and
	// waits until all is as it must be.
	change := func(to families, late ...*node) {
		t.Helper()
		t.Logf("the configuration is of %s", to.networks())
		for _, h := range late {
			h.daemon.Kill()
		}
		n.families = to
		n.put("config", n.config(nil))
		var changed []*node
		for _, h := range n.nodes {
			if !slices.Contains(late, h) {
				changed = append(changed, h)
			}
		}
		for i := range len(late) + 1 {
			if i > 0 {
				late[i-1].start()
				late[i-1].waitReady()
				changed = append(changed, late[i-1])
			}
			for _, h := range changed {
				h.waitFamilies(to)
			}
			for _, h := range changed {
				h.waitPeers(2*soon, append(h.others(), old)...) // what vanished lingers
			}
			n.pingFresh(changed...)
		}
		for _, h := range n.nodes {
			if to != ipv6Only && h.subnet().String() != subnets[h] {
				t.Errorf("%s had %s and has %s", h.Name, subnets[h], h.subnet())
			}
			if e := n.get(h.key()); e == nil || e.value != n.backend.lease(h.peer()) {
				t.Errorf("the lease of %s is %v", h.Name, e)
			}
			if h.key() == keys[h] {
				t.Errorf("the lease of %s has the key %s as before", h.Name, h.key())
			}
			n.waitKey(2*soon, keys[h], "the former lease to go", func(e *entry) bool { return e == nil })
			keys[h] = h.key()
		}
	}

	four := n.witnessRing(ip.V4)
	change(dualStack, n.nodes[1], n.nodes[2])
	change(ipv4Only)
	for _, h := range n.nodes {
		if _, _, err := h.HardwareAddr(vtep6); err == nil {
			t.Errorf("%s has %s still", h.Name, vtep6)
		}
	}
	change(dualStack)
	four()

	n.addPods()
	six := n.witnessRing(ip.V6)
	n.families = ipv6Only
	n.delete(old.key())
	old = n.stranger("10.5.200.0/24", "192.168.0.200")
	n.putPeer(old)
	change(ipv6Only, first)
	six()
}

// waitFamilies waits until the host has subnets of just these families.
func (h *node) waitFamilies(f families) {
	h.n.t.Helper()
	h.n.wait(soon, fmt.Sprintf("the subnets of %s in %s", h.Name, f.networks()), func() string {
		for _, family := range ip.Families {
			if h.has(family) != slices.Contains(f.list(), family) {
				return fmt.Sprintf("subnet.env is %q", h.daemon.EnvText())
			}
		}
		return ""
	})
}

// witnessRing has pings of a family bear witness, from each host to the next, until stop is called.
func (n *network) witnessRing(f ip.Family) (stop func()) {
	n.t.Helper()
	var stops []func()
	for i, from := range n.nodes {
		stops = append(stops, n.startWitnessIn(f, from, n.nodes[(i+1)%len(n.nodes)]))
	}
	return func() {
		n.t.Helper()
		for _, stop := range stops {
			stop()
		}
	}
}

// addPods puts a new pod on each host.
func (n *network) addPods() {
	n.t.Helper()
	for _, h := range n.nodes {
		h.addPod()
	}
}

// pingFresh has new pods on these hosts ping each other.
func (n *network) pingFresh(hosts ...*node) {
	n.t.Helper()
	for _, h := range hosts {
		h.addPod()
	}
	for _, from := range hosts {
		for _, to := range hosts {
			if from != to {
				from.ping(to)
			}
		}
	}
}
