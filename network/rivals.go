package network

import (
	"cmp"
	"fmt"
	"slices"

	"flanneld/pkg/state"
	"flanneld/subnet"
)

// A MAC address is at one host, so there can be one FDB entry for it. Several
// leases may call for it: those of one host agree where it is; those of clones,
// or of a host that went and one that has its disk now, do not. The lease that
// was written last says where, for its host is the most likely to be alive.

// vtep returns the FDB entry among objects, if there is one.
func vtep(objects []state.Object) (state.FDB, bool) {
	for _, o := range objects {
		if f, ok := o.(state.FDB); ok {
			return f, true
		}
	}
	return state.FDB{}, false
}

// claim notes that a lease calls for an FDB entry. It reports whether it is the
// only one.
func (p *plan) claim(m state.MAC, l *subnet.Lease) bool {
	p.claims[m] = append(p.claims[m], l)
	if len(p.claims[m]) == 1 {
		return true
	}
	p.unsettled[m] = struct{}{}
	return false
}

func (p *plan) unclaim(m state.MAC, l *subnet.Lease) {
	claims := slices.DeleteFunc(p.claims[m], func(c *subnet.Lease) bool { return c.Subnet == l.Subnet })
	if len(claims) == 0 {
		delete(p.claims, m)
		return
	}
	p.claims[m] = claims
	p.unsettled[m] = struct{}{}
}

// renew notes that a lease was written again, as it was.
func (p *plan) renew(l *subnet.Lease) {
	f, ok := vtep(p.objects(l))
	if !ok {
		return
	}
	claims := p.claims[f.MAC]
	for i, c := range claims {
		if c.Subnet == l.Subnet {
			claims[i] = l
		}
	}
	if len(claims) > 1 {
		p.unsettled[f.MAC] = struct{}{}
	}
}

// settle decides between the leases that call for the same FDB entry.
func (p *plan) settle(changed keys) {
	for m := range p.unsettled {
		claims := p.claims[m]
		if len(claims) == 0 {
			continue
		}
		newest := slices.MaxFunc(claims, func(a, b *subnet.Lease) int {
			return cmp.Or(cmp.Compare(a.Revision, b.Revision), a.Subnet.Compare(b.Subnet))
		})
		right, _ := vtep(p.objects(newest))
		agreed := make([][]state.Object, 0, len(claims))
		for _, l := range claims {
			objects := p.objects(l)
			if f, _ := vtep(objects); f == right {
				agreed = append(agreed, objects)
				p.tell(l, "")
				continue
			}
			p.take(changed, objects)
			p.tell(l, fmt.Sprintf("its VtepMAC %s is that of lease %s, too, which is newer", m, newest.Subnet))
		}
		for _, objects := range agreed {
			p.put(changed, objects)
		}
	}
	clear(p.unsettled)
}
