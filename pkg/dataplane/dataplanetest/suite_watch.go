package dataplanetest

import (
	"context"
	"errors"
	"fmt"

	"flanneld/pkg/dataplane"
	"flanneld/pkg/state"
)

func about(o state.Object, owner state.Owner, gone bool) func(dataplane.Event) bool {
	return func(e dataplane.Event) bool {
		return e.Key == o.Key() && e.Gone == gone && e.Entry.Object == o && e.Entry.Owner == owner && e.Paths == (owner != state.Ours)
	}
}

func ofIface(name string) func(dataplane.Event) bool {
	return func(e dataplane.Event) bool { return e.Iface == name }
}

func testRouteEvents(r *fixture) {
	w := r.watch()
	a, b := r.route("10.1.1.0/24", "192.168.5.11"), r.route("10.1.1.0/24", "192.168.5.12")
	r.apply(create(a))
	w.expect("our route, added", about(a, state.Ours, false))
	r.apply(replace(a, b))
	w.expect("our route, replaced", about(b, state.Ours, false))
	r.apply(remove(b))
	w.expect("our route, deleted", about(b, state.Ours, true))
	r.check(r.host.AddRoute(marked(a, ProtoBoot)))
	w.expect("an adoptable route", about(a, state.Adoptable, false))
	r.check(r.host.ReplaceRoute(marked(b, ProtoStatic)))
	w.expect("a foreign route in its place", about(b, state.Foreign, false))
	if r.v6() {
		r.check(r.host.DelRoute(marked(b, ProtoStatic)))
		w.expect("its end", about(b, state.Foreign, true))
		return
	}
	r.check(r.host.AppendRoute(marked(a, ProtoOurs)))
	w.expect("one of ours behind it", about(a, state.Ours, false))
	r.check(r.host.DelRoute(marked(b, ProtoStatic)))
	w.expect("the foreign route gone", about(b, state.Foreign, true))
	r.check(r.host.DelRoute(marked(a, ProtoOurs)))
	w.expect("ours deleted by someone else", about(a, state.Ours, true))
}

func testLinkEvents(r *fixture) {
	r.apply(create(r.route("10.1.1.0/24", "192.168.5.11")))
	w := r.watch()
	r.check(r.host.SetLink("eth0", false))
	w.expect("the link down", ofIface("eth0"))
	r.check(r.host.SetLink("eth0", true))
	w.expect("the link up", ofIface("eth0"))
	r.check(r.host.AddLink("eth1"))
	w.expect("a new link", ofIface("eth1"))
	r.check(r.host.DelLink("eth0"))
	w.expect("the link deleted", ofIface("eth0"))
	r.check(r.host.AddLink("eth0"))
	w.expect("the link made again", ofIface("eth0"))
}

func testAddressEvents(r *fixture) {
	w := r.watch()
	p := r.prefix("192.168.6.1/24")
	r.check(r.host.AddAddr("eth0", p))
	w.expect("an address added", ofIface("eth0"))
	r.check(r.host.DelAddr("eth0", p))
	w.expect("an address removed", ofIface("eth0"))
}

func testDefaultRouteEvents(r *fixture) {
	w := r.watch()
	for _, metric := range []uint32{0, 100} {
		d := Route{Route: r.route("0.0.0.0/0", "192.168.5.254"), Protocol: ProtoStatic}
		d.Metric = metric
		fits := func(e dataplane.Event) bool {
			return e.Defaults && e.Paths && (e.Key != state.Key{}) == (metric == 0)
		}
		r.check(r.host.AddRoute(d))
		w.expect(fmt.Sprintf("a default route with metric %d", metric), fits)
		r.check(r.host.DelRoute(d))
		w.expect("its end", fits)
	}
}

// If a watcher does not keep up, it is told so.
func testEventsLost(r *fixture) {
	w := r.watch()
	routes := r.many(5000)
	ops := make([]state.Op, len(routes))
	for range 6 {
		for i, a := range routes {
			ops[i] = create(a)
		}
		r.apply(ops...)
		for i, a := range routes {
			ops[i] = remove(a)
		}
		r.apply(ops...)
	}
	w.expect("a loss", func(e dataplane.Event) bool { return e.Lost })
	// From then on events come again.
	a := r.route("10.200.1.0/24", "192.168.5.11")
	r.apply(create(a))
	w.expect("a route after the loss", about(a, state.Ours, false))
}

func testWatchEnds(r *fixture) {
	w := r.watch()
	if err := w.stop(); !errors.Is(err, context.Canceled) {
		r.Error(err)
	}
}
