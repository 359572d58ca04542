package network

import (
	"errors"
	"net/netip"

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
	// Rules are what is wanted of them for packets.
	Rules Rules
	// Networks are where objects with our mark are ours; elsewhere they belong
	// to another daemon on this host.
	Networks []netip.Prefix
	// Peers by subnet, as subnet.Vet returns them.
	Peers []*subnet.Lease
	// Unreadable subnets have a lease that cannot be used as it is: what the
	// host has for them stays.
	Unreadable []ip.Subnet
	// Partial is set while Peers are what was saved once: there may be others, and these
	// may have moved. Until that is known, what the host has for peers stays as it is.
	Partial bool
}

// plan turns a wish into objects, and knows which of them a new wish changes.
// The cost of a change is that of the leases that changed, and one comparison
// of pointers for each other lease.
type plan struct {
	wish     Wish
	want     state.Set
	devices  map[string]bool      // that are wanted
	local    map[state.Key]bool   // what is wanted for no peer, but for this host itself
	problems map[ip.Subnet]string // leases that the backend can do nothing with
	// news are the subnets whose problems may not be as they were when it was
	// last emptied.
	news map[ip.Subnet]struct{}
	// claims are the leases that call for objects which others may call for, too. Where
	// there are several for one, it may have to be settled which of them get what they
	// call for.
	claims    map[state.Key][]*subnet.Lease
	unsettled map[state.Key]struct{}
	// unreadable are the leases of which the backend cannot read how to reach
	// the peer: what the host has for them stays.
	unreadable map[ip.Subnet]bool
	reread     bool // which they are may have changed
}

// keys of objects.
type keys map[state.Key]struct{}

// set takes a new wish and returns the keys of the objects that it changes, or
// that it may change any.
func (p *plan) set(w Wish) (changed keys, all bool) {
	old := p.wish
	p.wish = w
	if p.want == nil || old.Config != w.Config || old.Host != w.Host || !old.Rules.Equal(w.Rules) || old.Own.Subnet != w.Own.Subnet || old.Own.Attrs != w.Own.Attrs {
		p.rebuild()
		return nil, true
	}
	changed = make(keys)
	p.reread = false
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
				p.renew(come)
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
	p.settle(changed)
	// What is there for an unreadable lease is seen by a full pass alone.
	return changed, p.reread
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
		p.tell(l, err.Error())
		if errors.As(err, new(backend.Unreadable)) {
			p.unreadable[l.Subnet], p.reread = true, true
		}
		return
	}
	if o := claimed(objects); o != nil && !p.claim(o.Key(), l) {
		return // to be settled
	}
	p.put(changed, objects)
}

// remove takes the objects of a lease away.
func (p *plan) remove(changed keys, l *subnet.Lease) {
	objects := p.objects(l)
	p.tell(l, "")
	if p.unreadable[l.Subnet] {
		delete(p.unreadable, l.Subnet)
		p.reread = true
	}
	p.take(changed, objects)
	if o := claimed(objects); o != nil {
		p.unclaim(o.Key(), l)
	}
}

func (p *plan) put(changed keys, objects []state.Object) {
	for _, o := range objects {
		k := o.Key()
		p.want[k] = o
		if changed != nil {
			changed[k] = struct{}{}
		}
	}
}

func (p *plan) take(changed keys, objects []state.Object) {
	for _, o := range objects {
		k := o.Key()
		delete(p.want, k)
		if changed != nil {
			changed[k] = struct{}{}
		}
	}
}

// tell sets what is wrong with a lease; nothing, if why is empty.
func (p *plan) tell(l *subnet.Lease, why string) {
	if p.problems[l.Subnet] == why {
		return
	}
	p.news[l.Subnet] = struct{}{}
	if why == "" {
		delete(p.problems, l.Subnet)
	} else {
		p.problems[l.Subnet] = why
	}
}

// objects returns what the backend makes of a lease. That is a pure function of
// the wish, so it can be asked again what it said before.
func (p *plan) objects(l *subnet.Lease) []state.Object {
	objects, _ := p.wish.Backend.Peer(p.wish.Host, p.wish.Own, l)
	return objects
}

func (p *plan) rebuild() {
	p.news = make(map[ip.Subnet]struct{})
	for s := range p.problems {
		p.news[s] = struct{}{}
	}
	local := p.wish.Backend.Local(p.wish.Host, p.wish.Config.Network(), p.wish.Own)
	local = append(local, p.wish.Rules.objects(p.wish.Config, p.wish.Own)...)
	n := len(local)
	if len(p.wish.Peers) > 0 {
		n += len(p.wish.Peers) * len(p.objects(p.wish.Peers[0]))
	}
	p.want = make(state.Set, n)
	p.devices = make(map[string]bool)
	p.local = make(map[state.Key]bool, len(local))
	p.problems = make(map[ip.Subnet]string)
	p.claims = make(map[state.Key][]*subnet.Lease)
	p.unsettled = make(map[state.Key]struct{})
	p.unreadable = make(map[ip.Subnet]bool)
	for _, o := range local {
		k := o.Key()
		p.want[k] = o
		p.local[k] = true
		if state.IsDevice(o) {
			p.devices[k.Scope] = true
		}
	}
	for _, l := range p.wish.Peers {
		p.add(nil, l)
	}
	p.settle(nil)
}
