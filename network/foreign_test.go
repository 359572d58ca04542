package network

import (
	"math/rand/v2"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"

	"flanneld/pkg/dataplane/dataplanetest"
	"flanneld/pkg/state"
)

func TestForeignRouteStaysAndBlocks(t *testing.T) {
	fakeClock(t, func(r *fixture) {
		r.check(r.fake.AddLink("eth1"))
		r.check(r.fake.AddRoute(static(route(1, 9))))
		elsewhere := boot(state.Route{Dst: route(2, 9).Dst, Dev: "eth1"})
		r.check(r.fake.AddRoute(elsewhere))
		r.check(r.fake.AddRoute(static(route(3, 9)))) // of which there is no lease
		r.start()
		r.SetDesired(desire(lease(1, 1), lease(2, 2)))
		r.pass(time.Hour)
		r.wantRoutes(1, static(route(1, 9)))
		r.wantRoutes(2, elsewhere)
		r.wantRoutes(3, static(route(3, 9)))
		if want := (Status{Wanted: 2, Missing: 2}); r.lastStatus() != want {
			t.Errorf("status %+v", r.lastStatus())
		}

		// Gone at last, after many looks: there is nothing to wait for.
		r.check(r.fake.DelRoute(static(route(1, 9))))
		r.pass(debounce)
		r.wantRoutes(1, ours(route(1, 1)))
	})
}

func TestForeignRouteServes(t *testing.T) {
	fakeClock(t, func(r *fixture) {
		r.check(r.fake.AddRoute(static(route(1, 1))))
		r.start()
		r.SetDesired(desire(lease(1, 1)))
		r.pass(time.Hour)
		r.wantRoutes(1, static(route(1, 1)))
		if want := (Status{Wanted: 1}); r.lastStatus() != want {
			t.Errorf("status %+v", r.lastStatus())
		}
		r.check(r.fake.DelRoute(static(route(1, 1))))
		r.pass(debounce)
		r.wantRoutes(1, ours(route(1, 1)))
	})
}

// A route that was there at the last dump need not be there when a lease calls
// for it.
func TestForeignRouteServedOnce(t *testing.T) {
	fakeClock(t, func(r *fixture) {
		r.check(r.fake.AddRoute(static(route(1, 1))))
		r.start()
		r.SetDesired(desire())
		r.pass(time.Second)
		r.check(r.fake.DelRoute(static(route(1, 1))))
		r.pass(time.Second)
		r.SetDesired(desire(lease(1, 1)))
		r.pass(debounce)
		r.wantRoutes(1, ours(route(1, 1)))
	})
}

func TestRouteOfOlderFlannelIsAdopted(t *testing.T) {
	fakeClock(t, func(r *fixture) {
		r.check(r.fake.AddRoute(boot(route(1, 1))))
		r.check(r.fake.AddRoute(boot(route(2, 2))))
		r.start()
		r.SetDesired(desire(lease(1, 1)))
		synctest.Wait()
		r.wantRoutes(1, ours(route(1, 1)))
		r.wantRoutes(2, boot(route(2, 2)))
		r.SetDesired(desire(lease(1, 1), lease(2, 2)))
		r.pass(debounce)
		r.wantRoutes(2, ours(route(2, 2)))
		if d := deletions(r.fake.Applied()); d != nil {
			t.Errorf("traffic was cut: %v", d)
		}
	})
}

// What could be adopted at the last dump may have become someone else's since.
func TestAdoptableRouteThatBecameForeign(t *testing.T) {
	fakeClock(t, func(r *fixture) {
		r.check(r.fake.AddRoute(boot(route(1, 1))))
		r.start()
		r.SetDesired(desire())
		r.pass(time.Second)
		r.check(r.fake.ReplaceRoute(static(route(1, 9))))
		r.pass(time.Second)
		r.SetDesired(desire(lease(1, 1)))
		r.pass(time.Second)
		r.wantRoutes(1, static(route(1, 9)))
	})
}

func TestOursReplacedByForeign(t *testing.T) {
	fakeClock(t, func(r *fixture) {
		r.start()
		r.SetDesired(desire(lease(1, 1)))
		r.pass(time.Second)
		r.check(r.fake.ReplaceRoute(static(route(1, 9))))
		r.pass(time.Minute)
		r.wantRoutes(1, static(route(1, 9)))
		r.SetDesired(desire(lease(1, 2)))
		r.pass(time.Minute)
		r.wantRoutes(1, static(route(1, 9)))
		r.SetDesired(desire())
		r.pass(time.Minute)
		r.wantRoutes(1, static(route(1, 9)))
	})
}

// What is behind ours does no harm, and is no problem.
func TestForeignBehindOurs(t *testing.T) {
	fakeClock(t, func(r *fixture) {
		r.start()
		r.SetDesired(desire(lease(1, 1)))
		r.pass(time.Second)
		r.check(r.fake.AppendRoute(static(route(1, 9))))
		r.pass(time.Minute)
		r.wantRoutes(1, ours(route(1, 1)), static(route(1, 9)))
		r.SetDesired(desire(lease(1, 2)))
		r.pass(time.Minute)
		r.wantRoutes(1, ours(route(1, 2)), static(route(1, 9)))
		if want := (Status{Wanted: 1}); r.lastStatus() != want {
			t.Errorf("status %+v", r.lastStatus())
		}
		r.SetDesired(desire())
		r.pass(time.Minute)
		r.wantRoutes(1, static(route(1, 9)))
	})
}

// An unmarked route that leads elsewhere is replaced in place, one by our device, too;
// one with our mark behind it changes nothing.
func TestUnmarkedRouteIsReplaced(t *testing.T) {
	fakeClock(t, func(r *fixture) {
		r.check(r.fake.AddRoute(boot(route(1, 9))))
		r.check(r.fake.AddRoute(boot(route(2, 9))))
		r.check(r.fake.AppendRoute(ours(route(2, 2))))
		r.check(r.fake.AddRoute(boot(route(3, 9)))) // of which there is no lease
		r.start()
		r.SetDesired(desire(lease(1, 1), lease(2, 2)))
		r.pass(time.Second)
		r.wantRoutes(1, ours(route(1, 1)))
		r.wantRoutes(2, ours(route(2, 2)))
		r.wantRoutes(3, boot(route(3, 9)))
		r.check(r.fake.ReplaceRoute(boot(route(1, 9))))
		r.pass(debounce)
		r.wantRoutes(1, ours(route(1, 1)))
	})
}

// By a device that is left from another configuration, an unmarked route is the overlay's.
func TestUnmarkedRouteByDeviceOfOurs(t *testing.T) {
	fakeClock(t, func(r *fixture) {
		r.start()
		r.SetDesired(vxlanDesired(lease(1, 1)))
		r.pass(time.Second)
		r.check(r.fake.AddRoute(boot(state.Route{Dst: route(2, 2).Dst, Via: route(2, 2).Dst.Addr(), Dev: "flannel.1", Onlink: true})))
		r.SetDesired(desire(lease(2, 2)))
		r.pass(time.Second)
		r.wantRoutes(2, ours(route(2, 2)))
	})
}

// A second route with our mark goes, whichever of the two is wanted.
func TestSecondRouteWithOurMark(t *testing.T) {
	fakeClock(t, func(r *fixture) {
		r.start()
		r.SetDesired(desire(lease(1, 1)))
		r.pass(time.Second)
		r.check(r.fake.AppendRoute(ours(route(1, 2))))
		r.pass(time.Second)
		r.wantRoutes(1, ours(route(1, 1)))
		r.check(r.fake.AppendRoute(ours(route(1, 2))))
		r.SetDesired(desire(lease(1, 2)))
		r.pass(time.Second)
		r.wantRoutes(1, ours(route(1, 2)))
	})
}

// A route whose addition was said to fail, and did not, goes with its lease.
func TestLostAnswerLeavesNothingBehind(t *testing.T) {
	fakeClock(t, func(r *fixture) {
		r.fake.SetFaults(dataplanetest.Faults{Rand: rand.New(rand.NewPCG(1, 1)), LoseAnswer: 1})
		r.start()
		r.SetDesired(desire(lease(1, 1)))
		synctest.Wait()
		r.wantRoutes(1, ours(route(1, 1)))
		r.SetDesired(desire())
		r.pass(time.Second)
		r.wantRoutes(1)
	})
}

// A failure that has nothing foreign about it waits for its time, whatever else
// happens.
func TestFailureWaitsForItsTime(t *testing.T) {
	fakeClock(t, func(r *fixture) {
		r.fake.Refuse(route(1, 1).Key(), unix.ENOMEM)
		r.start()
		r.SetDesired(desire(lease(1, 1), lease(2, 2)))
		r.pass(10 * time.Minute)
		r.fake.Refuse(route(1, 1).Key(), nil)
		r.check(r.fake.DelRoute(ours(route(2, 2))))
		r.pass(debounce)
		r.wantRoutes(2, ours(route(2, 2)))
		r.pass(retryMost)
		r.wantRoutes(1, ours(route(1, 1)))
	})
}
