package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"flanneld/pkg/dataplane/dataplanetest"
	"flanneld/subnet/subnettest"
)

// modern is a host whose kernel knows nexthop objects.
type modern struct{ imagined }

func (modern) HasNexthops() bool { return true }

func TestChooseNexthops(t *testing.T) {
	old, now := &daemon{machine: imagined{}}, &daemon{machine: modern{}}
	for i, step := range []struct {
		peers int
		want  bool
	}{{0, false}, {1999, false}, {2000, true}, {1999, true}, {1000, true}, {999, false}, {1999, false}, {50000, true}, {0, false}} {
		old.chooseNexthops(step.peers)
		now.chooseNexthops(step.peers)
		if old.host.Nexthops {
			t.Errorf("step %d: nexthops on an old kernel", i)
		}
		if now.host.Nexthops != step.want {
			t.Errorf("step %d, %d peers: nexthops: %v", i, step.peers, now.host.Nexthops)
		}
	}
}

// In a large network, the routes of an old kernel are plain.
func TestLargeNetwork(t *testing.T) {
	t.Parallel() // the time that passes is none of the machine's
	for _, backend := range []string{"host-gw", "vxlan"} {
		for name, machine := range map[string]func(*dataplanetest.Fake) host{
			"old kernel": func(f *dataplanetest.Fake) host { return imagined{f} },
			"kernel":     func(f *dataplanetest.Fake) host { return modern{imagined{f}} },
		} {
			t.Run(backend+", "+name, func(t *testing.T) {
				file := filepath.Join(t.TempDir(), "subnet.env")
				synctest.Test(t, func(t *testing.T) { testLargeNetwork(t, backend, file, machine) })
			})
		}
	}
}

func testLargeNetwork(t *testing.T, backend, file string, machine func(*dataplanetest.Fake) host) {
	const peers = nexthopsFrom
	fake := dataplanetest.NewFake()
	must(t, fake.AddLink("eth0"))
	must(t, fake.AddAddr("eth0", netip.MustParsePrefix("192.168.0.2/24")))
	admin := subnettest.NewMemory()
	admin.SetConfig(fmt.Sprintf(`{"Network":"10.0.0.0/8","SubnetLen":24,"SubnetMin":"10.128.0.0","Backend":{"Type":%q}}`, backend))
	for i := range peers {
		admin.PutRaw(fmt.Sprintf("10.%d.%d.0-24", 1+i>>8, i&0xff),
			fmt.Sprintf(`{"PublicIP":"192.168.0.200","BackendType":%q,"BackendData":{"VtepMAC":"02:00:00:00:00:07"}}`, backend), 0)
	}
	m := machine(fake)
	want := 0
	if m.HasNexthops() {
		want = peers
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() {
		ended <- serve(ctx, &options{subnetFile: file, renewMargin: time.Hour}, admin.Join(), m, newCollector(&options{}))
	}()
	time.Sleep(time.Second)
	if got := len(fake.Nexthops()); got != want {
		t.Errorf("%d nexthops, want %d", got, want)
	}
	for i := range peers {
		r := fake.Routes(netip.MustParsePrefix(fmt.Sprintf("10.%d.%d.0/24", 1+i>>8, i&0xff)))
		if len(r) != 1 || (r[0].Nexthop != 0) != m.HasNexthops() {
			t.Fatalf("routes to peer %d: %v", i, r)
		}
	}
	cancel()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Errorf("the daemon ended with %v", err)
	}
}
