package network

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"testing"

	"flanneld/pkg/dataplane"
	"flanneld/pkg/dataplane/dataplanetest"
	"flanneld/pkg/state"
	"flanneld/subnet"
)

// benchmarked are the ways to look at n leases.
var benchmarked = []struct {
	name  string
	spec  func(...*subnet.Lease) Desired
	lease func(n, via int) *subnet.Lease
}{{"host-gw", desire, lease}, {"vxlan", largeVxlanDesired, vxlanLease}}

func benchmarkAll(b *testing.B, run func(b *testing.B, r *Reconciler, w Desired, lease func(n, via int) *subnet.Lease)) {
	for _, c := range benchmarked {
		for _, n := range []int{10_000, 50_000} {
			b.Run(fmt.Sprint(c.name, "/", n), func(b *testing.B) {
				fake := dataplanetest.NewFake()
				for _, err := range []error{fake.AddLink("eth0"), fake.AddAddr("eth0", hostNet)} {
					if err != nil {
						b.Fatal(err)
					}
				}
				peers := make([]*subnet.Lease, n)
				for i := range peers {
					peers[i] = c.lease(i, 1+i)
				}
				b.ReportAllocs()
				run(b, NewReconciler(func(Status) {}, Plane{Dataplane: fast{fake, make(state.Observed)}}), c.spec(peers...), c.lease)
			})
		}
	}
}

// fast is a target that has what it was told to, for the fake takes its time
// to look for mistakes.
type fast struct {
	dataplane.Dataplane
	have state.Observed
}

func (f fast) Dump(context.Context, state.Set) (state.Observed, error) {
	return maps.Clone(f.have), nil
}

func (f fast) Apply(_ context.Context, ops []state.Op) []error {
	for _, op := range ops {
		if op.Verb == state.Delete {
			delete(f.have, op.Key())
		} else {
			f.have[op.Key()] = state.Entry{Object: op.Want, Owner: state.Ours}
		}
	}
	return make([]error, len(ops))
}

func firstPass(b *testing.B, r *Reconciler, w Desired) {
	b.Helper()
	l := r.loops[0]
	r.replan(w)
	l.take()
	if err := l.fullPass(b.Context()); err != nil {
		b.Fatal(err)
	}
	if len(l.failures) > 0 {
		b.Fatalf("%d failures", len(l.failures))
	}
}

// The objects of all leases.
func BenchmarkPlan(b *testing.B) {
	benchmarkAll(b, func(b *testing.B, _ *Reconciler, w Desired, _ func(n, via int) *subnet.Lease) {
		for b.Loop() {
			newPlan(make([]Plane, 1)).set(w)
		}
	})
}

// A first pass: everything has to be made. What a kernel takes for it is not in
// it.
func BenchmarkFirstPass(b *testing.B) {
	benchmarkAll(b, func(b *testing.B, r *Reconciler, w Desired, _ func(n, via int) *subnet.Lease) {
		for b.Loop() {
			firstPass(b, NewReconciler(func(Status) {}, Plane{Dataplane: fast{r.planes[0].Dataplane, make(state.Observed)}}), w)
		}
	})
}

// A full pass over what is as desired: all that repeats itself.
func BenchmarkFullPass(b *testing.B) {
	benchmarkAll(b, func(b *testing.B, r *Reconciler, w Desired, _ func(n, via int) *subnet.Lease) {
		firstPass(b, r, w)
		for b.Loop() {
			if err := r.loops[0].fullPass(b.Context()); err != nil {
				b.Fatal(err)
			}
		}
	})
}

// One lease changes. What is left of n is a comparison of pointers for each.
func BenchmarkQuickPass(b *testing.B) {
	benchmarkAll(b, func(b *testing.B, r *Reconciler, w Desired, lease func(n, via int) *subnet.Lease) {
		firstPass(b, r, w)
		n := len(w.Peers)
		var peers [2][]*subnet.Lease
		for i := range peers {
			peers[i] = slices.Clone(w.Peers)
			peers[i][n/2] = lease(n/2, 1+n+i)
		}
		i := 0
		for b.Loop() {
			w.Peers = peers[i%2]
			i++
			r.replan(w)
			changed, needFullPass, noticed, _ := r.loops[0].take()
			if needFullPass || noticed || len(changed) > 5 || !r.loops[0].quickPass(b.Context(), changed, false) {
				b.Fatal("not a quick pass")
			}
		}
	})
}
