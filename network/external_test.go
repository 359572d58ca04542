package network

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"flanneld/backend"
	"flanneld/pkg/dataplane"
	"flanneld/pkg/dataplane/kernel"
	"flanneld/pkg/ip"
)

// Another interface is taken when it is certain that it stays the best: soon after the one
// in use is lost, later while that works. What is over before changes nothing.
func TestFollower(t *testing.T) {
	on := func(iface, addr string) backend.Underlay {
		return backend.Underlay{Iface: iface, Addr: netip.MustParseAddr(addr), MTU: 1500, Up: true}
	}
	eth0, eth1, eth2 := on("eth0", "192.0.2.1"), on("eth1", "192.0.2.2"), on("eth2", "192.0.2.3")
	larger := eth0
	larger.MTU = 9000
	gone := errors.New("gone")
	alone := Sight{Now: eth0, Next: eth0, Works: true}
	better := Sight{Now: eth0, Next: eth1, Works: true}
	useless := Sight{Now: eth0, Next: eth1}
	lost := Sight{Now: eth0, Next: eth0, Lost: gone}
	replaced := Sight{Now: eth0, Next: eth1, Lost: gone}
	other := Sight{Now: eth0, Next: eth2, Lost: gone}
	type step struct {
		after   time.Duration
		sight   Sight
		want    backend.Underlay
		problem bool
	}
	const ms = time.Millisecond
	for name, steps := range map[string][]step{
		"nothing changes":                  {{0, alone, eth0, false}, {time.Hour, alone, eth0, false}},
		"its MTU":                          {{0, Sight{Now: larger, Next: larger, Works: true}, larger, false}},
		"lost for a moment":                {{0, lost, eth0, false}, {400 * ms, lost, eth0, false}, {400 * ms, alone, eth0, false}, {900 * ms, lost, eth0, false}},
		"lost":                             {{0, lost, eth0, false}, {1000 * ms, lost, eth0, true}, {time.Hour, lost, eth0, true}, {ms, alone, eth0, false}},
		"replaced for a moment":            {{0, replaced, eth0, false}, {490 * ms, replaced, eth0, false}, {ms, alone, eth0, false}, {490 * ms, replaced, eth0, false}, {490 * ms, replaced, eth0, false}},
		"replaced":                         {{0, replaced, eth0, false}, {500 * ms, replaced, eth1, false}},
		"replaced after it was lost":       {{0, lost, eth0, false}, {2000 * ms, lost, eth0, true}, {ms, replaced, eth0, true}, {500 * ms, replaced, eth1, false}},
		"replaced by one after another":    {{0, replaced, eth0, false}, {400 * ms, other, eth0, false}, {400 * ms, replaced, eth0, false}, {499 * ms, replaced, eth0, false}, {ms, replaced, eth1, false}},
		"of little use":                    {{0, useless, eth0, false}, {500 * ms, useless, eth1, false}},
		"a better one":                     {{0, better, eth0, false}, {2900 * ms, better, eth0, false}, {100 * ms, better, eth1, false}},
		"a better one that comes and goes": {{0, better, eth0, false}, {2900 * ms, alone, eth0, false}, {ms, better, eth0, false}, {2900 * ms, better, eth0, false}},
		"a better one, and then it fails":  {{0, better, eth0, false}, {600 * ms, replaced, eth1, false}},
	} {
		t.Run(name, func(t *testing.T) {
			var f follower
			now := time.Now()
			for i, s := range steps {
				now = now.Add(s.after)
				got, again := f.follow(now, s.sight)
				if got != s.want || (f.problem != nil) != s.problem {
					t.Errorf("step %d: got %s %s, problem %v", i, got.Iface, got.Addr, f.problem)
				}
				if waits := s.sight.Lost != nil || s.sight.Next != s.sight.Now; waits && got == s.sight.Now != (again > 0) {
					t.Errorf("step %d: the next look is after %s", i, again)
				}
			}
		})
	}
}

// What becomes of the external interface is logged if it stays, however often it came and
// went before; not if it is over within a second.
func TestExternalInterfaceLogged(t *testing.T) {
	for name, c := range map[string]struct {
		see func(x *External, s *follower, good bool)
		bad string
	}{
		"lost": {func(x *External, _ *follower, good bool) {
			if good {
				x.logProblem(ip.V4, nil)
			} else {
				x.logProblem(ip.V4, errors.New("no address"))
			}
		}, "no address"},
		"down": {func(x *External, s *follower, good bool) {
			x.logDown(ip.V4, s, backend.Underlay{Iface: "eth0", Up: good})
		}, "eth0 is down"},
	} {
		log := klogged(t, func() {
			synctest.Test(t, func(*testing.T) {
				var x External
				var s follower
				see := func(good bool, during time.Duration) {
					for begin := time.Now(); time.Since(begin) < during; time.Sleep(time.Second / 2) {
						c.see(&x, &s, good)
					}
				}
				for range 9 {
					see(false, 3*time.Second)
					see(true, 3*time.Second)
				}
				if name == "down" {
					see(false, time.Second/2)
					see(true, time.Hour)
					see(false, time.Second/2)
					see(true, time.Second)
				}
				for range 9 {
					see(false, 3*time.Second)
					see(true, 3*time.Second)
				}
				see(false, 25*time.Minute)
			})
		})
		bad, good := strings.Count(log, c.bad), strings.Count(log, "the external interface is there again")+strings.Count(log, "eth0 is up")
		if blinks := klogged(t, func() {
			synctest.Test(t, func(*testing.T) {
				var x External
				var s follower
				x.logDown(ip.V4, &s, backend.Underlay{Iface: "eth0"})
				time.Sleep(time.Second / 2)
				x.logDown(ip.V4, &s, backend.Underlay{Iface: "eth0", Up: true})
			})
		}); blinks != "" {
			t.Errorf("what is over within a second is logged:\n%s", blinks)
		}
		if bad > 12 || bad < good+2 {
			t.Errorf("%s: logged %d times, and its end %d times:\n%s", name, bad, good, log)
		}
	}
}

// externalFixture is what follows eth0, which is to be the interface for as long as there is
// no other one, and what became of it.
type externalFixture struct {
	*External
	mu      sync.Mutex
	host    view
	looks   []time.Duration // since the last event
	since   time.Time
	reports []error
	// families are those of the reports, and listed is how often the interfaces were.
	families []ip.Family
	listed   int
}

func (x *externalFixture) do(f func()) {
	synctest.Wait()
	x.mu.Lock()
	defer x.mu.Unlock()
	f()
}

func (x *externalFixture) Interfaces(ctx context.Context) ([]kernel.Interface, error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.listed++
	return x.host.Interfaces(ctx)
}

func (x *externalFixture) DefaultRoutes(ctx context.Context, f ip.Family) ([]kernel.DefaultRoute, error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.host.DefaultRoutes(ctx, f)
}

func (x *externalFixture) RouteTo(a netip.Addr) (string, netip.Addr, error) { return x.host.RouteTo(a) }

func withExternal(t *testing.T, s Selection, f func(x *externalFixture)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		host := backend.Host{V4: backend.Underlay{Iface: "eth0", Addr: netip.MustParseAddr("192.0.2.1"), MTU: 1500, Up: true}}
		x := &externalFixture{host: view{
			ifaces:   []kernel.Interface{iface("eth0", "192.0.2.1/24"), iface("eth1", "198.51.100.1/24")},
			defaults: []kernel.DefaultRoute{{Iface: "eth0"}}, iface: "eth0", src: host.V4.Addr,
		}}
		x.External = NewExternal(s, x, host, func() {
			x.mu.Lock()
			defer x.mu.Unlock()
			x.looks = append(x.looks, time.Since(x.since))
		}, func(f ip.Family, _ backend.Underlay, unseen error) {
			x.mu.Lock()
			defer x.mu.Unlock()
			x.families = append(x.families, f)
			x.reports = append(x.reports, unseen)
		})
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan struct{})
		go func() { defer close(ended); _ = x.Run(ctx) }()
		f(x)
		cancel()
		<-ended
	})
}

// after returns when it was looked, since an event.
func (x *externalFixture) after(e dataplane.Event) (looks []time.Duration) {
	x.do(func() { x.looks, x.since = nil, time.Now() })
	x.Event(e)
	time.Sleep(time.Minute)
	x.do(func() { looks = x.looks })
	return looks
}

// How soon it is looked after an event: at once where the interface in use, or the one that may
// follow it, is concerned; later where it is another one, and not at all where it is ours.
func TestExternalLooksAfterEvents(t *testing.T) {
	soon, later := []time.Duration{followPause}, []time.Duration{lookAroundPause + followPause}
	for _, c := range []struct {
		name      string
		event     dataplane.Event
		want      []time.Duration
		canReach  bool
		mayBeNext bool // eth1
	}{
		{name: "the interface in use", event: dataplane.Event{Iface: "eth0"}, want: soon},
		{name: "another one", event: dataplane.Event{Iface: "eth1"}, want: later},
		{name: "the one that may be next", event: dataplane.Event{Iface: "eth1"}, want: soon, mayBeNext: true},
		{name: "ours", event: dataplane.Event{Iface: "flannel.1"}},
		{name: "a default route", event: dataplane.Event{Defaults: true}, want: soon},
		{name: "what was lost", event: dataplane.Event{Lost: true}, want: soon},
		{name: "a route", event: dataplane.Event{Paths: true}},
		{name: "a route, with a way that counts", event: dataplane.Event{Paths: true}, want: later, canReach: true},
	} {
		var s Selection
		if c.canReach {
			s.CanReach.V4 = netip.MustParseAddr("203.0.113.1")
		}
		withExternal(t, s, func(x *externalFixture) {
			x.SetDesired(vxlanDesired())
			if c.mayBeNext {
				x.names.Store(&[]string{"eth0", "eth1"})
			}
			if got := x.after(c.event); !slices.Equal(got, c.want) {
				t.Errorf("%s: looks after %v, want %v", c.name, got, c.want)
			}
		})
	}
}

// An interface that cannot be seen is looked for again until it can.
func TestExternalThatCannotBeSeen(t *testing.T) {
	withExternal(t, Selection{}, func(x *externalFixture) {
		x.do(func() { x.host.err = errors.New("no answer") })
		looks := len(x.after(dataplane.Event{Lost: true}))
		if want := int(time.Minute / (lostRetry + followPause)); looks < want-1 || looks > want+1 {
			t.Errorf("%d looks in a minute, want %d", looks, want)
		}
		x.do(func() { x.host.err = nil })
		time.Sleep(time.Minute)
		x.do(func() {
			n := len(x.reports)
			if n != looks+1 || x.reports[n-1] != nil || x.reports[n-2] == nil {
				t.Errorf("reports %v after %d looks in vain", x.reports, looks)
			}
		})
	})
}

// With IPv6 wanted, too, one look at the interfaces serves both families; what is not there yet
// is looked for until it is, and a family that is not wanted any more is forgotten.
func TestExternalOfBothFamilies(t *testing.T) {
	withExternal(t, Selection{}, func(x *externalFixture) {
		both := ip.Subnet{V4: prefix("10.5.0.0/16"), V6: prefix("fc00::/48")}
		x.do(func() { x.families = nil })
		x.Want(both, x.External.host)
		time.Sleep(2500 * time.Millisecond)
		x.do(func() {
			if n := len(x.looks); slices.Contains(x.families, ip.V6) || n < 3 || x.listed != n {
				t.Errorf("reports of %v, %d looks, the interfaces listed %d times", x.families, n, x.listed)
			}
			x.host.ifaces[0] = dualIface("eth0", "192.0.2.1/24", "2001:db8::1/64")
			x.host.defaults6 = []kernel.DefaultRoute{{Iface: "eth0"}}
		})
		time.Sleep(time.Minute)
		x.do(func() {
			if !slices.Contains(x.families, ip.V6) || x.External.host.V6.Addr != netip.MustParseAddr("2001:db8::1") {
				t.Errorf("reports of %v, %+v", x.families, x.External.host)
			}
			x.families = nil
		})
		x.Want(ip.Subnet{V4: both.V4}, x.External.host)
		time.Sleep(time.Minute)
		x.do(func() {
			if !slices.Equal(x.families, []ip.Family{ip.V4}) || x.External.host.V6 != (backend.Underlay{}) {
				t.Errorf("reports of %v, %+v", x.families, x.External.host)
			}
		})
	})
}
