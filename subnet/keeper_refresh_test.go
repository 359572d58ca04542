package subnet_test

import (
	"context"
	"errors"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"flanneld/subnet"
	"flanneld/subnet/subnettest"
)

// changing makes a keeper's mind: what its lease is to say can be changed.
func changing(public *string, fail *error) (option, chan struct{}) {
	refresh := make(chan struct{}, 1)
	return func(k *subnet.Keeper) {
		k.Refresh = refresh
		k.Prepare = func(context.Context, *subnet.Config, subnet.Snapshot) (subnet.Attrs, []netip.Prefix, error) {
			return attrs(*public), nil, *fail
		}
	}, refresh
}

// The host has another address: the same lease says so, at once.
func TestRefresh(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const later = "192.168.0.77"
		m := newStore(config)
		public, fail := me, error(nil)
		option, refresh := changing(&public, &fail)
		h := start(t, m, me, option)
		before := h.held().Own
		says := func() string {
			t.Helper()
			synctest.Wait()
			s, err := m.List(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if len(s.Leases) != 1 || s.Leases[0].Subnet != before.Subnet || h.own() != before.Subnet.String() {
				t.Fatalf("there are %v, held is %s", s.Leases, h.own())
			}
			return s.Leases[0].PublicIP.String()
		}

		refresh <- struct{}{}
		if synctest.Wait(); h.held().Own.Revision != before.Revision {
			t.Error("nothing changed, and the lease was written")
		}

		public = later
		refresh <- struct{}{}
		if got := says(); got != later || h.held().Own.PublicIP.String() != later {
			t.Errorf("the lease says %s, held is %s", got, h.held().Own.PublicIP)
		}

		t.Log("this host cannot say for now what it wants")
		fail, public = errors.New("no"), me
		refresh <- struct{}{}
		time.Sleep(time.Minute)
		if got := says(); got != later {
			t.Errorf("the lease says %s", got)
		}
		fail = nil
		time.Sleep(5 * time.Second)
		if got := says(); got != me {
			t.Errorf("the lease says %s", got)
		}

		t.Log("the store cannot be written for now")
		m.Fail(errDown, subnettest.Update)
		public = later
		refresh <- struct{}{}
		time.Sleep(time.Minute)
		if got := says(); got != me {
			t.Errorf("the lease says %s", got)
		}
		m.Heal()
		time.Sleep(5 * time.Second)
		if got := says(); got != later {
			t.Errorf("the lease says %s", got)
		}
	})
}
