package subnet_test

import (
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"flanneld/subnet"
	"flanneld/subnet/subnettest"
)

// suspension has a host be suspended.
type suspension struct {
	began time.Time
	slept atomic.Int64
}

func newSuspension() *suspension { return &suspension{began: time.Now()} }

func (b *suspension) option(k *subnet.Keeper) {
	k.Boottime = func() time.Duration { return time.Since(b.began) + time.Duration(b.slept.Load()) }
}

// suspend suspends the host: for those that are awake, such as the store, time d
// passes, and none for its own timers. Its watches are dead afterwards, and it
// gets no error: it learns of that because it knows that it was suspended.
func (b *suspension) suspend(m, client *subnettest.Memory, d time.Duration) {
	client.Hang(subnettest.Watch)
	client.DropWatches(errDown)
	synctest.Wait()
	m.JumpClock(d)
	b.slept.Add(int64(d))
}

// soonAwake is how soon the host knows that it was suspended.
const soonAwake = time.Minute + time.Second

func TestSuspended(t *testing.T) {
	const day = 24 * time.Hour
	for _, test := range []struct {
		name  string
		slept time.Duration
		since func(t *testing.T, m *subnettest.Memory, own string) // what happened meanwhile
		moves bool
	}{
		{name: "for half a lease", slept: subnet.LeaseTTL / 2},
		{name: "until it should have renewed", slept: subnet.LeaseTTL - margin/2},
		{name: "until it expired", slept: day + time.Hour},
		{name: "for a month", slept: 30 * day},
		{name: "until another has it", slept: day + time.Hour, moves: true, since: func(t *testing.T, m *subnettest.Memory, own string) {
			put(t, m, own, attrs(other), subnet.LeaseTTL)
		}},
		{name: "until an unreadable lease is there", slept: day + time.Hour, moves: true, since: func(_ *testing.T, m *subnettest.Memory, own string) {
			m.PutRaw(sub(own).Key(), "garbage", subnet.LeaseTTL)
		}},
		{name: "until it was damaged", slept: time.Hour, since: func(_ *testing.T, m *subnettest.Memory, own string) {
			m.PutRaw(sub(own).Key(), "garbage", subnet.LeaseTTL)
		}},
	} {
		for _, away := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, store away %t", test.name, away), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					m := newStore(config)
					guard(t, m)
					client, suspension := m.Join(), newSuspension()
					h := start(t, client, me, suspension.option)
					own := h.own()
					time.Sleep(10*time.Minute + 123*time.Millisecond)
					suspension.suspend(m, client, test.slept)
					synctest.Wait()
					var since *subnet.Lease
					if test.since != nil {
						test.since(t, m, own)
						since = find(t, m, own)
					}
					revision := all(t, m).Revision
					put(t, m, "10.5.0.0/24", attrs("192.0.2.3"), 0)
					if away {
						client.Fail(errDown, subnettest.Config, subnettest.List, subnettest.Create, subnettest.Update)
						time.Sleep(15 * time.Minute)
						client.Heal(subnettest.Config, subnettest.List, subnettest.Create, subnettest.Update)
						time.Sleep(4 * time.Second)
					} else {
						time.Sleep(soonAwake)
					}
					if moved := h.own() != own; moved != test.moves {
						t.Fatalf("the host had %s and has %s", own, h.own())
					}
					if test.moves {
						if l := find(t, m, own); l != nil && l.Revision != since.Revision {
							t.Errorf("the lease of the one who has it now was touched: %+v", l)
						}
						if s := all(t, m); since == nil && (len(s.Problems) != 1 || s.Problems[0].Revision != revision) {
							t.Errorf("what cannot be read was touched: %+v", s.Problems)
						}
					}
					l := find(t, m, h.own())
					if l == nil || l.Attrs != attrs(me) || time.Until(l.Expires) < subnet.LeaseTTL-soonAwake {
						t.Fatalf("the store holds %+v", l)
					}
					if !away && h.held().Snapshot.Find(sub("10.5.0.0/24")) == nil {
						t.Error("the others' leases were not learned anew")
					}

					// And then it goes on as before.
					client.Heal()
					client.DropWatches(errDown)
					held, calls := h.own(), client.Calls(subnettest.Update)
					time.Sleep(3 * subnet.LeaseTTL)
					h.want(t, held)
					if n := client.Calls(subnettest.Update) - calls; n != 3 {
						t.Errorf("%d renewals in the three days after it", n)
					}
				})
			})
		}
	}
}

// The watch is back before the host has looked at how long it slept.
func TestSuspendedWatchFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newStore(config)
		client, suspension := m.Join(), newSuspension()
		h := start(t, client, me, suspension.option)
		own := h.own()
		suspension.suspend(m, client, subnet.LeaseTTL+time.Hour)
		synctest.Wait()
		m.PutRaw(sub(own).Key(), "garbage", subnet.LeaseTTL)
		revision := all(t, m).Revision
		client.Heal()
		client.DropWatches(errDown)
		time.Sleep(4 * time.Second)
		if h.own() == own {
			t.Error("the host still has its subnet")
		}
		time.Sleep(soonAwake)
		if p := all(t, m).Problems; len(p) != 1 || p[0].Revision != revision {
			t.Errorf("what cannot be read was touched: %+v", p)
		}
	})
}

func TestSuspendedReservation(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newStore(config)
		put(t, m, "10.5.77.0/24", attrs(me), 0)
		client, suspension := m.Join(), newSuspension()
		h := start(t, client, me, suspension.option)
		suspension.suspend(m, client, 30*subnet.LeaseTTL)
		time.Sleep(soonAwake)
		h.want(t, "10.5.77.0/24")
		if l := find(t, m, "10.5.77.0/24"); !l.Reserved() || client.Calls(subnettest.Update) != 1 {
			t.Errorf("after %d writes the store holds %+v", client.Calls(subnettest.Update), l)
		}
	})
}

// Each suspension is logged once, many short ones count as the long one that they are,
// and nothing is logged of a host that is not suspended.
func TestSuspendedOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		text := logText(t)
		m := newStore(config)
		client, suspension := m.Join(), newSuspension()
		start(t, client, me, suspension.option)
		time.Sleep(5 * subnet.LeaseTTL)
		if n := client.Calls(subnettest.List); n != 1 {
			t.Errorf("%d listings while nothing happened", n)
		}
		logged := func() int { return strings.Count(text(), "this host was suspended for") }
		for i := range 3 {
			suspension.slept.Add(int64(time.Hour))
			time.Sleep(10 * time.Minute)
			if logged() != i+1 {
				t.Fatalf("logged %d times after %d suspensions", logged(), i+1)
			}
		}
		for range 10 {
			suspension.slept.Add(int64(time.Second))
			time.Sleep(10 * time.Minute)
		}
		if logged() != 5 {
			t.Errorf("logged %d times of ten seconds of suspension, want 2", logged()-3)
		}
	})
}

// The server's clock jumps by a day, one way and back: etcd counts by it, so the
// key goes at once, or stays a day too long, and goes when the clock is right again.
func TestServerClockJumps(t *testing.T) {
	const day = 24 * time.Hour
	for _, jump := range []time.Duration{-day, day} {
		for _, relist := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, relist %t", jump, relist), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					m := newStore(config)
					guard(t, m)
					client := m.Join()
					h := start(t, client, me)
					own := h.own()
					time.Sleep(5 * time.Hour)
					for _, d := range []time.Duration{jump, -jump} {
						m.JumpClock(d)
						if relist {
							client.DropWatches(errDown)
						}
						time.Sleep(4 * time.Second)
						l := find(t, m, own)
						h.want(t, own)
						if l == nil || l.Attrs != attrs(me) {
							t.Fatalf("after a jump of %s the store holds %+v", d, l)
						}
						for range 3 * 24 * 4 {
							time.Sleep(15 * time.Minute)
							if l := find(t, m, own); l == nil || time.Until(l.Expires) < margin*9/10 {
								t.Fatalf("after a jump of %s the store holds %+v", d, l)
							}
						}
					}
					if n := client.Calls(subnettest.Update) + client.Calls(subnettest.Create); n > 12 {
						t.Errorf("%d writes in six days", n)
					}
				})
			})
		}
	}
}

// What the server says of the end of leases is wrong by a day: it is renewed
// neither late nor all the time.
func TestServerClockWrong(t *testing.T) {
	const day = 24 * time.Hour
	for _, skew := range []time.Duration{-day, day, 30 * day} {
		t.Run(skew.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := newStore(config)
				guard(t, m)
				client := m.Join()
				client.Skew(skew)
				h := start(t, client, me)
				own := h.own()
				const long = 3 * day
				for range long / (15 * time.Minute) {
					time.Sleep(15 * time.Minute)
					if l := find(t, m, own); l == nil || time.Until(l.Expires) < margin*9/10 {
						t.Fatalf("the store holds %+v", l)
					}
				}
				h.want(t, own)
				most := 3
				if skew < 0 {
					most = int(long/time.Hour) + 10
				}
				if n := client.Calls(subnettest.Update); n > most {
					t.Errorf("%d renewals in %s, want %d at most", n, long, most)
				}
			})
		})
	}
}
