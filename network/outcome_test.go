package network

import (
	"fmt"

	"flanneld/pkg/state"
	"flanneld/pkg/target/targettest"
)

// checkHost checks all that a host has in the end.
func (h *history) checkHost() {
	var want Status
	want.Wanted = len(h.leases)
	if h.nexthops {
		want.Wanted *= 2
	}
	maybe := 0
	hops := make(map[uint32]targettest.Nexthop)
	for _, hop := range h.fake.Nexthops() {
		hops[hop.ID] = hop
	}
	for n := range historyPeers {
		missing, unsure, bad := h.outcome(n, hops)
		want.Missing += missing
		maybe += unsure
		if bad {
			h.Errorf("routes to peer %d: %s, nexthop %+v; its lease is %+v, large network: %v",
				n, fmt.Sprint(h.fake.Routes(peerSubnet(n).V4)), hops[nexthop(n, 0).ID], h.leases[n], h.nexthops)
		}
	}
	got := h.lastStatus()
	if more := got.Missing - want.Missing; more < 0 || more > maybe || got.Wanted != want.Wanted {
		h.Errorf("status %+v, want %+v and at most %d more missing", got, want, maybe)
	}
}

// outcome returns how many objects of a peer must be missing in the end, how
// many more may be, and whether something is as it must not be.
func (h *history) outcome(n int, hops map[uint32]targettest.Nexthop) (missing, unsure int, bad bool) {
	got := h.fake.Routes(peerSubnet(n).V4)
	var marked []targettest.Route
	for _, r := range got {
		if r.Protocol == targettest.ProtoOurs {
			marked = append(marked, r)
		}
	}
	l := h.leases[n]
	hop, there := hops[nexthop(n, 0).ID]
	hopIsOurs := there && hop.Protocol == targettest.ProtoOurs
	if l == nil {
		return 0, 0, len(marked) > 0 || hopIsOurs
	}
	r := state.Route{Dst: l.Subnet.V4, Via: l.PublicIP.V4, Dev: "eth0"}
	served := len(got) > 0 && serves(got[0], r)
	if !h.nexthops && hopIsOurs {
		return 0, 0, true
	}
	if h.nexthops {
		r.Nexthop = hop.ID
		switch right := hop.Via == r.Via && hop.Dev == r.Dev; {
		case !there || hopIsOurs && !right:
			return 0, 0, true
		case !right: // and not ours: the route must wait, too
			return 1, 1, false
		}
	}
	foreign := len(got) - len(marked)
	bad = len(marked) > 1 || len(marked) == 1 && marked[0] != ours(r) ||
		len(marked) == 0 && (foreign == 0 || served && got[0].Protocol == targettest.ProtoBoot)
	switch {
	case foreign > 0 && got[0] == ours(r):
		unsure = 1 // of what is adopted, others behind it are seen one full pass later
	case foreign > 0 && (len(marked) > 0 || !served):
		missing = 1
	}
	return missing, unsure, bad
}

// serves reports whether the route goes where want does, by a nexthop or not.
func serves(r targettest.Route, want state.Route) bool {
	return r.Via == want.Via && r.Dev == want.Dev
}
