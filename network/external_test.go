package network

import (
	"errors"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"flanneld/backend"
	"flanneld/pkg/ip"
)

// Another interface is taken when it is certain that it stays the best: soon after the one
// in use is lost, later while that works. What is over before changes nothing.
func TestFollower(t *testing.T) {
	on := func(iface, addr string) backend.Host {
		return backend.Host{Iface: iface, Addr: ip.Addrs{V4: netip.MustParseAddr(addr)}, MTU: 1500, Up: true}
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
		want    backend.Host
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
		see func(x *External, good bool)
		bad string
	}{
		"lost": {func(x *External, good bool) {
			if good {
				x.logProblem(nil)
			} else {
				x.logProblem(errors.New("no address"))
			}
		}, "no address"},
		"down": {func(x *External, good bool) { x.logDown(backend.Host{Iface: "eth0", Up: good}) }, "eth0 is down"},
	} {
		log := klogged(t, func() {
			synctest.Test(t, func(*testing.T) {
				var x External
				see := func(good bool, during time.Duration) {
					for begin := time.Now(); time.Since(begin) < during; time.Sleep(time.Second / 2) {
						c.see(&x, good)
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
				x.logDown(backend.Host{Iface: "eth0"})
				time.Sleep(time.Second / 2)
				x.logDown(backend.Host{Iface: "eth0", Up: true})
			})
		}); blinks != "" {
			t.Errorf("what is over within a second is logged:\n%s", blinks)
		}
		if bad > 12 || bad < good+2 {
			t.Errorf("%s: logged %d times, and its end %d times:\n%s", name, bad, good, log)
		}
	}
}
