package network

import (
	"testing"
	"time"

	"flanneld/pkg/state"
	"flanneld/subnet"
)

// partial is a desired state made of what was saved once.
func partial(w Desired) Desired {
	w.Partial = true
	return w
}

// Before the leases are known, what is missing is added, and nothing that is there is
// deleted or changed: neither what is for a peer that was not saved, nor what leads to one
// by another way.
func TestPartialDesiredStateAddsAndKeeps(t *testing.T) {
	gw := func(n, via int) *subnet.Lease { return written(lease(n, via)) }
	for name, c := range map[string]struct {
		lease func(n, via int) *subnet.Lease
		spec  func(...*subnet.Lease) Desired
	}{
		"host-gw":             {gw, desire},
		"host-gw by nexthops": {gw, largeDesired},
		"vxlan":               {vxlanLease, vxlanDesired},
		"vxlan by nexthops":   {vxlanLease, largeVxlanDesired},
		"vxlan, direct":       {vxlanLease, directDesired},
	} {
		t.Run(name, func(t *testing.T) {
			fakeClock(t, func(r *fixture) {
				same, before, moved, joined, known := c.lease(1, 1), c.lease(2, 2), c.lease(2, 5), c.lease(3, 3), c.lease(4, 4)
				there := c.spec(same, moved, joined)
				r.there(there)
				r.start()
				r.SetDesired(partial(c.spec(same, before, known)))
				for range 3 {
					r.pass(resync)
					if why := r.unlike(there); why != "" {
						t.Error(why)
					}
					if why := r.unlike(c.spec(known)); why != "" {
						t.Error(why)
					}
				}
				if !r.isReady() {
					t.Error("not ready")
				}
				for _, op := range r.fake.Applied() {
					if op.Verb != state.Create {
						t.Error(op)
					}
				}
				if s := r.lastStatus(); s.Missing != 0 {
					t.Errorf("status %+v", s)
				}
				now := c.spec(same, moved, known)
				r.SetDesired(now)
				r.pass(time.Second)
				r.wantOnly(now)
			})
		})
	}
}

// What was as saved at first, and is not any more, is put right all the same: nobody but
// this daemon learns where peers are.
func TestPartialDesiredStateRepairs(t *testing.T) {
	fakeClock(t, func(r *fixture) {
		w := partial(vxlanDesired(vxlanLease(1, 1), vxlanLease(2, 2)))
		r.there(w)
		r.start()
		r.SetDesired(w)
		r.pass(time.Second)
		r.check(r.fake.DelRoute(ours(tunnel(1))))
		r.check(r.fake.AddRoute(ours(route(1, 7))))
		r.check(r.fake.DelFDB(fdb(2)))
		r.pass(time.Second)
		if why := r.unlike(w); why != "" {
			t.Error(why)
		}
		r.check(r.fake.DelLink("flannel.1"))
		r.pass(time.Second)
		if why := r.unlike(w); why != "" {
			t.Error(why)
		}
	})
}

// A route by what is not the external interface any more leads nowhere.
func TestPartialDesiredStateLeavesAFormerInterface(t *testing.T) {
	fakeClock(t, func(r *fixture) {
		r.check(r.fake.AddLink("eth1"))
		r.check(r.fake.AddAddr("eth1", hostNet))
		former := route(1, 1)
		former.Dev = "eth1"
		r.check(r.fake.AddRoute(ours(former)))
		r.start()
		r.SetDesired(partial(desire(lease(1, 1))))
		r.pass(time.Second)
		r.wantRoutes(1, ours(route(1, 1)))
	})
}

// What flannel made, which ran here in between, may be newer than the file, too.
func TestPartialDesiredStateLeavesAnUnmarkedRoute(t *testing.T) {
	fakeClock(t, func(r *fixture) {
		r.check(r.fake.AddRoute(boot(route(1, 9))))
		r.check(r.fake.AddRoute(boot(route(2, 2))))
		r.start()
		w := desire(lease(1, 1), lease(2, 2))
		r.SetDesired(partial(w))
		r.pass(time.Minute)
		r.wantRoutes(1, boot(route(1, 9)))
		r.wantRoutes(2, ours(route(2, 2)))
		r.SetDesired(w)
		r.pass(time.Second)
		r.wantRoutes(1, ours(route(1, 1)))
	})
}

// Nor is what we have behind an unmarked route deleted to replace that one.
func TestPartialDesiredStateKeepsWhatIsBehindAnUnmarkedRoute(t *testing.T) {
	fakeClock(t, func(r *fixture) {
		r.check(r.fake.AddRoute(boot(route(1, 9))))
		r.check(r.fake.AppendRoute(ours(route(1, 1))))
		r.start()
		w := desire(lease(1, 1))
		r.SetDesired(partial(w))
		r.pass(time.Minute)
		r.wantRoutes(1, boot(route(1, 9)), ours(route(1, 1)))
		r.SetDesired(w)
		r.pass(time.Second)
		r.wantRoutes(1, ours(route(1, 1)))
	})
}

// What is wanted for no peer is this host's own, and put right whatever was saved.
func TestPartialDesiredStatePutsRightWhatIsLocal(t *testing.T) {
	want, is := route(1, 1), route(1, 9)
	for _, local := range []bool{false, true} {
		d := planeDesired{want: state.Set{want.Key(): want}, bounds: bounds{
			spec: partial(desire()), devices: make(map[string]bool), local: map[state.Key]bool{want.Key(): local},
		}}
		newer := d.newer(state.Observed{is.Key(): {Object: is, Owner: state.Ours}}, nil)
		if newer[want.Key()] == local {
			t.Errorf("wanted for this host itself %t: left as it is %t", local, newer[want.Key()])
		}
	}
}
