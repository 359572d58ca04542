package network

import (
	"fmt"

	"flanneld/pkg/dataplane/dataplanetest"
	"flanneld/pkg/ip"
	"flanneld/pkg/state"
)

// checkHost checks all that a host has in the end.
func (h *history) checkHost() {
	w := h.desired()
	var p planned
	p.set(w)
	h.checkDevices(w, p.want)
	want := Status{Wanted: len(p.want), Unusable: len(p.problems)}
	maybe := 0
	hops := make(map[uint32]dataplanetest.Nexthop)
	for _, hop := range h.fake.Nexthops() {
		hops[hop.ID] = hop
	}
	for n := range historyPeers {
		missing, unsure, bad := h.outcome(n, p.want, hops)
		want.Missing += missing
		maybe += unsure
		if bad {
			h.Errorf("routes to peer %d: %s, nexthop %+v; its lease is %+v, large network: %v",
				n, fmt.Sprint(h.fake.Routes(peerDst(n))), hops[nexthop(n, 0).ID], h.leases[n], h.nexthops)
		}
	}
	got := h.lastStatus()
	more := got.Missing - want.Missing
	if got.Missing = want.Missing; more < 0 || more > maybe || got != want {
		h.Errorf("status %+v, want %+v and at most %d more missing", h.lastStatus(), want, maybe)
	}
}

// outcome returns how many objects of a peer must be missing in the end, how
// many more may be, and whether something is as it must not be.
func (h *history) outcome(n int, want state.Set, hops map[uint32]dataplanetest.Nexthop) (missing, unsure int, bad bool) {
	got := h.fake.Routes(peerDst(n))
	var marked []dataplanetest.Route
	for _, r := range got {
		if r.Protocol == dataplanetest.ProtoOurs {
			marked = append(marked, r)
		}
	}
	r, wanted := want[route(n, 0).Key()].(state.Route)
	hop, there := hops[nexthop(n, 0).ID]
	hopIsOurs := there && hop.Protocol == dataplanetest.ProtoOurs
	if !wanted {
		return 0, 0, len(marked) > 0 || hopIsOurs
	}
	served := len(got) > 0 && serves(got[0], r)
	large := h.nexthops && in.Family() == ip.V4
	if in.Family() == ip.V6 { // several are one route, with several hops
		served = served && len(got) == 1
	}
	if !large && hopIsOurs {
		return 0, 0, true
	}
	if large {
		r.Nexthop = hop.ID
		switch right := hop.Nexthop == want[hop.Key()]; {
		case !there || hopIsOurs && !right:
			return 0, 0, true
		case !right: // and not ours: the route must wait, too
			return 1, 2 + historyPeers, false // and with it the entries it needs
		}
	}
	foreign := len(got) - len(marked)
	bad = len(marked) > 1 || len(marked) == 1 && marked[0] != ours(r) ||
		len(marked) == 0 && (foreign == 0 || served && got[0].Protocol == dataplanetest.ProtoBoot)
	switch {
	case foreign > 0 && got[0] == ours(r) && in.Family() == ip.V6:
		bad = true // some packets go elsewhere
	case foreign > 0 && got[0] == ours(r):
		unsure = 1 // of what is adopted, others behind it are seen one full pass later
	case foreign > 0 && (len(marked) > 0 || !served):
		missing = 1
	}
	return missing, unsure, bad
}

// serves reports whether the route goes where want does, by a nexthop or not.
func serves(r dataplanetest.Route, want state.Route) bool {
	return r.Via == want.Via && r.Dev == want.Dev && r.Onlink == want.Onlink
}
