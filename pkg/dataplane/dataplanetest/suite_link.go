package dataplanetest

import (
	"flanneld/pkg/dataplane"
	"flanneld/pkg/state"
)

// A link that goes down takes its routes along, and nothing can be added until
// it is up.
func testLinkDown(r *fixture) {
	a := r.route("10.1.1.0/24", "192.168.5.11")
	r.apply(create(a))
	r.check(r.host.SetLink("eth0", false))
	r.wantNone(a)
	r.refused(create(a), dataplane.ErrNoLink)
	r.apply(remove(a))
	r.upAgain()
	r.wantNone(a)
	r.apply(create(a))
	r.wantEntry(a, state.Ours, false)

	r.check(r.host.SetLink("eth0", false)) // unknown to the last dump
	r.refused(create(a), nil)
}

// A target knows the link by its name, as of the last dump.
func testLinkRecreated(r *fixture) {
	a := r.route("10.1.1.0/24", "192.168.5.11")
	r.apply(create(a))
	r.check(r.host.AddLink("eth1"))
	r.check(r.host.DelLink("eth0"))
	r.refused(create(a), nil)
	r.wantNone(a)
	r.refused(create(a), dataplane.ErrNoLink)
	r.check(r.host.AddLink("eth0"))
	r.check(r.host.AddAddr("eth0", r.prefix("192.168.5.1/24")))
	r.refused(create(a), dataplane.ErrNoLink) // not seen yet
	r.wantNone(a)
	r.apply(create(a))
	r.wantEntry(a, state.Ours, false)
}

// upAgain sets the link up after it was down, with the address that it may have lost.
func (r *fixture) upAgain() {
	r.Helper()
	r.check(r.host.SetLink("eth0", true))
	if r.v6() {
		r.check(r.host.AddAddr("eth0", r.prefix("192.168.5.1/24")))
	}
}

// What goes with a link that goes down is told.
func testLinkDownEvents(r *fixture) {
	v, p := r.overlay()
	a := r.route("10.1.1.0/24", "192.168.5.11")
	r.apply(create(a))
	w := r.watch()
	r.check(r.host.SetLink(v.Name, false))
	for _, o := range []state.Object{p.route, r.deviceAddr(), p.neigh} {
		w.expect(o.String()+" gone with the device", goneKey(o))
		r.check(r.host.SetLink(v.Name, true))
		r.apply(replace(r.dump()[v.Key()].Object, v))
		r.apply(creations(append(p.objects(), r.deviceAddr())...)...)
		r.check(r.host.SetLink(v.Name, false))
	}
	r.check(r.host.SetLink("eth0", false))
	w.expect("the route gone with the link", about(a, state.Ours, true))
	w.expect("the link down", ofIface("eth0"))
}

func testLastAddressGone(r *fixture) {
	a, b := r.route("10.1.1.0/24", "192.168.5.11"), r.route("10.1.2.0/24", "192.168.6.11")
	first, second := r.prefix("192.168.5.1/24"), r.prefix("192.168.6.1/24")
	r.check(r.host.AddAddr("eth0", second))
	r.apply(create(a), create(b))
	r.check(r.host.DelAddr("eth0", first))
	r.wantEntry(a, state.Ours, false)
	r.wantEntry(b, state.Ours, false)
	r.check(r.host.DelAddr("eth0", second))
	if r.v6() { // routes need none
		r.wantThere(a, b)
		return
	}
	r.wantNone(a)
	r.wantNone(b)
}
