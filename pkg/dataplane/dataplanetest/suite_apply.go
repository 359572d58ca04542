package dataplanetest

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"flanneld/pkg/dataplane"
	"flanneld/pkg/state"
)

func testCreate(r *fixture) {
	a := r.route("10.1.1.0/24", "192.168.5.11")
	r.wantNone(a)
	r.apply(create(a))
	r.wantEntry(a, state.Ours, false)
}

func testCreateWhatIsThere(r *fixture) {
	a, b := r.route("10.1.1.0/24", "192.168.5.11"), r.route("10.1.1.0/24", "192.168.5.12")
	r.apply(create(a))
	for _, op := range []state.Op{create(a), create(b)} {
		r.refused(op, unix.EEXIST)
	}
	r.wantEntry(a, state.Ours, false)
}

func testReplace(r *fixture) {
	a, b := r.route("10.1.1.0/24", "192.168.5.11"), r.route("10.1.1.0/24", "192.168.5.12")
	r.apply(create(a))
	r.apply(replace(a, b))
	r.wantEntry(b, state.Ours, false)
	r.apply(replace(b, b))
	r.wantEntry(b, state.Ours, false)
	r.apply(remove(b))
	r.apply(replace(b, a)) // of what is gone
	r.wantEntry(a, state.Ours, false)
}

// Of several routes to one destination a kernel replaces the first, whosever
// it is; and never by one that is further behind.
func testReplaceTakesFirst(r *fixture) {
	a, b, c := r.route("10.1.1.0/24", "192.168.5.11"), r.route("10.1.1.0/24", "192.168.5.12"), r.route("10.1.1.0/24", "192.168.5.13")
	r.apply(create(a))
	r.check(r.host.AppendRoute(marked(b, ProtoStatic)))
	r.check(r.host.ReplaceRoute(marked(c, ProtoOurs)))
	r.wantEntry(c, state.Ours, false)
	if err := r.host.ReplaceRoute(marked(b, ProtoStatic)); !errors.Is(err, unix.EEXIST) {
		r.Errorf("replacing by a route that is further behind: %v", err)
	}
	r.apply(remove(c))
	r.wantEntry(b, state.Foreign, false)
}

func testDelete(r *fixture) {
	a := r.route("10.1.1.0/24", "192.168.5.11")
	r.apply(create(a))
	r.apply(remove(a))
	r.wantNone(a)
	r.apply(remove(a))
	r.check(r.host.DelLink("eth0"))
	r.apply(remove(a))
	r.dump()
	r.apply(remove(a))
}

// Nothing but our own route, to this next hop, is deleted.
func testDeleteIsExact(r *fixture) {
	a, b := r.route("10.1.1.0/24", "192.168.5.11"), r.route("10.1.1.0/24", "192.168.5.12")
	r.check(r.host.AddRoute(marked(a, ProtoStatic)))
	r.apply(remove(a), remove(b))
	r.wantEntry(a, state.Foreign, false)
	r.check(r.host.DelRoute(marked(a, ProtoStatic)))
	r.apply(create(b), remove(a))
	r.wantEntry(b, state.Ours, false)
}

// What bears our mark and is not like our routes can be deleted all the same.
func testDeleteOddOnes(r *fixture) {
	odd := Route{Route: state.Route{Dst: r.prefix("10.1.1.0/24"), Dev: "eth0"}, Protocol: ProtoOurs, ScopeLink: true}
	r.check(r.host.AddRoute(odd))
	e := r.dump()[odd.Key()]
	if e.Owner != state.Ours || e.Object == state.Object(odd.Route) {
		r.Fatalf("there is %+v", e)
	}
	r.apply(remove(e.Object))
	r.wantNone(odd.Route)
}

func (a Addressing) many(n int) []state.Route {
	routes := make([]state.Route, n)
	for i := range routes {
		routes[i] = a.route(fmt.Sprintf("10.%d.%d.0/24", 1+i/256, i%256), "192.168.5.11")
	}
	return routes
}

// Each error of a batch belongs to one step.
func testBatch(r *fixture) {
	const n = 5000
	routes := r.many(n)
	wantErr := func(i int) error {
		switch i % 1000 {
		case 7, 199, 200, 998, 999:
			return unix.EEXIST
		case 500:
			return r.offLink()
		}
		return nil
	}
	ops := make([]state.Op, n)
	for i, a := range routes {
		if err := wantErr(i); errors.Is(err, unix.EEXIST) {
			r.check(r.host.AddRoute(marked(a, ProtoStatic)))
		} else if err != nil {
			a.Via = r.addr("172.31.0.1")
		}
		ops[i] = create(a)
	}
	errs := r.target.Apply(r.Context(), ops)
	have := r.dump()
	for i, op := range ops {
		if want := wantErr(i); !errors.Is(errs[i], want) || (want == nil) != (errs[i] == nil) {
			r.Errorf("step %d, %s: %v, want %v", i, op, errs[i], want)
		}
		if e := have[op.Key()]; (e.Owner == state.Ours && e.Object == op.Want) != (errs[i] == nil) {
			r.Errorf("step %d, %s: %v, and there is %+v", i, op, errs[i], e)
		}
	}
	r.undone(ops)
}

// undone takes back the steps that made things, the first one first, and checks that nothing
// of ours is left.
func (r *fixture) undone(ops []state.Op) {
	r.Helper()
	for i := range ops {
		ops[i] = remove(ops[i].Want)
	}
	r.apply(ops...)
	for k, e := range r.dump() {
		if e.Owner == state.Ours {
			r.Errorf("%v is still there", k)
		}
	}
}

// A batch in which every step fails has the most to answer.
func testBatchOfFailures(r *fixture) {
	const n = 1000
	ops := make([]state.Op, n)
	for i, a := range r.many(n) {
		ops[i] = create(a)
	}
	r.apply(ops...)
	for i, err := range r.target.Apply(r.Context(), ops) {
		if !errors.Is(err, unix.EEXIST) {
			r.Fatalf("%s: %v", ops[i], err)
		}
	}
}

func testOffLink(r *fixture) {
	a := r.route("10.1.1.0/24", "172.31.0.1")
	r.refused(create(a), r.offLink())
	r.check(r.host.AddAddr("eth0", r.prefix("172.31.0.2/16")))
	r.apply(create(a))
	r.wantEntry(a, state.Ours, false)

	other := r.route("10.1.3.0/24", "192.168.5.11")
	other.Dev = "eth9"
	r.refused(create(other), dataplane.ErrNoLink)
}
