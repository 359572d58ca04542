package kube

import (
	"fmt"
	"runtime"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"flanneld/subnet"
)

// large makes a cluster of n Nodes of the size that Nodes have.
func large(b *testing.B, n int) *room {
	b.Helper()
	r := newRoom(b, newServer(b))
	begin := time.Now()
	var g errgroup.Group
	g.SetLimit(16)
	for i := range n {
		g.Go(func() error {
			is := big(r.node(fmt.Sprint("n", i)))
			is.UID, is.ResourceVersion, is.ManagedFields = "", "", nil
			is.Annotations = map[string]string{
				r.names[managed]: "true", r.names[backendType]: "vxlan", r.names[publicIP]: fmt.Sprintf("172.16.%d.%d", i/250, i%250+1),
				r.names[backendData]: fmt.Sprintf(`{"VNI":1,"VtepMAC":"02:00:00:00:%02x:%02x"}`, i/256, i%256),
			}
			cidr := fmt.Sprintf("10.%d.%d.0/24", 64+i/256, i%256)
			is.Spec.PodCIDR, is.Spec.PodCIDRs = cidr, []string{cidr}
			_, err := r.Create(b.Context(), is)
			return err
		})
	}
	check(b, g.Wait())
	b.Logf("%d Nodes made in %s", n, time.Since(begin).Round(time.Second))
	return r
}

// heap returns how much memory is in use.
func heap() float64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return float64(m.HeapAlloc) / 1e6
}

// BenchmarkList is the first listing of a large cluster, by which a daemon knows all hosts.
func BenchmarkList(b *testing.B) {
	const n = 5000
	r := large(b, n)
	for _, pages := range []int{n, pageSize, 250} {
		b.Run(fmt.Sprint(pages, " at once"), func(b *testing.B) {
			before := heap()
			var kept subnet.Snapshot
			var s *Store
			var before2, after runtime.MemStats
			runtime.ReadMemStats(&before2)
			for b.Loop() {
				s = r.open("n0")
				s.pages = pages
				kept = must(s.List(b.Context()))(b)
				if len(kept.Leases) != n {
					b.Fatalf("%d leases", len(kept.Leases))
				}
			}
			runtime.ReadMemStats(&after)
			b.ReportMetric(heap()-before, "MB-kept")
			b.ReportMetric(float64(after.TotalAlloc-before2.TotalAlloc)/1e6/float64(b.N), "MB-alloc/op")
			runtime.KeepAlive(s)
		})
	}
}
