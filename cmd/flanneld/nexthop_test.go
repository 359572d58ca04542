package main_test

import (
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"flanneld/pkg/lab"
)

const (
	// The hosts' own subnets keep clear of those of peerLease.
	largeConfig = `{"Network":"10.0.0.0/8","SubnetLen":24,"SubnetMin":"10.128.0.0","Backend":{"Type":"host-gw"}}`
	large       = 2000 // leases of hosts that are not there; from here on there are nexthops
	smaller     = 900  // and from here down there are none
)

// A network that becomes large, and small again, changes how its routes are
// made without the loss of a packet. In between, nexthops heal as routes do.
func TestNexthops(t *testing.T) {
	n := newLab(t)
	n.startEtcd(lab.EtcdOptions{})
	n.put("config", largeConfig)
	wide, err := n.lab.AddSwitch("wide", mustPrefix("172.16.0.0/16"))
	check(t, err)
	_, err = n.lab.AddRouter(n.sw, wide)
	check(t, err)
	n.sw = wide
	h, peer := n.addNode(lab.HostOptions{}), n.addNode(lab.HostOptions{})
	h.start()
	peer.start()
	n.readyWithPods()

	n.witness(h, peer, func() {
		n.putLeases(large)
		for _, node := range n.nodes {
			t.Logf("%s has nexthops %s after the last lease", node.Name, node.waitNexthops(soon, large))
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
	wrong.Via = peer.Addr.Next()
	check(t, h.ReplaceNexthop(wrong))
	t.Logf("a nexthop changed: right after %s", h.waitNexthops(slow(time.Second), large))

	_, err = h.DelRoutesByProtocol(ourRoutes)
	check(t, err)
	t.Logf("all routes deleted: back after %s", h.waitNexthops(slow(time.Second), large))

	check(t, h.LinkDown("eth0"))
	h.waitRoutes(soon)
	check(t, h.LinkUp("eth0"))
	t.Logf("NIC down and up: right after %s", h.waitNexthops(slow(time.Second), large))

	check(t, h.RecreateNIC("eth0"))
	t.Logf("NIC made anew: right after %s", h.waitNexthops(slow(time.Second), large))
	n.pingAll()

	n.witness(h, peer, func() {
		n.deleteLeases(smaller, large)
		for _, node := range n.nodes {
			n.wait(soon, "plain routes on "+node.Name, func() string {
				list, err := node.Nexthops()
				check(t, err)
				if len(list) > 0 {
					return fmt.Sprintf("there are %d nexthops", len(list))
				}
				return ""
			})
		}
	})
	for _, node := range n.nodes {
		n.wait(2*soon, "the end of leases that are gone on "+node.Name, func() string { return wrongRoutes(node, smaller) })
	}
	n.pingAll()
}

// waitNexthops waits until there are a nexthop and a route for each peer, of
// which so many are not there, and returns how long that took.
func (h *node) waitNexthops(within time.Duration, leases int) time.Duration {
	h.n.t.Helper()
	return h.n.wait(within, "nexthops on "+h.Name, func() string {
		list, err := h.Nexthops()
		check(h.n.t, err)
		if len(list) != leases+1 {
			return fmt.Sprintf("there are %d", len(list))
		}
		for _, nh := range list {
			if nh.Protocol != ourRoutes || nh.Dev != "eth0" {
				return fmt.Sprintf("there is %+v", nh)
			}
		}
		return wrongRoutes(h, leases) // which say what the nexthops do
	})
}

// wrongRoutes compares the routes with those to the other hosts, of which so
// many are not there.
func wrongRoutes(h *node, leases int) string {
	h.n.t.Helper()
	want := h.routesToOthers()
	for i := range leases {
		_, _, route := peerLease(i)
		want = append(want, route)
	}
	slices.Sort(want)
	got := h.routes()
	if len(got) != len(want) {
		return fmt.Sprintf("there are %d routes", len(got))
	}
	for i := range want {
		if got[i] != want[i] {
			return fmt.Sprintf("there is %s, not %s", got[i], want[i])
		}
	}
	return ""
}

// deleteLeases deletes the leases of hosts that are not there.
func (n *network) deleteLeases(from, to int) {
	n.t.Helper()
	keys := n.keys()
	work := make(chan string)
	var g sync.WaitGroup
	for range 16 {
		g.Go(func() {
			for key := range work {
				if _, err := keys.Delete(n.ctx, keyPrefix+"/"+key, nil); err != nil {
					n.t.Error(err)
				}
			}
		})
	}
	for i := from; i < to; i++ {
		key, _, _ := peerLease(i)
		work <- key
	}
	close(work)
	g.Wait()
}
