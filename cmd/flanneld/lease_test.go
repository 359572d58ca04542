package main_test

import (
	"fmt"
	"testing"
	"time"

	"flanneld/pkg/lab"
)

func TestOwnKeyDeleted(t *testing.T) { everyFamily(t, testOwnKeyDeleted) }

func testOwnKeyDeleted(t *testing.T, v variant) {
	n := newNetwork(t, 2, v, nil)
	h, peer := n.nodes[0], n.nodes[1]
	peer.waitPeers(soon, h.peer())
	subnet, key := h.subnet(), h.key()
	n.witness(h, peer, func() {
		n.delete(key)
		t.Logf("the key is back after %s", n.waitKey(slow(time.Second), key, "the key to be back", func(e *entry) bool { return e != nil }))
		h.waitLog("claimed it again")
		time.Sleep(100 * time.Millisecond) // what goes wrong now would show
	})
	peer.waitPeers(slow(time.Second), h.peer())
	if h.subnet() != subnet || h.daemon.ExitCode() != -1 {
		t.Errorf("subnet %s, exit code %d", h.subnet(), h.daemon.ExitCode())
	}
}

// takenBy is a stranger who has the host's subnets, and is given by its IPv4 address.
func (h *node) takenBy(public string) peer {
	h.n.t.Helper()
	taken, by := h.peer(), h.n.stranger("10.5.200.0/24", public)
	taken.node, taken.public = nil, by.public
	if taken.also != nil {
		taken.also.node, taken.also.public = nil, by.also.public
	}
	return taken
}

func TestSubnetTaken(t *testing.T) { inParallel(t, everyFamily, testSubnetTaken) }

func testSubnetTaken(t *testing.T, v variant) {
	n := newNetwork(t, 2, v, nil)
	h, peer := n.nodes[0], n.nodes[1]
	old := h.subnet()
	winner := h.takenBy("192.168.0.200")
	n.putPeer(winner)
	h.waitLog(fmt.Sprintf("our subnet %s now belongs to the host with the public address %s", winner.subnets(), winner.public))
	for _, v := range winner.views() {
		h.waitLog(fmt.Sprintf("this host's subnet changed from %s to ", v.subnet))
	}
	n.wait(soon, "a new subnet.env", func() string {
		if s := h.subnet(); s == old {
			return "subnet is still " + s.String()
		}
		return ""
	})
	if e := n.get(winner.key()); e.value != n.backend.lease(winner) {
		t.Errorf("the other's lease is now %v", e)
	}
	peer.waitPeers(soon, h.peer(), winner)
	if !v.backend.itself { // else there is no route to just that subnet
		for _, v := range winner.views() {
			if v.subnet.Addr().Is4() {
				h.waitLog("in its place is something that is not ours, to be removed by hand: " + v.subnet.String() + " dev docker0")
			} else { // IPv6 has both routes, and goes by the bridge's
				h.waitLine("packets are kept from their way: ", v.subnet.String(), " dev docker0 ", "is in the way")
			}
		}
	}
	h.addPod() // docker0 gets the new address
	h.waitPeers(soon, peer.peer(), winner)
	n.pingAll()
}

// A daemon that was suspended until its lease expired leaves the lease of its
// successor alone.
func TestFrozenPastItsLease(t *testing.T) { inParallel(t, everyVariant, testFrozenPastItsLease) }

func testFrozenPastItsLease(t *testing.T, v variant) {
	n := newNetwork(t, 2, v, nil)
	h := n.nodes[0]
	old := h.subnet()
	successor := stranger(old.String(), "192.168.0.200")
	check(t, h.daemon.Freeze())
	n.expire(successor.key())
	n.waitKey(soon, successor.key(), "the lease to expire", func(e *entry) bool { return e == nil })
	n.putPeer(successor)
	check(t, h.daemon.Thaw())
	n.wait(soon, "another subnet", func() string {
		if s := h.subnet(); s == old {
			return "subnet is still " + s.String()
		}
		return ""
	})
	if e := n.get(successor.key()); e.value != n.backend.lease(successor) {
		t.Errorf("the successor's lease is now %v", e)
	}
}

func TestReuse(t *testing.T) { inParallel(t, everyFamily, testReuse) }

func testReuse(t *testing.T, v variant) {
	n := newNetwork(t, 2, v, nil)
	h := n.nodes[0]
	old := h.subnet()

	t.Log("the lease is gone, subnet.env names it")
	h.daemon.Kill()
	n.delete(h.key())
	h.start()
	h.waitReady()
	if h.subnet() != old {
		t.Errorf("subnet %s, before %s", h.subnet(), old)
	}

	t.Log("the lease is gone, another host has the subnet that subnet.env names")
	h.daemon.Kill()
	winner := h.takenBy("192.168.0.200")
	n.putPeer(winner)
	h.start()
	h.waitReady()
	if h.subnet() == old || n.get(winner.key()).value != n.backend.lease(winner) {
		t.Errorf("subnet %s was taken from another host", old)
	}
}

func TestReservation(t *testing.T) { inParallel(t, everyVariant, testReservation) }

func testReservation(t *testing.T, v variant) {
	n := newConfigured(t, v, nil)
	h := n.addNode(lab.HostOptions{})
	n.put("subnets/10.5.99.0-24", fmt.Sprintf(`{"PublicIP":"%s"}`, h.Addr))
	owned := func(e *entry) bool { return e.ttl == 0 && e.value == n.backend.lease(h.peer()) }
	for range 3 {
		h.start()
		h.waitReady()
		if s := h.subnet().String(); s != "10.5.99.0/24" {
			t.Fatalf("subnet is %s", s)
		}
		if e := n.get(h.key()); !owned(e) {
			t.Errorf("the reservation is now %v", e)
		}
		_, err := h.daemon.Stop(soon)
		check(t, err)
	}

	t.Log("a value that someone damages is mended, and is still a reservation")
	h.start()
	h.waitReady()
	n.put("subnets/10.5.99.0-24", "garbage")
	n.waitKey(soon, h.key(), "the value to be mended", owned)
}

// A host whose subnet was taken, and that can't get another one yet, still
// follows the others.
func TestSubnetTakenAndNoneFree(t *testing.T) { everyVariant(t, testSubnetTakenAndNoneFree) }

func testSubnetTakenAndNoneFree(t *testing.T, v variant) {
	n := newNetwork(t, 2, v, settings{"SubnetMin": "10.5.1.0", "SubnetMax": "10.5.2.0"})
	h, peer := n.nodes[0], n.nodes[1]
	n.putPeer(stranger(h.subnet().String(), "192.168.0.200"))
	h.waitLog("no free subnet: all 2 of length /24")
	check(t, peer.daemon.Signal(9))
	successor := stranger(peer.subnet().String(), "192.168.0.201")
	n.putPeer(successor)
	h.waitPeers(slow(2*time.Second), successor)
	n.delete(successor.key())
	n.wait(soon, "the freed subnet", func() string {
		if h.subnet() != successor.subnet {
			return "it is not taken"
		}
		return ""
	})
}
