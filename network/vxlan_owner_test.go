package network

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"

	"flanneld/pkg/dataplane/dataplanetest"
	"flanneld/pkg/ip"
	"flanneld/pkg/state"
	"flanneld/subnet"
)

// there puts on the host what w calls for, as an earlier run would have left it.
func (r *fixture) there(w Desired) {
	r.Helper()
	var p planned
	p.set(w)
	objects := make([]state.Object, 0, len(p.want))
	for _, o := range p.want {
		objects = append(objects, o)
	}
	slices.SortFunc(objects, func(a, b state.Object) int { return int(a.Key().Kind) - int(b.Key().Kind) })
	for _, o := range objects {
		switch o := o.(type) {
		case state.VXLAN:
			r.check(r.fake.AddVXLAN(o))
		case state.Addr:
			r.check(r.fake.AddAddr(o.Dev, o.Prefix))
		case state.Neigh:
			r.check(r.fake.AddNeigh(o, true))
		case state.FDB:
			r.check(r.fake.AddFDB(o))
		case state.Nexthop:
			r.check(r.fake.AddNexthop(dataplanetest.Nexthop{Nexthop: o, Protocol: dataplanetest.ProtoOurs}))
		case state.Route:
			r.check(r.fake.AddRoute(ours(o)))
		}
	}
}

// What changed while no daemon ran leaves nothing behind, and what did not is
// not touched.
func TestVxlanAfterAnEarlierRun(t *testing.T) {
	moved := vxlanLease(3, 3)
	moved.PublicIP.V4 = peerAddr(33)
	before := []*subnet.Lease{vxlanLease(1, 1), vxlanLease(2, 2), vxlanLease(3, 3), vxlanLease(4, 4)}
	now := []*subnet.Lease{withMAC(vxlanLease(2, 2), hostMAC(22)), moved, vxlanLease(4, 4), vxlanLease(5, 5)}
	for name, desire := range map[string]func(...*subnet.Lease) Desired{"small": vxlanDesired, "large": largeVxlanDesired} {
		t.Run(name, func(t *testing.T) {
			fakeClock(t, func(r *fixture) {
				r.addForeign()
				r.there(desire(before...))
				stale := netip.MustParsePrefix("10.9.9.0/32")
				r.check(r.fake.AddAddr("flannel.1", stale))
				r.check(r.fake.AddAddr("flannel.1", foreignAddr))
				r.check(r.fake.AddFDB(foreignFDB))
				r.check(r.fake.AddNeigh(foreignNeigh, true))
				r.start()
				r.SetDesired(desire(now...))
				synctest.Wait()
				r.wantOn([]state.Neigh{neigh(2, 22), neigh(3, 3), neigh(4, 4), neigh(5, 5), foreignNeigh},
					[]state.FDB{{Dev: "flannel.1", MAC: hostMAC(3), Dst: peerAddr(33)}, fdb(4), fdb(5), {Dev: "flannel.1", MAC: hostMAC(22), Dst: peerAddr(2)}, foreignFDB},
					ownAddr.Prefix, foreignAddr)
				if why := r.unlike(desire(now...)); why != "" {
					r.Error(why)
				}
				for _, op := range r.fake.Applied() {
					if k := op.Key(); k.Kind == state.KindLink || k == neigh(4, 4).Key() || k == fdb(4).Key() || k == route(4, 4).Key() {
						r.Errorf("%s, though nothing was wrong with it", op)
					}
				}
				r.wantUntouched()

				// An entry that comes while we run is no different.
				r.check(r.fake.DelFDB(foreignFDB))
				r.pass(time.Second)
				r.check(r.fake.AddFDB(foreignFDB))
				r.check(r.fake.AddNeigh(neigh(9, 9), true)) // in our networks
				r.check(r.fake.AddFDB(fdb(9)))
				r.pass(2 * resync)
				if got := r.fake.FDBs("flannel.1"); !slices.Contains(got, foreignFDB) || slices.Contains(got, fdb(9)) {
					r.Errorf("FDB entries: %v", got)
				}
				r.wantUntouched()
			})
		})
	}
}

// Devices of an earlier configuration go, with all that is on them.
func TestDevicesOfAnEarlierConfiguration(t *testing.T) {
	in, out := netip.MustParsePrefix("10.7.0.0/32"), netip.MustParsePrefix("203.0.113.7/32")
	for name, w := range map[string]Desired{"vxlan": vxlanDesired(vxlanLease(1, 1), vxlanLease(2, 2)), "host-gw": desire(lease(1, 1), lease(2, 2))} {
		t.Run(name, func(t *testing.T) {
			fakeClock(t, func(r *fixture) {
				old := backendDesired(&subnet.Config{}, `{"VNI":2}`, vxlanLease(1, 7), vxlanLease(3, 8))
				r.there(old)
				f := foreignFDB
				f.Dev = "flannel.2"
				r.check(r.fake.AddFDB(f)) // goes, too
				kept := make([]string, 0, 4)
				for i, addrs := range [][]netip.Prefix{{in, in}, {in, out}, {out}, {}} {
					v := device()
					v.VNI = uint32(10 + i)
					v.Name = fmt.Sprint("flannel.", v.VNI)
					r.check(r.fake.AddVXLAN(v))
					for _, a := range slices.Compact(addrs) {
						r.check(r.fake.AddAddr(v.Name, a))
					}
					if i > 0 {
						kept = append(kept, v.Name)
					}
				}
				r.check(r.fake.AddLink("flannel.20")) // no tunnel
				r.check(r.fake.AddAddr("flannel.20", in))
				down := device()
				down.VNI, down.Name = 30, "flannel.30"
				r.check(r.fake.AddVXLAN(down))
				r.check(r.fake.AddAddr(down.Name, in))
				r.check(r.fake.SetLink(down.Name, false))
				ours := state.TUNAlias(netip.MustParsePrefix("10.0.0.0/8"))
				r.check(r.fake.AddTUN("flannel0", ours, true)) // without an address
				r.check(r.fake.AddTUN("flannel1", ours, true))
				r.check(r.fake.AddAddr("flannel1", in))
				r.check(r.fake.SetLink("flannel1", false))
				r.check(r.fake.AddTUN("flannel2", state.TUNAlias(netip.MustParsePrefix("10.77.0.0/16")), true)) // another daemon's
				r.check(r.fake.AddTUN("flannel3", ours, false))                                                 // of another process
				r.start()
				r.SetDesired(w)
				r.pass(time.Second)
				if why := r.unlike(w); why != "" {
					r.Error(why)
				}
				r.wantRoutes(3)
				var got []string
				for _, v := range r.fake.Devices() {
					if v.Name != "flannel.1" {
						got = append(got, v.Name)
					}
				}
				if !slices.Equal(got, kept) {
					r.Errorf("devices %v, want %v", got, kept)
				}
				if a := r.fake.DeviceAddrs("flannel.11"); len(a) != 2 {
					r.Errorf("addresses on a device of someone else: %v", a)
				}
				for name, want := range map[string]bool{"flannel.30": false, "flannel0": false, "flannel1": false, "flannel2": true, "flannel3": true} {
					if r.fake.HasLink(name) != want {
						t.Errorf("%s: there is one: %t", name, !want)
					}
				}
				if a := r.fake.DeviceAddrs("flannel.20"); len(a) != 1 {
					r.Errorf("addresses on a device of another kind: %v", a)
				}
			})
		})
	}
}

// A device that cannot be deleted at first is ours until it is.
func TestOldDeviceThatStays(t *testing.T) {
	fakeClock(t, func(r *fixture) {
		r.start()
		old := device()
		r.SetDesired(vxlanDesired(vxlanLease(1, 1)))
		r.pass(time.Second)
		r.fake.Refuse(old.Key(), errRefused)
		w := backendDesired(&subnet.Config{}, `{"VNI":2}`, vxlanLease(1, 1))
		r.SetDesired(w)
		r.pass(time.Hour)
		if why := r.unlike(w); why != "" {
			r.Error(why)
		}
		if s := r.lastStatus(); s.Missing != 1 {
			r.Errorf("status %+v", s)
		}
		r.fake.Refuse(old.Key(), nil)
		r.pass(retryMost)
		r.wantOnly(w)
	})
}

// What cannot be deleted at first is ours until it is, though nothing names it.
func TestOldEntryThatStays(t *testing.T) {
	for name, w := range map[string]Desired{"gone": vxlanDesired(), "moved": vxlanDesired(vxlanLease(1, 2))} {
		t.Run(name, func(t *testing.T) {
			fakeClock(t, func(r *fixture) {
				r.start()
				r.SetDesired(vxlanDesired(vxlanLease(1, 1)))
				r.pass(time.Second)
				r.fake.Refuse(fdb(1).Key(), errRefused)
				r.SetDesired(w)
				r.pass(time.Hour)
				if len(w.Peers) == 0 { // another run would find it
					r.wantOn([]state.Neigh{neigh(1, 1)}, []state.FDB{fdb(1)}, ownAddr.Prefix)
				}
				r.fake.Refuse(fdb(1).Key(), nil)
				r.pass(retryMost)
				r.wantOnly(w)
			})
		})
	}
}

func TestUnreadableLeaseKeepsItsEntries(t *testing.T) {
	for name, desire := range map[string]func(...*subnet.Lease) Desired{"small": vxlanDesired, "large": largeVxlanDesired} {
		t.Run(name, func(t *testing.T) {
			fakeClock(t, func(r *fixture) {
				good := vxlanLease(1, 1)
				r.there(desire(good, vxlanLease(3, 3)))
				r.start()
				unreadable := func(peers ...*subnet.Lease) Desired {
					w := desire(peers...)
					w.Unreadable = []ip.Subnet{peerSubnet(1)}
					return w
				}
				// It was so before the start; it lingers; it does no more.
				for i, w := range []Desired{
					unreadable(vxlanLease(2, 2)), desire(good), unreadable(good, vxlanLease(2, 2)), unreadable(vxlanLease(2, 2)), unreadable(vxlanLease(2, 4)),
					unreadable(), unreadable(vxlanLease(2, 2)),
					// Another one had its MAC address, too, and is seen to by a quick pass.
					unreadable(vxlanLease(2, 1)), unreadable(vxlanLease(2, 2)),
				} {
					r.SetDesired(w)
					r.pass(time.Minute)
					if why := r.unlike(desire(good)); why != "" {
						r.Fatalf("desired state %d: %s", i, why)
					}
					if why := r.unlike(w); why != "" {
						r.Fatalf("desired state %d: %s", i, why)
					}
				}
				for _, op := range r.fake.Applied() {
					if k := op.Key(); k.Kind == state.KindLink || k == neigh(1, 1).Key() || k == fdb(1).Key() || k == route(1, 1).Key() || k == tunnelHop(1).Key() {
						r.Error(op)
					}
				}
				r.check(r.fake.AddFDB(foreignFDB)) // a full pass more
				r.check(r.fake.DelRoute(r.fake.Routes(peerSubnet(2).V4)[0]))
				r.pass(2 * resync)
				if why := r.unlike(desire(good)); why != "" {
					r.Error(why)
				}
				w := desire(vxlanLease(2, 2))
				r.SetDesired(w)
				r.pass(time.Second)
				r.check(r.fake.DelFDB(foreignFDB))
				r.wantOnly(w)
			})
		})
	}
}

// An FDB entry that was kept for an unreadable lease is ours even when the
// neighbour that told so has gone.
func TestKeptEntryGoesAtLast(t *testing.T) {
	fakeClock(t, func(r *fixture) {
		r.start()
		r.SetDesired(vxlanDesired(vxlanLease(1, 1)))
		r.pass(time.Second)
		w := vxlanDesired()
		w.Unreadable = []ip.Subnet{peerSubnet(1)}
		r.SetDesired(w)
		r.pass(time.Second)
		r.wantOn([]state.Neigh{neigh(1, 1)}, []state.FDB{fdb(1)}, ownAddr.Prefix)
		r.check(r.fake.SetMAC("flannel.1", hostMAC(9))) // that takes the neighbours
		r.pass(2 * resync)
		r.SetDesired(vxlanDesired())
		r.pass(time.Second)
		r.wantOnly(vxlanDesired())
	})
}

// An unreadable lease keeps what was made for it while its last state lingered.
func TestUnreadableLeaseLingersOnAFlappingDevice(t *testing.T) {
	fakeClock(t, func(r *fixture) {
		r.start()
		lingers, gone := vxlanDesired(vxlanLease(1, 1)), vxlanDesired()
		lingers.Unreadable = []ip.Subnet{peerSubnet(1)}
		gone.Unreadable = lingers.Unreadable
		r.SetDesired(lingers)
		r.pass(time.Second)
		r.check(r.fake.SetLink("flannel.1", false))
		r.pass(time.Second)
		r.SetDesired(gone)
		r.pass(time.Second)
		r.heals(lingers, 0)
	})
}

// An entry whose making had no answer goes with its lease, though no neighbour leads to it and
// nobody has looked since.
func TestEntryWithoutAnAnswerGoes(t *testing.T) {
	fakeClock(t, func(r *fixture) {
		r.start()
		r.SetDesired(vxlanDesired())
		r.pass(time.Minute)
		r.check(r.fake.DelAddr("flannel.1", ownAddr.Prefix))
		synctest.Wait() // it is put back, and the next look has to wait
		r.fake.Refuse(neigh(1, 1).Key(), unix.ENOMEM)
		r.fake.SetFaults(dataplanetest.Faults{Rand: rand.New(rand.NewPCG(1, 1)), LoseAnswer: 1})
		r.SetDesired(vxlanDesired(vxlanLease(1, 1)))
		synctest.Wait()
		r.wantOn(nil, []state.FDB{fdb(1)}, ownAddr.Prefix)
		r.SetDesired(vxlanDesired())
		synctest.Wait()
		r.fake.SetFaults(dataplanetest.Faults{})
		r.pass(time.Second)
		r.wantOn(nil, nil, ownAddr.Prefix)
	})
}
