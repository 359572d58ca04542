package network

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"flanneld/pkg/ip"
	"flanneld/pkg/state"
	"flanneld/subnet"
)

var (
	// What others have on the host, and on our device.
	foreignFDB    = state.FDB{Dev: "flannel.1", MAC: state.MAC{2, 0, 0, 9, 0, 1}, Dst: netip.MustParseAddr("203.0.113.9")}
	foreignNeigh  = state.Neigh{Dev: "flannel.1", Addr: netip.MustParseAddr("203.0.113.1"), MAC: foreignFDB.MAC}
	foreignAddr   = netip.MustParsePrefix("203.0.113.2/32")
	foreignDevice = state.VXLAN{
		Name: "flannel.9", VNI: 9, Port: 4790, Lower: "eth1", Local: netip.MustParseAddr("203.0.113.3"), MAC: state.MAC{2, 0, 0, 9, 0, 2}, MTU: 1450,
	}
)

// addForeign adds what others have elsewhere on the host.
func (r *fixture) addForeign() {
	r.Helper()
	v := foreignDevice
	r.check(r.fake.AddLink("eth1"))
	r.check(r.fake.AddVXLAN(v))
	r.check(r.fake.AddAddr(v.Name, foreignAddr))
	r.check(r.fake.AddAddr(v.Name, netip.MustParsePrefix("10.254.0.0/32")))
	f, n := foreignFDB, neigh(7, 7)
	f.Dev, n.Dev = v.Name, v.Name
	r.check(r.fake.AddFDB(f))
	r.check(r.fake.AddNeigh(n, true))
	v.Name, v.VNI, v.MAC[5] = "flannel.10", 10, 3 // without addresses
	r.check(r.fake.AddVXLAN(v))
}

// wantUntouched checks that nothing was done to what others have.
func (r *fixture) wantUntouched() {
	r.Helper()
	for _, op := range r.fake.Applied() {
		k := op.Key()
		if k.Scope == foreignDevice.Name || k.Scope == "flannel.10" || k == foreignFDB.Key() || k == foreignNeigh.Key() || k.Kind == state.KindAddr && k.Prefix == foreignAddr {
			r.Errorf("%s, which is not ours", op)
		}
	}
}

// heals checks that the host comes to be as desired within d.
func (r *fixture) heals(w Desired, d time.Duration) {
	r.Helper()
	synctest.Wait()
	start := time.Now()
	for why := r.unlike(w); why != ""; why = r.unlike(w) {
		if time.Since(start) > d {
			r.Fatalf("after %s %s; status %+v", d, why, r.lastStatus())
		}
		r.pass(time.Millisecond)
	}
	r.Logf("right after %s", time.Since(start))
}

func manyLeases(lease func(n, via int) *subnet.Lease) (all []*subnet.Lease) {
	for n := range 20 {
		all = append(all, lease(n, 1+n))
	}
	return all
}

func farLease(n, via int) *subnet.Lease { return far(vxlanLease(n, via)) }

// Whatever is done to the host by hand, it is right again in no time.
func TestVxlanHeals(t *testing.T) {
	const dev = "flannel.1"
	each := func(do func(*fixture, int)) func(*fixture) {
		return func(r *fixture) {
			for n := range 20 {
				do(r, n)
			}
		}
	}
	one := func(do func(*fixture, int)) func(*fixture) { return func(r *fixture) { do(r, 7) } }
	delRoute := func(r *fixture, n int) { r.check(r.fake.DelRoute(r.fake.Routes(peerSubnet(n).V4)[0])) }
	delFDB := func(r *fixture, n int) { r.check(r.fake.DelFDB(r.fdbOf(n))) }
	delNeigh := func(r *fixture, n int) { r.check(r.fake.DelNeigh(dev, neigh(n, n).Addr)) }
	misplace := func(r *fixture, n int) {
		f := r.fdbOf(n)
		f.Dst = peerAddr(99)
		r.check(r.fake.AddFDB(f))
	}
	for _, c := range []struct {
		name   string
		damage func(*fixture)
	}{
		{"a route", one(delRoute)},
		{"all routes", each(delRoute)},
		{"an FDB entry", one(delFDB)},
		{"all FDB entries", each(delFDB)},
		{"an FDB entry that leads elsewhere", one(misplace)},
		{"all FDB entries that lead elsewhere", each(misplace)},
		{"a neighbour", one(delNeigh)},
		{"all neighbours", each(delNeigh)},
		{"neighbours with another MAC address", each(func(r *fixture, n int) { r.check(r.fake.AddNeigh(neigh(n, 99), true)) })},
		{"neighbours that are not permanent", each(func(r *fixture, n int) { r.check(r.fake.AddNeigh(neigh(n, 1+n), false)) })},
		{"the device down", func(r *fixture) { r.check(r.fake.SetLink(dev, false)) }},
		{"the device down and up", func(r *fixture) {
			r.check(r.fake.SetLink(dev, false))
			r.check(r.fake.SetLink(dev, true))
		}},
		{"the device deleted", func(r *fixture) { r.check(r.fake.DelLink(dev)) }},
		{"a device of another kind", func(r *fixture) {
			for r.fake.AddLink(dev) != nil { // the daemon may be there first
				_ = r.fake.DelLink(dev)
			}
			_ = r.fake.AddAddr(dev, ownAddr.Prefix)
		}},
		{"another tunnel by that name", func(r *fixture) {
			v := device()
			v.Port, v.Lower = 4789, "eth1"
			for r.fake.AddVXLAN(v) != nil {
				_ = r.fake.DelLink(dev)
			}
			_ = r.fake.AddAddr(dev, ownAddr.Prefix)
		}},
		{"the MAC address", func(r *fixture) { r.check(r.fake.SetMAC(dev, hostMAC(99))) }},
		{"the same MAC address", func(r *fixture) { r.check(r.fake.SetMAC(dev, hostMAC(0))) }},
		{"the MTU", func(r *fixture) { r.check(r.fake.SetMTU(dev, 1280)) }},
		{"the address", func(r *fixture) { r.check(r.fake.DelAddr(dev, ownAddr.Prefix)) }},
		{"another address", func(r *fixture) { r.check(r.fake.AddAddr(dev, netip.PrefixFrom(ownAddr.Prefix.Addr(), 24))) }},
		{"the interface down and up", func(r *fixture) {
			r.check(r.fake.SetLink("eth0", false))
			r.pass(time.Minute)
			r.check(r.fake.SetLink("eth0", true))
		}},
		{"the interface made anew", func(r *fixture) {
			r.check(r.fake.DelLink("eth0"))
			r.pass(time.Hour)
			r.check(r.fake.AddLink("eth0"))
			r.check(r.fake.AddAddr("eth0", hostNet))
		}},
		{"the interface made anew at once", func(r *fixture) {
			r.check(r.fake.DelLink("eth0"))
			r.check(r.fake.AddLink("eth0"))
			r.check(r.fake.AddAddr("eth0", hostNet))
		}},
	} {
		for name, w := range map[string]Desired{
			"small": vxlanDesired(manyLeases(vxlanLease)...), "large": largeVxlanDesired(manyLeases(vxlanLease)...), "direct": directDesired(manyLeases(farLease)...),
		} {
			t.Run(c.name+", "+name, func(t *testing.T) {
				fakeClock(t, func(r *fixture) {
					r.addForeign()
					r.start()
					r.SetDesired(w)
					r.heals(w, 0)
					r.check(r.fake.AddAddr(dev, foreignAddr))
					r.check(r.fake.AddNeigh(foreignNeigh, true))
					r.check(r.fake.AddFDB(foreignFDB))
					r.pass(time.Second)
					c.damage(r)
					r.heals(w, debounce)
					r.pass(time.Second)
					r.heals(w, 0)
					if got := r.fake.DeviceAddrs(dev); slices.ContainsFunc(got, func(p netip.Prefix) bool { return p != ownAddr.Prefix && p != foreignAddr }) {
						r.Errorf("addresses: %v", got)
					}
					r.wantUntouched()
					steps := len(r.fake.Applied())
					r.pass(2 * resync)
					r.wantApplied(steps)
				})
			})
		}
	}
}

func (r *fixture) fdbOf(n int) state.FDB {
	r.Helper()
	for _, f := range r.fake.FDBs("flannel.1") {
		if f.MAC == hostMAC(1+n) {
			return f
		}
	}
	r.Fatalf("there is no FDB entry of peer %d", n)
	return state.FDB{}
}

// A desired state that changes everything is in place in no time, whatever it was before.
func TestVxlanDesiredStates(t *testing.T) {
	alter := func(change func(*Desired)) Desired {
		w := vxlanDesired(manyLeases(vxlanLease)...)
		w.Own = &subnet.Lease{Subnet: w.Own.Subnet, Attrs: w.Own.Attrs}
		change(&w)
		return w
	}
	hostGW := manyLeases(lease)
	largeDirect := directDesired(manyLeases(vxlanLease)...)
	largeDirect.Host.Nexthops = true
	largeFar := directDesired(manyLeases(farLease)...)
	largeFar.Host.Nexthops = true
	config := func(section string) Desired {
		return backendDesired(&subnet.Config{BackendType: "vxlan"}, section, manyLeases(vxlanLease)...)
	}
	desired := map[string]Desired{
		"host-gw":         desire(hostGW...),
		"large host-gw":   largeDesired(hostGW...),
		"vxlan":           vxlanDesired(manyLeases(vxlanLease)...),
		"large vxlan":     largeVxlanDesired(manyLeases(vxlanLease)...),
		"direct":          directDesired(manyLeases(vxlanLease)...),
		"large direct":    largeDirect,
		"not direct":      directDesired(manyLeases(farLease)...),
		"large, far":      largeFar,
		"VNI":             config(`{"VNI":2}`),
		"GBP":             config(`{"GBP":true}`),
		"VNI and GBP":     config(`{"VNI":2,"GBP":true}`),
		"port":            config(`{"Port":4789}`),
		"no checksums":    config(`{"TxChecksumOffload":false}`),
		"MTU":             alter(func(w *Desired) { w.Host.V4.MTU = 1400 }),
		"address":         alter(func(w *Desired) { w.Host.V4.Addr = netip.MustParseAddr("192.168.0.9") }),
		"interface":       alter(func(w *Desired) { w.Host.V4.Iface = "eth1" }),
		"own MAC address": alter(func(w *Desired) { w.Own.BackendData = vtepData(hostMAC(99)) }),
		"own subnet":      alter(func(w *Desired) { w.Own.Subnet = ip.SubnetOf(netip.MustParsePrefix("10.253.0.0/24")) }),
		"other peers":     vxlanDesired(manyLeases(func(n, via int) *subnet.Lease { return vxlanLease(n+10, via+5) })...),
	}
	for was, from := range desired {
		for is, to := range desired {
			t.Run(was+" to "+is, func(t *testing.T) {
				fakeClock(t, func(r *fixture) {
					r.addForeign()
					r.start()
					r.SetDesired(from)
					r.heals(from, 0)
					r.pass(time.Second)
					r.SetDesired(to)
					within := time.Duration(0)
					if strings.Contains(was+is, "GBP") { // a kernel has no two devices on a port of which one has that
						within = 2 * retryFirst
					}
					r.heals(to, within)
					r.pass(time.Second)
					r.wantOnly(to)
					for _, op := range r.fake.Applied() {
						if op.Verb == state.Delete && op.Key().Kind == state.KindRoute && is != "other peers" && was != "other peers" {
							r.Errorf("%s, though it could be replaced", op)
						}
					}
					r.wantUntouched()
				})
			})
		}
	}
}

// wantOnly checks that of what is in our networks there is as much as desired,
// and no more.
func (r *fixture) wantOnly(w Desired) {
	r.Helper()
	if why := r.unlike(w); why != "" {
		r.Error(why)
	}
	var p planned
	p.set(w)
	have := r.dump()
	for k, e := range have {
		if foreign := k.Scope == foreignDevice.Name || k.Scope == "flannel.10"; !foreign && e.Owner == state.Ours && p.want[k] == nil {
			r.Errorf("there is %s", e.Object)
		}
	}
	if s := (Status{Wanted: len(p.want), Unusable: len(p.problems)}); r.lastStatus() != s {
		r.Errorf("status %+v, want %+v", r.lastStatus(), s)
	}
}

func (r *fixture) dump() state.Observed {
	r.Helper()
	have, err := r.fake.Dump(r.Context(), nil)
	r.check(err)
	return have
}

// A quick pass does for leases that come, move and go.
func TestVxlanQuickPass(t *testing.T) {
	fakeClock(t, func(r *fixture) {
		r.start()
		r.SetDesired(vxlanDesired(vxlanLease(1, 1)))
		r.pass(time.Second)
		dumps := r.fake.Dumps()
		for i, w := range []Desired{
			vxlanDesired(vxlanLease(1, 1), vxlanLease(2, 2)), vxlanDesired(vxlanLease(1, 3), vxlanLease(2, 2)),
			vxlanDesired(vxlanLease(1, 2), vxlanLease(2, 3)), vxlanDesired(vxlanLease(2, 3)),
			vxlanDesired(withMAC(vxlanLease(1, 2), hostMAC(3)), vxlanLease(2, 3)), vxlanDesired(vxlanLease(1, 4)),
		} {
			r.SetDesired(w)
			synctest.Wait()
			if why := r.unlike(w); why != "" {
				r.Fatalf("desired state %d: %s", i, why)
			}
			r.pass(time.Second)
		}
		if n := r.fake.Dumps() - dumps; n > 0 {
			t.Errorf("%d dumps", n)
		}
		r.wantOn([]state.Neigh{neigh(1, 4)}, []state.FDB{fdb(4)}, ownAddr.Prefix)
		if n := len(r.fake.Applied()); n > 40 {
			t.Errorf("%s", fmt.Sprint(r.fake.Applied()))
		}
	})
}
