package network

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"

	"flanneld/backend"
	"flanneld/pkg/ip"
	"flanneld/pkg/state"
	"flanneld/subnet"
)

// Wish is all that decides how this host should look.
type Wish struct {
	Backend backend.Backend
	// Config that Backend was made from: a new one means a new Backend.
	Config *subnet.Config
	Host   backend.Host
	Own    *subnet.Lease
	// Networks are where objects with our mark are ours; elsewhere they belong
	// to another daemon on this host.
	Networks []netip.Prefix
	// Peers by subnet, as subnet.Vet returns them.
	Peers []*subnet.Lease
	// Unreadable subnets have a lease that cannot be used as it is: what the
	// host has for them stays.
	Unreadable []ip.Subnet
}

// plan turns a wish into objects, and knows which of them a new wish changes.
// The cost of a change is that of the leases that changed, and one comparison
// of pointers for each other lease.
type plan struct {
	wish     Wish
	want     state.Set
	devices  map[string]bool      // that are wanted
	problems map[ip.Subnet]string // leases that the backend can do nothing with
	// vteps are the leases that FDB entries are made for. A MAC address is at
	// one host; what else claims it are rivals.
	vteps  map[state.Key]*subnet.Lease
	rivals map[state.Key][]*subnet.Lease
}

// keys of objects.
type keys map[state.Key]struct{}

// set takes a new wish and returns the keys of the objects that it changes, or
// that it may change any.
func (p *plan) set(w Wish) (changed keys, all bool) {
	old := p.wish
	p.wish = w
	if p.want == nil || old.Config != w.Config || old.Host != w.Host || old.Own.Subnet != w.Own.Subnet || old.Own.Attrs != w.Own.Attrs {
		p.rebuild()
		return nil, true
	}
	changed = make(keys)
	was, is := old.Peers, w.Peers
	for len(was) > 0 || len(is) > 0 {
		if len(was) > 0 && len(is) > 0 && was[0] == is[0] {
			was, is = was[1:], is[1:]
			continue
		}
		var gone, come *subnet.Lease
		switch c := compareFirst(was, is); {
		case c < 0:
			gone, was = was[0], was[1:]
		case c > 0:
			come, is = is[0], is[1:]
		default:
			gone, come = was[0], is[0]
			was, is = was[1:], is[1:]
			if gone.Attrs == come.Attrs {
				continue
			}
		}
		if gone != nil {
			p.remove(changed, gone)
		}
		if come != nil {
			p.add(changed, come)
		}
	}
	return changed, false
}

func compareFirst(a, b []*subnet.Lease) int {
	switch {
	case len(a) == 0:
		return 1
	case len(b) == 0:
		return -1
	}
	return a[0].Subnet.Compare(b[0].Subnet)
}

// add puts the objects of a lease among those that are wanted.
func (p *plan) add(changed keys, l *subnet.Lease) {
	objects, err := p.wish.Backend.Peer(p.wish.Host, p.wish.Own, l)
	if err != nil {
		p.problems[l.Subnet] = err.Error()
		return
	}
	for _, o := range objects {
		k := o.Key()
		if k.Kind != state.KindFDB {
			continue
		}
		if other := p.vteps[k]; other != nil {
			// The one that was written last is the more likely to be alive.
			winner, loser := l, other
			if other.Revision > l.Revision {
				winner, loser = other, l
			}
			if loser == other {
				p.take(changed, p.objects(other))
			}
			p.rivals[k] = append(p.rivals[k], loser)
			p.problems[loser.Subnet] = fmt.Sprintf("its MAC address %s is that of lease %s, too, which is newer", k.MAC, winner.Subnet)
			if loser == l {
				return
			}
		}
		p.vteps[k] = l
	}
	for _, o := range objects {
		p.want[o.Key()] = o
		changed[o.Key()] = struct{}{}
	}
}

// remove takes the objects of a lease away.
func (p *plan) remove(changed keys, l *subnet.Lease) {
	objects := p.objects(l)
	if p.problems[l.Subnet] != "" {
		delete(p.problems, l.Subnet)
		for _, o := range objects {
			k := o.Key()
			p.setRivals(k, slices.DeleteFunc(p.rivals[k], func(r *subnet.Lease) bool { return r.Subnet == l.Subnet }))
		}
		return
	}
	p.take(changed, objects)
	for _, o := range objects {
		k := o.Key()
		delete(p.vteps, k)
		if rivals := p.rivals[k]; len(rivals) > 0 {
			newest := slices.MaxFunc(rivals, func(a, b *subnet.Lease) int { return cmp.Compare(a.Revision, b.Revision) })
			p.setRivals(k, slices.DeleteFunc(rivals, func(r *subnet.Lease) bool { return r == newest }))
			delete(p.problems, newest.Subnet)
			p.add(changed, newest)
		}
	}
}

func (p *plan) setRivals(k state.Key, rivals []*subnet.Lease) {
	if len(rivals) == 0 {
		delete(p.rivals, k)
		return
	}
	p.rivals[k] = rivals
}

func (p *plan) take(changed keys, objects []state.Object) {
	for _, o := range objects {
		delete(p.want, o.Key())
		changed[o.Key()] = struct{}{}
	}
}

// objects returns what the backend makes of a lease. That is a pure function of
// the wish, so it can be asked again what it said before.
func (p *plan) objects(l *subnet.Lease) []state.Object {
	objects, _ := p.wish.Backend.Peer(p.wish.Host, p.wish.Own, l)
	return objects
}

func (p *plan) rebuild() {
	p.want = make(state.Set, len(p.wish.Peers))
	p.devices = make(map[string]bool)
	p.problems = make(map[ip.Subnet]string)
	p.vteps = make(map[state.Key]*subnet.Lease)
	p.rivals = make(map[state.Key][]*subnet.Lease)
	for _, o := range p.wish.Backend.Local(p.wish.Host, p.wish.Own) {
		k := o.Key()
		p.want[k] = o
		if k.Kind == state.KindLink {
			p.devices[k.Dev] = true
		}
	}
	changed := make(keys) // everything; nobody asks
	for _, l := range p.wish.Peers {
		p.add(changed, l)
	}
}
