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

// TestManyPeers measures an overlay of FLANNELD_TEST_PEERS peers, kind by kind.
func TestManyPeers(t *testing.T) {
	n, err := strconv.Atoi(os.Getenv("FLANNELD_TEST_PEERS"))
	if err != nil {
		t.Skip("FLANNELD_TEST_PEERS says of how many, and does not")
	}
	o := newOverlay(t)
	stages := make(map[state.Kind][]state.Op)
	for _, x := range peers(vxlan(), n) {
		stages[x.Key().Kind] = append(stages[x.Key().Kind], create(x))
	}
	timed := func(what string, f func()) {
		start := time.Now()
		f()
		t.Logf("%-24s %s", what, time.Since(start).Round(time.Millisecond))
	}
	w := watch(o)
	for kind := state.KindLink; kind <= state.KindRoute; kind++ {
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
		if have := o.dump(); len(have) < 4*n {
			t.Errorf("%d entries of %d peers", len(have), n)
		}
	})
	index := o.index("flannel.1")
	timed("... neighbours", func() { o.check(neighs(index).dump(o.Context(), func() {}, func(b []byte) { decodeNeigh(b) })) })
	timed("... FDB", func() { o.check(fdb(index).dump(o.Context(), func() {}, func(b []byte) { decodeNeigh(b) })) })
	timed("... nexthops", func() { o.check(nexthops.dump(o.Context(), func() {}, func([]byte) {})) })
	timed("... routes", func() { o.check(mainRoutes(ip.V4).dump(o.Context(), func() {}, func([]byte) {})) })
	timed("asking for the ways to all", func() {
		var queries []PathQuery
		for _, op := range stages[state.KindRoute] {
			queries = append(queries, PathQuery{To: op.Want.Key().Prefix.Addr()})
		}
		paths, err := o.k.Paths(o.Context(), queries)
		o.check(err)
		for _, p := range paths {
			if p.Dev != "flannel.1" {
				t.Fatalf("a way is %+v", p)
			}
		}
	})
	timed("foreign routes among ours", func() {
		_, err := o.k.ForeignRoutes(o.Context(), ip.V4, func(netip.Prefix) bool { return true })
		o.check(err)
	})
	for kind := state.KindRoute; kind > state.KindLink; kind-- {
		for i, op := range stages[kind] {
			stages[kind][i] = remove(op.Want)
		}
		timed("deleting "+kind.String(), func() { o.apply(stages[kind]...) })
	}
}
