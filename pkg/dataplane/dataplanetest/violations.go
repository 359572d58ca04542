package dataplanetest

import (
	"fmt"
	"net/netip"
	"slices"
	"time"

	"flanneld/pkg/state"
)

// inspect notes what is careless about a step.
func (f *Fake) inspect(op state.Op) {
	k := op.Key()
	switch k.Kind {
	case state.KindNeigh:
		if op.Verb != state.Delete {
			break
		}
		if l := f.links[k.Scope]; l != nil {
			if n, there := l.neighs[k.Prefix.Addr()]; there && !n.permanent && f.known(n.since) {
				f.violate(op, "it is not permanent, and so not ours")
			}
		}
		f.inspectUse(op, k.Scope, func(via netip.Addr) bool { return via == k.Prefix.Addr() })
	case state.KindFDB:
		if l := f.links[k.Scope]; l != nil && op.Verb == state.Delete && l.fdb[k.MAC] == op.Have.(state.FDB).Dst {
			f.inspectUse(op, k.Scope, func(via netip.Addr) bool {
				n, there := l.neighs[via]
				return there && n.permanent && n.mac == k.MAC && f.known(n.since) && !f.failed[state.NeighKey(k.Scope, via)]
			})
		}
	case state.KindNexthop:
		was, there := f.nexthops[k.ID]
		if op.Verb != state.Create && there && was.protocol != ProtoOurs && f.known(was.since) {
			f.violate(op, "took the place of "+was.entry(k.ID).Text)
		}
		if n, ok := op.Want.(state.Nexthop); ok && n.Onlink {
			f.inspectWay(op, n.Dev, n.Via)
		}
	case state.KindRoute:
		r, ok := op.Want.(state.Route)
		if !ok {
			break
		}
		if r.Nexthop == 0 {
			if r.Onlink {
				f.inspectWay(op, r.Dev, r.Via)
			}
		} else if h, there := f.nexthops[r.Nexthop]; there && h.onlink && f.certain(r.Nexthop, h) {
			f.inspectWay(op, h.dev, h.via)
		}
	default:
	}
}

// inspectWay notes that what goes to via on a device of ours, by the step, would
// not come to any host: there is no neighbour, or no FDB entry. It does not
// count if it failed, or may not be known yet.
func (f *Fake) inspectWay(op state.Op, dev string, via netip.Addr) {
	l := f.links[dev]
	if l == nil || l.vxlan == nil || !state.IsDeviceName(dev) {
		return
	}
	absent := func(k state.Key) bool { return !f.failed[k] && f.known(f.lost[k]) }
	key := state.NeighKey(dev, via)
	n, there := l.neighs[via]
	if !there || !n.permanent {
		if absent(key) {
			f.violate(op, "it has no neighbour")
		}
		return
	}
	if _, there := l.fdb[n.mac]; !there && !f.failed[key] && f.known(n.since) && absent(state.FDBKey(dev, n.mac)) {
		f.violate(op, "its neighbour has no FDB entry")
	}
}

// inspectUse notes that a nexthop or route of ours still needs what the step
// takes away from a device.
func (f *Fake) inspectUse(op state.Op, dev string, uses func(via netip.Addr) bool) {
	for id, h := range f.nexthops {
		if h.onlink && h.dev == dev && h.protocol == ProtoOurs && uses(h.via) && f.certain(id, h) {
			f.violate(op, fmt.Sprintf("%s needs it", h.nexthop(id)))
		}
	}
	for dst, aliases := range f.routes {
		for _, a := range aliases {
			k := state.Key{Kind: state.KindRoute, Prefix: dst}
			if a.onlink && a.dev == dev && a.metric == 0 && a.protocol == ProtoOurs && uses(a.via) && f.known(f.since[dst]) && !f.failed[k] {
				f.violate(op, fmt.Sprintf("%s needs it", f.route(dst, a).Route))
			}
		}
	}
}

// certain reports whether the program under test must know of the nexthop, and
// was not kept from changing it.
func (f *Fake) certain(id uint32, h hop) bool {
	if f.failed[h.nexthop(id).Key()] || !h.step && !f.known(h.since) {
		return false
	}
	for k := range f.failed {
		if k.Kind == state.KindRoute && slices.ContainsFunc(f.routes[k.Prefix], func(a alias) bool { return a.nexthop == id }) {
			return false
		}
	}
	return true
}

// Lag is how many times Faults.Pause the program under test may take to learn of
// a change and to be done with what it began before: a dump, and for each kind
// of objects a batch that adds and one that deletes, on its way there and back.
const Lag = 30

// known reports whether the program under test had the time to learn of a
// change.
func (f *Fake) known(since time.Time) bool { return time.Since(since) > Lag*f.faults.Pause }

// forget notes that what the program under test may have put on a device is
// gone, and not by a step about it.
func (f *Fake) forget(k state.Key) { f.lost[k] = time.Now() }

func (f *Fake) violate(op state.Op, why string) {
	f.violations = append(f.violations, fmt.Sprintf("%s: %s", op, why))
}
