package subnet_test

import (
	"context"
	"errors"
	"net/netip"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"flanneld/subnet"
	"flanneld/subnet/subnettest"
)

// mind is what a host wants its lease to say.
type mind struct {
	mu     sync.Mutex
	public string
	fail   error // why it cannot say
}

func (m *mind) change(public string, fail error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.public, m.fail = public, fail
}

// changing gives a keeper's host a mind that can be changed.
func changing() (m *mind, o option, refresh chan struct{}) {
	m, refresh = &mind{public: me}, make(chan struct{}, 1)
	return m, func(k *subnet.Keeper) {
		k.Refresh = refresh
		k.Prepare = func(context.Context, *subnet.Config, subnet.Snapshot) (subnet.Attrs, []netip.Prefix, error) {
			m.mu.Lock()
			defer m.mu.Unlock()
			return attrs(m.public), nil, m.fail
		}
	}, refresh
}

// The host has another address: the same lease says so, at once.
func TestRefresh(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const later = "192.168.0.77"
		m := newStore(config)
		mind, option, refresh := changing()
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

		mind.change(later, nil)
		refresh <- struct{}{}
		if got := says(); got != later || h.held().Own.PublicIP.String() != later {
			t.Errorf("the lease says %s, held is %s", got, h.held().Own.PublicIP)
		}

		t.Log("this host cannot say for now what it wants")
		mind.change(me, errors.New("no"))
		refresh <- struct{}{}
		time.Sleep(time.Minute)
		if got := says(); got != later {
			t.Errorf("the lease says %s", got)
		}
		mind.change(me, nil)
		time.Sleep(5 * time.Second)
		if got := says(); got != me {
			t.Errorf("the lease says %s", got)
		}

		t.Log("the store cannot be written for now")
		m.Fail(errDown, subnettest.Update)
		mind.change(later, nil)
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
