package dataplanetest

import (
	"golang.org/x/sys/unix"

	"flanneld/pkg/dataplane"
	"flanneld/pkg/state"
	"flanneld/pkg/tun"
)

// tunDevice is ours, or is as ours.
func tunDevice() state.TUN {
	return state.TUN{Name: "flannel0", MTU: 1472, Alias: "flanneld 10.0.0.0/8"}
}

func (a Addressing) tunAddr() state.Addr {
	return state.Addr{Dev: "flannel0", Prefix: a.prefix("10.1.0.0/32")}
}

func (a Addressing) tunRoute() state.Route {
	return state.Route{Dst: a.prefix("10.0.0.0/8"), Dev: "flannel0"}
}

// tunnelled makes a TUN device with its address and route, and returns them.
func (r *fixture) tunnelled() (state.TUN, []state.Object) {
	r.Helper()
	t, on := tunDevice(), []state.Object{r.tunAddr(), r.tunRoute()}
	r.apply(append(creations(t), creations(on...)...)...)
	return t, on
}

// wantForeign checks that what has the key of o is not as we make it, nor ours.
func (r *fixture) wantForeign(o state.Object) state.Object {
	r.Helper()
	e, ok := r.dump()[o.Key()]
	if !ok || asMade(e.Object) || e.Owner != state.Foreign || e.Text == "" {
		r.Fatalf("there is %+v", e)
	}
	if ops, blocked := r.diff(o); ops != nil || len(blocked) != 1 {
		r.Fatalf("steps %v, blocked %v", ops, blocked)
	}
	return e.Object
}

// leftAlone checks that nothing is done with the foreign TUN device that has the name of t.
func (r *fixture) leftAlone(t state.TUN) {
	r.Helper()
	there := r.wantForeign(t)
	r.refused(create(t), unix.EEXIST)
	r.refused(replace(there, t), nil)
	r.refused(remove(there), nil)
	r.refused(create(r.tunRoute()), dataplane.ErrNoLink)
	r.wantForeign(t)
}

func testTUN(r *fixture) {
	for _, name := range []string{"flannel0", "flannel12"} {
		t := tunDevice()
		t.Name = name
		altered := t
		altered.MTU = 1400
		r.comesAndGoes(t, altered)
	}
	// It is there for the rest of the call, and for the next.
	t, on := tunDevice(), []state.Object{r.tunAddr(), r.tunRoute()}
	r.apply(remove(t))
	r.apply(append(creations(t), creations(on...)...)...)
	r.wantThere(append(on, t)...)
	r.apply(remove(on[1]), remove(on[0]), remove(t), create(t))
	r.apply(creations(on...)...)
	r.wantThere(append(on, t)...)
}

// What is wrong about a device is altered without a loss.
func testTUNAltered(r *fixture) {
	t, on := r.tunnelled()
	r.apply(replace(t, t))
	r.wantThere(append(on, t)...)
	altered := t
	altered.MTU = 9000
	r.apply(replace(t, altered))
	r.wantThere(append(on, altered)...)
	r.check(r.host.SetMTU(t.Name, 1300))
	there := t
	there.MTU = 1300
	r.wantEntry(there, state.Ours, false)
	r.apply(replace(there, t))
	r.wantThere(append(on, t)...)
}

func testTUNMTU(r *fixture) {
	t := tunDevice()
	for _, mtu := range []int{67, 65536} {
		t.MTU = mtu
		r.refused(create(t), unix.EINVAL)
		r.wantGone(t)
	}
	for _, mtu := range []int{68, 65535} {
		was := tunDevice()
		t.MTU = mtu
		r.apply(create(was))
		r.apply(replace(was, t))
		r.wantThere(t)
		r.apply(remove(t))
	}
}

// A device that goes down keeps its addresses of IPv4, and nothing else.
func testTUNDown(r *fixture) {
	t, _ := r.tunnelled()
	r.check(r.host.SetLink(t.Name, false))
	there := r.wantUnmanaged(t)
	lost, kept := r.downLoses(r.tunAddr())
	r.wantThere(kept...)
	r.wantGone(append(lost, r.tunRoute())...)
	r.refused(create(r.tunRoute()), dataplane.ErrNoLink)
	r.refused(create(t), unix.EEXIST)
	r.apply(append([]state.Op{replace(there, t)}, creations(append(lost, r.tunRoute())...)...)...)
	r.wantThere(t, r.tunAddr(), r.tunRoute())
	r.check(r.host.SetLink(t.Name, false))
	r.apply(remove(r.wantUnmanaged(t)))
	r.wantGone(t, r.tunAddr())
}

// A device that is up and carries no packets is not as wanted, which is told. It is put
// right in place.
func testTUNHindered(r *fixture) {
	t, on := r.tunnelled()
	detach, err := r.host.Attach(t.Name, true) // else it has no carrier anyway
	r.check(err)
	defer detach()
	w := r.watch()
	for _, how := range []Hindrance{NoQueue, NoCarrier, NoForwarding} {
		r.check(r.host.Hinder(t.Name, how))
		w.expect("the device hindered", func(e dataplane.Event) bool {
			return e.Key == t.Key() && !e.Gone && !asMade(e.Entry.Object) && e.Entry.Owner == state.Ours
		})
		r.apply(replace(r.wantUnmanaged(t), t))
		w.expect("the device put right", about(t, state.Ours, false))
		r.wantThere(append(on, t)...)
	}
	for _, how := range []Hindrance{NoQueue, NoCarrier, NoForwarding} {
		r.check(r.host.Hinder(t.Name, how))
	}
	r.apply(replace(r.wantUnmanaged(t), t))
	r.wantThere(append(on, t)...)
}

// With a device goes all that is on it, and nothing can be put there.
func testTUNDeleted(r *fixture) {
	t, on := r.tunnelled()
	r.check(r.host.DelLink(t.Name))
	for _, o := range on {
		r.apply(remove(o))
		r.refused(create(o), nil) // unknown to the last dump
	}
	r.wantGone(append(on, t)...)
	for _, o := range on {
		r.refused(create(o), dataplane.ErrNoLink)
		r.apply(remove(o))
	}
	r.apply(remove(t))
	r.tunnelled()
	r.apply(remove(t)) // with all that is on it
	r.wantGone(append(on, t)...)
	// That there was a route on it is no reason to delete another.
	other := r.route(r.tunRoute().Dst.String(), "192.168.5.11")
	r.apply(create(other), remove(r.tunRoute()))
	r.wantThere(other)
}

// A device that ends with its process is that process's, with all that it has.
func testTUNOfAnotherProcess(r *fixture) {
	t, a := tunDevice(), r.tunAddr()
	r.check(r.host.AddTUN(t.Name, t.Alias, false))
	r.check(r.host.AddAddr(t.Name, a.Prefix))
	r.check(r.host.SetMTU(t.Name, t.MTU))
	r.wantGone(a)
	r.leftAlone(t)
	r.refused(create(a), dataplane.ErrNoLink)
	r.wantGone(a, r.tunRoute())
	r.check(r.host.DelLink(t.Name))
	r.wantGone(t)
	r.tunnelled()
	r.wantThere(t, a, r.tunRoute())
}

// A device is ours by its name and alias, and so is what it has; another alias of
// ours is replaced.
func testTUNFound(r *fixture) {
	t, a := tunDevice(), r.tunAddr()
	for _, alias := range []string{t.Alias, "flanneld 10.9.0.0/16"} {
		r.check(r.host.AddTUN(t.Name, alias, true))
		r.check(r.host.AddAddr(t.Name, a.Prefix))
		there := t
		there.MTU, there.Alias = 1500, alias
		r.wantEntry(there, state.Ours, false)
		r.wantThere(a)
		r.apply(replace(there, t), create(r.tunRoute()))
		r.wantThere(t, a, r.tunRoute())
		r.apply(remove(a))
		r.wantGone(a)
		if !r.v6() {
			r.wantGone(r.tunRoute())
		}
		r.wantThere(t)
		r.apply(remove(t))
		r.wantGone(t, r.tunRoute())
	}
}

// One without such an alias is not, but while this process is attached; so it
// can be put right.
func testTUNWithoutAlias(r *fixture) {
	t, a := tunDevice(), r.tunAddr()
	for _, alias := range []string{"", "tunnel to nowhere", "flanneld"} {
		r.check(r.host.AddTUN(t.Name, alias, true))
		r.check(r.host.AddAddr(t.Name, a.Prefix))
		r.wantGone(a)
		r.leftAlone(t)
		r.check(r.host.DelLink(t.Name))

		r.tunnelled()
		detach, err := r.host.Attach(t.Name, true)
		r.check(err)
		r.check(r.host.SetAlias(t.Name, alias))
		there := t
		there.Alias = alias
		r.wantEntry(there, state.Ours, false)
		r.wantThere(a, r.tunRoute())
		r.apply(replace(there, t))
		detach()
		r.wantThere(t, a, r.tunRoute())
		r.apply(remove(t))
	}
}

// A device that another process is attached to is that process's, with all that
// it has, also the routes to it, for as long as that lasts.
func testTUNHeld(r *fixture) {
	t, on := r.tunnelled()
	detach, err := r.host.Attach(t.Name, false)
	r.check(err)
	there := r.wantForeign(t)
	r.wantGone(on[0])
	r.wantEntry(on[1], state.Foreign, false)
	r.refused(create(t), unix.EEXIST)
	r.refused(replace(there, t), tun.ErrHeld)
	r.refused(remove(there), tun.ErrHeld)
	other := r.route(r.tunRoute().Dst.String(), "192.168.5.11")
	if ops, blocked := r.diff(other); ops != nil || len(blocked) != 1 {
		r.Fatalf("steps %v, blocked %v", ops, blocked)
	}
	own, err := r.host.Attach(t.Name, true) // is no excuse
	r.check(err)
	r.wantForeign(t)
	r.refused(remove(there), tun.ErrHeld)
	detach()
	r.wantThere(append(on, t)...)
	r.apply(remove(t))
	own()
	r.wantGone(append(on, t)...)
}

// What is no TUN device at all is not removed, whatever its name.
func testTUNInTheWay(r *fixture) {
	t := tunDevice()
	v := r.device()
	v.Name = t.Name
	for _, add := range []func() error{
		func() error { return r.host.AddLink(t.Name) },
		func() error { return r.host.AddVXLAN(v) },
	} {
		r.check(add())
		r.check(r.host.AddAddr(t.Name, r.tunAddr().Prefix))
		r.wantGone(r.tunAddr())
		r.leftAlone(t)
		r.check(r.host.DelLink(t.Name))
	}
}

// A TUN device by the name of a VXLAN device is not as it has to be; one by a
// name of others is none of ours.
func testTUNByAnotherName(r *fixture) {
	v := r.device()
	r.check(r.host.AddTUN(v.Name, tunDevice().Alias, true))
	r.apply(replace(r.wantUnmanaged(v), v))
	r.wantThere(v)
	for _, name := range []string{"flannel", "tun0", "flannel0x", "xflannel0"} {
		r.check(r.host.AddTUN(name, tunDevice().Alias, true))
		a := state.Addr{Dev: name, Prefix: r.tunAddr().Prefix}
		r.check(r.host.AddAddr(name, a.Prefix))
		r.wantGone(state.TUN{Name: name}, a)
		r.check(r.host.DelLink(name))
	}
}

func testTUNEvents(r *fixture) {
	w := r.watch()
	t, a := tunDevice(), r.tunAddr()
	is := func(t state.TUN) func(dataplane.Event) bool {
		return func(e dataplane.Event) bool { return e.Iface == t.Name && about(t, state.Ours, false)(e) }
	}
	altered := t
	altered.MTU = 1400
	r.apply(create(t))
	w.expect("our device, made", is(t))
	r.apply(replace(t, altered))
	w.expect("our device, altered", is(altered))
	r.check(r.host.SetMTU(t.Name, t.MTU))
	w.expect("another MTU", is(t))
	r.check(r.host.SetLink(t.Name, false))
	w.expect("the device down", func(e dataplane.Event) bool {
		return e.Key == t.Key() && !e.Gone && !asMade(e.Entry.Object) && e.Entry.Owner == state.Ours
	})
	r.check(r.host.SetLink(t.Name, true))
	w.expect("the device up", is(t))
	r.apply(create(a))
	w.expect("our address", about(a, state.Ours, false))
	r.apply(remove(t))
	w.expect("our address, gone with the device", goneKey(a))
	w.expect("the device gone", goneKey(t))
	r.check(r.host.AddTUN(t.Name, t.Alias, true))
	t.MTU = 1500
	w.expect("a device like ours", is(t))
	r.check(r.host.SetAlias(t.Name, "flanneld 10.9.0.0/16"))
	renamed := t
	renamed.Alias = "flanneld 10.9.0.0/16"
	w.expect("another alias", is(renamed))
	r.check(r.host.SetAlias(t.Name, t.Alias))
	w.expect("its alias", is(t))
	foreign := func(e dataplane.Event) bool {
		return e.Key == t.Key() && !e.Gone && e.Entry.Owner == state.Foreign
	}
	r.check(r.host.SetAlias(t.Name, ""))
	w.expect("no alias", foreign)
	detach, err := r.host.Attach(t.Name, true)
	r.check(err)
	unmarked := t
	unmarked.Alias = ""
	w.expect("our own queue", is(unmarked))
	r.check(r.host.SetAlias(t.Name, t.Alias))
	w.expect("its alias", is(t))
	detach()
	detach, err = r.host.Attach(t.Name, false)
	r.check(err)
	w.expect("another process's queue", foreign)
	detach()
	w.expect("its end", is(t))
	r.check(r.host.DelLink(t.Name))
	w.expect("the device's end", goneKey(t))
}

// What another process's device has does not look like ours.
func testForeignTUNEvents(r *fixture) {
	w := r.watch()
	t, a := tunDevice(), r.tunAddr()
	r.check(r.host.AddTUN(t.Name, t.Alias, false))
	w.expect("another process's device", func(e dataplane.Event) bool {
		return e.Key == t.Key() && !e.Gone && !asMade(e.Entry.Object) && e.Entry.Owner == state.Foreign
	})
	r.check(r.host.AddAddr(t.Name, a.Prefix))
	r.check(r.host.DelAddr(t.Name, a.Prefix))
	r.check(r.host.DelLink(t.Name))
	w.expect("its end", func(e dataplane.Event) bool {
		if e.Key == a.Key() {
			r.Errorf("there is an event of %+v", e)
		}
		return goneKey(t)(e)
	})
	r.apply(create(t), create(a))
	w.expect("our address", about(a, state.Ours, false))
}
