package etcdv3

import (
	"context"
	"fmt"
	"testing"

	"flanneld/subnet"
)

// All leases are listed in one call, however many there are.
func TestListMany(t *testing.T) {
	t.Parallel()
	server := plainEtcd(t)
	const hosts = 10_000
	fill(t, server.Client, hosts/100, 100)
	s := storeOf(t, server.URL)
	if got := must(s.List(t.Context()))(t); len(got.Leases) != hosts || len(got.Problems) != 0 {
		t.Errorf("%d leases and %d problems were listed, want %d leases", len(got.Leases), len(got.Problems), hosts)
	}
}

func BenchmarkList(b *testing.B) {
	for _, hosts := range []int{10_000, 50_000} {
		b.Run(fmt.Sprint(hosts), func(b *testing.B) {
			server := plainEtcd(b)
			fill(b, server.Client, hosts/100, 100)
			s := storeOf(b, server.URL)
			b.ReportAllocs()
			for b.Loop() {
				if got := must(s.List(context.Background()))(b); len(got.Leases) != hosts {
					b.Fatalf("%d leases were listed, want %d", len(got.Leases), hosts)
				}
			}
		})
	}
}

func BenchmarkUpdate(b *testing.B) {
	server := plainEtcd(b)
	s := storeOf(b, server.URL)
	l := must(s.Create(context.Background(), subnet1, attrs1, subnet.LeaseTTL))(b)
	for b.Loop() {
		l = must(s.Update(context.Background(), subnet1, l.Revision, attrs1, subnet.LeaseTTL))(b)
	}
}

// BenchmarkWatchBulk is the time until a watch has seen as many hosts come at
// once.
func BenchmarkWatchBulk(b *testing.B) {
	const hosts = 10_000
	for b.Loop() {
		b.StopTimer()
		server := plainEtcd(b)
		s := storeOf(b, server.URL)
		ctx, cancel := context.WithCancel(context.Background())
		snapshots := 0
		_ = s.Watch(ctx, func(got subnet.Snapshot) {
			if snapshots++; snapshots == 1 {
				fill(b, server.Client, hosts/100, 100)
				b.StartTimer()
			}
			if len(got.Leases) == hosts {
				cancel()
			}
		})
		b.ReportMetric(float64(snapshots), "snapshots")
	}
}
