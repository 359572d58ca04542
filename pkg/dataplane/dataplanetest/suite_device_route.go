package dataplanetest

import (
	"golang.org/x/sys/unix"

	"flanneld/pkg/dataplane"
	"flanneld/pkg/state"
)

// through returns a route to the same destination by a gateway.
func (a Addressing) through(r state.Route, via string) state.Route {
	r.Via, r.Onlink = a.addr(via), true
	return r
}

// A route may lead to a device, and to no one there.
func testDeviceRoute(r *fixture) {
	t, a := tunDevice(), r.tunRoute()
	r.apply(create(t), create(a)) // it needs no address
	r.wantEntry(a, state.Ours, false)
	r.refused(create(a), unix.EEXIST)
	r.apply(replace(a, a))
	r.wantEntry(a, state.Ours, false)
	eth := a
	eth.Dev = "eth0"
	r.apply(replace(a, eth))
	r.wantEntry(eth, state.Ours, false)
	r.apply(remove(a))
	r.wantEntry(eth, state.Ours, false)
	r.apply(remove(eth), remove(eth))
	r.wantNone(eth)
	if !r.v6() {
		onlink := a
		onlink.Onlink = true
		r.refused(create(onlink), unix.EINVAL)
	}
	missing := a
	missing.Dev = "flannel9"
	r.refused(create(missing), dataplane.ErrNoLink)
	// With the last address of its device it goes, too, in IPv4.
	r.apply(create(r.tunAddr()), create(a))
	r.apply(remove(r.tunAddr()))
	if !r.v6() {
		r.wantNone(a)
	}
}

// With a gateway or without is a difference.
func testDeviceRouteOrNot(r *fixture) {
	r.apply(create(tunDevice()))
	a := r.tunRoute()
	b := r.through(a, "10.1.2.3")
	n := r.nexthop(7, "192.168.5.11")
	c := r.by(a.Dst.String(), n)
	r.apply(create(a), create(n))
	is := a
	for _, want := range []state.Route{b, a, c, a} {
		r.apply(replace(is, want))
		r.wantEntry(want, state.Ours, false)
		is = want
	}
	r.apply(remove(a))
	r.check(r.host.AddRoute(marked(b, ProtoStatic)))
	if ops, blocked := r.diff(a); ops != nil || len(blocked) != 1 {
		r.Fatalf("steps %v, blocked %v", ops, blocked)
	}
	r.check(r.host.DelRoute(marked(b, ProtoStatic)))
}

// Without a gateway the kernel can't be told which route to delete of those on
// the device; but with another mark, or by a nexthop, none is.
func testDeviceRouteDeleted(r *fixture) {
	r.apply(create(tunDevice()))
	a, n := r.tunRoute(), r.nexthop(7, "192.168.5.11")
	b := r.through(a, "10.1.2.3")
	r.apply(create(b), remove(a))
	r.wantNone(b)
	c := r.by(a.Dst.String(), n)
	r.apply(create(n), create(c), remove(a))
	r.wantEntry(c, state.Ours, false)
	r.apply(remove(c), create(a), remove(b))
	r.wantEntry(a, state.Ours, false)
	r.apply(remove(a))
	r.check(r.host.AddRoute(marked(a, ProtoStatic)))
	r.apply(remove(a))
	r.wantEntry(a, state.Foreign, false)
}

func testDeviceRouteAdopted(r *fixture) {
	a := r.tunRoute()
	r.check(r.host.AddTUN(a.Dev, tunDevice().Alias, true))
	r.check(r.host.AddRoute(marked(a, ProtoStatic)))
	r.wantEntry(a, state.Foreign, false)
	if ops, blocked := r.diff(a); ops != nil || blocked != nil { // it serves
		r.Fatalf("steps %v, blocked %v", ops, blocked)
	}
	r.check(r.host.DelRoute(marked(a, ProtoStatic)))
	r.adopts(a)
}

// A route with the scope of its link is not as ours.
func testDeviceRouteOfLink(r *fixture) {
	a := r.tunRoute()
	r.apply(create(tunDevice()))
	link := func(protocol int) Route { return Route{Route: a, Protocol: protocol, ScopeLink: true} }
	r.check(r.host.AddRoute(link(ProtoStatic)))
	if ops, blocked := r.diff(a); ops != nil || len(blocked) != 1 || blocked[0].By == "" {
		r.Fatalf("steps %v, blocked %v", ops, blocked)
	}
	r.check(r.host.DelRoute(link(ProtoStatic)))
	for _, protocol := range []int{ProtoOurs, ProtoBoot} {
		r.check(r.host.AddRoute(link(protocol)))
		ops, _ := r.diff(a)
		if len(ops) != 1 || ops[0].Verb != state.Replace {
			r.Fatalf("steps %v", ops)
		}
		r.apply(ops...)
		r.wantEntry(a, state.Ours, false)
		r.apply(remove(a))
		r.wantNone(a)
	}
}

func testDeviceRouteEvents(r *fixture) {
	a := r.tunRoute()
	r.apply(create(tunDevice()))
	w := r.watch()
	r.apply(create(a))
	w.expect("our route, added", about(a, state.Ours, false))
	b := r.through(a, "10.1.2.3")
	r.apply(replace(a, b))
	w.expect("our route, by a gateway", about(b, state.Ours, false))
	r.apply(replace(b, a))
	w.expect("our route, without", about(a, state.Ours, false))
	r.apply(remove(a))
	w.expect("our route, deleted", about(a, state.Ours, true))
	r.check(r.host.AddRoute(marked(a, ProtoBoot)))
	w.expect("an adoptable route", about(a, state.Adoptable, false))
	if r.v6() {
		return // there are no scopes
	}
	r.check(r.host.ReplaceRoute(Route{Route: a, Protocol: ProtoBoot, ScopeLink: true}))
	w.expect("one with the scope of the link", func(e dataplane.Event) bool {
		return e.Key == a.Key() && !e.Gone && e.Entry.Owner == state.Adoptable && e.Entry.Object != state.Object(a)
	})
}
