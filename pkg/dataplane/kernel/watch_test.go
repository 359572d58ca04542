package kernel

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"flanneld/pkg/dataplane"
	"flanneld/pkg/ip"
	"flanneld/pkg/state"
)

// witness keeps the events of a watch.
type witness struct {
	overlay
	marks  byte
	mu     sync.Mutex
	events []dataplane.Event
}

func watch(o overlay) *witness {
	w := &witness{overlay: o}
	ctx, cancel := context.WithCancel(o.Context())
	ready, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		_ = o.k.Watch(ctx, func() { close(ready) }, func(e dataplane.Event) {
			w.mu.Lock()
			defer w.mu.Unlock()
			w.events = append(w.events, e)
		})
	}()
	o.Cleanup(func() { cancel(); <-done })
	<-ready
	return w
}

// take returns the events so far, up to one that fits.
func (w *witness) take(what string, fits func(dataplane.Event) bool) (events []dataplane.Event) {
	w.Helper()
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		w.mu.Lock()
		for i, e := range w.events {
			if fits(e) {
				events, w.events = w.events[:i+1], w.events[i+1:]
				w.mu.Unlock()
				return events
			}
		}
		w.mu.Unlock()
	}
	w.Fatalf("no event for %s", what)
	return nil
}

// flush returns the events so far.
func (w *witness) flush() []dataplane.Event {
	w.Helper()
	w.marks++
	mark := state.Route{
		Dst: netip.PrefixFrom(netip.AddrFrom4([4]byte{172, 31, 0, w.marks}), 32), Via: netip.MustParseAddr("192.168.5.9"), Dev: "eth0",
	}
	w.apply(create(mark))
	return w.take("a mark", func(e dataplane.Event) bool { return e.Key == mark.Key() })
}

// flushLink is flush, by what is told of whatever the families.
func (w *witness) flushLink() []dataplane.Event {
	w.Helper()
	w.marks++
	mark := fmt.Sprintf("mark%d", w.marks)
	w.check(w.AddLink(mark))
	return w.take("a mark", func(e dataplane.Event) bool { return e.Iface == mark })
}

func (w *witness) expect(what string, want state.Object) {
	w.Helper()
	w.take(what, func(e dataplane.Event) bool {
		return e.Key == want.Key() && state.Same(want, e.Entry.Object) && e.Entry.Owner == state.Ours && !e.Gone
	})
}

// expectOdd waits for news that would make someone look who wants the object.
func (w *witness) expectOdd(what string, want state.Object, owner state.Owner) {
	w.Helper()
	w.take(what, func(e dataplane.Event) bool {
		return e.Key == want.Key() && !state.Same(want, e.Entry.Object) && e.Entry.Owner == owner && !e.Gone
	})
}

func (w *witness) expectGone(what string, k state.Key) {
	w.Helper()
	w.take(what, func(e dataplane.Event) bool { return e.Key == k && e.Gone })
}

func TestDeviceEvents(t *testing.T) {
	o := newOverlay(t)
	w := watch(o)
	v := vxlan()
	v.TxChecksumOff = true
	spoilt := func(what string, err error) {
		w.Helper()
		w.check(err)
		w.expectOdd(what, v, state.Ours)
		o.apply(change(v, v))
		w.expect("its repair", v)
		w.flush()
	}
	o.apply(create(v))
	w.expect("the device", v)
	w.flush()
	spoilt("its MAC address", o.SetMAC(v.Name, state.MAC{2}))
	spoilt("its MTU", o.SetMTU(v.Name, 1000))
	spoilt("it down", o.SetLink(v.Name, false))
	spoilt("its checksums", setTxChecksum(v.Name, true))

	o.check(o.SetLink(v.Name, false))
	rename := func(from, to string) {
		o.check(onLink(from, func(l netlink.Link) error { return netlink.LinkSetName(l, to) }))
	}
	rename(v.Name, "x")
	w.expectGone("it renamed", v.Key())
	rename("x", v.Name)
	w.expectOdd("it back, and down", v, state.Ours)
	o.check(o.SetLink(v.Name, true))
	w.expect("it up", v)
	o.check(o.DelLink(v.Name))
	w.expectGone("its end", v.Key())
	o.check(o.AddVXLAN(v))
	w.expect("it made by someone else", v)
	o.check(o.DelLink("eth0"))
	w.expectGone("its end, with that of eth0", v.Key())
}

// A rename is news about the old name and about the new one.
func TestRenameEvents(t *testing.T) {
	o := newOverlay(t)
	w := watch(o)
	o.check(o.SetLink("eth0", false))
	w.take("it down", func(e dataplane.Event) bool { return e.Iface == "eth0" })
	o.check(onLink("eth0", func(l netlink.Link) error { return netlink.LinkSetName(l, "eth7") }))
	for _, name := range []string{"eth0", "eth7"} {
		w.take("the name "+name, func(e dataplane.Event) bool { return e.Iface == name })
	}
}

// A device that is renamed takes with it what is on it, also if there is another one of its
// former name by the time that anyone looks.
func TestRenamedAndMadeAnew(t *testing.T) {
	o := newOverlay(t)
	d := state.TUN{Name: "flannel0", MTU: 1472, Alias: state.TUNAlias(netip.MustParsePrefix("10.1.0.0/16"))}
	o.apply(create(d))
	w := watch(o)
	o.k.devices.Lock() // as while this program repairs it
	o.check(onLink(d.Name, func(l netlink.Link) error { return netlink.LinkSetName(l, "flannel7") }))
	o.check(o.k.createTUN(d))
	o.k.devices.Unlock()
	w.expectGone("the former one", d.Key())
	w.expect("the one in its place", d)
}

func TestEventsOfDevices(t *testing.T) {
	o := newDevice(t)
	w := watch(o)
	a := state.Addr{Dev: "flannel.1", Prefix: netip.MustParsePrefix("10.1.0.0/32")}
	n := state.Neigh{Dev: "flannel.1", Addr: netip.MustParseAddr("10.1.2.0"), MAC: state.MAC{2, 1}}
	f := state.FDB{Dev: "flannel.1", MAC: state.MAC{2, 1}, Dst: netip.MustParseAddr("192.168.5.3")}
	o.check(o.AddAddr(a.Dev, a.Prefix))
	w.expect("the address", a)
	o.check(o.DelAddr(a.Dev, a.Prefix))
	w.take("the address gone", func(e dataplane.Event) bool { return e.Key == a.Key() && e.Gone && e.Iface == a.Dev })

	o.check(o.AddNeigh(n, true))
	w.expect("the neighbour", n)
	o.check(o.AddNeigh(n, false))
	w.expectOdd("it not permanent", n, state.Foreign)
	o.check(o.DelNeigh(n.Dev, n.Addr))
	w.expectGone("its end", n.Key())

	o.check(o.AddFDB(f))
	w.expect("the FDB entry", f)
	other := f
	other.Dst = other.Dst.Next()
	o.check(o.AddFDB(other))
	w.expectOdd("it to another host", f, state.Ours)
	o.check(o.DelFDB(other))
	w.expectGone("its end", f.Key())
	o.check(netlink.NeighSet(&netlink.Neigh{
		LinkIndex: o.index(f.Dev), Family: unix.AF_BRIDGE, State: unix.NUD_REACHABLE, Flags: netlink.NTF_SELF,
		IP: f.Dst.AsSlice(), HardwareAddr: f.MAC[:],
	}))
	w.expectOdd("it learned", f, state.Foreign)

	// Of other devices there is no such news.
	w.flush()
	n.Dev = "eth0"
	o.check(o.AddNeigh(n, true))
	o.check(o.DelNeigh(n.Dev, n.Addr))
	for _, e := range w.flush() {
		if e.Key.Kind == state.KindNeigh {
			t.Errorf("%+v", e)
		}
	}
	o.check(o.SetLink(f.Dev, false)) // takes its entries along
}

// What this program does itself never looks like something else: it would have
// to look at everything again.
func TestOwnEvents(t *testing.T) {
	o := newOverlay(t)
	w := watch(o)
	v := vxlan()
	v.TxChecksumOff = true
	want := state.Set{}
	for _, x := range peers(v, 300) {
		want[x.Key()] = x
	}
	quiet := func(what string) {
		w.Helper()
		for _, e := range w.flush() {
			if x, wanted := want[e.Key]; wanted && (e.Gone || !state.Same(x, e.Entry.Object) || e.Entry.Owner != state.Ours) {
				w.Errorf("%s: of %s it is said: %+v", what, x, e)
			}
		}
	}
	var keys []state.Key
	for k := range want {
		keys = append(keys, k)
	}
	pass := func() {
		ops, _ := state.Diff(want, o.dump(), keys, nil)
		o.apply(ops...)
	}
	pass()
	quiet("creation")
	spoil := []func() error{
		func() error { return o.SetMTU(v.Name, 1000) },
		func() error { return o.DelNeigh(v.Name, netip.MustParseAddr("10.1.0.7")) },
	}
	for _, f := range spoil {
		o.check(f())
		w.flush()
		pass()
		quiet("repair")
	}
	var ops []state.Op
	for _, x := range want {
		if x.Key().Kind != state.KindLink {
			ops = append(ops, change(x, x))
		}
	}
	o.apply(ops...)
	quiet("replacement by the same")

	// A new MAC address is the end of all neighbours, which is told.
	o.check(o.SetMAC(v.Name, state.MAC{2}))
	w.expectGone("a neighbour", state.NeighKey(v.Name, netip.MustParseAddr("10.1.0.7")))
	w.flush()
	pass()
	w.flush()
	pass()
	quiet("nothing to do")
	have := o.dump()
	for k, x := range want {
		if e := have[k]; !state.Same(x, e.Object) {
			t.Fatalf("there is %+v; want %s", e, x)
		}
	}
}

// peers returns the device v and what n peers need on it; with routes by nexthop if the
// family has such.
func peers(v state.VXLAN, n int) []state.Object {
	f := ip.FamilyOf(v.Local)
	at := func(subnet int) netip.Prefix {
		if f == ip.V4 {
			return netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(subnet >> 16), byte(subnet >> 8), byte(subnet)}), 32)
		}
		return netip.PrefixFrom(netip.AddrFrom16([16]byte{0: 0xfd, 5: byte(subnet >> 16), 6: byte(subnet >> 8), 7: byte(subnet)}), 64)
	}
	host := v.Local
	devices := []state.Object{v, state.Addr{Dev: v.Name, Prefix: netip.PrefixFrom(at(0).Addr(), f.Bits())}}
	var neighs, fdb, nexthops, routes []state.Object
	for i := range n {
		dst := at(1<<16 + i)
		via := dst.Addr()
		mac := state.MAC{2, 0, 0, byte(i >> 16), byte(i >> 8), byte(i)}
		host = host.Next()
		id := state.NexthopID(dst)
		neighs = append(neighs, state.Neigh{Dev: v.Name, Addr: via, MAC: mac})
		fdb = append(fdb, state.FDB{Dev: v.Name, MAC: mac, Dst: host})
		if id != 0 {
			nexthops = append(nexthops, state.Nexthop{ID: id, Via: via, Dev: v.Name, Onlink: true})
		}
		routes = append(routes, state.Route{Dst: dst, Via: via, Dev: v.Name, Onlink: true, Nexthop: id})
	}
	return slices.Concat(devices, neighs, fdb, nexthops, routes)
}

// Of the families that nobody wants there is no news of routes and rules, and there is again of
// those that are wanted later; whoever listens is told to look at all that came in between.
func TestFollow(t *testing.T) {
	o := newOverlay(t)
	odd := map[ip.Family]state.Route{
		ip.V4: {Dst: netip.MustParsePrefix("10.9.9.0/24"), Via: netip.MustParseAddr("192.168.5.9"), Dev: "eth0"},
		ip.V6: {Dst: netip.MustParsePrefix("fd00:9::/64"), Via: netip.MustParseAddr("2001:db8:5::9"), Dev: "eth0"},
	}
	o.k.Follow([]ip.Family{ip.V4})
	w := watch(o)
	for i, families := range [][]ip.Family{{ip.V4}, {ip.V4, ip.V6}, {ip.V6}, {ip.V4}} {
		if i > 0 {
			o.k.Follow(families)
			w.take("the change", func(e dataplane.Event) bool { return e.Lost })
		}
		for f, r := range odd {
			o.apply(create(r))
			o.apply(remove(r))
			rule := netlink.NewRule()
			rule.Family, rule.Priority, rule.Table = int(numberOf(f)), 100, unix.RT_TABLE_MAIN
			o.check(netlink.RuleAdd(rule))
			o.check(netlink.RuleDel(rule))
		}
		told, rules := map[state.Key]int{}, 0
		for _, e := range w.flushLink() {
			switch {
			case e.Lost:
				t.Errorf("%v: events were lost", families)
			case e.Key.Kind == state.KindRoute:
				told[e.Key]++
			case e.Paths:
				rules++
			}
		}
		for f, r := range odd {
			if want := slices.Contains(families, f); (told[r.Key()] == 2) != want || !want && told[r.Key()] != 0 {
				t.Errorf("%v: of %s there were %d events", families, r, told[r.Key()])
			}
		}
		// With IPv6, there are the routes that come with a link of any.
		if want := 2 * len(families); rules < want || rules > want && !slices.Contains(families, ip.V6) {
			t.Errorf("%v: of rules there were %d events", families, rules)
		}
	}
}
