package dataplanetest

import (
	"golang.org/x/sys/unix"

	"flanneld/pkg/dataplane"
	"flanneld/pkg/state"
)

// A device that goes down keeps its FDB entries, and of IPv4 its addresses, and nothing else.
func testDeviceDown(r *fixture) {
	v, p := r.overlay()
	lost, kept := r.downLoses(r.deviceAddr())
	q := r.peerOf(1)
	r.apply(create(q.neigh), create(q.fdb), create(q.plain()))
	lose := func() {
		r.Helper()
		r.check(r.host.SetLink(v.Name, false))
		r.apply(remove(q.plain()), remove(p.route), remove(p.nexthop), remove(p.neigh))
		r.wantGone(q.plain(), p.route, p.nexthop, p.neigh, q.neigh)
		r.wantThere(append(kept, p.fdb, q.fdb)...)
		r.wantGone(lost...)
	}
	lose()
	there := r.wantUnmanaged(v)
	for _, o := range []state.Object{p.nexthop, q.plain()} {
		r.refused(create(o), dataplane.ErrNoLink)
	}
	r.refused(create(v), unix.EEXIST)
	r.apply(append([]state.Op{replace(there, v)}, creations(append(lost, p.neigh, p.nexthop, p.route, q.neigh, q.plain())...)...)...)
	r.wantThere(append(p.objects(), v, r.deviceAddr(), q.neigh, q.fdb, q.plain())...)
	lose()
	r.check(r.host.SetLink(v.Name, true))
	r.wantThere(append(kept, v, p.fdb, q.fdb)...)
	r.wantGone(append(lost, q.plain(), p.route, p.nexthop, p.neigh, q.neigh)...)
	lose()
	w := v
	w.VNI++
	r.apply(replace(r.wantUnmanaged(v), w)) // anew
	r.wantThere(w)
	r.wantGone(r.deviceAddr(), p.fdb, q.fdb)
}

// A device that is up and carries no packets is not as wanted, which is told. It is put
// right in place; one that is made anew is right, too.
func testDeviceHindered(r *fixture) {
	v, p := r.overlay()
	w := r.watch()
	q := r.peerOf(1)
	r.apply(create(q.neigh), create(q.fdb), create(q.plain()))
	on := append(p.objects(), r.deviceAddr(), q.neigh, q.fdb, q.plain())
	hindrances := []Hindrance{ProtoDown, ProtoDownReasoned, NoARP}
	if r.v6() { // which knows no forwarding of a device
		r.check(r.host.Hinder(v.Name, NoForwarding))
		r.wantThere(v)
	} else {
		hindrances = append(hindrances, NoForwarding)
	}
	for _, how := range hindrances {
		r.check(r.host.Hinder(v.Name, how))
		w.expect("the device hindered", oddDevice(v))
		there := r.wantUnmanaged(v)
		var lost []state.Object
		switch how {
		case ProtoDown, ProtoDownReasoned: // plain routes stay
			lost = append(lost, p.nexthop, p.route)
		case NoARP:
			lost = append(lost, p.neigh, q.neigh)
		case NoQueue, NoCarrier, NoForwarding, NoIPv6:
		}
		r.wantGone(lost...)
		r.wantThere(q.fdb, q.plain())
		r.apply(append([]state.Op{replace(there, v)}, creations(lost...)...)...)
		w.expect("the device put right", deviceIs(v))
		r.wantThere(append(on, v)...)
		r.apply(replace(v, v)) // nothing is left to be done
		r.wantThere(append(on, v)...)
	}
	r.check(r.host.Hinder(v.Name, ProtoDown))
	r.check(r.host.Hinder(v.Name, NoForwarding))
	r.check(r.host.SetLink(v.Name, false))
	r.apply(replace(r.wantUnmanaged(v), v))
	r.wantThere(v)
	r.check(r.host.Hinder(v.Name, NoARP))
	anew := v
	anew.VNI++
	r.apply(replace(r.wantUnmanaged(v), anew))
	r.wantThere(anew)
}

// With a device goes all that is on it, and nothing can be put there.
func testDeviceDeleted(r *fixture) {
	v, p := r.overlay()
	on := append(p.objects(), r.deviceAddr())
	r.check(r.host.DelLink(v.Name))
	for _, o := range on {
		r.apply(remove(o))
	}
	for _, o := range on {
		r.refused(create(o), nil) // unknown to the last dump
	}
	r.wantGone(append(on, v)...)
	for _, o := range on {
		r.refused(create(o), dataplane.ErrNoLink)
		r.apply(remove(o))
	}
	r.apply(remove(v))
	r.check(r.host.AddVXLAN(v))
	for _, o := range on {
		r.refused(create(o), dataplane.ErrNoLink) // not seen yet
	}
	r.wantThere(v)
	r.wantGone(on...)
	r.apply(append(creations(r.deviceAddr()), creations(p.objects()...)...)...)
	r.wantThere(append(on, v)...)
}

func testLowerDeleted(r *fixture) {
	v, p := r.overlay()
	on := append(p.objects(), r.deviceAddr(), v)
	r.check(r.host.DelLink("eth0"))
	r.refused(create(v), nil) // unknown to the last dump
	r.wantGone(on...)
	r.refused(create(v), dataplane.ErrNoLink)
	r.check(r.host.AddLink("eth0"))
	r.wantGone(on...)
	r.overlay()
	r.wantThere(on...)
}

func testLowerDown(r *fixture) {
	v, p := r.overlay()
	on := append(p.objects(), r.deviceAddr(), v)
	r.check(r.host.SetLink("eth0", false))
	r.wantThere(on...)
	q := r.peerOf(1)
	r.apply(creations(q.objects()...)...)
	r.wantThere(append(on, q.objects()...)...)
	if !r.v6() { // else it is gone already
		r.check(r.host.DelAddr("eth0", r.prefix("192.168.5.1/24")))
	}
	r.wantThere(append(on, q.objects()...)...)
	r.check(r.host.SetLink("eth0", true))
	r.wantThere(append(on, q.objects()...)...)
}

// With its last address of IPv4 a device loses its neighbours and plain routes, onlink
// or not; of IPv6 nothing.
func testDeviceLastAddressGone(r *fixture) {
	v, p := r.overlay()
	q := r.peerOf(1)
	second := state.Addr{Dev: v.Name, Prefix: r.prefix("10.1.9.0/32")}
	r.apply(create(q.neigh), create(q.fdb), create(q.plain()), create(second))
	r.apply(remove(r.deviceAddr()))
	r.wantThere(append(p.objects(), v, second, q.neigh, q.fdb, q.plain())...)
	r.apply(remove(second))
	if r.v6() {
		r.wantThere(append(p.objects(), v, q.neigh, q.fdb, q.plain())...)
		return
	}
	r.wantGone(p.neigh, q.neigh, q.plain())
	r.wantThere(v, p.fdb, q.fdb, p.nexthop, p.route)
	// Not one is needed.
	r.apply(create(p.neigh), create(q.neigh), create(q.plain()), replace(p.nexthop, p.nexthop))
	r.wantThere(append(p.objects(), v, q.neigh, q.plain())...)
}

// Who says onlink vouches for where the other host is.
func testOnlink(r *fixture) {
	v, p := r.overlay()
	q := r.peerOf(1)
	r.apply(create(q.neigh), create(q.fdb))
	off, offHop := q.plain(), q.nexthop
	off.Onlink, offHop.Onlink = false, false
	r.refused(create(off), r.offLink())
	r.refused(create(offHop), r.offLink())
	r.wantGone(off, offHop)
	r.apply(create(q.plain()), create(q.nexthop))
	r.wantThere(append(p.objects(), v, q.plain(), q.nexthop)...)
	for _, op := range []state.Op{create(q.plain()), create(q.nexthop)} {
		r.refused(op, unix.EEXIST)
	}
	r.apply(replace(q.plain(), q.route))
	r.wantThere(q.route, q.nexthop)
	r.apply(replace(q.route, q.plain()))
	r.wantThere(q.plain())
	r.apply(remove(q.plain()), remove(q.nexthop))
	r.wantGone(q.plain(), q.nexthop)
	self := q.plain()
	self.Via = r.deviceAddr().Prefix.Addr()
	r.check(r.host.AddNeigh(state.Neigh{Dev: v.Name, Addr: self.Via, MAC: q.neigh.MAC}, true))
	r.refused(create(self), unix.EINVAL)
}

// Onlink or not is a difference, even where both can be.
func testOnlinkOrNot(r *fixture) {
	a, n := r.route("10.1.1.0/24", "192.168.5.11"), r.nexthop(7, "192.168.5.11")
	on, onHop := a, n
	on.Onlink, onHop.Onlink = true, true
	r.apply(create(a), create(n))
	r.wantEntry(a, state.Ours, false)
	r.wantEntry(n, state.Ours, false)
	r.apply(replace(a, on), replace(n, onHop))
	r.wantEntry(on, state.Ours, false)
	r.wantEntry(onHop, state.Ours, false)
	r.apply(replace(on, a), replace(onHop, n))
	r.wantEntry(a, state.Ours, false)
	r.wantEntry(n, state.Ours, false)
	r.apply(remove(a))
	r.check(r.host.AddRoute(marked(on, ProtoStatic)))
	if ops, blocked := r.diff(a); ops != nil || len(blocked) != 1 {
		r.Fatalf("steps %v, blocked %v", ops, blocked)
	}
	r.check(r.host.DelRoute(marked(on, ProtoStatic)))
	r.check(r.host.AddRoute(marked(on, ProtoBoot)))
	ops, _ := r.diff(on)
	r.apply(ops...)
	r.wantEntry(on, state.Ours, false)
	r.apply(remove(on))
	r.wantNone(on)
}
