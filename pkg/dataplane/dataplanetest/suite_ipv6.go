package dataplanetest

import (
	"net/netip"

	"flanneld/pkg/dataplane"
	"flanneld/pkg/state"
)

// What is different in IPv6 by more than addresses.

// Of a route that is appended to ours the kernel makes one with it, which spreads packets
// over both, and has the mark of the first. That is told, and replaced as a whole.
func testSiblings(r *fixture) {
	a, b := r.route("10.1.1.0/24", "192.168.5.11"), r.route("10.1.1.0/24", "192.168.5.12")
	w := r.watch()
	for _, protocol := range []int{ProtoStatic, ProtoBoot, ProtoOurs} {
		for _, want := range []state.Route{a, b} {
			r.apply(create(a))
			w.expect("our route", about(a, state.Ours, false))
			r.check(r.host.AppendRoute(marked(b, protocol)))
			w.expect("another hop", func(e dataplane.Event) bool {
				return e.Key == a.Key() && !e.Gone && e.Entry.Object != state.Object(a)
			})
			e := r.dump()[a.Key()]
			if _, plain := e.Object.(state.Route); plain || e.Owner != state.Ours || e.Front != nil {
				r.Fatalf("there is %+v", e)
			}
			ops, blocked := r.diff(want)
			if len(ops) != 1 || ops[0] != replace(e.Object, want) || blocked != nil {
				r.Fatalf("steps %v, blocked %v", ops, blocked)
			}
			r.apply(ops...)
			w.expect("our route alone", about(want, state.Ours, false))
			r.wantEntry(want, state.Ours, false)
			r.apply(remove(want))
			r.wantNone(want)
		}
	}
	r.apply(create(a))
	r.check(r.host.AppendRoute(marked(b, ProtoStatic)))
	r.apply(remove(r.dump()[a.Key()].Object)) // it cannot be told whose each is
	r.wantNone(a)
}

// What others appended to a route of theirs is theirs, also if it bears our mark; each can
// be deleted by itself.
func testSiblingsOfOthers(r *fixture) {
	a, b := r.route("10.1.1.0/24", "192.168.5.11"), r.route("10.1.1.0/24", "192.168.5.12")
	r.check(r.host.AddRoute(marked(a, ProtoStatic)))
	r.check(r.host.AppendRoute(marked(b, ProtoOurs)))
	for _, want := range []state.Route{a, b} {
		if ops, blocked := r.diff(want); ops != nil || len(blocked) != 1 || blocked[0].By == "" {
			r.Fatalf("steps %v, blocked %v", ops, blocked)
		}
	}
	r.apply(remove(b), remove(a))
	r.wantEntry(a, state.Foreign, false)
	r.check(r.host.DelRoute(marked(a, ProtoStatic)))

	// An older flannel's is replaced as a whole.
	r.check(r.host.AddRoute(marked(a, ProtoBoot)))
	r.check(r.host.AppendRoute(marked(b, ProtoBoot)))
	ops, blocked := r.diff(a)
	if len(ops) != 1 || ops[0].Verb != state.Replace || blocked != nil {
		r.Fatalf("steps %v, blocked %v", ops, blocked)
	}
	r.apply(ops...)
	r.wantEntry(a, state.Ours, false)
	r.apply(remove(a))
	r.wantNone(a)
}

// Routes that have no gateway stay apart, and one of them is replaced by another only.
func testDeviceRouteSecond(r *fixture) {
	a := r.tunRoute()
	r.apply(create(tunDevice()))
	second := a
	second.Dev = "eth0"
	for _, want := range []state.Route{a, second} {
		r.apply(create(a))
		r.check(r.host.AppendRoute(marked(second, ProtoOurs)))
		for range 3 {
			ops, _ := r.diff(want)
			r.apply(ops...)
		}
		r.wantEntry(want, state.Ours, false)
		r.apply(remove(want))
		r.wantNone(want)
	}
}

// A device has an address once, whatever its length: another length is replaced.
func testDeviceAddrLength(r *fixture) {
	v, a := r.device(), r.deviceAddr()
	r.apply(create(v))
	wide := a
	wide.Prefix = netip.PrefixFrom(a.Prefix.Addr(), 64)
	r.check(r.host.AddAddr(v.Name, wide.Prefix))
	e := r.dump()[a.Key()]
	if _, made := e.Object.(state.Addr); made || e.Owner != state.Ours {
		r.Fatalf("there is %+v", e)
	}
	ops, _ := r.diff(a)
	r.apply(ops...)
	r.wantThere(a)
	r.apply(remove(a))
	r.check(r.host.AddAddr(v.Name, wide.Prefix))
	r.apply(remove(r.dump()[a.Key()].Object))
	r.wantGone(a)
}

// What the kernel gives to each device by itself is not told.
func testDeviceAddrOfKernel(r *fixture) {
	w := r.watch()
	r.overlay()
	second := r.deviceAddr()
	second.Prefix = r.prefix("10.9.0.0/32")
	r.check(r.host.AddAddr(second.Dev, second.Prefix))
	known := map[state.Key]bool{r.deviceAddr().Key(): true, second.Key(): true}
	w.expect("an address", func(e dataplane.Event) bool {
		if e.Key.Kind == state.KindAddr && !known[e.Key] {
			r.Errorf("there is %+v", e)
		}
		return e.Key == second.Key()
	})
	for k := range r.dump() {
		if k.Kind == state.KindAddr && !known[k] {
			r.Errorf("there is %+v", k)
		}
	}
}

// A route into the tunnel takes the place of one by another interface, and back, and one of
// others that is wider is no obstacle. In IPv6 a kernel refuses a gateway that it would look
// for elsewhere.
func testGatewayElsewhere(r *fixture) {
	r.overlay()
	q := r.peerOf(1)
	r.apply(create(q.neigh), create(q.fdb))
	direct, tunnel := q.plain(), q.plain()
	direct.Via, direct.Dev, direct.Onlink = r.addr("192.168.5.11"), "eth0", false
	r.apply(create(direct))
	w := r.watch()
	for range 2 {
		r.apply(replace(direct, tunnel))
		w.expect("the route by the tunnel", about(tunnel, state.Ours, false))
		r.wantThere(tunnel)
		r.apply(replace(tunnel, direct))
		w.expect("the direct one", func(e dataplane.Event) bool {
			if e.Key.Kind == state.KindRoute && e.Key != direct.Key() || e.Gone {
				r.Errorf("there is an event of %+v", e)
			}
			return about(direct, state.Ours, false)(e)
		})
		r.wantThere(direct)
	}
	r.apply(remove(direct))
	wide := Route{Route: r.route("10.0.0.0/8", "192.168.5.11"), Protocol: ProtoStatic}
	r.check(r.host.AddRoute(wide))
	r.apply(create(tunnel))
	r.wantThere(tunnel)
	for k, e := range r.dump() {
		if k.Kind == state.KindRoute && k.Prefix.IsSingleIP() {
			r.Errorf("there is left %+v", e)
		}
	}
}

// A device on which IPv6 is disabled is not as wanted. With that go its addresses,
// neighbours and routes.
func testDeviceWithoutIPv6(r *fixture) {
	r.losesIPv6(func(dev string) error { return r.host.Hinder(dev, NoIPv6) })
}

// Nor is there IPv6 on a device whose MTU is too small for that; none is made so.
func testDeviceSmall(r *fixture) {
	r.losesIPv6(func(dev string) error { return r.host.SetMTU(dev, 1279) })
	v := r.device()
	small := v
	small.MTU = 1279
	r.refused(replace(v, small), nil)
	r.apply(remove(v))
	r.refused(create(small), nil)
	r.wantGone(small)
}

func (r *fixture) losesIPv6(by func(dev string) error) {
	v, p := r.overlay()
	r.apply(replace(p.route, p.plain()), remove(p.nexthop))
	w := r.watch()
	r.check(by(v.Name))
	w.expect("the address gone", goneKey(r.deviceAddr()))
	there := r.wantUnmanaged(v)
	r.wantGone(p.neigh, r.deviceAddr(), p.plain())
	r.wantThere(p.fdb)
	r.apply(append([]state.Op{replace(there, v)}, creations(r.deviceAddr(), p.neigh, p.plain())...)...)
	r.wantThere(v, r.deviceAddr(), p.neigh, p.fdb, p.plain())
}
