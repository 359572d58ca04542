package network

import (
	"errors"
	"math/rand/v2"
	"testing"
	"testing/synctest"
	"time"

	"flanneld/pkg/dataplane/dataplanetest"
	"flanneld/pkg/ip"
)

var errRefused = errors.New("refused")

func TestNothingHappensBeforeTheFirstDesiredState(t *testing.T) {
	fakeClock(t, func(r *fixture) {
		r.check(r.fake.AddRoute(ours(route(1, 1))))
		r.start()
		r.pass(time.Hour)
		r.wantRoutes(1, ours(route(1, 1)))
		if r.fake.Dumps() != 0 || r.isReady() {
			t.Errorf("%d dumps, ready: %v", r.fake.Dumps(), r.isReady())
		}
		r.SetDesired(desire(lease(2, 2)))
		synctest.Wait()
		r.wantRoutes(1)
		r.wantRoutes(2, ours(route(2, 2)))
	})
}

func TestReadyAfterTheFirstPassEvenIfAnObjectFails(t *testing.T) {
	fakeClock(t, func(r *fixture) {
		r.fake.Refuse(route(1, 1).Key(), errRefused)
		r.start()
		r.SetDesired(desire(lease(1, 1), lease(2, 2)))
		synctest.Wait()
		if !r.isReady() {
			t.Error("not ready")
		}
		if want := (Status{Wanted: 2, Missing: 1}); r.lastStatus() != want {
			t.Errorf("status %+v", r.lastStatus())
		}
	})
}

func TestInterruptedDumpChangesNothing(t *testing.T) {
	fakeClock(t, func(r *fixture) {
		r.check(r.fake.AddRoute(ours(route(1, 1))))
		r.fake.InterruptDumps(3)
		r.start()
		r.SetDesired(desire(lease(2, 2)))
		r.pass(2500 * time.Millisecond)
		if r.fake.Dumps() != 3 || r.fake.Applied() != nil || r.isReady() {
			t.Errorf("%d dumps, applied %v, ready: %v", r.fake.Dumps(), r.fake.Applied(), r.isReady())
		}
		r.pass(time.Second)
		r.wantRoutes(1)
		r.wantRoutes(2, ours(route(2, 2)))
		if !r.isReady() {
			t.Error("not ready")
		}
	})
}

func TestUnreadableLeaseKeepsItsObject(t *testing.T) {
	fakeClock(t, func(r *fixture) {
		r.check(r.fake.AddRoute(ours(route(1, 1))))
		r.start()
		w := desire(lease(2, 2))
		w.Unreadable = []ip.Subnet{peerSubnet(1)}
		r.SetDesired(w)
		r.pass(time.Hour)
		r.wantRoutes(1, ours(route(1, 1)))

		// A lease that was good and is not any more keeps its object, too.
		w = desire()
		w.Unreadable = []ip.Subnet{peerSubnet(1), peerSubnet(2)}
		r.SetDesired(w)
		r.pass(time.Hour)
		r.wantRoutes(1, ours(route(1, 1)))
		r.wantRoutes(2, ours(route(2, 2)))

		r.SetDesired(desire())
		synctest.Wait()
		r.wantRoutes(1)
		r.wantRoutes(2)
	})
}

// What is kept and deleted meanwhile is not taken to be there.
func TestUnreadableLeaseBecomesReadable(t *testing.T) {
	fakeClock(t, func(r *fixture) {
		r.start()
		r.SetDesired(desire(lease(1, 1)))
		synctest.Wait()
		w := desire()
		w.Unreadable = []ip.Subnet{peerSubnet(1)}
		r.SetDesired(w)
		synctest.Wait()
		r.check(r.fake.DelRoute(ours(route(1, 1))))
		r.pass(time.Second)
		r.SetDesired(desire(lease(1, 1)))
		synctest.Wait()
		r.wantRoutes(1, ours(route(1, 1)))
	})
}

func TestOneFailureDoesNotStopOthers(t *testing.T) {
	fakeClock(t, func(r *fixture) {
		r.check(r.fake.AddRoute(ours(route(9, 9))))
		r.fake.Refuse(route(1, 1).Key(), errRefused)
		r.start()
		r.SetDesired(desire(lease(1, 1), lease(2, 2), lease(3, 3)))
		synctest.Wait()
		r.wantRoutes(1)
		r.wantRoutes(2, ours(route(2, 2)))
		r.wantRoutes(3, ours(route(3, 3)))
		r.wantRoutes(9)

		r.SetDesired(desire(lease(1, 1), lease(2, 2), lease(3, 4), lease(4, 4)))
		synctest.Wait()
		r.wantRoutes(3, ours(route(3, 4)))
		r.wantRoutes(4, ours(route(4, 4)))
	})
}

func TestBackoffOfOneObject(t *testing.T) {
	fakeClock(t, func(r *fixture) {
		r.fake.Refuse(route(1, 1).Key(), errRefused)
		r.start()
		r.SetDesired(desire(lease(1, 1)))
		synctest.Wait()
		r.pass(10 * time.Minute)
		before := r.fake.Dumps()
		r.pass(10 * time.Minute)
		// A retry each 22.5 to 30 s.
		if n := r.fake.Dumps() - before; n < 20 || n > 27 {
			t.Errorf("%d retries in ten minutes", n)
		}

		// It is tried at once if what is desired changes.
		r.fake.Refuse(route(1, 1).Key(), nil)
		r.SetDesired(desire(lease(1, 2)))
		r.pass(debounce)
		r.wantRoutes(1, ours(route(1, 2)))
		if want := (Status{Wanted: 1}); r.lastStatus() != want {
			t.Errorf("status %+v", r.lastStatus())
		}
	})
}

func TestBackoffBeginsShort(t *testing.T) {
	fakeClock(t, func(r *fixture) {
		r.fake.Refuse(route(1, 1).Key(), errRefused)
		r.start()
		r.SetDesired(desire(lease(1, 1)))
		synctest.Wait()
		r.fake.Refuse(route(1, 1).Key(), nil)
		r.pass(retryFirst)
		r.wantRoutes(1, ours(route(1, 1)))
	})
}

func TestDeletedRouteIsRestored(t *testing.T) {
	fakeClock(t, func(r *fixture) {
		r.start()
		r.SetDesired(desire(lease(1, 1)))
		r.pass(time.Second)
		r.check(r.fake.DelRoute(ours(route(1, 1))))
		r.pass(debounce)
		r.wantRoutes(1, ours(route(1, 1)))
		r.check(r.fake.ReplaceRoute(ours(route(1, 2))))
		r.pass(debounce)
		r.wantRoutes(1, ours(route(1, 1)))
	})
}

func TestLostEventsAreMadeUpFor(t *testing.T) {
	fakeClock(t, func(r *fixture) {
		r.start()
		r.SetDesired(desire(lease(1, 1)))
		r.pass(time.Second)
		r.fake.SetFaults(dataplanetest.Faults{Rand: rand.New(rand.NewPCG(1, 1)), LoseEvent: 1})
		r.check(r.fake.DelRoute(ours(route(1, 1))))
		r.pass(debounce)
		r.wantRoutes(1, ours(route(1, 1)))
	})
}

func TestRouteWithOurMarkThatNobodyWantsIsRemoved(t *testing.T) {
	fakeClock(t, func(r *fixture) {
		r.start()
		r.SetDesired(desire())
		r.pass(time.Second)
		r.check(r.fake.AddRoute(ours(route(1, 1))))
		r.pass(debounce)
		r.wantRoutes(1)
	})
}

func TestLinkDownAndUpHeals(t *testing.T) {
	fakeClock(t, func(r *fixture) {
		r.start()
		r.SetDesired(desire(lease(1, 1), lease(2, 2)))
		r.pass(time.Second)
		r.check(r.fake.SetLink("eth0", false))
		r.pass(time.Hour) // the pauses between retries are long by now
		r.wantRoutes(1)
		if r.lastStatus().Missing != 2 {
			t.Errorf("status %+v", r.lastStatus())
		}
		r.check(r.fake.SetLink("eth0", true))
		r.pass(debounce)
		r.wantRoutes(1, ours(route(1, 1)))
		r.wantRoutes(2, ours(route(2, 2)))
	})
}

func TestLinkRecreatedHeals(t *testing.T) {
	fakeClock(t, func(r *fixture) {
		r.start()
		r.SetDesired(desire(lease(1, 1)))
		r.pass(time.Second)
		r.check(r.fake.DelLink("eth0"))
		r.pass(time.Hour)
		r.check(r.fake.AddLink("eth0"))
		r.pass(time.Minute)
		r.check(r.fake.AddAddr("eth0", hostNet))
		r.pass(debounce)
		r.wantRoutes(1, ours(route(1, 1)))
	})
}

// A lease that comes right after the link was made anew is not lost.
func TestDesiredStateRightAfterLinkRecreated(t *testing.T) {
	fakeClock(t, func(r *fixture) {
		r.start()
		r.SetDesired(desire(lease(1, 1)))
		r.pass(time.Second)
		r.check(r.fake.DelLink("eth0"))
		r.check(r.fake.AddLink("eth0"))
		r.check(r.fake.AddAddr("eth0", hostNet))
		r.SetDesired(desire(lease(1, 1), lease(2, 2)))
		r.pass(debounce)
		r.wantRoutes(1, ours(route(1, 1)))
		r.wantRoutes(2, ours(route(2, 2)))
	})
}

// A desired state that changes is followed without a dump of everything.
func TestQuickPass(t *testing.T) {
	fakeClock(t, func(r *fixture) {
		r.start()
		r.SetDesired(desire(lease(1, 1)))
		r.pass(time.Second)
		before := r.fake.Dumps()
		r.SetDesired(desire(lease(1, 2), lease(2, 2)))
		synctest.Wait()
		r.SetDesired(desire(lease(2, 2)))
		r.pass(time.Second)
		r.wantRoutes(1)
		r.wantRoutes(2, ours(route(2, 2)))
		if n := r.fake.Dumps() - before; n > 0 {
			t.Errorf("%d dumps", n)
		}
	})
}

func TestStoppingLeavesForwardingInPlace(t *testing.T) {
	var fake *dataplanetest.Fake
	t.Run("a run", func(t *testing.T) {
		fakeClock(t, func(r *fixture) {
			fake = r.fake
			r.start()
			r.SetDesired(desire(lease(1, 1)))
			r.pass(time.Second)
		})
	})
	if got := fake.Routes(peerSubnet(1).V4); len(got) != 1 || deletions(fake.Applied()) != nil {
		t.Errorf("routes %v, deleted %v", got, deletions(fake.Applied()))
	}
}

func TestResyncRepairsWhatNoEventReported(t *testing.T) {
	fakeClock(t, func(r *fixture) {
		r.start()
		r.SetDesired(desire(lease(1, 1)))
		r.pass(time.Second)
		r.fake.SetDeaf(true)
		r.check(r.fake.DelRoute(ours(route(1, 1))))
		r.pass(resync)
		r.wantRoutes(1, ours(route(1, 1)))
	})
}
