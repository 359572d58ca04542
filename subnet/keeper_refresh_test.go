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

// desired is what Prepare returns: what the lease has to say, or why that is not known.
type desired struct {
	mu     sync.Mutex
	public string
	fail   error // of Prepare
}

func (m *desired) change(public string, fail error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.public, m.fail = public, fail
}

// changing lets a test change what Prepare returns.
func changing() (m *desired, o option, refresh chan struct{}) {
	m, refresh = &desired{public: me}, make(chan struct{}, 1)
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
		desired, option, refresh := changing()
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

		desired.change(later, nil)
		refresh <- struct{}{}
		if got := says(); got != later || h.held().Own.PublicIP.String() != later {
			t.Errorf("the lease says %s, held is %s", got, h.held().Own.PublicIP)
		}

		t.Log("this host cannot say for now what it wants")
		desired.change(me, errors.New("no"))
		refresh <- struct{}{}
		time.Sleep(time.Minute)
		if got := says(); got != later {
			t.Errorf("the lease says %s", got)
		}
		desired.change(me, nil)
		time.Sleep(5 * time.Second)
		if got := says(); got != me {
			t.Errorf("the lease says %s", got)
		}

		t.Log("the store cannot be written for now")
		m.Fail(errDown, subnettest.Update)
		desired.change(later, nil)
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
