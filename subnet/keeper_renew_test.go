package subnet_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"flanneld/subnet"
	"flanneld/subnet/subnettest"
)

func withMargin(d time.Duration) option {
	return func(k *subnet.Keeper) { k.Margin = d }
}

func TestRenewInTime(t *testing.T) {
	for _, margin := range []time.Duration{time.Minute, time.Hour, 12 * time.Hour} {
		t.Run(margin.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := newStore(config)
				guard(t, m)
				h := start(t, m, me, withMargin(margin))
				own := h.own()
				time.Sleep(10 * subnet.LeaseTTL)
				h.want(t, own)
				at := h.renewedAt()
				if len(at) < 10 {
					t.Fatalf("%d renewals in 10 days", len(at))
				}
				for i := range at[1:] {
					early := subnet.LeaseTTL - at[i+1].Sub(at[i])
					if early < margin || early > margin+margin/10 {
						t.Errorf("renewed %s before the end, want %s to %s", early, margin, margin+margin/10)
					}
				}
			})
		})
	}
}

// The largest margin leaves a minute of the lease.
func TestRenewLargestMargin(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newStore(config)
		start(t, m, me, withMargin(1439*time.Minute))
		time.Sleep(time.Hour)
		if n := m.Calls(subnettest.Update); n < 59 || n > 240 {
			t.Errorf("%d renewals in an hour, want one about every minute", n)
		}
	})
}

// What others do to their leases, and above all that they renew them, must not
// make everyone renew at once.
func TestRenewSpread(t *testing.T) {
	const n = 100
	synctest.Test(t, func(t *testing.T) {
		m := newStore(config)
		hosts := make([]*host, n)
		for i := range hosts {
			hosts[i] = start(t, m.Join(), fmt.Sprintf("192.0.2.%d", i+1))
		}
		time.Sleep(subnet.LeaseTTL - margin/2)
		var at []time.Time
		for _, h := range hosts {
			r := h.renewedAt()
			if len(r) != 2 {
				t.Fatalf("renewed %d times, want once", len(r)-1)
			}
			at = append(at, r[1])
		}
		slices.SortFunc(at, time.Time.Compare)
		const at1 = 10
		for i := range at[at1:] {
			if at[i+at1].Sub(at[i]) < time.Second {
				t.Fatalf("more than %d of %d hosts renewed within a second", at1, n)
			}
		}
	})
}

func TestRenewRetries(t *testing.T) {
	for _, churn := range []bool{false, true} {
		t.Run(fmt.Sprintf("churn %t", churn), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				lines := logged(t)
				m := newStore(config)
				guard(t, m)
				h := start(t, m, me)
				own := h.own()
				m.Fail(errDown, subnettest.Update)
				time.Sleep(subnet.LeaseTTL - margin) // by now it has begun to fail
				calls, logs := m.Calls(subnettest.Update), lines()
				const long = 10 * time.Minute
				if churn {
					for range long / (50 * time.Millisecond) {
						time.Sleep(50 * time.Millisecond)
						put(t, m, "10.5.0.0/24", attrs(other), 0)
					}
				} else {
					time.Sleep(long)
				}
				calls, logs = m.Calls(subnettest.Update)-calls, lines()-logs
				if low, high := int(long/(4*time.Second)), int(long/time.Second); calls < low || calls > high {
					t.Errorf("%d tries in %s, want %d to %d", calls, long, low, high)
				}
				if most := int(long/(15*time.Second)) + 1; logs > most {
					t.Errorf("%d lines were logged in %s, want %d at most", logs, long, most)
				}
				m.Heal()
				time.Sleep(4 * time.Second)
				h.want(t, own)
				if left := time.Until(find(t, m, own).Expires); left < subnet.LeaseTTL-4*time.Second {
					t.Errorf("the lease was not renewed: it lasts %s", left)
				}
			})
		})
	}
}

// The write takes effect each time and the keeper does not learn of it.
func TestRenewLostReply(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newStore(config)
		guard(t, m)
		h := start(t, m, me)
		own := h.own()
		m.FailAfter(errDown, subnettest.Update)
		time.Sleep(3 * subnet.LeaseTTL)
		h.want(t, own)
		if n := len(all(t, m).Leases); n != 1 {
			t.Errorf("%d leases, want 1", n)
		}
		if n := m.Calls(subnettest.Update); n > 20 {
			t.Errorf("%d tries in 3 days", n)
		}
	})
}

func TestReservation(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newStore(config)
		put(t, m, "10.5.77.0/24", attrs(me), 0)
		for range 3 {
			h := start(t, m, me)
			time.Sleep(5 * subnet.LeaseTTL)
			h.want(t, "10.5.77.0/24")
			h.stop()
			if l := find(t, m, "10.5.77.0/24"); l == nil || !l.Reserved() {
				t.Fatalf("the store holds %+v, want a reservation", l)
			}
		}
		if n := m.Calls(subnettest.Update); n != 3 {
			t.Errorf("written %d times in 3 runs", n)
		}
	})
}

func TestReservationByHand(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newStore(config)
		h := start(t, m, me)
		own := h.own()
		put(t, m, own, attrs(me), 0)
		time.Sleep(3 * subnet.LeaseTTL)
		h.want(t, own)
		if l := find(t, m, own); l == nil || !l.Reserved() || !h.held().Own.Reserved() {
			t.Fatalf("the store holds %+v, want a reservation", l)
		}

		put(t, m, own, attrs(me), 2*time.Hour) // and back
		time.Sleep(3 * subnet.LeaseTTL)
		h.want(t, own)
		if l := find(t, m, own); l == nil || l.Reserved() {
			t.Fatalf("the store holds %+v, want a lease that expires", l)
		}

		put(t, m, own, attrs(me), 0)
		synctest.Wait()
		m.PutRaw(sub(own).Key(), "garbage", 0)
		time.Sleep(3 * subnet.LeaseTTL)
		if l := find(t, m, own); l == nil || !l.Reserved() || l.Attrs != attrs(me) {
			t.Fatalf("the store holds %+v, want a mended reservation", l)
		}
	})
}

// A reservation outlives restarts, edits while the host runs, restarts after
// these, failures, and its deletion, and never has a time to live in between.
func TestReservationLives(t *testing.T) {
	const cidr = "10.5.77.0/24"
	synctest.Test(t, func(t *testing.T) {
		m := newStore(config)
		put(t, m, cidr, attrs(me), 0)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() {
			defer close(done)
			_ = m.Join().Watch(ctx, func(s subnet.Snapshot) {
				if l := s.Find(sub(cidr)); l != nil && !l.Reserved() {
					t.Errorf("the reservation expires: %+v", l)
				}
			})
		}()
		check := func(h *host, when string) {
			t.Helper()
			time.Sleep(2 * subnet.LeaseTTL)
			h.want(t, cidr)
			if l := find(t, m, cidr); l == nil || !l.Reserved() || l.Attrs != attrs(me) {
				t.Fatalf("%s: the store holds %+v, want a reservation", when, l)
			}
		}
		edited := attrs(me)
		edited.BackendType = "udp"
		for i := range 3 {
			client := m.Join()
			h := start(t, client, me)
			check(h, fmt.Sprint("run ", i))
			put(t, m, cidr, edited, 0)
			check(h, "after an edit")
			m.PutRaw(sub(cidr).Key(), "garbage", 0)
			check(h, "after it was damaged")
			client.Fail(errDown, subnettest.Update, subnettest.Create)
			put(t, m, cidr, edited, 0)
			time.Sleep(time.Minute)
			client.Heal()
			check(h, "after an edit that could not be undone at once")
			m.DeleteRaw(sub(cidr).Key())
			check(h, "after it was deleted")
			h.stop()
			put(t, m, cidr, edited, 0)
		}
		cancel()
		<-done
	})
}

// Renewing fails from when it is due until shortly before the lease ends, in
// each way that it can, and is still in time.
func TestRenewNeverLate(t *testing.T) {
	for name, fault := range map[string]func(*subnettest.Memory){
		"fails":               func(m *subnettest.Memory) { m.Fail(errDown, subnettest.Update) },
		"hangs":               func(m *subnettest.Memory) { m.Hang(subnettest.Update) },
		"all fails":           func(m *subnettest.Memory) { m.Fail(errDown); m.DropWatches(errDown) },
		"all hangs":           func(m *subnettest.Memory) { m.Hang(); m.DropWatches(errDown) },
		"cannot list":         func(m *subnettest.Memory) { m.Fail(errDown, subnettest.List, subnettest.Update) },
		"says it was changed": func(m *subnettest.Memory) { m.Fail(subnet.ErrChanged, subnettest.Update) },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := newStore(config)
				guard(t, m)
				client := m.Join()
				h := start(t, client, me)
				own := h.own()
				for range 3 {
					end := find(t, m, own).Expires
					time.Sleep(time.Until(end) - margin*5/4)
					fault(client)
					time.Sleep(time.Until(end) - 4*time.Second)
					client.Heal()
					time.Sleep(4*time.Second - time.Millisecond) // retryMost is less
					l := find(t, m, own)
					if l == nil || !l.Expires.After(end) || client.Calls(subnettest.Create) != 1 {
						t.Fatalf("the store holds %+v", l)
					}
				}
			})
		})
	}
}

// A lease that someone wrote with less time than the margin.
func TestRenewShortLease(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newStore(config)
		h := start(t, m, me)
		put(t, m, h.own(), attrs(me), time.Minute)
		synctest.Wait()
		if left := time.Until(find(t, m, h.own()).Expires); left != subnet.LeaseTTL {
			t.Errorf("the lease lasts %s", left)
		}
	})
}

// A whole life: renewals, a missed one, an expiry, all while others live
// theirs.
func TestDays(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	synctest.Test(t, func(t *testing.T) {
		rnd := rand.New(rand.NewPCG(seed, 0))
		m := newStore(config)
		guard(t, m)
		for i := range 5 {
			start(t, m.Join(), fmt.Sprintf("192.0.2.%d", i+10))
		}
		client := m.Join()
		h := start(t, client, me)
		own := h.own()
		time.Sleep(3*subnet.LeaseTTL - rand.N(margin))
		h.want(t, own)
		if n := len(h.renewedAt()) - 1; n != 3 {
			t.Errorf("%d renewals, want 3", n)
		}

		// The store is away when the next one is due, and back in time.
		next := time.Until(find(t, m, own).Expires)
		time.Sleep(next - margin*3/2)
		client.Hang()
		client.DropWatches(errDown)
		time.Sleep(margin + time.Duration(rnd.Int64N(int64(margin/3))))
		client.Heal()
		time.Sleep(15 * time.Second)
		h.want(t, own)
		if left := time.Until(find(t, m, own).Expires); left < subnet.LeaseTTL-15*time.Second {
			t.Errorf("the lease was not renewed: it lasts %s", left)
		}

		// The store is away until the lease has expired, and nobody takes it.
		client.Fail(errDown)
		client.DropWatches(errDown)
		time.Sleep(subnet.LeaseTTL + time.Duration(rnd.Int64N(int64(subnet.LeaseTTL))))
		if find(t, m, own) != nil {
			t.Fatal("the lease did not expire")
		}
		h.want(t, own)
		client.Heal()
		time.Sleep(4 * time.Second)
		h.want(t, own)
		if l := find(t, m, own); l == nil || l.Attrs != attrs(me) {
			t.Errorf("the store holds %+v", l)
		}
		time.Sleep(2 * subnet.LeaseTTL)
		h.want(t, own)
	})
}
