package dataplanetest

import (
	"flanneld/pkg/dataplane"
	"flanneld/pkg/state"
)

// goneKey tells events of an object's end. The kernel may have called it of no use
// before, and so not ours.
func goneKey(o state.Object) func(dataplane.Event) bool {
	return func(e dataplane.Event) bool { return e.Key == o.Key() && e.Gone }
}

// deviceIs tells events of the device as it is wanted; its checksums aside,
// which are not always told.
func deviceIs(v state.VXLAN) func(dataplane.Event) bool {
	return func(e dataplane.Event) bool {
		return e.Key == v.Key() && e.Iface == v.Name && !e.Gone && state.Same(v, e.Entry.Object) && e.Entry.Owner == state.Ours
	}
}

// oddDevice tells events of a device that is not as we make them.
func oddDevice(v state.VXLAN) func(dataplane.Event) bool {
	return func(e dataplane.Event) bool {
		return e.Key == v.Key() && e.Iface == v.Name && !e.Gone && !asMade(e.Entry.Object) && e.Entry.Object != nil && e.Entry.Owner == state.Ours
	}
}

func testDeviceEvents(r *fixture) {
	w := r.watch()
	v := r.device()
	r.apply(create(v))
	w.expect("our device, made", deviceIs(v))
	altered := v
	altered.MTU, altered.MAC[5] = 1400, 9
	r.apply(replace(v, altered))
	w.expect("our device, altered", deviceIs(altered))
	r.check(r.host.SetMTU(v.Name, v.MTU))
	altered.MTU = v.MTU
	w.expect("another MTU", deviceIs(altered))
	r.check(r.host.SetMAC(v.Name, v.MAC))
	w.expect("another MAC address", deviceIs(v))
	r.check(r.host.SetLink(v.Name, false))
	w.expect("the device down", oddDevice(v))
	r.check(r.host.SetLink(v.Name, true))
	w.expect("the device up", deviceIs(v))
	anew := v
	anew.VNI++
	r.dump()
	r.apply(replace(v, anew))
	w.expect("the old device gone", goneKey(v))
	w.expect("the new device", deviceIs(anew))
	r.check(r.host.DelLink(v.Name))
	w.expect("the device gone", goneKey(v))
	r.check(r.host.AddLink(v.Name))
	w.expect("a device of another kind", oddDevice(v))
	r.check(r.host.DelLink(v.Name))
	w.expect("its end", goneKey(v))
	r.check(r.host.AddVXLAN(v))
	w.expect("a device like ours", deviceIs(v))
	r.check(r.host.DelLink("eth0"))
	w.expect("the device gone with the lower one", goneKey(v))
}

func testDeviceAddrEvents(r *fixture) {
	v, a := r.device(), r.deviceAddr()
	r.apply(create(v))
	w := r.watch()
	added := func(e dataplane.Event) bool { return e.Iface == v.Name && about(a, state.Ours, false)(e) }
	removed := func(e dataplane.Event) bool { return e.Iface == v.Name && goneKey(a)(e) }
	r.apply(create(a))
	w.expect("our address, added", added)
	r.apply(remove(a))
	w.expect("our address, removed", removed)
	r.check(r.host.AddAddr(v.Name, a.Prefix))
	w.expect("an address that someone else added", added)
	r.check(r.host.DelAddr(v.Name, a.Prefix))
	w.expect("an address that someone else removed", removed)
	r.apply(create(a))
	w.expect("our address, added again", added)
	r.apply(remove(v))
	w.expect("our address, gone with the device", removed)
}

func testNeighEvents(r *fixture) {
	v, n := r.device(), r.peerOf(0).neigh
	r.apply(create(v), create(r.deviceAddr()))
	w := r.watch()
	there := about(n, state.Ours, false)
	other := n
	other.MAC[5] = 99
	r.apply(create(n))
	w.expect("our neighbour, added", there)
	r.apply(replace(n, other))
	w.expect("our neighbour, replaced", about(other, state.Ours, false))
	r.check(r.host.AddNeigh(n, true))
	w.expect("our neighbour, altered by someone else", there)
	r.check(r.host.AddNeigh(n, false))
	w.expect("our neighbour, not permanent any more", func(e dataplane.Event) bool {
		_, made := e.Entry.Object.(state.Neigh)
		return e.Key == n.Key() && !e.Gone && e.Entry.Object != nil && !made && e.Entry.Owner == state.Foreign
	})
	for _, end := range []struct {
		what string
		does func()
	}{
		{"deleted", func() { r.apply(remove(n)) }},
		{"deleted by someone else", func() { r.check(r.host.DelNeigh(v.Name, n.Addr)) }},
		{"gone with the old MAC address", func() { r.check(r.host.SetMAC(v.Name, v.MAC)) }},
		{"gone with the device's last address, or deleted", func() {
			r.check(r.host.DelAddr(v.Name, r.deviceAddr().Prefix))
			if r.v6() { // it stays
				r.apply(remove(n))
			}
		}},
		{"gone as the device went down", func() {
			r.check(r.host.SetLink(v.Name, false))
			r.check(r.host.SetLink(v.Name, true))
		}},
		{"gone with the device", func() { r.apply(remove(v)) }},
	} {
		r.apply(create(n))
		w.expect("our neighbour, added again", there)
		end.does()
		w.expect("our neighbour, "+end.what, goneKey(n))
	}
}

func testFDBEvents(r *fixture) {
	v, d := r.device(), r.peerOf(0).fdb
	r.apply(create(v))
	w := r.watch()
	there := about(d, state.Ours, false)
	other := d
	other.Dst = other.Dst.Next()
	r.apply(create(d))
	w.expect("our entry, added", there)
	r.apply(replace(d, other))
	w.expect("our entry, replaced", about(other, state.Ours, false))
	r.check(r.host.AddFDB(d))
	w.expect("our entry, altered by someone else", there)
	r.apply(remove(d))
	w.expect("our entry, deleted", goneKey(d))
	r.check(r.host.AddFDB(d))
	w.expect("an entry that someone else added", there)
	r.check(r.host.DelFDB(d))
	w.expect("an entry that someone else deleted", goneKey(d))
	r.apply(create(d))
	w.expect("our entry, added again", there)
	r.apply(remove(v))
	w.expect("our entry, gone with the device", goneKey(d))
}

// Only the devices of ours have keys, and what is theirs.
func testOtherDeviceEvents(r *fixture) {
	v := r.device()
	v.Name, v.VNI = "vxlan1", 9
	w := r.watch()
	p := r.peerOf(0)
	addr := r.prefix("10.7.0.0/32")
	for _, dev := range []string{v.Name, "eth0"} {
		p.neigh.Dev = dev
		if dev == v.Name {
			r.check(r.host.AddVXLAN(v))
		}
		r.check(r.host.AddAddr(dev, addr))
		r.check(r.host.AddNeigh(p.neigh, true))
		r.check(r.host.SetMAC(dev, state.MAC{2, 0, 0, 9, 0, 0}))
		r.check(r.host.DelAddr(dev, addr))
	}
	p.fdb.Dev = v.Name
	r.check(r.host.AddFDB(p.fdb))
	r.check(r.host.DelLink(v.Name))
	last := r.device()
	r.apply(create(last))
	w.expect("our device", func(e dataplane.Event) bool {
		if e.Key != (state.Key{}) && e.Key.Kind <= state.KindFDB && e.Key != last.Key() {
			r.Errorf("there is an event of %+v", e.Key)
		}
		return deviceIs(last)(e)
	})
}

// Nexthops and routes of a device are told with their link.
func testOnlinkEvents(r *fixture) {
	v, p := r.overlay()
	q := r.peerOf(1)
	r.apply(create(q.neigh), create(q.fdb))
	w := r.watch()
	r.apply(create(q.nexthop), create(q.route))
	w.expect("a nexthop", about(q.nexthop, state.Ours, false))
	w.expect("a route by it", about(q.route, state.Ours, false))
	r.apply(replace(q.route, q.plain()))
	w.expect("a route without it", about(q.plain(), state.Ours, false))
	r.apply(remove(q.plain()), remove(p.route), remove(p.nexthop))
	w.expect("that route, deleted", about(q.plain(), state.Ours, true))
	w.expect("the route by a nexthop, deleted", about(p.route, state.Ours, true))
	w.expect("the nexthop, deleted", about(p.nexthop, state.Ours, true))
	r.wantThere(v, q.nexthop)
}
