package dataplanetest

import (
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"

	"flanneld/pkg/dataplane"
	"flanneld/pkg/state"
)

// device is ours, or is as ours.
func (a Addressing) device() state.VXLAN {
	return state.VXLAN{
		Name: a.deviceName(1), VNI: 1, Port: 8472, Lower: "eth0", Local: a.addr("192.168.5.1"),
		MAC: state.MAC{2, 0, 0, 1, 0, 0}, MTU: defaultMTU - a.overhead(),
	}
}

func (a Addressing) deviceName(vni int) string {
	return fmt.Sprintf("%s%d", forFamily(a, "flannel.", "flannel-v6."), vni)
}

// overhead of VXLAN, in bytes.
func (a Addressing) overhead() int { return forFamily(a, 50, 70) }

func (a Addressing) deviceAddr() state.Addr {
	return state.Addr{Dev: a.device().Name, Prefix: a.prefix("10.1.0.0/32")}
}

// peer is another host of an overlay on the device.
type peer struct {
	neigh   state.Neigh
	fdb     state.FDB
	nexthop state.Nexthop
	route   state.Route // by the nexthop
}

func (a Addressing) peerOf(i int) peer {
	subnet := a.prefix(fmt.Sprintf("10.%d.%d.0/24", 2+i/256, i%256))
	mac := state.MAC{2, 0, 0, 2, byte(i / 256), byte(i)}
	n := state.Nexthop{ID: uint32(1000 + i), Via: subnet.Addr(), Dev: a.device().Name, Onlink: true}
	return peer{
		neigh:   state.Neigh{Dev: n.Dev, Addr: n.Via, MAC: mac},
		fdb:     state.FDB{Dev: n.Dev, MAC: mac, Dst: a.addr("192.168.5.11")},
		nexthop: n,
		route:   state.Route{Dst: subnet, Via: n.Via, Dev: n.Dev, Onlink: true, Nexthop: n.ID},
	}
}

// plain is a route to the peer without the nexthop.
func (p peer) plain() state.Route {
	r := p.route
	r.Nexthop = 0
	return r
}

// objects are all that the peer needs, in the order of dependency.
func (p peer) objects() []state.Object {
	return []state.Object{p.neigh, p.fdb, p.nexthop, p.route}
}

func creations(objects ...state.Object) []state.Op {
	ops := make([]state.Op, len(objects))
	for i, o := range objects {
		ops[i] = create(o)
	}
	return ops
}

// overlay makes a device with its address and one peer, and returns what stands
// on the device.
func (r *fixture) overlay() (state.VXLAN, peer) {
	r.Helper()
	v, p := r.device(), r.peerOf(0)
	r.apply(creations(append([]state.Object{v, r.deviceAddr()}, p.objects()...)...)...)
	return v, p
}

// wantThere checks that a dump holds each as it is wanted, and ours.
func (r *fixture) wantThere(objects ...state.Object) {
	r.Helper()
	have := r.dump()
	for _, o := range objects {
		if e, ok := have[o.Key()]; !ok || !state.Same(o, e.Object) || e.Owner != state.Ours || e.Front != nil {
			r.Fatalf("there is %+v; want %s", e, o)
		}
	}
}

func (r *fixture) wantGone(objects ...state.Object) {
	r.Helper()
	have := r.dump()
	for _, o := range objects {
		if e, ok := have[o.Key()]; ok {
			r.Fatalf("there is %+v", e)
		}
	}
}

// asMade reports whether a device is such as we make them.
func asMade(o state.Object) bool {
	switch o.(type) {
	case state.VXLAN, state.TUN:
		return true
	}
	return false
}

// wantUnmanaged checks that there is something of ours that is not as we make it, and
// returns it.
func (r *fixture) wantUnmanaged(o state.Object) state.Object {
	r.Helper()
	e, ok := r.dump()[o.Key()]
	if !ok || asMade(e.Object) || e.Owner != state.Ours {
		r.Fatalf("there is %+v", e)
	}
	return e.Object
}

// comesAndGoes checks that a device is made and deleted, and never made over another one. In
// the end it is there altered.
func (r *fixture) comesAndGoes(device, altered state.Object) {
	r.Helper()
	r.wantGone(device)
	r.apply(create(device))
	r.wantThere(device)
	for _, op := range []state.Op{create(device), create(altered)} {
		r.refused(op, unix.EEXIST)
	}
	r.wantThere(device)
	r.apply(remove(device), remove(device))
	r.wantGone(device)
	r.apply(remove(device), replace(device, altered)) // of what is gone
	r.wantThere(altered)
}

func testDevice(r *fixture) {
	v, altered := r.device(), r.device()
	altered.MTU = 1400
	r.comesAndGoes(v, altered)
}

// All that a device can be is read back.
func testDeviceFeatures(r *fixture) {
	for i, change := range []func(*state.VXLAN){
		func(v *state.VXLAN) { v.VNI = 1<<24 - 1 }, func(v *state.VXLAN) { v.Port = 4789 }, func(v *state.VXLAN) { v.GBP = true },
		func(v *state.VXLAN) { v.Learning = true }, func(v *state.VXLAN) { v.TxChecksumOff = true },
		func(v *state.VXLAN) { v.MTU = 1280 }, func(v *state.VXLAN) { v.Name = r.deviceName(4096) },
	} {
		v := r.device()
		change(&v)
		r.apply(create(v))
		r.wantThere(v)
		if state.Same(r.device(), r.dump()[v.Key()].Object) != v.TxChecksumOff {
			r.Errorf("change %d makes no difference", i)
		}
		r.apply(remove(v))
		r.wantGone(v)
	}
}

// What is made in a call is there for the rest of it, and for the next.
func testDeviceAtOnce(r *fixture) {
	v, p := r.overlay()
	r.wantThere(append(p.objects(), v, r.deviceAddr())...)
	r.apply(remove(p.route), remove(p.nexthop), remove(p.fdb), remove(p.neigh), remove(r.deviceAddr()), remove(v))
	r.wantGone(append(p.objects(), v, r.deviceAddr())...)
	r.apply(create(v))
	r.apply(create(r.deviceAddr()), create(p.neigh))
	r.apply(create(p.fdb), create(p.nexthop), create(p.route))
	r.wantThere(append(p.objects(), v, r.deviceAddr())...)
	r.apply(remove(v)) // with all that is on it
	r.refused(create(p.neigh), dataplane.ErrNoLink)
	r.wantGone(append(p.objects(), v, r.deviceAddr())...)
}

func testDeviceLower(r *fixture) {
	v := r.device()
	v.Lower = "eth9"
	r.refused(create(v), dataplane.ErrNoLink)
	r.wantGone(v)
	r.refused(replace(v, v), dataplane.ErrNoLink)
	r.wantGone(v)
	v = r.device()
	r.check(r.host.SetLink("eth0", false))
	r.apply(create(v)) // whether the last dump saw it up or down
	r.wantThere(v)
	r.apply(remove(v))
	r.wantGone(v)
	r.apply(create(v))
	r.wantThere(v)
}

// What can be altered without a loss is.
func testDeviceAltered(r *fixture) {
	v, p := r.overlay()
	on := append(p.objects(), r.deviceAddr())
	alter := func(change func(*state.VXLAN)) {
		r.Helper()
		was := v
		change(&v)
		r.apply(replace(was, v))
		r.wantThere(append(on, v)...)
	}
	alter(func(*state.VXLAN) {})
	alter(func(v *state.VXLAN) { v.MTU = 1400 })
	alter(func(v *state.VXLAN) { v.MTU = r.device().MTU })
	alter(func(v *state.VXLAN) { v.TxChecksumOff = true })
	// A kernel drops the neighbours of a device whose own MAC address changes.
	on = []state.Object{r.deviceAddr(), p.fdb, p.nexthop, p.route}
	alter(func(v *state.VXLAN) { v.MAC[5]++ })
	r.wantGone(p.neigh)
	r.apply(create(p.neigh))
	r.check(r.host.SetMAC(v.Name, state.MAC{2, 0, 0, 9, 0, 0}))
	r.wantGone(p.neigh)
	r.check(r.host.SetMTU(v.Name, 1300))
	e := r.dump()[v.Key()]
	if there, ok := e.Object.(state.VXLAN); !ok || there.MTU != 1300 || there.MAC != (state.MAC{2, 0, 0, 9, 0, 0}) {
		r.Fatalf("there is %+v", e)
	}
	r.apply(replace(e.Object, v), create(p.neigh))
	r.wantThere(append(on, v, p.neigh)...)
}

// A packet and what is put around it must fit the lower interface.
func testDeviceMTU(r *fixture) {
	v, p := r.overlay()
	large := v
	large.MTU++
	r.refused(replace(v, large), unix.EINVAL)
	r.wantThere(append(p.objects(), v, r.deviceAddr())...)
	r.check(r.host.SetMTU("eth0", 1400))
	r.wantThere(append(p.objects(), v, r.deviceAddr())...)
	r.apply(replace(v, v))
	r.apply(remove(v))
	if err := r.target.Apply(r.Context(), creations(v))[0]; err != nil {
		r.wantGone(v)
	} else { // the largest there can be
		v.MTU = 1400 - r.overhead()
		r.wantThere(v)
	}
}

// A device that has to be made anew has nothing on it.
func testDeviceReplaced(r *fixture) {
	v, p := r.overlay()
	on := append(p.objects(), r.deviceAddr())
	for i, change := range []func(*state.VXLAN){
		func(v *state.VXLAN) { v.VNI++ }, func(v *state.VXLAN) { v.Port++ }, func(v *state.VXLAN) { v.Lower = "eth1" },
		func(v *state.VXLAN) { v.Local = v.Local.Next() }, func(v *state.VXLAN) { v.GBP = true }, func(v *state.VXLAN) { v.Learning = true },
	} {
		if i == 0 {
			r.check(r.host.AddLink("eth1"))
			r.dump()
		}
		was := v
		change(&v)
		r.apply(replace(was, v))
		r.wantThere(v)
		r.wantGone(on...)
		r.apply(append(creations(r.deviceAddr()), creations(p.objects()...)...)...)
	}
	missing := v
	missing.Lower = "eth9"
	r.refused(replace(v, missing), dataplane.ErrNoLink)
}

// A device of another kind has our name, so it is ours to replace or delete.
func testDeviceOfAnotherKind(r *fixture) {
	v := r.device()
	r.check(r.host.AddLink(v.Name))
	r.check(r.host.AddAddr(v.Name, r.deviceAddr().Prefix))
	there := r.wantUnmanaged(v)
	r.wantThere(r.deviceAddr())
	r.refused(create(v), unix.EEXIST)
	r.apply(replace(there, v))
	r.wantThere(v)
	r.wantGone(r.deviceAddr())
	r.apply(remove(v))
	r.check(r.host.AddLink(v.Name))
	r.apply(remove(r.wantUnmanaged(v)))
	r.wantGone(v)
}

// No two devices listen for the same packets.
func testDeviceTwice(r *fixture) {
	v, w := r.device(), r.device()
	w.Name, w.MAC[5] = r.deviceName(2), 7
	r.check(r.host.AddVXLAN(w))
	r.wantThere(w)
	r.refused(create(v), unix.EEXIST)
	r.wantGone(v)
	v.GBP = true
	r.refused(create(v), unix.EADDRINUSE)
	r.wantGone(v)
	v.GBP, v.VNI = false, 2
	r.apply(create(v))
	r.wantThere(v, w)
}

// Of other links, and what is theirs, there is no word.
func testDevicesOfOthers(r *fixture) {
	for i, name := range []string{"vxlan1", "flannel", "flannel.", "flannel.x1", "flannel.1x", "xflannel.1", "flannel-v6", "flannel-v6.", "flannel-v61", "flannel-v4.1"} {
		v, p := r.device(), r.peerOf(i)
		v.Name, v.VNI = name, uint32(1+i)
		r.check(r.host.AddVXLAN(v))
		a := state.Addr{Dev: name, Prefix: r.single(netip.AddrFrom4([4]byte{10, 1, byte(i), 0}))}
		r.check(r.host.AddAddr(name, a.Prefix))
		p.neigh.Dev, p.fdb.Dev = name, name
		r.check(r.host.AddNeigh(p.neigh, true))
		r.check(r.host.AddFDB(p.fdb))
		r.wantGone(v, a, p.neigh, p.fdb)
	}
	n := r.peerOf(0).neigh
	n.Dev = "eth0"
	r.check(r.host.AddNeigh(n, true))
	for k := range r.dump() {
		if k.Kind <= state.KindFDB {
			r.Errorf("there is %+v", k)
		}
	}
}
