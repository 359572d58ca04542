package network

import (
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"

	"flanneld/backend"
	"flanneld/pkg/dataplane/dataplanetest"
	"flanneld/pkg/state"
	"flanneld/subnet"
)

// READY is said when the device and its address are in place, and the interface
// is up; whatever else may be missing.
func TestReadyWithTheDevice(t *testing.T) {
	w := vxlanDesired(vxlanLease(1, 1), vxlanLease(2, 2))
	for _, c := range []struct {
		name  string
		spec  Desired
		spoil func(*fixture)
		mend  func(*fixture)
		late  time.Duration
	}{
		{"nothing", w, func(*fixture) {}, nil, 0},
		{"an entry fails", w, func(r *fixture) { r.fake.Refuse(fdb(1).Key(), errRefused) }, nil, 0},
		{"the device fails", w, func(r *fixture) { r.fake.Refuse(device().Key(), errRefused) }, func(r *fixture) { r.fake.Refuse(device().Key(), nil) }, retryMost},
		{"the address fails", w, func(r *fixture) { r.fake.Refuse(ownAddr.Key(), errRefused) }, func(r *fixture) { r.fake.Refuse(ownAddr.Key(), nil) }, retryMost},
		{"no interface", w, func(r *fixture) { r.check(r.fake.DelLink("eth0")) }, func(r *fixture) { r.check(r.fake.AddLink("eth0")) }, debounce},
		{"interface down", func() Desired { v := w; v.Host.V4.Up = false; return v }(), func(r *fixture) { r.check(r.fake.SetLink("eth0", false)) }, func(r *fixture) {
			r.check(r.fake.SetLink("eth0", true))
			r.SetDesired(w)
		}, debounce},
		{"another device", w, func(r *fixture) {
			v := device()
			v.Port = 4789
			r.check(r.fake.AddVXLAN(v))
			r.check(r.fake.AddAddr(v.Name, ownAddr.Prefix))
			r.fake.Refuse(ownAddr.Key(), errRefused)
		}, func(r *fixture) { r.fake.Refuse(ownAddr.Key(), nil) }, retryMost},
		{"an old device that stays", w, func(r *fixture) {
			v := device()
			v.Name, v.VNI = "flannel.2", 2
			r.check(r.fake.AddVXLAN(v))
			r.check(r.fake.AddAddr(v.Name, ownAddr.Prefix))
			r.fake.Refuse(v.Key(), errRefused)
		}, nil, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			fakeClock(t, func(r *fixture) {
				c.spoil(r)
				r.start()
				r.SetDesired(c.spec)
				if c.mend != nil {
					r.pass(time.Hour)
					if r.isReady() {
						t.Error("ready")
					}
					c.mend(r)
				}
				r.pass(c.late)
				if !r.isReady() {
					t.Error("not ready")
				}
			})
		})
	}
}

// A device that is made anew has all that was on it in the same pass.
func TestDeviceMadeAnewAtOnce(t *testing.T) {
	fakeClock(t, func(r *fixture) {
		r.there(backendDesired(&subnet.Config{}, `{"Port":4789}`, vxlanLease(1, 1), vxlanLease(2, 2)))
		r.fake.SetDeaf(true)
		r.start()
		w := vxlanDesired(vxlanLease(1, 1), vxlanLease(2, 2))
		r.SetDesired(w)
		r.heals(w, 0)
		if n := r.fake.Dumps(); n != 1 {
			t.Errorf("%d dumps", n)
		}
		w.Own = &subnet.Lease{Subnet: w.Own.Subnet, Attrs: w.Own.Attrs}
		w.Own.BackendData = vtepData(hostMAC(99)) // with it, a kernel drops the neighbours
		r.SetDesired(w)
		r.heals(w, debounce)
		if n := r.fake.Dumps(); n != 2 {
			t.Errorf("%d dumps", n)
		}
	})
}

// No packet is led into a tunnel that has no other end, and none loses the way
// that it still goes.
func TestVxlanDependencies(t *testing.T) {
	direct, tunnelled := route(1, 1), tunnel(1)
	largeDirect := directDesired(vxlanLease(1, 1))
	largeDirect.Host.Nexthops = true
	directHop, tunnelledHop := byNexthop(1, 1), tunnelByNexthop(1)
	for name, c := range map[string]struct {
		from, to Desired
		refused  state.Key
		want     state.Route // then
	}{
		"neighbour":       {desire(lease(1, 1)), vxlanDesired(vxlanLease(1, 1)), neigh(1, 1).Key(), direct},
		"FDB entry":       {desire(lease(1, 1)), vxlanDesired(vxlanLease(1, 1)), fdb(1).Key(), direct},
		"device":          {desire(lease(1, 1)), vxlanDesired(vxlanLease(1, 1)), device().Key(), direct},
		"FDB entry, hop":  {largeDesired(lease(1, 1)), largeVxlanDesired(vxlanLease(1, 1)), fdb(1).Key(), directHop},
		"nexthop":         {largeDesired(lease(1, 1)), largeVxlanDesired(vxlanLease(1, 1)), tunnelHop(1).Key(), directHop},
		"route":           {vxlanDesired(vxlanLease(1, 1)), directDesired(vxlanLease(1, 1)), direct.Key(), tunnelled},
		"hop of a route":  {vxlanDesired(vxlanLease(1, 1)), largeDirect, tunnelHop(1).Key(), tunnelled},
		"route of no one": {vxlanDesired(vxlanLease(1, 1)), vxlanDesired(), direct.Key(), tunnelled},
		"route, by hops":  {largeVxlanDesired(vxlanLease(1, 1)), vxlanDesired(), direct.Key(), tunnelledHop},
	} {
		t.Run(name, func(t *testing.T) {
			fakeClock(t, func(r *fixture) {
				r.start()
				r.SetDesired(c.from)
				r.pass(time.Second)
				r.fake.Refuse(c.refused, unix.ENOMEM)
				r.SetDesired(c.to)
				for range 3 {
					r.pass(time.Hour)
					r.wantRoutes(1, ours(c.want))
					if c.want.Onlink {
						r.wantOn([]state.Neigh{neigh(1, 1)}, []state.FDB{fdb(1)}, ownAddr.Prefix)
					}
					r.check(r.fake.AddRoute(ours(route(9, 9)))) // reason for a full pass
				}
				r.fake.Refuse(c.refused, nil)
				r.pass(2 * retryMost)
				r.wantOnly(c.to)
			})
		})
	}
}

// A quick pass, too, leaves what something still uses that could not be changed.
func TestQuickPassAfterFailure(t *testing.T) {
	fakeClock(t, func(r *fixture) {
		second := farLease(2, 1)
		r.start()
		r.SetDesired(directDesired(farLease(1, 1), second))
		r.pass(time.Second)
		r.fake.Refuse(route(1, 1).Key(), errRefused)
		r.SetDesired(directDesired(vxlanLease(1, 1), second))
		r.pass(time.Second)
		r.SetDesired(directDesired(vxlanLease(1, 1)))
		r.pass(time.Second)
		r.wantRoutes(1, ours(tunnel(1)))
		r.wantRoutes(2)
		if n := len(r.fake.FDBs("flannel.1")); n != 1 {
			t.Errorf("%d FDB entries", n)
		}
		r.fake.Refuse(route(1, 1).Key(), nil)
		r.pass(2 * retryMost)
		r.wantOnly(directDesired(vxlanLease(1, 1)))
	})
}

// A device that cannot have its MTU does not keep new peers out.
func TestDeviceThatCannotBeAltered(t *testing.T) {
	fakeClock(t, func(r *fixture) {
		r.start()
		r.SetDesired(vxlanDesired(vxlanLease(1, 1)))
		r.pass(time.Second)
		r.fake.Refuse(device().Key(), errRefused)
		w := vxlanDesired(vxlanLease(1, 1), vxlanLease(2, 2))
		w.Host.V4.MTU = 1400
		r.SetDesired(w)
		r.pass(time.Second)
		r.wantOn([]state.Neigh{neigh(1, 1), neigh(2, 2)}, []state.FDB{fdb(1), fdb(2)}, ownAddr.Prefix)
		r.wantRoutes(2, ours(tunnel(2)))
		if want := (Status{Wanted: 8, Missing: 1}); r.lastStatus() != want {
			t.Errorf("status %+v", r.lastStatus())
		}
	})
}

// Where something of someone else is in the way of a route, the rest is there.
func TestForeignRouteIntoTheTunnel(t *testing.T) {
	fakeClock(t, func(r *fixture) {
		r.check(r.fake.AddRoute(static(route(1, 9))))
		r.start()
		r.SetDesired(vxlanDesired(vxlanLease(1, 1)))
		r.pass(time.Second)
		r.wantRoutes(1, static(route(1, 9)))
		r.wantOn([]state.Neigh{neigh(1, 1)}, []state.FDB{fdb(1)}, ownAddr.Prefix)
		// The same way, but not ours: it serves.
		r.check(r.fake.ReplaceRoute(dataplanetest.Route{Route: tunnel(1), Protocol: dataplanetest.ProtoStatic}))
		r.pass(time.Hour)
		r.wantRoutes(1, static(tunnel(1)))
		if want := (Status{Wanted: 5}); r.lastStatus() != want {
			t.Errorf("status %+v", r.lastStatus())
		}
	})
}

// The device comes back with its interface even if that took long.
func TestVxlanLongWithoutInterface(t *testing.T) {
	fakeClock(t, func(r *fixture) {
		w := vxlanDesired(vxlanLease(1, 1))
		r.start()
		r.SetDesired(w)
		r.pass(time.Second)
		r.check(r.fake.DelLink("eth0"))
		r.pass(24 * time.Hour)
		if want := (Status{Wanted: 5, Missing: 5}); r.lastStatus() != want {
			t.Errorf("status %+v", r.lastStatus())
		}
		r.check(r.fake.AddLink("eth0"))
		synctest.Wait()
		r.check(r.fake.AddAddr("eth0", netip.MustParsePrefix("192.168.0.1/16")))
		r.heals(w, debounce)
	})
}

// What this host is said to be made for is what it is made for: a device that
// refuses its new MTU still has the old one.
func TestStatusTellsTheHostAsItIs(t *testing.T) {
	fakeClock(t, func(r *fixture) {
		r.fake.Refuse(device().Key(), unix.EBUSY)
		r.start()
		w := vxlanDesired(vxlanLease(1, 1))
		r.SetDesired(w)
		r.pass(time.Minute)
		if r.lastHost() != (backend.Host{}) || r.isReady() {
			t.Fatalf("without a device: host %+v, ready: %v", r.lastHost(), r.isReady())
		}
		r.fake.Refuse(device().Key(), nil)
		r.pass(time.Minute)
		if r.lastHost() != testHost || !r.isReady() {
			t.Fatalf("with it: host %+v, ready: %v", r.lastHost(), r.isReady())
		}

		r.fake.Refuse(device().Key(), unix.EBUSY)
		w.Host.V4.MTU = 1400
		r.SetDesired(w)
		r.pass(time.Minute)
		if got := r.lastHost().MTU(); got != 1500 {
			t.Errorf("the device has refused, and the MTU is said to be %d", got)
		}
		r.fake.Refuse(device().Key(), nil)
		r.pass(time.Minute)
		if got := r.lastHost().MTU(); got != 1400 {
			t.Errorf("the MTU is said to be %d", got)
		}
	})
}
