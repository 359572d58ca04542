package network

import (
	"errors"
	"iter"
	"maps"
	"math"
	"net/netip"
	"slices"

	"flanneld/backend"
	"flanneld/pkg/ip"
	"flanneld/pkg/state"
	"flanneld/subnet"
)

// Desired is all that decides how this host should look.
type Desired struct {
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

// plan turns a desired state into objects, and knows which of them a new desired state changes.
// The cost of a change is that of the leases that changed, and one comparison
// of pointers for each other lease.
type plan struct {
	spec     Desired
	planes   [math.MaxUint8 + 1]uint8 // which dataplane has a kind of objects
	changes  []change                 // for each dataplane, of what is desired that is being taken
	devices  map[string]bool          // that are wanted
	local    map[state.Key]bool       // what is wanted for no peer, but for this host itself
	problems map[ip.Subnet]string     // parts of leases that the backend can do nothing with
	troubled map[ip.Subnet]int        // of how many families each lease has such a part
	// changedProblems are the subnets whose problems may not be as they were when it was
	// last emptied.
	changedProblems map[ip.Subnet]struct{}
	// claims are the parts of leases that call for objects which others may call for, too, by
	// the attributes by which they do. Where there are others for one, it may have to be
	// decided which of them get what they call for.
	claims    map[attribute]part
	others    map[attribute][]part
	conflicts map[attribute]struct{}
	// unreadable are the parts of leases of which the backend cannot read how to reach
	// the peer: what the host has for them stays.
	unreadable map[ip.Subnet]bool
	reread     bool // which they are may have changed
	all        bool // changes have all that is wanted
}

// part is what of a lease is of one address family, in which this host has a subnet, too.
// Whatever is wrong with it, the other family's works.
type part struct {
	*subnet.Lease
	family ip.Family
}

// subnet is that of the family alone.
func (l part) subnet() ip.Subnet { return ip.SubnetOf(l.Subnet.Of(l.family)) }

// parts are those of a lease that are of use here.
func (p *plan) parts(l *subnet.Lease) iter.Seq[part] {
	return func(yield func(part) bool) {
		for _, f := range ip.Families {
			if l.Subnet.Of(f).IsValid() && p.spec.Own.Subnet.Of(f).IsValid() && !yield(part{l, f}) {
				return
			}
		}
	}
}

// change is what a new desired state changes for one dataplane.
type change struct {
	bounds
	// want has the objects that change, nil for one that is not wanted any more; all that
	// are wanted, if all is set.
	want state.Set
	all  bool
	// needFullPass is set if what is there has to be seen for it.
	needFullPass bool
}

// newPlan returns a plan for dataplanes, of which each but the first has certain kinds of
// objects.
func newPlan(planes []Plane) *plan {
	p := &plan{changes: make([]change, len(planes))}
	for i, plane := range planes {
		for _, k := range plane.Kinds {
			p.planes[k] = uint8(i)
		}
	}
	return p
}

// set takes a new desired state and returns what it changes for each dataplane. That is valid until
// the next call.
func (p *plan) set(w Desired) []change {
	old := p.spec
	p.spec = w
	clear(p.changes)
	p.reread = false
	all := p.local == nil || old.Config != w.Config || old.Host != w.Host || !old.Rules.Equal(w.Rules) || old.Own.Subnet != w.Own.Subnet || old.Own.Attrs != w.Own.Attrs
	p.all = all
	if all {
		p.rebuild()
	} else {
		p.follow(old.Peers, w.Peers)
	}
	// What is there for an unreadable lease is seen by a full pass alone.
	full := all || p.reread || old.Partial != w.Partial || !slices.Equal(old.Unreadable, w.Unreadable) || !slices.Equal(old.Networks, w.Networks)
	b := bounds{w, p.devices, p.local, slices.AppendSeq(slices.Clone(w.Unreadable), maps.Keys(p.unreadable))}
	for i := range p.changes {
		c := &p.changes[i]
		c.bounds, c.all, c.needFullPass = b, all, full
	}
	return p.changes
}

// follow goes from some peers to others.
func (p *plan) follow(before, after []*subnet.Lease) {
	var new []*subnet.Lease // a lease that gets another family shares objects with what it was
	for gone, come := range subnet.Changes(before, after) {
		if gone != nil && come != nil && gone.Attrs == come.Attrs {
			p.renew(come)
			continue
		}
		if gone != nil {
			p.remove(gone)
		}
		if come != nil {
			new = append(new, come)
		}
	}
	for _, l := range new {
		p.add(l)
	}
	p.resolve()
}

// add puts the objects of a lease among those that are wanted.
func (p *plan) add(lease *subnet.Lease) {
	for l := range p.parts(lease) {
		objects, err := p.spec.Backend.Peer(p.spec.Host, l.family, p.spec.Own, l.Lease)
		if err != nil {
			p.report(l, err.Error())
			if errors.As(err, new(backend.Unreadable)) {
				p.unreadable[l.subnet()], p.reread = true, true
			}
			continue
		}
		if _, by := claimed(l.family, objects); by.what != nil && !p.claim(by, l) {
			continue // to be resolved
		}
		p.put(objects)
	}
}

// remove takes the objects of a lease away.
func (p *plan) remove(lease *subnet.Lease) {
	for l := range p.parts(lease) {
		objects := p.objects(l)
		p.report(l, "")
		if p.unreadable[l.subnet()] {
			delete(p.unreadable, l.subnet())
			p.reread = true
		}
		p.take(objects)
		if _, by := claimed(l.family, objects); by.what != nil {
			p.unclaim(by, l)
		}
	}
}

func (p *plan) put(objects []state.Object) {
	for _, o := range objects {
		k := o.Key()
		p.changeOf(k)[k] = o
	}
}

func (p *plan) take(objects []state.Object) {
	for _, o := range objects {
		k := o.Key()
		if want := p.changeOf(k); p.all {
			delete(want, k)
		} else {
			want[k] = nil
		}
	}
}

// changeOf returns where the changes belong that are about a key.
func (p *plan) changeOf(k state.Key) state.Set {
	c := &p.changes[p.planes[k.Kind]]
	if c.want == nil {
		c.want = make(state.Set)
	}
	return c.want
}

// report sets what is wrong with a part of a lease; nothing, if why is empty.
func (p *plan) report(l part, why string) {
	if why != "" {
		why = p.spec.Config.Trouble(l.Lease, why)
	}
	s := l.subnet()
	if p.problems[s] == why {
		return
	}
	p.changedProblems[s] = struct{}{}
	if p.problems[s] == "" {
		p.troubled[l.Subnet]++
	}
	if p.problems[s] = why; why != "" {
		return
	}
	delete(p.problems, s)
	if p.troubled[l.Subnet]--; p.troubled[l.Subnet] == 0 {
		delete(p.troubled, l.Subnet)
	}
}

// objects returns what the backend makes of a part of a lease. That is a pure function of
// what is desired, so it can be asked again for what it returned before.
func (p *plan) objects(l part) []state.Object {
	objects, _ := p.spec.Backend.Peer(p.spec.Host, l.family, p.spec.Own, l.Lease)
	return objects
}

func (p *plan) rebuild() {
	p.changedProblems = make(map[ip.Subnet]struct{})
	for s := range p.problems {
		p.changedProblems[s] = struct{}{}
	}
	local := p.spec.Backend.Local(p.spec.Host, p.spec.Config.Network(), p.spec.Own)
	local = append(local, p.spec.Rules.objects(p.spec.Config, p.spec.Own)...)
	sizes := make([]int, len(p.changes))
	claims := 0
	if len(p.spec.Peers) > 0 {
		for l := range p.parts(p.spec.Peers[0]) {
			objects := p.objects(l)
			for _, o := range objects {
				sizes[p.planes[state.WhichKind(o)]] += len(p.spec.Peers)
			}
			if _, by := claimed(l.family, objects); by.what != nil {
				claims += len(p.spec.Peers)
			}
		}
	}
	for i, n := range sizes {
		p.changes[i].want = make(state.Set, n+len(local))
	}
	p.devices = make(map[string]bool)
	p.local = make(map[state.Key]bool, len(local))
	p.problems = make(map[ip.Subnet]string)
	p.troubled = make(map[ip.Subnet]int)
	p.claims = make(map[attribute]part, claims)
	p.others = make(map[attribute][]part)
	p.conflicts = make(map[attribute]struct{})
	p.unreadable = make(map[ip.Subnet]bool)
	p.put(local)
	for _, o := range local {
		k := o.Key()
		p.local[k] = true
		if state.IsDevice(o) {
			p.devices[k.Scope] = true
		}
	}
	for _, l := range p.spec.Peers {
		p.add(l)
	}
	p.resolve()
}
