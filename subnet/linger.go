package subnet

import (
	"net/netip"
	"slices"
	"time"

	"flanneld/pkg/ip"
)

// LingerTime is how long the lease of another host stays in force after it
// vanished. A host whose key was deleted claims it again at once, and all hosts
// do within seconds if etcd was replaced by an empty one; no packet should be
// lost over that.
const LingerTime = 10 * time.Second

// Linger keeps vanished leases in force for LingerTime. The zero Linger has
// seen no leases.
type Linger struct {
	last []*Lease
	gone map[ip.Subnet]time.Time // when they vanished
}

// Vanished is a lease of another host that is not in the store any more.
type Vanished struct {
	*Lease
	Since time.Time
}

// Resume has a Linger that has seen nothing begin where an earlier run ended: with the
// leases that it had last, by subnet, and those that had vanished by then. The times are
// by the host's wall clock.
func (g *Linger) Resume(last []*Lease, vanished []Vanished, now time.Time) {
	g.gone = make(map[ip.Subnet]time.Time, len(vanished))
	for _, v := range vanished {
		age := now.Sub(v.Since)
		if age >= LingerTime {
			continue
		}
		g.gone[v.Subnet] = now.Add(-max(age, 0)) // a clock that was set back adds no time
		last = append(last, v.Lease)
	}
	slices.SortFunc(last, func(a, b *Lease) int { return a.Subnet.Compare(b.Subnet) })
	g.last = last
}

// Gone returns the leases that are in force although they vanished.
func (g *Linger) Gone() []Vanished {
	if len(g.gone) == 0 {
		return nil
	}
	all := make([]Vanished, 0, len(g.gone))
	for _, l := range g.last {
		if since, gone := g.gone[l.Subnet]; gone {
			all = append(all, Vanished{l, since})
		}
	}
	return all
}

// Apply takes the leases of the other hosts, by subnet, as of now. It returns
// them together with those that vanished a short while ago, by subnet, and when
// the first of these is over; the zero time if there are none. What may not linger goes at
// once.
func (g *Linger) Apply(peers []*Lease, own ip.Subnet, now time.Time, may func(*Lease) bool) (all []*Lease, next time.Time) {
	gone := make(map[ip.Subnet]time.Time)
	var still []*Lease
	var taken occupied // by peers
	for l, is := range Changes(g.last, peers) {
		if is != nil {
			continue
		}
		since, known := g.gone[l.Subnet]
		if !known {
			since = now
		}
		end := since.Add(LingerTime)
		if !now.Before(end) || l.Subnet.Overlaps(own) {
			continue
		}
		if taken == nil {
			taken = make(occupied)
			for _, p := range peers {
				for _, p := range p.Subnet.Prefixes() {
					taken.add(p)
				}
			}
		}
		needs := l.Subnet.Prefixes()
		for _, f := range l.Subnet.Families() { // packets to the host could go round in circles
			needs = append(needs, netip.PrefixFrom(l.PublicIP.Of(f), f.Bits()))
		}
		if slices.ContainsFunc(needs, taken.overlaps) || !may(l) {
			continue
		}
		gone[l.Subnet] = since
		still = append(still, l)
		if next.IsZero() || end.Before(next) {
			next = end
		}
	}
	all = peers
	if len(still) > 0 {
		all = splice(peers, nil, still)
	}
	g.last, g.gone = all, gone
	return all, next
}
