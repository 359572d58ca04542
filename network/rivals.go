package network

import (
	"cmp"
	"fmt"
	"slices"

	"flanneld/pkg/ip"
	"flanneld/pkg/state"
	"flanneld/subnet"
)

// A MAC address is at one host, so there can be one FDB entry for it. Several
// leases may call for it: those of one host agree where it is; those of clones,
// or of a host that went and one that has its disk now, do not. The lease that
// was written last says where, for its host is the most likely to be alive. The same holds
// for any object that several peers may claim.

// attribute is something of a peer, in one family, by which several may claim an object.
type attribute struct {
	family ip.Family
	what   any
}

// claimed returns the object that other leases may call for as well, if there is one among
// objects of a family, and the attribute by which they do.
func claimed(f ip.Family, objects []state.Object) (state.Object, attribute) {
	for _, o := range objects {
		if claim := state.Claim(o); claim != nil {
			return o, attribute{f, claim}
		}
	}
	return nil, attribute{}
}

// claim notes that a lease calls for an object by an attribute. It reports whether it is
// the only one.
func (p *plan) claim(by attribute, l part) bool {
	claims := p.claims[by]
	claims = append(claims, l)
	p.claims[by] = claims
	if len(claims) == 1 {
		return true
	}
	p.conflicts[by] = struct{}{}
	return false
}

func (p *plan) unclaim(by attribute, l part) {
	claims := slices.DeleteFunc(p.claims[by], func(c part) bool { return c.Subnet == l.Subnet })
	if len(claims) == 0 {
		delete(p.claims, by)
		return
	}
	p.claims[by] = claims
	p.conflicts[by] = struct{}{}
}

// renew notes that a lease was written again, as it was.
func (p *plan) renew(lease *subnet.Lease) {
	for l := range p.parts(lease) {
		_, by := claimed(l.family, p.objects(l))
		claims := p.claims[by]
		for i, c := range claims {
			if c.Subnet == l.Subnet {
				claims[i] = l
			}
		}
		if len(claims) > 1 {
			p.conflicts[by] = struct{}{}
		}
	}
}

// resolve decides between the leases that call for the same object.
func (p *plan) resolve() {
	for by := range p.conflicts {
		claims := p.claims[by]
		if len(claims) == 0 {
			continue
		}
		newest := slices.MaxFunc(claims, func(a, b part) int {
			return cmp.Or(cmp.Compare(a.Revision, b.Revision), a.Subnet.Compare(b.Subnet))
		})
		right, _ := claimed(by.family, p.objects(newest))
		agreed := make([][]state.Object, 0, len(claims))
		for _, l := range claims {
			objects := p.objects(l)
			if o, _ := claimed(by.family, objects); o == right {
				agreed = append(agreed, objects)
				p.report(l, "")
				continue
			}
			p.take(objects)
			p.report(l, fmt.Sprintf("its %v is that of lease %s, too, which is newer", by.what, newest.Subnet))
		}
		for _, objects := range agreed {
			p.put(objects)
		}
	}
	clear(p.conflicts)
}
