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
	if _, claimed := p.claims[by]; !claimed {
		p.claims[by] = l
		return true
	}
	p.others[by] = append(p.others[by], l)
	p.conflicts[by] = struct{}{}
	return false
}

func (p *plan) unclaim(by attribute, l part) {
	claims := slices.DeleteFunc(p.claimants(by), func(c part) bool { return c.Subnet == l.Subnet })
	delete(p.claims, by)
	delete(p.others, by)
	if len(claims) == 0 {
		return
	}
	p.claims[by] = claims[0]
	if len(claims) > 1 {
		p.others[by] = claims[1:]
	}
	p.conflicts[by] = struct{}{}
}

// claimants returns the parts of leases that claim by an attribute.
func (p *plan) claimants(by attribute) []part {
	first, claimed := p.claims[by]
	if !claimed {
		return nil
	}
	return append([]part{first}, p.others[by]...)
}

// renew notes that a lease was written again, as it was.
func (p *plan) renew(lease *subnet.Lease) {
	for l := range p.parts(lease) {
		_, by := claimed(l.family, p.objects(l))
		if c, claimed := p.claims[by]; claimed && c.Subnet == l.Subnet {
			p.claims[by] = l
		}
		others := p.others[by]
		for i, c := range others {
			if c.Subnet == l.Subnet {
				others[i] = l
			}
		}
		if len(others) > 0 {
			p.conflicts[by] = struct{}{}
		}
	}
}

// resolve decides between the leases that call for the same object.
func (p *plan) resolve() {
	for by := range p.conflicts {
		claims := p.claimants(by)
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
