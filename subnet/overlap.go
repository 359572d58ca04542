package subnet

import (
	"cmp"
	"net/netip"
	"slices"

	"flanneld/pkg/ip"
)

// Leases that overlap cannot all be in force. Every host decides between them in the
// same way: a subnet of the length that the configuration gives wins, or of the length that
// most have, where the store chooses subnets; then that of the host which was registered
// first; then the longer one. Of one length no two overlap.

// precedes compares leases; the lower one wins.
func (f family) precedes(a, b *Lease) int {
	x, y := f.of(a).Bits(), f.of(b).Bits()
	other := func(bits int) int {
		if bits == f.SubnetLen {
			return 0
		}
		return 1
	}
	order, older := cmp.Compare(other(x), other(y)), cmp.Compare(a.Created, b.Created)
	if f.assigned {
		order = cmp.Or(order, older)
	}
	return cmp.Or(order, cmp.Compare(y, x), older, cmp.Compare(a.Machine, b.Machine), a.Subnet.Compare(b.Subnet))
}

// supersedes reports whether a host wrote a lease in the place of another one of its own. Both
// are there for a moment when a host adds an address family to its lease, or drops one.
func (f family) supersedes(a, b *Lease) bool {
	public := a.PublicIP.Of(f.Family)
	return f.of(a) == f.of(b) && public.IsValid() && public == b.PublicIP.Of(f.Family) && a.Revision > b.Revision &&
		(a.Machine == "" || b.Machine == "" || SameMachine(a.Machine, b.Machine))
}

// usualLen returns the length of more subnets than any other; 0 if there is none.
func (f family) usualLen(leases ...*Lease) (usual int) {
	count := make(map[int]int)
	for _, l := range leases {
		if p := f.of(l); p.IsValid() {
			count[p.Bits()]++
		}
	}
	most := 0
	for bits, n := range count {
		switch {
		case n > most:
			usual, most = bits, n
		case n == most:
			usual = 0
		}
	}
	return usual
}

// losers returns the leases in Network that lose to others, and to which.
func (f family) losers(leases []*Lease) map[*Lease]*Lease {
	lost := make(map[*Lease]*Lease)
	if f.assigned {
		f.SubnetLen = f.usualLen(leases...)
	}
	f.nest(leases).losers(lost)
	return lost
}

// family is one address family's part of leases.
type family struct {
	ip.Family
	Range
	assigned bool
}

// families returns those that the configuration enables.
func (c *Config) families() []family {
	var fs []family
	for _, f := range c.Families() {
		fs = append(fs, family{f, c.Of(f), c.Assigned})
	}
	return fs
}

func (f family) of(l *Lease) netip.Prefix { return l.Subnet.Of(f.Family) }

// covered reports whether a lease says of the family where which packets go. It may say
// nothing that can be read.
func (f family) covered(l *Lease) bool {
	return f.of(l).IsValid() && l.PublicIP.Of(f.Family).IsValid() && (f.Family == ip.V6 || !l.Subnet.Placeholder())
}

// unreadable reports whether someone has a prefix of a lease by another one, which can't be read.
func (f family) unreadable(l *Lease, s Snapshot) bool {
	return slices.ContainsFunc(s.Problems, func(p Problem) bool {
		return p.Subnet != l.Subnet && p.Subnet.Of(f.Family).IsValid() && p.Subnet.Of(f.Family) == f.of(l)
	})
}

// compare orders leases by their prefix.
func (f family) compare(a, b *Lease) int {
	if order := f.of(a).Compare(f.of(b)); order != 0 {
		return order
	}
	return a.Subnet.Compare(b.Subnet)
}

// nesting is the leases of a family inside Network, in the order of their prefixes:
// what holds others comes right before them.
type nesting struct {
	family
	leases []*Lease
	parent []int // the closest that holds it; -1 for none
	nested bool  // some have a parent
}

func (f family) nest(leases []*Lease) *nesting {
	n := &nesting{family: f, leases: make([]*Lease, 0, len(leases))}
	for _, l := range leases {
		if f.contains(f.of(l)) {
			n.leases = append(n.leases, l)
		}
	}
	if !slices.IsSortedFunc(n.leases, f.compare) {
		slices.SortFunc(n.leases, f.compare)
	}
	n.parent = make([]int, len(n.leases))
	var open []int
	for i := range n.leases {
		for len(open) > 0 && !n.at(open[len(open)-1]).Overlaps(n.at(i)) {
			open = open[:len(open)-1]
		}
		n.parent[i] = -1
		if len(open) > 0 {
			n.parent[i], n.nested = open[len(open)-1], true
		}
		open = append(open, i)
	}
	return n
}

func (n *nesting) at(i int) netip.Prefix { return n.of(n.leases[i]) }

// holders yields the leases whose subnets hold an address, the longest first.
func (n *nesting) holders(a netip.Addr) []*Lease {
	i, _ := slices.BinarySearchFunc(n.leases, a, func(l *Lease, a netip.Addr) int {
		if n.of(l).Addr().Compare(a) <= 0 {
			return -1
		}
		return 1
	})
	var found []*Lease
	for i--; i >= 0; i = n.parent[i] {
		if n.at(i).Contains(a) {
			found = append(found, n.leases[i])
		}
	}
	return found
}

// losers adds the leases that lose to others to lost. Those that are there already
// are out of the contest.
func (n *nesting) losers(lost map[*Lease]*Lease) {
	if !n.nested {
		return
	}
	var rivals []int // that overlap others
	isRival := make([]bool, len(n.leases))
	rival := func(i int) {
		if !isRival[i] {
			isRival[i] = true
			rivals = append(rivals, i)
		}
	}
	for i, l := range n.leases {
		for p := n.parent[i]; p >= 0 && n.at(p) == n.at(i); p = n.parent[p] {
			switch other := n.leases[p]; {
			case n.supersedes(l, other):
				lost[other] = l
			case n.supersedes(other, l):
				lost[l] = other
			}
		}
	}
	for i, l := range n.leases {
		if _, out := lost[l]; out {
			continue
		}
		for p := n.parent[i]; p >= 0; p = n.parent[p] {
			if _, out := lost[n.leases[p]]; !out {
				rival(i)
				rival(p)
				break
			}
		}
	}
	slices.SortFunc(rivals, func(a, b int) int { return cmp.Or(n.precedes(n.leases[a], n.leases[b]), cmp.Compare(a, b)) })
	winners := make([]int, 0, len(rivals)) // in the order of their prefixes; none overlap
	for _, r := range rivals {
		i, _ := slices.BinarySearch(winners, r)
		switch {
		case i > 0 && n.at(winners[i-1]).Overlaps(n.at(r)):
			lost[n.leases[r]] = n.leases[winners[i-1]]
		case i < len(winners) && n.at(winners[i]).Overlaps(n.at(r)):
			lost[n.leases[r]] = n.leases[winners[i]]
		default:
			winners = slices.Insert(winners, i, r)
		}
	}
}
