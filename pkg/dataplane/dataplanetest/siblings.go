package dataplanetest

import (
	"net/netip"
	"slices"
)

// Of routes of IPv6 to one destination, with one metric and gateways, a kernel makes one,
// with several hops. Each is an alias here all the same, as each can be deleted by itself.

// spreads reports whether a route can become one with others.
func (is alias) spreads(dst netip.Prefix) bool {
	return dst.Addr().Is6() && is.via.IsValid() && is.nexthop == 0
}

// siblings are those that are one route with an alias, itself included, in order.
func (f *Fake) siblings(dst netip.Prefix, a alias) []alias {
	all := f.routes[dst]
	if !a.spreads(dst) || !slices.Contains(all, a) {
		return []alias{a}
	}
	return slices.DeleteFunc(slices.Clone(all), func(b alias) bool { return b.metric != a.metric || !b.spreads(dst) })
}

// replaced returns which of all routes of a metric a new one takes the place of: in IPv4 the first; in IPv6 the first that is of
// its sort, with its siblings, and if there is none, the first.
func (f *Fake) replaced(dst netip.Prefix, all []alias, a alias) []alias {
	if !dst.Addr().Is6() {
		return all[:1]
	}
	i := max(slices.IndexFunc(all, func(b alias) bool { return b.spreads(dst) == a.spreads(dst) }), 0)
	return f.siblings(dst, all[i])
}

// without is all but some.
func without(all, some []alias) []alias {
	return slices.DeleteFunc(slices.Clone(all), func(b alias) bool { return slices.Contains(some, b) })
}
