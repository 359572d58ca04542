package kernel

import (
	"net/netip"
	"os"
	"strconv"
	"testing"
	"time"

	"flanneld/pkg/ip"
	"flanneld/pkg/state"
)

// TestManyPeers measures an overlay of FLANNELD_TEST_PEERS peers, kind by kind. With
// FLANNELD_TEST_NEXTHOPS its routes are by nexthop objects, or else plain, whatever is usual
// in the family.
func TestManyPeers(t *testing.T) { forEachFamily(t, testManyPeers) }

func testManyPeers(t *testing.T, f ip.Family) {
	n, err := strconv.Atoi(os.Getenv("FLANNELD_TEST_PEERS"))
	if err != nil {
		t.Skip("FLANNELD_TEST_PEERS says of how many, and does not")
	}
	o := newOverlay(t)
	stages := make(map[state.Kind][]state.Op)
	v := vxlanOf(f)
	for _, x := range peers(v, n) {
		if r, ok := x.(state.Route); ok {
			switch os.Getenv("FLANNELD_TEST_NEXTHOPS") {
			case "yes":
				r.Nexthop = uint32(len(stages[state.KindRoute]) + 1)
				stages[state.KindNexthop] = append(stages[state.KindNexthop], create(state.Nexthop{ID: r.Nexthop, Via: r.Via, Dev: r.Dev, Onlink: true}))
			case "no":
				r.Nexthop = 0
			}
			x = r
		}
		if x.Key().Kind == state.KindNexthop && os.Getenv("FLANNELD_TEST_NEXTHOPS") != "" {
			continue
		}
		stages[x.Key().Kind] = append(stages[x.Key().Kind], create(x))
	}
	timed := func(what string, f func()) {
		start := time.Now()
		f()
		t.Logf("%-24s %s", what, time.Since(start).Round(time.Millisecond))
	}
	w := watch(o)
	for kind := state.KindLink; kind <= state.KindRoute; kind++ {
		if len(stages[kind]) == 0 {
			continue
		}
		timed("adding "+kind.String(), func() { o.apply(stages[kind]...) })
	}
	lost := 0
	timed("the last event after", func() {
		for _, e := range w.flush() {
			if e.Lost {
				lost++
			}
		}
	})
	t.Logf("events were lost %d times", lost)
	timed("dump", func() {
		have := o.dump()
		for _, ops := range stages {
			for _, op := range ops {
				if have[op.Key()].Object != op.Want {
					t.Fatalf("there is %+v; want %s", have[op.Key()], op.Want)
				}
			}
		}
	})
	index := o.index(v.Name)
	timed("... neighbours", func() { o.check(neighs(index).dump(o.Context(), func() {}, func(b []byte) { decodeNeigh(b) })) })
	timed("... FDB", func() { o.check(fdb(index).dump(o.Context(), func() {}, func(b []byte) { decodeNeigh(b) })) })
	timed("... nexthops", func() { o.check(nexthops.dump(o.Context(), func() {}, func([]byte) {})) })
	timed("... routes", func() { o.check(mainRoutes(f).dump(o.Context(), func() {}, func([]byte) {})) })
	timed("asking for the ways to all", func() {
		var queries []PathQuery
		for _, op := range stages[state.KindRoute] {
			queries = append(queries, PathQuery{To: op.Want.Key().Prefix.Addr()})
		}
		paths, err := o.k.Paths(o.Context(), queries)
		o.check(err)
		for _, p := range paths {
			if p.Dev != v.Name {
				t.Fatalf("a way is %+v", p)
			}
		}
	})
	timed("one more route", func() {
		r := stages[state.KindRoute][0].Want.(state.Route)
		o.apply(remove(r))
		o.apply(create(r))
	})
	timed("foreign routes among ours", func() {
		_, err := o.k.ForeignRoutes(o.Context(), f, func(netip.Prefix) bool { return true })
		o.check(err)
	})
	for kind := state.KindRoute; kind > state.KindLink; kind-- {
		if len(stages[kind]) == 0 {
			continue
		}
		for i, op := range stages[kind] {
			stages[kind][i] = remove(op.Want)
		}
		timed("deleting "+kind.String(), func() { o.apply(stages[kind]...) })
	}
}
