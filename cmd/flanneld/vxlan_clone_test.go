package main_test

import "testing"

// A host that was cloned from a running one, device and all, gets a MAC of its
// own: it takes no packets away from the first one.
func TestVXLANClone(t *testing.T) {
	n := newNetwork(t, 3, vxlan, nil)
	first, clone, third := n.nodes[0], n.nodes[1], n.nodes[2]
	n.witness(third, first, func() {
		clone.restart(func() { check(t, clone.SetHardwareAddr(vtep, first.mac())) })
		third.waitPeers(soon, third.others()...)
	})
	if clone.mac().String() == first.mac().String() {
		t.Errorf("both have the MAC %s", first.mac())
	}
	for _, h := range n.nodes {
		h.waitPeers(soon, h.others()...)
	}
	n.pingAll()
}
