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
// was written last says where, for its host is the most likely to be alive. The same holds
// for any object that several peers may claim.

// claimed returns the object that other leases may call for as well, if there is one among
// objects, and the attribute by which they do.
func claimed(objects []state.Object) (state.Object, any) {
	for _, o := range objects {
		if claim := state.Claim(o); claim != nil {
			return o, claim
		}
	}
	return nil, nil
}

// claim notes that a lease calls for an object by an attribute. It reports whether it is
// the only one.
func (p *plan) claim(attribute any, l *subnet.Lease) bool {
	claims := p.claims[attribute]
	claims = append(claims, l)
	p.claims[attribute] = claims
	if len(claims) == 1 {
		return true
	}
	p.conflicts[attribute] = struct{}{}
	return false
}

func (p *plan) unclaim(attribute any, l *subnet.Lease) {
	claims := slices.DeleteFunc(p.claims[attribute], func(c *subnet.Lease) bool { return c.Subnet == l.Subnet })
	if len(claims) == 0 {
		delete(p.claims, attribute)
		return
	}
	p.claims[attribute] = claims
	p.conflicts[attribute] = struct{}{}
}

// renew notes that a lease was written again, as it was.
func (p *plan) renew(l *subnet.Lease) {
	_, attribute := claimed(p.objects(l))
	if attribute == nil {
		return
	}
	claims := p.claims[attribute]
	for i, c := range claims {
		if c.Subnet == l.Subnet {
			claims[i] = l
		}
	}
	if len(claims) > 1 {
		p.conflicts[attribute] = struct{}{}
	}
}

// resolve decides between the leases that call for the same object.
func (p *plan) resolve() {
	for attribute := range p.conflicts {
		claims := p.claims[attribute]
		if len(claims) == 0 {
			continue
		}
		newest := slices.MaxFunc(claims, func(a, b *subnet.Lease) int {
			return cmp.Or(cmp.Compare(a.Revision, b.Revision), a.Subnet.Compare(b.Subnet))
		})
		right, _ := claimed(p.objects(newest))
		agreed := make([][]state.Object, 0, len(claims))
		for _, l := range claims {
			objects := p.objects(l)
			if o, _ := claimed(objects); o == right {
				agreed = append(agreed, objects)
				p.report(l, "")
				continue
			}
			p.take(objects)
			p.report(l, fmt.Sprintf("its %v is that of lease %s, too, which is newer", attribute, newest.Subnet))
		}
		for _, objects := range agreed {
			p.put(objects)
		}
	}
	clear(p.conflicts)
}
