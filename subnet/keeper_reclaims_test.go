package subnet_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"flanneld/pkg/ip"
	"flanneld/subnet"
	"flanneld/subnet/subnettest"
)

func TestDeletedKey(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newStore(config)
		h := start(t, m, me)
		own := h.own()
		m.DeleteRaw(sub(own).Key())
		synctest.Wait() // no time passes
		h.want(t, own)
		if l := find(t, m, own); l == nil || l.Attrs != attrs(me) {
			t.Errorf("the store holds %+v", l)
		}
	})
}

func TestDeletedKeyRetries(t *testing.T) {
	for _, test := range []struct {
		name  string
		fault func(*subnettest.Memory)
	}{
		{"create fails", func(m *subnettest.Memory) { m.Fail(errDown, subnettest.Create) }},
		{"create hangs", func(m *subnettest.Memory) { m.Hang(subnettest.Create) }},
		{"create's reply is lost", func(m *subnettest.Memory) { m.FailAfter(errDown, subnettest.Create) }},
		{"list fails", func(m *subnettest.Memory) { m.Fail(errDown, subnettest.Create, subnettest.List) }},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := newStore(config)
				guard(t, m)
				h := start(t, m, me)
				own := h.own()
				test.fault(m)
				m.DeleteRaw(sub(own).Key())
				time.Sleep(time.Minute)
				if n := m.Calls(subnettest.Create); n > 60 {
					t.Errorf("%d tries in a minute", n)
				}
				m.Heal()
				time.Sleep(4 * time.Second)
				h.want(t, own)
				if n := len(all(t, m).Leases); n != 1 || find(t, m, own) == nil {
					t.Errorf("the host holds %s, the store %d leases", own, n)
				}
			})
		})
	}
}

func TestTakenByAnother(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newStore(config)
		h := start(t, m, me)
		old := h.own()
		put(t, m, old, attrs(other), time.Hour)
		synctest.Wait()
		if h.own() == old || find(t, m, h.own()) == nil {
			t.Errorf("the host holds %s after it lost %s", h.own(), old)
		}
		if l := find(t, m, old); l.Attrs != attrs(other) {
			t.Errorf("the new owner's lease is %+v", l)
		}
	})
}

// The subnet is gone, and something overlaps it that is not its key.
func TestOverlappedByAnother(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newStore(config)
		client := m.Join()
		h := start(t, client, me, previous("10.5.8.0/24"))
		client.Fail(errDown)
		client.DropWatches(errDown)
		m.DeleteRaw("10.5.8.0-24")
		put(t, m, "10.5.8.0/23", attrs(other), 0)
		client.Heal()
		time.Sleep(4 * time.Second)
		if own := h.held().Own.Subnet; own.Overlaps(sub("10.5.8.0/23")) {
			t.Errorf("the host holds %s", own)
		}
	})
}

func TestGarbage(t *testing.T) {
	for _, value := range []string{"", "garbage", "null", "{}", `{"PublicIP":"0.0.0.0"}`, `{"PublicIP":7}`} {
		t.Run(value, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := newStore(config)
				h := start(t, m, me)
				own := h.own()
				m.PutRaw(sub(own).Key(), value, 0)
				synctest.Wait()
				h.want(t, own)
				l := find(t, m, own)
				if l == nil || l.Attrs != attrs(me) || l.Reserved() {
					t.Errorf("the store holds %+v", l)
				}
			})
		})
	}
}

func TestChangedByHand(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newStore(config)
		h := start(t, m, me)
		a := attrs(me)
		a.BackendData = `{"VtepMAC":"02:00:00:00:00:02"}`
		put(t, m, h.own(), a, 0)
		synctest.Wait()
		if l := find(t, m, h.own()); l.Attrs != attrs(me) {
			t.Errorf("the store holds %+v", l)
		}
	})
}

// Another host of the same public address wants the lease to say something
// else.
func TestConflictingWrites(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		lines := logged(t)
		m := newStore(config)
		h := start(t, m, me)
		own := h.own()
		a := attrs(me)
		a.BackendType = "udp"
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() {
			defer close(done)
			_ = m.Join().Watch(ctx, func(s subnet.Snapshot) {
				if l := s.Find(sub(own)); l != nil && l.Attrs != a {
					put(t, m, own, a, time.Hour)
				}
			})
		}()
		const long = 10 * time.Minute
		time.Sleep(long)
		cancel()
		<-done
		for method, most := range map[subnettest.Method]int{subnettest.Update: 6, subnettest.List: 6} {
			if n := m.Calls(method); n > most*int(long/time.Second) {
				t.Errorf("%d calls of %s in %s", n, method, long)
			}
		}
		if n := lines(); n > 3*int(long/(15*time.Second)) {
			t.Errorf("%d lines were logged in %s", n, long)
		}
		time.Sleep(10 * time.Second)
		h.want(t, own)
		if l := find(t, m, own); l.Attrs != attrs(me) {
			t.Errorf("after the conflicting writes the store holds %+v", l)
		}
	})
}

// The host hangs, or is cut off, for longer than its lease lasts.
func TestFrozenPastExpiry(t *testing.T) {
	for _, test := range []struct {
		name  string
		fault func(*subnettest.Memory)
	}{
		{"hangs", func(m *subnettest.Memory) { m.Hang() }},
		{"fails", func(m *subnettest.Memory) { m.Fail(errDown) }},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := newStore(config)
				guard(t, m)
				client := m.Join()
				h := start(t, client, me)
				old := h.own()
				test.fault(client)
				client.DropWatches(errDown)
				time.Sleep(subnet.LeaseTTL + time.Minute)
				put(t, m, old, attrs(other), subnet.LeaseTTL)
				theirs := find(t, m, old)
				time.Sleep(time.Hour)
				h.want(t, old) // what was known stays
				client.Heal()
				time.Sleep(4 * time.Second)
				if h.own() == old || find(t, m, h.own()) == nil {
					t.Errorf("the host holds %s after it lost %s", h.own(), old)
				}
				if l := find(t, m, old); l == nil || l.Revision != theirs.Revision {
					t.Errorf("the new owner's lease was touched: %+v", l)
				}
			})
		})
	}
}

// replaceable is a store that can be replaced by another.
type replaceable struct {
	to atomic.Pointer[subnettest.Memory]
}

func (r *replaceable) Config(ctx context.Context) ([]byte, error) { return r.to.Load().Config(ctx) }
func (r *replaceable) List(ctx context.Context) (subnet.Snapshot, error) {
	return r.to.Load().List(ctx)
}

func (r *replaceable) Watch(ctx context.Context, yield func(subnet.Snapshot)) error {
	return r.to.Load().Watch(ctx, yield)
}

func (r *replaceable) Create(ctx context.Context, s ip.Subnet, a subnet.Attrs, ttl time.Duration) (*subnet.Lease, error) {
	return r.to.Load().Create(ctx, s, a, ttl)
}

func (r *replaceable) Update(ctx context.Context, s ip.Subnet, revision uint64, a subnet.Attrs, ttl time.Duration) (*subnet.Lease, error) {
	return r.to.Load().Update(ctx, s, revision, a, ttl)
}

func (r *replaceable) Move(ctx context.Context, from ip.Subnet, revision uint64, to ip.Subnet, a subnet.Attrs, ttl time.Duration) (*subnet.Lease, error) {
	return r.to.Load().Move(ctx, from, revision, to, a, ttl)
}

func (r *replaceable) Delete(ctx context.Context, s ip.Subnet, revision uint64) error {
	return r.to.Load().Delete(ctx, s, revision)
}

func (r *replaceable) Reconnect() {}

// The store's data is lost: a new one begins to count from nothing.
func TestReplacedStore(t *testing.T) {
	for _, taken := range []bool{false, true} {
		t.Run(fmt.Sprintf("taken %t", taken), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				before, after := newStore(config), newStore(config)
				for range 100 { // revisions
					put(t, before, "10.5.201.0/24", attrs(other), 0)
				}
				var store replaceable
				store.to.Store(before)
				h := start(t, &store, me)
				own := h.own()
				if taken {
					put(t, after, own, attrs(other), 0)
				}
				store.to.Store(after)
				before.DropWatches(errDown)
				time.Sleep(4 * time.Second)
				if (h.own() == own) == taken {
					t.Errorf("the host holds %s, formerly %s", h.own(), own)
				}
				if l := find(t, after, h.own()); l == nil || l.Attrs != attrs(me) {
					t.Errorf("the new store holds %+v", l)
				}
				// And the peers are those of the new store.
				put(t, after, "10.5.202.0/24", attrs("192.0.2.3"), 0)
				synctest.Wait()
				if s := h.held().Snapshot; s.Find(sub("10.5.201.0/24")) != nil || s.Find(sub("10.5.202.0/24")) == nil {
					t.Errorf("the host sees %d leases of the old store", len(s.Leases))
				}
			})
		})
	}
}

// Anything goes wrong, and then it does not.
func TestKeeperChaos(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	for round := range uint64(3) {
		synctest.Test(t, func(t *testing.T) {
			rnd := rand.New(rand.NewPCG(seed, round))
			m := newStore(`{"Network":"10.5.0.0/25","SubnetLen":28}`) // 7 subnets
			guard(t, m)
			clients, hosts := make([]*subnettest.Memory, 6), make([]*host, 6)
			for i := range hosts {
				clients[i] = m.Join()
				hosts[i] = start(t, clients[i], fmt.Sprintf("192.0.2.%d", i+1))
			}
			methods := []subnettest.Method{subnettest.Config, subnettest.List, subnettest.Watch, subnettest.Create, subnettest.Update, subnettest.Delete}
			for range 60 {
				i := rnd.IntN(len(hosts))
				c, method := clients[i], methods[rnd.IntN(len(methods))]
				switch rnd.IntN(8) {
				case 0:
					c.Hang(method)
				case 1:
					c.Fail(errDown, method)
				case 2:
					c.FailAfter(errDown, method)
				case 3:
					c.Fail(errDown)
					c.DropWatches(errDown)
				case 4, 5:
					c.Heal()
				case 6:
					if s := all(t, m); len(s.Leases) > 0 {
						m.DeleteRaw(s.Leases[rnd.IntN(len(s.Leases))].Subnet.Key())
					}
				case 7:
					hosts[i].stop()
					hosts[i] = start(t, c, fmt.Sprintf("192.0.2.%d", i+1))
				}
				pause := 20 * time.Second
				if rnd.IntN(40) == 0 {
					pause = subnet.LeaseTTL / 4
				}
				time.Sleep(time.Duration(rnd.Int64N(int64(pause))))
			}
			for _, c := range clients {
				c.Heal()
			}
			time.Sleep(time.Minute)
			synctest.Wait()
			seen := make(map[string]bool)
			for _, h := range hosts {
				if l := find(t, m, h.own()); l == nil || l.Attrs != h.held().Own.Attrs || seen[h.own()] {
					t.Errorf("round %d: a host holds %s, the store %+v", round, h.own(), l)
				}
				seen[h.own()] = true
			}
		})
	}
}
