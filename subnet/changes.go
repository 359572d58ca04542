package subnet

import (
	"iter"
	"slices"

	"flanneld/pkg/ip"
)

// Changes yields what differs between two lists of leases, both by subnet, in the order
// of subnets: the lease of a subnet that was there and the one that is, nil where there
// is none. A lease that is in both lists costs a comparison of pointers.
func Changes(before, after []*Lease) iter.Seq2[*Lease, *Lease] {
	return func(yield func(was, is *Lease) bool) {
		for was, is := before, after; ; {
			n := 0
			for n < min(len(was), len(is)) && was[n] == is[n] {
				n++
			}
			was, is = was[n:], is[n:]
			if len(was) == 0 && len(is) == 0 {
				return
			}
			var gone, come *Lease
			order := compareFirst(was, is)
			if order <= 0 {
				gone, was = was[0], was[1:]
			}
			if order >= 0 {
				come, is = is[0], is[1:]
			}
			if !yield(gone, come) {
				return
			}
		}
	}
}

// compareFirst says which of two lists, one of which may be empty, goes on first.
func compareFirst(a, b []*Lease) int {
	switch {
	case len(a) == 0:
		return 1
	case len(b) == 0:
		return -1
	}
	return a[0].Subnet.Compare(b[0].Subnet)
}

// splice returns leases without some of them, and with others. All are by subnet. What
// does not change is copied as a whole.
func splice(leases, without, with []*Lease) []*Lease {
	all := make([]*Lease, 0, len(leases)+len(with))
	for was, is := range Changes(without, with) {
		at := was
		if at == nil {
			at = is
		}
		i, found := search(leases, at.Subnet)
		all = append(all, leases[:i]...)
		if leases = leases[i:]; found && leases[0] == was {
			leases = leases[1:]
		}
		if is != nil {
			all = append(all, is)
		}
	}
	return append(all, leases...)
}

// search returns where the lease of a subnet is, or would be, among leases by subnet.
func search(leases []*Lease, s ip.Subnet) (int, bool) {
	return slices.BinarySearchFunc(leases, s, func(l *Lease, s ip.Subnet) int { return l.Subnet.Compare(s) })
}
