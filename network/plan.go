package network

import (
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
	problems map[ip.Subnet]string // leases that the backend can do nothing with
}

// set takes a new wish and returns the keys of the objects that it changes.
func (p *plan) set(w Wish) []state.Key {
	old := p.wish
	p.wish = w
	if p.want == nil || old.Config != w.Config || old.Host != w.Host || old.Own.Subnet != w.Own.Subnet || old.Own.Attrs != w.Own.Attrs {
		return p.rebuild()
	}
	var changed []state.Key
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
		changed = p.change(changed, gone, come)
	}
	return changed
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

// change puts the objects of lease come in the place of those of gone; either
// may be nil.
func (p *plan) change(changed []state.Key, gone, come *subnet.Lease) []state.Key {
	before := make(state.Set)
	if gone != nil {
		for _, o := range p.objects(gone) {
			before[o.Key()] = o
		}
		delete(p.problems, gone.Subnet)
	}
	if come != nil {
		for _, o := range p.objects(come) {
			k := o.Key()
			if before[k] != o {
				changed = append(changed, k)
			}
			delete(before, k)
			p.want[k] = o
		}
	}
	for k := range before {
		delete(p.want, k)
		changed = append(changed, k)
	}
	return changed
}

// objects returns what the backend makes of a lease. That is a pure function of
// the wish, so it can be asked again what it said before.
func (p *plan) objects(l *subnet.Lease) []state.Object {
	objects, err := p.wish.Backend.Peer(p.wish.Host, p.wish.Own, l)
	if err != nil {
		p.problems[l.Subnet] = err.Error()
	}
	return objects
}

func (p *plan) rebuild() []state.Key {
	before := p.want
	p.want = make(state.Set, len(p.wish.Peers))
	p.problems = make(map[ip.Subnet]string)
	var changed []state.Key
	for _, l := range p.wish.Peers {
		changed = p.change(changed, nil, l)
	}
	// Everything counts as changed: what was wanted before and is not any more,
	// and what failed before and may succeed on a host that has changed.
	for k := range before {
		if _, ok := p.want[k]; !ok {
			changed = append(changed, k)
		}
	}
	return changed
}

// mine reports whether an object with our mark is this daemon's.
func (p *plan) mine(k state.Key) bool {
	a := k.Dst.Addr()
	if k.Kind == state.KindNexthop {
		a = state.NexthopSubnet(k.ID)
	}
	return slices.ContainsFunc(p.wish.Networks, func(n netip.Prefix) bool { return n.Contains(a) })
}

// keep reports whether an object must stay even if it is not wanted.
func (p *plan) keep(k state.Key) bool {
	return slices.ContainsFunc(p.wish.Unreadable, func(s ip.Subnet) bool {
		switch k.Kind {
		case state.KindNexthop:
			return k.ID == state.NexthopID(s.V4)
		case state.KindRoute:
			return k.Dst == s.V4 || k.Dst == s.V6
		}
		return false
	})
}
