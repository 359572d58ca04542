package network

import (
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"flanneld/pkg/dataplane/dataplanetest"
	"flanneld/pkg/ip"
	"flanneld/pkg/state"
)

// wantApplied checks the steps that took effect, but for so many first ones.
func (r *fixture) wantApplied(from int, want ...state.Op) {
	r.Helper()
	if got := r.fake.Applied()[from:]; !slices.Equal(got, want) {
		r.Fatalf("the steps are %v, want %v", got, want)
	}
}

// A nexthop comes before the route that refers to it, and goes after it.
func TestNexthopOrder(t *testing.T) {
	fakeClock(t, func(r *fixture) {
		r.start()
		r.SetDesired(largeDesired(lease(1, 1)))
		r.pass(time.Second)
		r.wantApplied(0, state.Op{Verb: state.Create, Want: nexthop(1, 1)}, state.Op{Verb: state.Create, Want: byNexthop(1, 1)})
		r.wantRoutes(1, ours(byNexthop(1, 1)))

		// Another host has the subnet: its routes stay as they are.
		r.SetDesired(largeDesired(lease(1, 2)))
		r.pass(time.Second)
		r.wantApplied(2, state.Op{Verb: state.Replace, Want: nexthop(1, 2), Have: nexthop(1, 1)})
		r.wantRoutes(1, ours(byNexthop(1, 2)))

		r.SetDesired(largeDesired())
		r.pass(time.Hour)
		got := r.fake.Applied()[3:]
		if len(got) != 2 || got[0].Key() != route(1, 1).Key() || got[1].Key() != nexthop(1, 1).Key() {
			t.Errorf("the steps are %v", got)
		}
		r.wantRoutes(1)
		r.wantNexthops()
		if r.fake.Dumps() > 20 {
			t.Errorf("%d dumps", r.fake.Dumps())
		}
	})
}

// To nexthops and back, no route is absent for a moment.
func TestChangeToNexthopsAndBack(t *testing.T) {
	fakeClock(t, func(r *fixture) {
		r.check(r.fake.AddRoute(boot(route(3, 3))))
		r.start()
		r.SetDesired(desire(lease(1, 1), lease(2, 2)))
		r.pass(time.Second)
		r.SetDesired(largeDesired(lease(1, 1), lease(2, 2), lease(3, 3)))
		r.pass(time.Second)
		for n := 1; n <= 3; n++ {
			r.wantRoutes(n, ours(byNexthop(n, n)))
		}
		r.wantNexthops(nexthop(1, 1), nexthop(2, 2), nexthop(3, 3))
		if d := deletions(r.fake.Applied()); d != nil {
			t.Errorf("deleted %q", d)
		}
		if want := (Status{Wanted: 6}); r.lastStatus() != want {
			t.Errorf("status %+v", r.lastStatus())
		}

		r.SetDesired(desire(lease(1, 1), lease(2, 2), lease(3, 3)))
		r.pass(time.Second)
		for n := 1; n <= 3; n++ {
			r.wantRoutes(n, ours(route(n, n)))
		}
		r.wantNexthops()
		for _, op := range r.fake.Applied() {
			if op.Verb == state.Delete && op.Key().Kind == state.KindRoute {
				t.Error(op)
			}
		}
	})
}

// A daemon that starts finds what an earlier one left, of either kind.
func TestNexthopsOfEarlierTimes(t *testing.T) {
	for name, first := range map[string]Desired{"small": desire(lease(1, 2), lease(2, 2)), "large": largeDesired(lease(1, 2), lease(2, 2))} {
		t.Run(name, func(t *testing.T) {
			fakeClock(t, func(r *fixture) {
				old := nexthop(1, 1)
				r.check(r.fake.AddNexthop(dataplanetest.Nexthop{Nexthop: old, Protocol: dataplanetest.ProtoOurs}))
				r.check(r.fake.AddNexthop(dataplanetest.Nexthop{Nexthop: nexthop(9, 9), Protocol: dataplanetest.ProtoOurs}))
				r.check(r.fake.AddRoute(ours(byNexthop(1, 1))))
				r.check(r.fake.AddRoute(ours(byNexthop(9, 9))))
				r.check(r.fake.AddRoute(ours(route(2, 1))))
				r.start()
				r.SetDesired(first)
				r.pass(time.Second)
				r.wantRoutes(9)
				if first.Host.Nexthops {
					r.wantRoutes(1, ours(byNexthop(1, 2)))
					r.wantRoutes(2, ours(byNexthop(2, 2)))
					r.wantNexthops(nexthop(1, 2), nexthop(2, 2))
				} else {
					r.wantRoutes(1, ours(route(1, 2)))
					r.wantRoutes(2, ours(route(2, 2)))
					r.wantNexthops()
				}
			})
		})
	}
}

func TestUnreadableLeaseKeepsItsNexthop(t *testing.T) {
	fakeClock(t, func(r *fixture) {
		r.start()
		r.SetDesired(largeDesired(lease(1, 1), lease(2, 2)))
		r.pass(time.Second)
		for _, w := range []Desired{largeDesired(lease(2, 2)), desire(lease(2, 2)), largeDesired()} {
			w.Unreadable = []ip.Subnet{peerSubnet(1)}
			r.SetDesired(w)
			r.pass(time.Hour)
			r.wantRoutes(1, ours(byNexthop(1, 1)))
		}
		r.wantNexthops(nexthop(1, 1))
		r.SetDesired(largeDesired())
		r.pass(time.Second)
		r.wantRoutes(1)
		r.wantNexthops()
	})
}

// With a nexthop, the route that refers to it goes, and nothing is told of that
// route.
func TestNexthopsChangedByHand(t *testing.T) {
	fakeClock(t, func(r *fixture) {
		r.start()
		r.SetDesired(largeDesired(lease(1, 1), lease(2, 2)))
		heals := func() {
			t.Helper()
			r.pass(debounce)
			r.wantRoutes(1, ours(byNexthop(1, 1)))
			r.wantRoutes(2, ours(byNexthop(2, 2)))
			r.wantNexthops(nexthop(1, 1), nexthop(2, 2))
			r.pass(time.Second)
		}
		heals()
		r.check(r.fake.DelNexthop(nexthop(1, 1).ID))
		heals()
		r.check(r.fake.ReplaceNexthop(dataplanetest.Nexthop{Nexthop: nexthop(1, 9), Protocol: dataplanetest.ProtoOurs}))
		heals()
		r.check(r.fake.ReplaceRoute(ours(route(1, 1))))
		heals()
		r.check(r.fake.AddNexthop(dataplanetest.Nexthop{Nexthop: nexthop(9, 9), Protocol: dataplanetest.ProtoOurs}))
		heals()
		r.check(r.fake.SetLink("eth0", false))
		r.pass(time.Hour)
		r.wantNexthops()
		if want := (Status{Wanted: 4, Missing: 4}); r.lastStatus() != want {
			t.Errorf("status %+v", r.lastStatus())
		}
		r.check(r.fake.SetLink("eth0", true))
		heals()
		if want := (Status{Wanted: 4}); r.lastStatus() != want {
			t.Errorf("status %+v", r.lastStatus())
		}
	})
}

// Where a number is taken, nothing is led astray: what was there before stays.
func TestForeignNexthop(t *testing.T) {
	for name, w := range map[string]Desired{"from the start": largeDesired(), "later": desire(lease(1, 1))} {
		t.Run(name, func(t *testing.T) {
			fakeClock(t, func(r *fixture) {
				foreign := dataplanetest.Nexthop{Nexthop: nexthop(1, 9), Protocol: dataplanetest.ProtoStatic}
				r.check(r.fake.AddNexthop(foreign))
				r.start()
				r.SetDesired(w)
				r.pass(time.Second)
				before := r.fake.Routes(peerSubnet(1).V4)
				r.SetDesired(largeDesired(lease(1, 1), lease(2, 2)))
				r.pass(time.Hour)
				r.wantRoutes(1, before...)
				r.wantRoutes(2, ours(byNexthop(2, 2)))
				if want := (Status{Wanted: 4, Missing: 2}); r.lastStatus() != want {
					t.Errorf("status %+v", r.lastStatus())
				}
				r.check(r.fake.DelNexthop(foreign.ID))
				r.pass(debounce)
				r.wantRoutes(1, ours(byNexthop(1, 1)))
				r.wantNexthops(nexthop(1, 1), nexthop(2, 2))
			})
		})
	}
}

// A nexthop that fails is one failure to tell of; its route waits, as it is.
func TestNexthopFails(t *testing.T) {
	got := lines(t, func(r *fixture) {
		r.start()
		r.SetDesired(desire(lease(1, 1)))
		r.pass(time.Second)
		r.fake.Refuse(nexthop(1, 1).Key(), errRefused)
		r.fake.Refuse(nexthop(2, 2).Key(), errRefused)
		r.SetDesired(largeDesired(lease(1, 1), lease(2, 2)))
		r.pass(time.Hour)
		r.wantRoutes(1, ours(route(1, 1)))
		if want := (Status{Wanted: 4, Missing: 4}); r.lastStatus() != want {
			r.Errorf("status %+v", r.lastStatus())
		}
		r.fake.Refuse(nexthop(1, 1).Key(), nil)
		r.fake.Refuse(nexthop(2, 2).Key(), nil)
		r.pass(retryMost)
		r.wantRoutes(1, ours(byNexthop(1, 1)))
		r.wantRoutes(2, ours(byNexthop(2, 2)))
	})
	failures := 0
	for _, line := range got {
		if strings.HasSuffix(line, ": refused") {
			failures++
		}
		if strings.Contains(line, errUnmet.Error()) {
			t.Error(line)
		}
	}
	if failures != 1 { // for both, for they failed alike
		t.Errorf("logged %q", got)
	}
}

// A nexthop stays for as long as a route that can't be changed refers to it.
func TestRouteFailsOnTheWayBack(t *testing.T) {
	fakeClock(t, func(r *fixture) {
		r.start()
		r.SetDesired(largeDesired(lease(1, 1), lease(2, 2)))
		r.pass(time.Second)
		r.fake.Refuse(route(1, 1).Key(), errRefused)
		r.SetDesired(desire(lease(1, 1), lease(2, 2)))
		synctest.Wait()
		r.wantRoutes(1, ours(byNexthop(1, 1)))
		r.wantRoutes(2, ours(route(2, 2)))
		r.pass(time.Hour)
		r.wantRoutes(1, ours(byNexthop(1, 1)))
		// A pass for another reason does not cut what is not due.
		r.check(r.fake.DelRoute(ours(route(2, 2))))
		r.pass(debounce)
		r.wantRoutes(2, ours(route(2, 2)))
		r.wantRoutes(1, ours(byNexthop(1, 1)))
		r.wantNexthops(nexthop(1, 1))
		r.fake.Refuse(route(1, 1).Key(), nil)
		r.pass(retryMost)
		r.wantRoutes(1, ours(route(1, 1)))
		r.wantNexthops()
		if want := (Status{Wanted: 2}); r.lastStatus() != want {
			t.Errorf("status %+v", r.lastStatus())
		}
	})
}
