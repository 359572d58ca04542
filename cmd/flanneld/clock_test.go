package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"flanneld/network"
	"flanneld/pkg/dataplane/dataplanetest"
	"flanneld/pkg/dataplane/kernel"
	"flanneld/pkg/ip"
	"flanneld/subnet"
	"flanneld/subnet/subnettest"
)

// imagined is a host that is not there: its kernel is an imitation.
type imagined struct{ *dataplanetest.Fake }

func (imagined) Interfaces(context.Context) ([]kernel.Interface, error) {
	return []kernel.Interface{{
		Name: "eth0", Index: 2, MTU: 1500, Up: true, Forwards: true,
		Addrs: []kernel.Address{{Prefix: netip.MustParsePrefix("192.168.0.2/24")}},
	}}, nil
}

func (imagined) DefaultRoutes(context.Context, ip.Family) ([]kernel.DefaultRoute, error) {
	return []kernel.DefaultRoute{{Iface: "eth0"}}, nil
}

func (imagined) RouteTo(netip.Addr) (string, netip.Addr, error) {
	return "", netip.Addr{}, errors.New("no route")
}

func (imagined) HasNexthops() bool { return false }

func (imagined) Forwards(ip.Family) bool { return true }

func (imagined) Follow([]ip.Family) {}

var _ network.View = imagined{}

// following is an imagined host that counts how often other families than before are followed.
type following struct {
	imagined
	families atomic.Value
	changes  atomic.Int64
}

func (f *following) Follow(families []ip.Family) {
	if was, is := f.families.Swap(families).([]ip.Family); !is || !slices.Equal(was, families) {
		f.changes.Add(1)
	}
}

// life is the whole daemon on an imagined host, in imagined time.
type life struct {
	*testing.T
	fake   *dataplanetest.Fake
	host   *following
	admin  *subnettest.Memory // the store, for those that are not this host
	store  *subnettest.Memory
	slept  atomic.Int64 // how long the host was suspended
	file   string
	text   string // that subnet.env has
	cancel context.CancelFunc
	ended  chan error
}

var peer = netip.MustParsePrefix("10.5.200.0/24")

// newLife starts the daemon. dir is from outside the bubble.
func newLife(t *testing.T, dir string) *life {
	t.Helper()
	l := &life{T: t, fake: dataplanetest.NewFake(), admin: subnettest.NewMemory(), file: filepath.Join(dir, "subnet.env"), ended: make(chan error, 1)}
	must(t, l.fake.AddLink("eth0"))
	must(t, l.fake.SetLink("eth0", true))
	must(t, l.fake.AddAddr("eth0", netip.MustParsePrefix("192.168.0.2/24")))
	l.admin.SetConfig(`{"Network":"10.5.0.0/16","Backend":{"Type":"host-gw"}}`)
	l.admin.PutRaw("10.5.200.0-24", `{"PublicIP":"192.168.0.200","BackendType":"host-gw"}`, 0)
	l.store = l.admin.Join()
	l.host = &following{imagined: imagined{l.fake}}
	began := time.Now()
	o := &options{
		subnetFile:  l.file,
		renewMargin: time.Hour,
		boottime:    func() time.Duration { return time.Since(began) + time.Duration(l.slept.Load()) },
	}
	ctx, cancel := context.WithCancel(t.Context())
	l.cancel = cancel
	go func() { l.ended <- serve(ctx, o, l.store, l.host, newCollector(&options{})) }()
	synctest.Wait()
	l.readEnv()
	return l
}

func (l *life) readEnv() {
	l.Helper()
	text, err := os.ReadFile(l.file)
	must(l.T, err)
	l.text = string(text)
}

// own returns our lease, nil if there is none.
func (l *life) own() *subnet.Lease {
	l.Helper()
	synctest.Wait()
	s, err := l.admin.List(l.Context())
	must(l.T, err)
	for _, lease := range s.Leases {
		if lease.PublicIP.V4 == netip.MustParseAddr("192.168.0.2") {
			return lease
		}
	}
	return nil
}

func (l *life) check(when string) {
	l.Helper()
	if lease := l.own(); lease == nil {
		l.Errorf("%s: no lease", when)
	} else if left := time.Until(lease.Expires); left < 50*time.Minute {
		l.Errorf("%s: the lease has %s left", when, left)
	} else if !strings.Contains(l.text, ownAddr(lease)) {
		l.Errorf("%s: the lease is of %s", when, lease.Subnet)
	}
	if now, err := os.ReadFile(l.file); err != nil || string(now) != l.text {
		l.Errorf("%s: subnet.env is %q, %v", when, now, err)
	}
	if r := l.fake.Routes(peer); len(r) != 1 {
		l.Errorf("%s: routes to the peer: %v", when, r)
	}
	select {
	case err := <-l.ended:
		l.Fatalf("%s: the daemon ended: %v", when, err)
	default:
	}
}

// peace lets days pass in which each renewal comes in time, and nothing else
// is written.
func (l *life) peace(days int, when string) {
	l.Helper()
	before := l.writes()
	for range days * 24 * 4 {
		time.Sleep(15 * time.Minute)
		l.check(when)
	}
	if n := l.writes() - before; n < days || n > days+1 {
		l.Errorf("%s: %d writes in %d days", when, n, days)
	}
}

func (l *life) writes() int {
	return l.store.Calls(subnettest.Update) + l.store.Calls(subnettest.Create)
}

// suspend has a day and an hour pass for all but this host. Its watch is dead
// afterwards, without a word.
func (l *life) suspend() {
	const long = 25 * time.Hour
	l.store.Hang(subnettest.Watch)
	l.store.DropWatches(errors.New("connection reset"))
	synctest.Wait()
	l.slept.Add(int64(long))
	l.admin.JumpClock(long)
	synctest.Wait()
}

// end stops the daemon.
func (l *life) end() {
	l.Helper()
	l.cancel()
	if err := <-l.ended; !errors.Is(err, context.Canceled) {
		l.Errorf("the daemon ended with %v", err)
	}
	if v := l.fake.Violations(); len(v) > 0 {
		l.Error(v)
	}
}

// ownAddr is what subnet.env says of a lease.
func ownAddr(l *subnet.Lease) string {
	return fmt.Sprintf("FLANNEL_SUBNET=%s/%d\n", l.Subnet.V4.Addr().Next(), l.Subnet.V4.Bits())
}

// The whole daemon lives through days: renewals, one that is missed, an outage
// that is longer than its lease, and a key that vanishes.
func TestDays(t *testing.T) {
	t.Parallel() // the time that passes is none of the machine's
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		l := newLife(t, dir)
		l.peace(3, "in three days of peace")

		// Renewing fails from before it is due, for less than the margin.
		time.Sleep(time.Until(l.own().Expires) - 70*time.Minute)
		l.store.Fail(errors.New("no leader"), subnettest.Update)
		time.Sleep(50 * time.Minute)
		l.store.Heal()
		time.Sleep(5 * time.Second)
		l.check("after a renewal that failed for a while")

		// The store is gone for longer than the lease lives.
		l.store.Fail(errors.New("connection refused"))
		l.store.DropWatches(errors.New("connection reset"))
		time.Sleep(30 * time.Hour)
		if lease := l.own(); lease != nil {
			t.Errorf("the lease did not expire: %v", lease)
		}
		if r := l.fake.Routes(peer); len(r) != 1 {
			t.Errorf("during the outage: routes to the peer: %v", r)
		}
		l.store.Heal()
		time.Sleep(5 * time.Second)
		l.check("after the outage")

		l.admin.DeleteRaw(l.own().Subnet.Key())
		time.Sleep(time.Second)
		l.check("after the key was deleted")
		l.peace(2, "afterwards")
		l.end()
	})
}

// A host that lacks a family goes on without it. What it follows of the kernel is the same all the
// while, and that of the configuration in force once the other one is taken back.
func TestDaysWithoutAFamily(t *testing.T) {
	t.Parallel() // the time that passes is none of the machine's
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		l := newLife(t, dir)
		l.admin.SetConfig(`{"Network":"10.5.0.0/16","EnableIPv6":true,"IPv6Network":"fc00::/48","Backend":{"Type":"host-gw"}}`)
		time.Sleep(time.Second)
		before := l.host.changes.Load()
		if now := l.host.families.Load().([]ip.Family); len(now) != 2 {
			t.Errorf("the host follows %v", now)
		}
		time.Sleep(time.Hour)
		l.check("without IPv6")
		if n := l.host.changes.Load() - before; n > 0 {
			t.Errorf("the host follows other families than before %d times in an hour", n)
		}
		l.admin.SetConfig(`{"Network":"10.5.0.0/16","Backend":{"Type":"host-gw"}}`)
		time.Sleep(time.Second)
		if now := l.host.families.Load().([]ip.Family); !slices.Equal(now, []ip.Family{ip.V4}) {
			t.Errorf("the host follows %v", now)
		}
		l.end()
	})
}

// The clock of etcd jumps by a day, forward and back, and the other way round.
func TestDaysOfJumps(t *testing.T) {
	t.Parallel() // the time that passes is none of the machine's
	const day = 24 * time.Hour
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		l := newLife(t, dir)
		for _, jump := range []time.Duration{day, -day, -day, day} {
			for _, relist := range []bool{false, true} {
				when := fmt.Sprintf("after a jump of %s, relist %t", jump, relist)
				time.Sleep(5 * time.Hour)
				l.admin.JumpClock(jump)
				// The peer's key is a reservation.
				if relist {
					l.store.DropWatches(errors.New("connection reset"))
				}
				time.Sleep(5 * time.Second)
				l.check(when)
				before := l.writes()
				for range 2 * 24 * 4 {
					time.Sleep(15 * time.Minute)
					l.check(when)
				}
				if n := l.writes() - before; n > 3 {
					t.Errorf("%s: %d writes in two days", when, n)
				}
			}
		}

		// Nothing jumps, and the clock of the server that we ask is wrong.
		for _, skew := range []time.Duration{day, -day} {
			l.store.Skew(skew)
			l.store.DropWatches(errors.New("connection reset"))
			before := l.writes()
			for range 2 * 24 * 4 {
				time.Sleep(15 * time.Minute)
				l.check("with a wrong clock")
			}
			if n := l.writes() - before; n > 2*24+10 {
				t.Errorf("%d writes in two days with a clock that is wrong by %s", n, skew)
			}
		}
		l.end()
	})
}

// The host is suspended for longer than its lease lasts, and nobody takes its
// subnet meanwhile.
func TestDaysAsleep(t *testing.T) {
	t.Parallel() // the time that passes is none of the machine's
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		l := newLife(t, dir)
		l.peace(3, "before")
		l.suspend()
		if lease := l.own(); lease != nil {
			t.Errorf("the lease did not expire: %v", lease)
		}
		time.Sleep(61 * time.Second)
		l.check("soon after it")
		l.peace(3, "while the watch hangs")
		l.store.Heal()
		l.peace(3, "afterwards")
		l.end()
	})
}

// The host is suspended for longer than its lease lasts, and another host takes
// its subnet meanwhile.
func TestDaysAsleepAndTaken(t *testing.T) {
	t.Parallel() // the time that passes is none of the machine's
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		l := newLife(t, dir)
		time.Sleep(10 * time.Hour)
		old := l.own().Subnet
		l.suspend()
		l.admin.PutRaw(old.Key(), `{"PublicIP":"192.168.0.201","BackendType":"host-gw"}`, subnet.LeaseTTL)
		s, err := l.admin.List(t.Context())
		must(t, err)
		theirs := s.Find(old)
		time.Sleep(61 * time.Second)
		before := l.text
		l.readEnv()
		if l.text == before {
			t.Error("subnet.env still has the old subnet")
		}
		s, err = l.admin.List(t.Context())
		must(t, err)
		if now := s.Find(old); now == nil || now.Revision != theirs.Revision {
			t.Errorf("the lease of the one who has it now was touched: %+v", now)
		}
		if r := l.fake.Routes(old.V4); len(r) != 1 {
			t.Errorf("routes to the one who has it now: %v", r)
		}
		l.store.Heal()
		l.peace(3, "afterwards")
		l.end()
	})
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
