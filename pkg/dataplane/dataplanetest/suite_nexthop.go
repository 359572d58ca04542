package dataplanetest

import (
	"errors"

	"golang.org/x/sys/unix"

	"flanneld/pkg/dataplane"
	"flanneld/pkg/state"
)

// nexthop is ours, or is as ours.
func (a Addressing) nexthop(id uint32, via string) state.Nexthop {
	return state.Nexthop{ID: id, Via: a.addr(via), Dev: "eth0"}
}

// by is a route that refers to a nexthop.
func (a Addressing) by(dst string, n state.Nexthop) state.Route {
	return state.Route{Dst: a.prefix(dst), Via: n.Via, Dev: n.Dev, Nexthop: n.ID}
}

func testNexthop(r *fixture) {
	n := r.nexthop(7, "192.168.5.11")
	a := r.by("10.1.1.0/24", n)
	r.wantNone(n)
	r.apply(create(n), create(a))
	r.wantEntry(n, state.Ours, false)
	r.wantEntry(a, state.Ours, false)
	for _, op := range []state.Op{create(n), create(r.nexthop(7, "192.168.5.12")), create(a), create(r.route("10.1.1.0/24", "192.168.5.11"))} {
		r.refused(op, unix.EEXIST)
	}
	r.wantEntry(n, state.Ours, false)
	r.apply(remove(a))
	r.wantNone(a)
	r.wantEntry(n, state.Ours, false)
	r.apply(remove(n), remove(n), remove(a))
	r.wantNone(n)
}

func testNexthopOffLink(r *fixture) {
	n, off := r.nexthop(7, "192.168.5.11"), r.nexthop(7, "172.31.0.1")
	r.refused(create(off), r.offLink())
	r.refused(replace(n, off), r.offLink())
	r.wantNone(off)
	r.apply(create(n))
	r.refused(replace(n, off), r.offLink())
	r.wantEntry(n, state.Ours, false)
	elsewhere := r.nexthop(8, "192.168.5.11")
	elsewhere.Dev = "eth9"
	r.refused(create(elsewhere), dataplane.ErrNoLink)
}

// A nexthop that is replaced takes along the routes that refer to it.
func testNexthopReplaced(r *fixture) {
	n, m := r.nexthop(7, "192.168.5.11"), r.nexthop(7, "192.168.5.12")
	a, b := "10.1.1.0/24", "10.1.2.0/24"
	r.apply(create(n), create(r.by(a, n)), create(r.by(b, n)))
	r.apply(replace(n, m))
	r.wantEntry(m, state.Ours, false)
	r.wantEntry(r.by(a, m), state.Ours, false)
	r.wantEntry(r.by(b, m), state.Ours, false)
	r.apply(replace(m, m))
	r.apply(remove(m))
	r.apply(replace(m, n)) // of what is gone
	r.wantEntry(n, state.Ours, false)
}

// With a nexthop go the routes that refer to it.
func testNexthopDeleted(r *fixture) {
	n, other := r.nexthop(7, "192.168.5.11"), r.nexthop(8, "192.168.5.11")
	a, b, plain := r.by("10.1.1.0/24", n), r.by("10.1.2.0/24", other), r.route("10.1.3.0/24", "192.168.5.11")
	r.apply(create(n), create(other), create(a), create(b), create(plain))
	r.check(r.host.DelNexthop(n.ID))
	if err := r.host.DelNexthop(n.ID); !errors.Is(err, unix.ENOENT) {
		r.Errorf("deleting a nexthop that is gone: %v", err)
	}
	r.wantNone(n)
	r.wantNone(a)
	r.wantEntry(b, state.Ours, false)
	r.wantEntry(plain, state.Ours, false)
	r.apply(remove(a), remove(n))
}

// What has the number of a nexthop of ours and not our mark is not ours.
func testNexthopForeign(r *fixture) {
	n, m := r.nexthop(7, "192.168.5.11"), r.nexthop(7, "192.168.5.12")
	for _, protocol := range []int{0, ProtoBoot, ProtoStatic} {
		r.check(r.host.AddNexthop(Nexthop{n, protocol}))
		r.wantEntry(n, state.Foreign, false)
		if ops, blocked := r.diff(n); ops != nil || blocked != nil { // it serves
			r.Fatalf("steps %v, blocked %v", ops, blocked)
		}
		ops, blocked := r.diff(m)
		if ops != nil || len(blocked) != 1 || blocked[0].Want != state.Object(m) || blocked[0].By == "" {
			r.Fatalf("steps %v, blocked %v", ops, blocked)
		}
		r.refused(create(m), unix.EEXIST)
		r.wantEntry(n, state.Foreign, false)
		r.check(r.host.DelNexthop(n.ID))
	}
	r.check(r.host.AddNexthop(Nexthop{n, ProtoOurs}))
	r.wantEntry(n, state.Ours, false)
}

// What bears our mark and is not like our nexthops can be replaced and deleted
// all the same.
func testNexthopOdd(r *fixture) {
	n := r.nexthop(7, "192.168.5.11")
	reject := Nexthop{state.Nexthop{ID: 7, Dev: "eth0"}, ProtoOurs}
	for _, next := range []func(there state.Object){
		func(there state.Object) { r.apply(replace(there, n), remove(n)) },
		func(there state.Object) { r.apply(remove(there)) },
	} {
		r.check(r.host.AddNexthop(reject))
		e := r.dump()[n.Key()]
		if e.Owner != state.Ours || e.Object == state.Object(reject.Nexthop) {
			r.Fatalf("there is %+v", e)
		}
		next(e.Object)
		r.wantNone(n)
	}
}

// A link that goes down takes its nexthops along, and the routes by these.
func testNexthopLinkDown(r *fixture) {
	n := r.nexthop(7, "192.168.5.11")
	a := r.by("10.1.1.0/24", n)
	r.apply(create(n), create(a))
	r.check(r.host.SetLink("eth0", false))
	r.apply(remove(a), remove(n))
	r.wantNone(n)
	r.wantNone(a)
	r.refused(create(n), dataplane.ErrNoLink)
	r.refused(create(a), dataplane.ErrNoLink)
	r.upAgain()
	r.wantNone(n)
	r.wantNone(a)
	r.apply(create(n), create(a))
	r.wantEntry(n, state.Ours, false)
	r.wantEntry(a, state.Ours, false)
}

func testNexthopLinkRecreated(r *fixture) {
	n := r.nexthop(7, "192.168.5.11")
	a := r.by("10.1.1.0/24", n)
	r.apply(create(n), create(a))
	r.check(r.host.DelLink("eth0"))
	r.refused(create(n), nil)
	r.wantNone(n)
	r.wantNone(a)
	r.check(r.host.AddLink("eth0"))
	r.check(r.host.AddAddr("eth0", r.prefix("192.168.5.1/24")))
	r.refused(create(n), dataplane.ErrNoLink) // not seen yet
	r.wantNone(n)
	r.apply(create(n), create(a))
	r.wantEntry(n, state.Ours, false)
	r.wantEntry(a, state.Ours, false)
}

// Other than plain routes, nexthops and the routes by them outlive the
// addresses.
func testNexthopLastAddressGone(r *fixture) {
	n := r.nexthop(7, "192.168.5.11")
	a := r.by("10.1.1.0/24", n)
	r.apply(create(n), create(a))
	r.check(r.host.DelAddr("eth0", r.prefix("192.168.5.1/24")))
	r.wantEntry(n, state.Ours, false)
	r.wantEntry(a, state.Ours, false)
	r.refused(replace(n, r.nexthop(7, "192.168.5.12")), r.offLink())
	b := r.by("10.1.2.0/24", n)
	r.apply(create(b))
	r.wantEntry(b, state.Ours, false)
}

// A plain route becomes one by a nexthop, and back, each in place.
func testRouteToAndFromNexthop(r *fixture) {
	n := r.nexthop(7, "192.168.5.11")
	plain, a := r.route("10.1.1.0/24", "192.168.5.11"), r.by("10.1.1.0/24", n)
	r.apply(create(plain))
	for range 2 {
		ops, _ := r.diff(a)
		if len(ops) != 1 || ops[0] != replace(plain, a) {
			r.Fatalf("steps %v", ops)
		}
		r.apply(create(n), ops[0])
		r.wantEntry(a, state.Ours, false)
		if ops, blocked := r.diff(a); ops != nil || blocked != nil {
			r.Fatalf("steps %v, blocked %v", ops, blocked)
		}
		ops, _ = r.diff(plain)
		if len(ops) != 1 || ops[0] != replace(a, plain) {
			r.Fatalf("steps %v", ops)
		}
		r.apply(ops[0], remove(n))
		r.wantEntry(plain, state.Ours, false)
		r.wantNone(n)
	}
}

// The route of an older flannel becomes ours by a nexthop.
func testRouteByNexthopAdopted(r *fixture) {
	n := r.nexthop(7, "192.168.5.11")
	plain, a := r.route("10.1.1.0/24", "192.168.5.11"), r.by("10.1.1.0/24", n)
	r.check(r.host.AddRoute(marked(plain, ProtoBoot)))
	ops, blocked := r.diff(a)
	if len(ops) != 1 || ops[0] != replace(plain, a) || blocked != nil {
		r.Fatalf("steps %v, blocked %v", ops, blocked)
	}
	r.apply(create(n), ops[0])
	r.wantEntry(a, state.Ours, false)
}

// Only our own route by this nexthop is deleted.
func testRouteByNexthopDeleteIsExact(r *fixture) {
	n, m := r.nexthop(7, "192.168.5.11"), r.nexthop(8, "192.168.5.11")
	a := r.by("10.1.1.0/24", n)
	plain, other := r.route("10.1.1.0/24", "192.168.5.11"), r.by("10.1.1.0/24", m)
	r.apply(create(n), create(m))
	for _, there := range []Route{marked(a, ProtoStatic), marked(a, ProtoBoot), marked(plain, ProtoOurs), marked(other, ProtoOurs)} {
		r.check(r.host.AddRoute(there))
		r.apply(remove(a))
		if e, ok := r.dump()[a.Key()]; !ok || e.Object != state.Object(there.Route) {
			r.Fatalf("of %+v there is left %+v", there, e)
		}
		r.check(r.host.DelRoute(there))
	}
	r.check(r.host.AddRoute(marked(a, ProtoOurs)))
	r.apply(remove(plain), remove(other))
	r.wantEntry(a, state.Ours, false)
	r.check(r.host.AppendRoute(marked(other, ProtoStatic)))
	r.wantEntry(a, state.Ours, false)
	r.apply(remove(a))
	r.wantEntry(other, state.Foreign, false)
}

func testRouteByUnknownNexthop(r *fixture) {
	n := r.nexthop(7, "192.168.5.11")
	a, plain := r.by("10.1.1.0/24", n), r.route("10.1.1.0/24", "192.168.5.11")
	r.refused(create(a), unix.EINVAL)
	r.wantNone(a)
	r.apply(create(plain))
	r.refused(replace(plain, a), unix.EINVAL)
	r.wantEntry(plain, state.Ours, false)
	r.apply(remove(a))
	r.wantEntry(plain, state.Ours, false)
}

// Errors of a batch of both kinds belong to their steps.
func testNexthopBatch(r *fixture) {
	const n = 1000
	var ops, routes []state.Op
	for i, plain := range r.many(n) {
		nh := r.nexthop(uint32(1000+i), "192.168.5.11")
		if i%100 == 99 {
			nh.Via = r.addr("172.31.0.1")
		}
		ops = append(ops, create(nh))
		routes = append(routes, create(r.by(plain.Dst.String(), nh)))
	}
	ops = append(ops, routes...)
	errs := r.target.Apply(r.Context(), ops)
	have := r.dump()
	for i, op := range ops {
		if bad := i%100 == 99; bad != (errs[i] != nil) || bad == (have[op.Key()].Object == op.Want) {
			r.Errorf("step %d, %s: %v, and there is %+v", i, op, errs[i], have[op.Key()])
		}
	}
	r.undone(ops) // first the nexthops: the routes by them are gone already
}

// What is told of a nexthop's end is its end, and not that of routes.
func testNexthopEvents(r *fixture) {
	w := r.watch()
	n, m := r.nexthop(7, "192.168.5.11"), r.nexthop(7, "192.168.5.12")
	a, b := "10.1.1.0/24", "10.1.2.0/24"
	r.apply(create(n))
	w.expect("our nexthop, added", about(n, state.Ours, false))
	r.apply(create(r.by(a, n)))
	w.expect("the route, added", about(r.by(a, n), state.Ours, false))
	r.apply(replace(n, m))
	w.expect("our nexthop, replaced", about(m, state.Ours, false))
	w.expect("the route, that leads elsewhere", about(r.by(a, m), state.Ours, false))
	r.check(r.host.ReplaceNexthop(Nexthop{n, ProtoOurs}))
	w.expect("our nexthop, altered by someone else", about(n, state.Ours, false))
	r.check(r.host.ReplaceNexthop(Nexthop{n, ProtoStatic}))
	w.expect("a foreign nexthop in its place", about(n, state.Foreign, false))
	r.check(r.host.ReplaceNexthop(Nexthop{n, ProtoOurs}))
	w.expect("ours again", about(n, state.Ours, false))
	r.check(r.host.DelNexthop(n.ID))
	w.expect("our nexthop, deleted by someone else", about(n, state.Ours, true))
	r.apply(create(n), create(r.by(b, n)))
	quiet := func(e dataplane.Event) bool {
		if e.Gone && e.Key.Kind == state.KindRoute {
			r.Errorf("%s is told to be gone, with the nexthop", e.Entry.Object)
		}
		return about(r.by(b, n), state.Ours, false)(e)
	}
	w.expect("a later route", quiet)
	r.apply(remove(r.by(b, n)))
	w.expect("the route, deleted", about(r.by(b, n), state.Ours, true))
	r.apply(remove(n))
	w.expect("our nexthop, deleted", about(n, state.Ours, true))
}
