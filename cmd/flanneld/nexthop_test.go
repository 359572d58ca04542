package main_test

import (
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"flanneld/pkg/lab"
	"flanneld/pkg/state"
	"flanneld/subnet"
)

const (
	large   = 2000 // leases of strangers; from here on there are nexthops
	smaller = 900  // and from here down there are none
)

// newWide returns a lab without daemons whose hosts have the distant peers on
// their link.
func newWide(t testing.TB, v variant) *network {
	t.Helper()
	// The hosts' own subnets keep clear of those of distant peers.
	n := newConfigured(t, v, settings{"Network": "10.0.0.0/8", "SubnetLen": 24, "SubnetMin": "10.200.0.0"})
	n.widen()
	return n
}

// widen puts the hosts to come on the link of the distant peers.
func (n *network) widen() {
	n.t.Helper()
	wide, err := n.lab.AddSwitch("wide", n.links("172.16.0.0/16")...)
	check(n.t, err)
	_, err = n.lab.AddRouter(n.sw, wide)
	check(n.t, err)
	n.sw = wide
}

// A network that becomes large, and small again, changes how its routes are
// made without the loss of a packet. In between, nexthops heal as routes do.
func TestNexthops(t *testing.T) {
	restInParallel(t, dualToo, func(t *testing.T, v variant) {
		// What is large in one network of both families shows in the others of them.
		if v.backend.byNexthop != nil && (v.families == ipv4Only || v.backend.name == vxlanBackend.name) {
			testNexthops(t, v)
		}
	})
}

func testNexthops(t *testing.T, v variant) {
	n := newWide(t, v)
	h, second := n.addNode(lab.HostOptions{}), n.addNode(lab.HostOptions{})
	h.start()
	second.start()
	n.readyWithPods()

	n.witness(h, second, func() {
		n.putLeases(large)
		for _, node := range n.nodes {
			t.Logf("%s has nexthops %s after the last lease", node.Name, node.waitNexthops(slow(soon), large))
		}
	})
	n.pingAll()

	nexthops, err := h.Nexthops()
	check(t, err)
	for _, nh := range nexthops {
		check(t, h.DelNexthop(nh.ID))
	}
	t.Logf("all nexthops deleted: back after %s", h.waitNexthops(slow(time.Second), large))

	wrong := nexthops[len(nexthops)/2]
	wrong.Via = second.Addr.Next()
	check(t, h.ReplaceNexthop(wrong))
	t.Logf("a nexthop changed: right after %s", h.waitNexthops(slow(time.Second), large))

	_, err = h.DelRoutesByProtocol(ourRoutes)
	check(t, err)
	t.Logf("all routes deleted: back after %s", h.waitNexthops(slow(time.Second), large))

	if v.backend.dev == "eth0" {
		check(t, h.LinkDown("eth0"))
		h.waitPeers(slow(soon))
		check(t, h.LinkUp("eth0"))
	} else {
		for _, own := range h.peer().views() {
			check(t, h.LinkDown(own.vtep()))
		}
	}
	t.Logf("device down: right after %s", h.waitNexthops(slow(time.Second), large))

	check(t, h.RecreateNIC("eth0"))
	t.Logf("NIC made anew: right after %s", h.waitNexthops(slow(time.Second), large))
	n.pingAll()

	n.witness(h, second, func() {
		n.deleteLeases(smaller, large)
		for _, node := range n.nodes {
			n.wait(slow(soon), "plain routes on "+node.Name, func() string {
				list, err := node.Nexthops()
				check(t, err)
				if len(list) > 0 {
					return fmt.Sprintf("there are %d nexthops", len(list))
				}
				return ""
			})
		}
	})
	n.parallel(t)
	for _, node := range n.nodes {
		n.wait(slow(2*soon), "the end of leases that are gone on "+node.Name, func() string { return node.wrong(node.wantedFor(smaller, v.backend.expected)) })
	}
	n.pingAll()
}

// waitNexthops waits until there are a nexthop and a route by way of it for each
// peer, of which so many are strangers, and returns how long that took.
func (h *node) waitNexthops(within time.Duration, leases int) time.Duration {
	h.n.t.Helper()
	return h.n.wait(within, "nexthops on "+h.Name, func() string {
		list, err := h.Nexthops()
		check(h.n.t, err)
		if len(list) != leases+len(h.others()) {
			return fmt.Sprintf("there are %d", len(list))
		}
		for _, nh := range list {
			if nh.Protocol != ourRoutes || nh.Dev != h.n.backend.dev {
				return fmt.Sprintf("there is %+v", nh)
			}
		}
		return h.wrong(h.wantedFor(leases, h.n.backend.byNexthop))
	})
}

// routeByNexthop is the route to the peer, as node.routes has it, in a large
// network.
func (p peer) routeByNexthop() string {
	return fmt.Sprintf("%s nhid %d via %s", p.subnet, state.NexthopID(p.subnet), p.public)
}

// wantedFor is what the host must have so as to reach all others, of which so
// many are strangers.
func (h *node) wantedFor(leases int, expected func(*node, peer) []string) []string {
	h.n.t.Helper()
	peers := h.others()
	for i := range leases {
		peers = append(peers, h.n.distant(i))
	}
	var want []string
	for _, p := range peers {
		for _, view := range p.views() {
			if view.subnet.Addr().Is4() {
				want = append(want, expected(h, view)...)
			} else { // nexthops would be of no use
				want = append(want, h.n.backend.expected(h, view)...)
			}
		}
	}
	return want
}

// wrong says in what the host differs from what it must have.
func (h *node) wrong(want []string) string {
	h.n.t.Helper()
	slices.Sort(want)
	got := sorted(h.n.backend.present(h)...)
	if len(got) != len(want) {
		return fmt.Sprintf("there are %d objects", len(got))
	}
	for i := range want {
		if got[i] != want[i] {
			return fmt.Sprintf("there is %s, not %s", got[i], want[i])
		}
	}
	return ""
}

// putLeases writes the leases of the first so many distant peers.
func (n *network) putLeases(count int) {
	n.t.Helper()
	a := n.admin
	n.atOnce(0, count, func(p peer) error {
		return a.put(n.ctx, keyPrefix+"/"+p.key(), n.backend.lease(p), subnet.LeaseTTL)
	})
}

// deleteLeases deletes the leases of distant peers.
func (n *network) deleteLeases(from, to int) {
	n.t.Helper()
	a := n.admin
	n.atOnce(from, to, func(p peer) error { return a.delete(n.ctx, keyPrefix+"/"+p.key()) })
}

// atOnce calls f for distant peers, for some of them at a time.
func (n *network) atOnce(from, to int, f func(peer) error) {
	work := make(chan peer)
	var g sync.WaitGroup
	for range 16 {
		g.Go(func() {
			for p := range work {
				if err := f(p); err != nil {
					n.t.Error(err)
				}
			}
		})
	}
	for i := from; i < to; i++ {
		work <- n.distant(i)
	}
	close(work)
	g.Wait()
}
