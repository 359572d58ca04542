package state

import (
	"fmt"
	"net/netip"
)

// YieldingMetric is that of a route which gives way to one that anyone else makes to the
// same destination: those have metric 0, as all others of ours, unless told otherwise.
const YieldingMetric = 1

// Route sends packets for Dst out of the interface Dev, to the next hop Via. It
// is in the main table. If Nexthop is not 0, the route refers to
// the Nexthop of that number, and Via, Dev and Onlink are what that says. Without
// Via, the device itself takes the packets.
type Route struct {
	Dst     netip.Prefix
	Via     netip.Addr
	Dev     string
	Onlink  bool // as for Nexthop
	Nexthop uint32
	Metric  uint32 // 0 or YieldingMetric
}

// Key is the destination and the metric.
func (r Route) Key() Key { return Key{Kind: KindRoute, Prefix: r.Dst, ID: r.Metric} }

// Kind is that of the key.
func (Route) Kind() Kind { return KindRoute }

func (r Route) String() string {
	metric := ""
	if r.Metric != 0 {
		metric = fmt.Sprintf(" metric %d", r.Metric)
	}
	if !r.Via.IsValid() {
		return fmt.Sprintf("route %s dev %s%s", r.Dst, r.Dev, metric)
	}
	return fmt.Sprintf("route %s via %s dev %s%s%s", r.Dst, r.Via, r.Dev, onlink(r.Onlink), metric)
}

// Needs is the nexthop or, without one, the device; and the neighbour entry if the kernel
// does not find Via by itself.
func (r Route) Needs() []Key {
	first := LinkKey(r.Dev)
	if r.Nexthop != 0 {
		first = NexthopKey(r.Nexthop)
	}
	return needsOf(first, r.Dev, r.Via, r.Onlink)
}

// Same does not mind what the right Nexthop says at the moment.
func (r Route) Same(there Object) bool {
	t, ok := there.(Route)
	if ok && r.Nexthop != 0 {
		return t.Dst == r.Dst && t.Metric == r.Metric && t.Nexthop == r.Nexthop
	}
	return ok && t == r
}

// Serves reports whether packets take the same way, by a Nexthop or not.
func (r Route) Serves(want Object) bool {
	w, ok := want.(Route)
	r.Nexthop, w.Nexthop = 0, 0
	return ok && w == r
}

// Owned is for a destination in our networks.
func (r Route) Owned(o *Ownership) bool { return o.Contains(r.Dst.Addr()) }

// FlushedBy is for when the device is made anew.
func (r Route) FlushedBy(op Op) bool { return op.Verb == Replace && op.Flushes(r.Dev) == FlushAll }

// LeaseSubnet is the destination.
func (r Route) LeaseSubnet() netip.Prefix {
	if r.Metric != 0 {
		return netip.Prefix{}
	}
	return r.Dst
}

// PeerDevice is the device.
func (r Route) PeerDevice() string { return r.Dev }

// DependsOnRoutes is true: the kernel takes no next hop that it does not reach.
func (Route) DependsOnRoutes() bool { return true }

// Path is as the route says.
func (r Route) Path() Path { return Path{Dst: r.Dst, Dev: r.Dev, Via: r.Via} }
