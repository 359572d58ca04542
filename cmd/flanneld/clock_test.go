package main

import (
	"context"
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"flanneld/network"
	"flanneld/pkg/target/kernel"
	"flanneld/pkg/target/targettest"
	"flanneld/subnet"
	"flanneld/subnet/subnettest"
)

// imagined is a host that is not there: its kernel is an imitation.
type imagined struct{ *targettest.Fake }

func (imagined) Interfaces(context.Context) ([]kernel.Interface, error) {
	return []kernel.Interface{{
		Name: "eth0", Index: 2, MTU: 1500, Up: true,
		Addrs: []kernel.Address{{Prefix: netip.MustParsePrefix("192.168.0.2/24")}},
	}}, nil
}

func (imagined) DefaultRoutes(context.Context) ([]kernel.DefaultRoute, error) {
	return []kernel.DefaultRoute{{Iface: "eth0"}}, nil
}

func (imagined) RouteTo(netip.Addr) (string, netip.Addr, error) {
	return "", netip.Addr{}, errors.New("no route")
}

func (imagined) HasNexthops() bool { return false }

var _ network.View = imagined{}

// The whole daemon lives through days: renewals, one that is missed, an outage
// that is longer than its lease, and a key that vanishes.
func TestDays(t *testing.T) {
	file := filepath.Join(t.TempDir(), "subnet.env")
	synctest.Test(t, func(t *testing.T) {
		fake := targettest.NewFake()
		must(t, fake.AddLink("eth0"))
		must(t, fake.SetLink("eth0", true))
		must(t, fake.AddAddr("eth0", netip.MustParsePrefix("192.168.0.2/24")))
		admin := subnettest.NewMemory()
		admin.SetConfig(`{"Network":"10.5.0.0/16","Backend":{"Type":"host-gw"}}`)
		admin.PutRaw("10.5.200.0-24", `{"PublicIP":"192.168.0.200","BackendType":"host-gw"}`, 0)
		store := admin.Join()

		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() {
			ended <- serve(ctx, &options{subnetFile: file, renewMargin: time.Hour}, store, imagined{fake})
		}()
		synctest.Wait()
		text, err := os.ReadFile(file)
		must(t, err)

		// own returns our lease, nil if there is none.
		own := func() *subnet.Lease {
			synctest.Wait()
			s, err := admin.List(t.Context())
			must(t, err)
			for _, l := range s.Leases {
				if l.PublicIP.V4 == netip.MustParseAddr("192.168.0.2") {
					return l
				}
			}
			return nil
		}
		check := func(when string) {
			t.Helper()
			l := own()
			if l == nil {
				t.Errorf("%s: no lease", when)
			} else if left := time.Until(l.Expires); left < 55*time.Minute {
				t.Errorf("%s: the lease has %s left", when, left)
			}
			if now, err := os.ReadFile(file); err != nil || string(now) != string(text) {
				t.Errorf("%s: subnet.env is %q, %v", when, now, err)
			}
			if r := fake.Routes(netip.MustParsePrefix("10.5.200.0/24")); len(r) != 1 {
				t.Errorf("%s: routes to the peer: %v", when, r)
			}
			select {
			case err := <-ended:
				t.Fatalf("%s: the daemon ended: %v", when, err)
			default:
			}
		}
		first := own()

		for range 3 * 24 * 4 {
			time.Sleep(15 * time.Minute)
			check("in three days of peace")
		}
		if own().Revision == first.Revision {
			t.Error("the lease was never renewed")
		}

		// Renewing fails from before it is due, for less than the margin.
		time.Sleep(time.Until(own().Expires) - 70*time.Minute)
		store.Fail(errors.New("no leader"), subnettest.Update)
		time.Sleep(50 * time.Minute)
		store.Heal()
		time.Sleep(5 * time.Second)
		check("after a renewal that failed for a while")

		// The store is gone for longer than the lease lives.
		store.Fail(errors.New("connection refused"))
		store.DropWatches(errors.New("connection reset"))
		time.Sleep(30 * time.Hour)
		if l := own(); l != nil {
			t.Errorf("the lease did not expire: %v", l)
		}
		if r := fake.Routes(netip.MustParsePrefix("10.5.200.0/24")); len(r) != 1 {
			t.Errorf("during the outage: routes to the peer: %v", r)
		}
		store.Heal()
		time.Sleep(5 * time.Second)
		check("after the outage")

		admin.DeleteRaw(strings.ReplaceAll(own().Subnet.String(), "/", "-"))
		time.Sleep(time.Second)
		check("after the key was deleted")

		cancel()
		if err := <-ended; !errors.Is(err, context.Canceled) {
			t.Errorf("the daemon ended with %v", err)
		}
		if v := fake.Violations(); len(v) > 0 {
			t.Error(v)
		}
	})
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
