package main

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"flanneld/pkg/dataplane/dataplanetest"
	"flanneld/subnet/subnettest"
)

// BenchmarkAnswers has a daemon answer in a network with 50,000 others, each of which takes the
// objects of vxlan.
func BenchmarkAnswers(b *testing.B) {
	const peers = 50_000
	fake := dataplanetest.NewFake()
	must(b, fake.AddLink("eth0"))
	must(b, fake.AddAddr("eth0", netip.MustParsePrefix("192.168.0.2/15")))
	store := subnettest.NewMemory()
	store.SetConfig(`{"Network":"10.0.0.0/8","SubnetMin":"10.255.0.0","Backend":{"Type":"vxlan"}}`)
	for i := range peers {
		store.PutRaw(fmt.Sprintf("10.%d.%d.0-24", 1+i>>8, i&0xff),
			fmt.Sprintf(`{"PublicIP":"192.169.%d.%d","BackendType":"vxlan","BackendData":{"VtepMAC":"02:00:00:00:%02x:%02x"}}`, i>>8, i&0xff, i>>8, i&0xff), 0)
	}
	o := &options{subnetFile: filepath.Join(b.TempDir(), "subnet.env"), renewMargin: time.Hour}
	c := newCollector(o)
	ctx, cancel := context.WithCancel(b.Context())
	var daemon sync.WaitGroup
	defer daemon.Wait()
	defer cancel()
	daemon.Go(func() { _ = serve(ctx, o, store.Join(), modern{imagined{fake}}, c) })
	for c.ready() != nil {
		time.Sleep(10 * time.Millisecond)
	}
	mux := c.all()
	for _, page := range []string{"/metrics", "/status.json", "/peers.json"} {
		b.Run(strings.TrimPrefix(page, "/"), func(b *testing.B) {
			size := 0
			for b.Loop() {
				w := httptest.NewRecorder()
				mux.ServeHTTP(w, httptest.NewRequest(http.MethodGet, page, http.NoBody))
				if size = w.Body.Len(); w.Code != http.StatusOK {
					b.Fatal(w.Code, w.Body)
				}
			}
			b.ReportMetric(float64(size), "B/answer")
		})
	}
	if s := c.status(); s.Peers.Count != peers || !s.Ready {
		b.Fatalf("the status is %+v", s)
	}
}
