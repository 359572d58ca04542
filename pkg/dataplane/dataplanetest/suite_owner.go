package dataplanetest

import (
	"golang.org/x/sys/unix"

	"flanneld/pkg/state"
)

// adopts checks that a route which an older flannel made becomes ours without a moment's
// absence.
func (r *fixture) adopts(a state.Route) {
	r.Helper()
	r.check(r.host.AddRoute(marked(a, ProtoBoot)))
	r.wantEntry(a, state.Adoptable, false)
	ops, blocked := r.diff(a)
	if len(ops) != 1 || ops[0] != replace(a, a) || blocked != nil {
		r.Fatalf("steps %v, blocked %v", ops, blocked)
	}
	r.apply(ops...)
	r.wantEntry(a, state.Ours, false)
}

func testAdopt(r *fixture) { r.adopts(r.route("10.1.1.0/24", "192.168.5.11")) }

func testForeignBlocks(r *fixture) {
	foreign, want := r.route("10.1.1.0/24", "192.168.5.11"), r.route("10.1.1.0/24", "192.168.5.12")
	r.check(r.host.AddRoute(marked(foreign, ProtoStatic)))
	ops, blocked := r.diff(want)
	if ops != nil || len(blocked) != 1 || blocked[0].Want != state.Object(want) || blocked[0].By == "" {
		r.Fatalf("steps %v, blocked %v", ops, blocked)
	}
	r.refused(create(want), unix.EEXIST)
	r.check(r.host.DelRoute(marked(foreign, ProtoStatic))) // it is untouched
}

// An unmarked route that leads elsewhere, as an older flannel leaves it, is replaced.
func testUnmarkedReplaced(r *fixture) {
	left, want := r.route("10.1.1.0/24", "192.168.5.11"), r.route("10.1.1.0/24", "192.168.5.12")
	r.check(r.host.AddRoute(marked(left, ProtoBoot)))
	ops, blocked := r.diff(want)
	if len(ops) != 1 || ops[0] != replace(left, want) || blocked != nil {
		r.Fatalf("steps %v, blocked %v", ops, blocked)
	}
	r.apply(ops...)
	r.wantEntry(want, state.Ours, false)
	if err := r.host.DelRoute(marked(left, ProtoBoot)); err == nil {
		r.Error("the unmarked route is still there")
	}
}

func testForeignServes(r *fixture) {
	a := r.route("10.1.1.0/24", "192.168.5.11")
	r.check(r.host.AddRoute(marked(a, ProtoStatic)))
	r.wantEntry(a, state.Foreign, false)
	if ops, blocked := r.diff(a); ops != nil || blocked != nil {
		r.Fatalf("steps %v, blocked %v", ops, blocked)
	}
}

// What is behind ours, under the same key, is of no consequence.
func testForeignBehind(r *fixture) {
	a, b, foreign := r.route("10.1.1.0/24", "192.168.5.11"), r.route("10.1.1.0/24", "192.168.5.12"), r.route("10.1.1.0/24", "192.168.5.13")
	r.apply(create(a))
	r.check(r.host.AppendRoute(marked(foreign, ProtoStatic)))
	r.wantEntry(a, state.Ours, false)
	if ops, blocked := r.diff(a); ops != nil || blocked != nil {
		r.Fatalf("steps %v, blocked %v", ops, blocked)
	}
	ops, _ := r.diff(b)
	if len(ops) != 1 || ops[0] != replace(a, b) {
		r.Fatalf("steps %v", ops)
	}
	r.apply(ops...)
	r.wantEntry(b, state.Ours, false)
	r.apply(remove(b))
	r.wantEntry(foreign, state.Foreign, false)
}

func testOursBehindForeign(r *fixture) {
	a, b, foreign := r.route("10.1.1.0/24", "192.168.5.11"), r.route("10.1.1.0/24", "192.168.5.12"), r.route("10.1.1.0/24", "192.168.5.13")
	r.check(r.host.AddRoute(marked(foreign, ProtoStatic)))
	r.check(r.host.AppendRoute(marked(a, ProtoOurs)))
	r.wantEntry(a, state.Ours, true)
	if ops, blocked := r.diff(a); ops != nil || len(blocked) != 1 || blocked[0].By == "" {
		r.Fatalf("steps %v, blocked %v", ops, blocked)
	}
	if ops, blocked := r.diff(b); len(ops) != 1 || ops[0] != remove(a) || blocked != nil {
		r.Fatalf("steps %v, blocked %v", ops, blocked)
	}
	r.apply(remove(a))
	r.wantEntry(foreign, state.Foreign, false)
	r.check(r.host.DelRoute(marked(foreign, ProtoStatic)))

	r.check(r.host.AddRoute(marked(a, ProtoStatic)))
	r.check(r.host.AppendRoute(marked(a, ProtoOurs)))
	if ops, blocked := r.diff(a); ops != nil || blocked != nil { // it serves
		r.Fatalf("steps %v, blocked %v", ops, blocked)
	}
	r.apply(remove(a))
	r.check(r.host.DelRoute(marked(a, ProtoStatic)))

	r.check(r.host.AddRoute(marked(foreign, ProtoBoot)))
	r.check(r.host.AppendRoute(marked(a, ProtoOurs)))
	for range 2 {
		ops, blocked := r.diff(a)
		if len(ops) != 1 || blocked != nil {
			r.Fatalf("steps %v, blocked %v", ops, blocked)
		}
		r.apply(ops...)
	}
	r.wantEntry(a, state.Ours, false)
	r.apply(remove(a))
	r.wantNone(a)
}

// Two routes that bear our mark end as one, whichever of them is wanted.
func testTwoOfOurs(r *fixture) {
	a, b := r.route("10.1.1.0/24", "192.168.5.11"), r.route("10.1.1.0/24", "192.168.5.12")
	for _, want := range []state.Route{a, b} {
		r.apply(create(a))
		r.check(r.host.AppendRoute(marked(b, ProtoOurs)))
		for range 3 {
			ops, _ := r.diff(want)
			r.apply(ops...)
		}
		r.wantEntry(want, state.Ours, false)
		r.apply(remove(want))
		r.wantNone(want)
	}
}

// A route of ours with another metric is another one, and gives way to that of metric 0.
func testYieldingMetric(r *fixture) {
	a := r.route("10.1.0.0/16", "192.168.5.11")
	a.Metric = state.YieldingMetric
	first := r.route("10.1.0.0/16", "192.168.5.12")
	w := r.watch()
	r.apply(create(a))
	w.expect("our route", about(a, state.Ours, false))
	r.wantEntry(a, state.Ours, false)
	r.wantNone(first)
	r.refused(create(a), unix.EEXIST)
	r.check(r.host.AddRoute(marked(first, ProtoBoot)))
	w.expect("the route of metric 0", about(first, state.Adoptable, false))
	r.wantEntry(a, state.Ours, false)
	r.wantEntry(first, state.Adoptable, false)
	moved := a
	moved.Via = r.addr("192.168.5.13")
	r.apply(replace(a, moved))
	r.wantEntry(moved, state.Ours, false)
	r.wantEntry(first, state.Adoptable, false)
	r.apply(remove(moved), remove(moved))
	w.expect("our route gone", goneKey(moved))
	r.wantNone(moved)
	r.wantEntry(first, state.Adoptable, false)

	// One of ours with metric 0, as from before an upgrade, is deleted by itself.
	r.check(r.host.DelRoute(marked(first, ProtoBoot)))
	r.apply(create(first), create(a))
	r.apply(remove(first))
	r.wantNone(first)
	r.wantEntry(a, state.Ours, false)

	foreign := marked(moved, ProtoStatic)
	r.apply(remove(a))
	r.check(r.host.AddRoute(foreign))
	if ops, blocked := r.diff(a); ops != nil || len(blocked) != 1 {
		r.Fatalf("steps %v, blocked %v", ops, blocked)
	}
}

// Other metrics have no key.
func testOtherMetric(r *fixture) {
	a := r.route("10.1.1.0/24", "192.168.5.11")
	foreign := Route{Route: r.route("10.1.1.0/24", "192.168.5.13"), Protocol: ProtoStatic}
	foreign.Metric = 100
	r.check(r.host.AddRoute(foreign))
	r.wantNone(a)
	r.apply(create(a))
	r.wantEntry(a, state.Ours, false)
	r.apply(remove(a))
	r.wantNone(a)
	r.check(r.host.DelRoute(foreign))
}
