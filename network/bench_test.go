package network

import (
	"context"
	"fmt"
	"slices"
	"testing"

	"flanneld/pkg/target/targettest"
	"flanneld/subnet"
)

// benchmarkRig returns a reconciler whose first pass, with n leases, is done.
func benchmarkRig(b *testing.B, n int) (*Reconciler, Wish) {
	b.Helper()
	fake := targettest.NewFake()
	for _, err := range []error{fake.AddLink("eth0"), fake.AddAddr("eth0", hostNet)} {
		if err != nil {
			b.Fatal(err)
		}
	}
	peers := make([]*subnet.Lease, n)
	for i := range peers {
		peers[i] = lease(i, 1+i%1000)
	}
	r := NewReconciler(fake, func(Status) {})
	w := wish(peers...)
	r.Wish(w)
	r.take()
	if err := r.fullPass(context.Background()); err != nil {
		b.Fatal(err)
	}
	if len(r.failures) > 0 {
		b.Fatalf("%d failures", len(r.failures))
	}
	return r, w
}

func benchmarkSizes(b *testing.B, run func(*testing.B, int)) {
	for _, n := range []int{10_000, 50_000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) { run(b, n) })
	}
}

// A full pass over what is as wished: all that repeats itself.
func BenchmarkFullPass(b *testing.B) {
	benchmarkSizes(b, func(b *testing.B, n int) {
		r, _ := benchmarkRig(b, n)
		for b.Loop() {
			if err := r.fullPass(b.Context()); err != nil {
				b.Fatal(err)
			}
		}
	})
}

// One lease changes. What is left of n is a comparison of pointers for each.
func BenchmarkQuickPass(b *testing.B) {
	benchmarkSizes(b, func(b *testing.B, n int) {
		r, w := benchmarkRig(b, n)
		var peers [2][]*subnet.Lease
		for i := range peers {
			peers[i] = slices.Clone(w.Peers)
			peers[i][n/2] = lease(n/2, 1+i)
		}
		i := 0
		for b.Loop() {
			w.Peers = peers[i%2]
			i++
			r.Wish(w)
			changed, full, _ := r.take()
			if full || len(changed) > 1 || !r.quickPass(b.Context(), changed) {
				b.Fatal("not a quick pass")
			}
		}
	})
}
