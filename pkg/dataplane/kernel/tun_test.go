package kernel

import (
	"net/netip"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"flanneld/pkg/state"
	"flanneld/pkg/tun"
)

func tunDevice() state.TUN {
	return state.TUN{Name: "flannel0", MTU: 1472, Alias: "flanneld 10.0.0.0/8"}
}

// onTUN are an address and a route of the device.
func onTUN() []state.Object {
	return []state.Object{
		state.Addr{Dev: "flannel0", Prefix: netip.MustParsePrefix("10.1.0.0/32")},
		state.Route{Dst: netip.MustParsePrefix("10.0.0.0/8"), Dev: "flannel0"},
	}
}

func (o overlay) attach(queues int) *tun.Device {
	o.Helper()
	d, err := tun.Open("flannel0", tun.Options{Queues: queues, Offload: true})
	o.check(err)
	return d
}

func TestMakeTUN(t *testing.T) {
	o := newOverlay(t)
	d := tunDevice()
	o.apply(create(d))
	o.is(d)
	if ra, err := os.ReadFile("/proc/sys/net/ipv6/conf/flannel0/accept_ra"); err == nil && string(ra) != "0\n" {
		t.Errorf("it learns routers: %q", ra)
	}
	l, err := netlink.LinkByName(d.Name)
	o.check(err)
	if n := l.Attrs().TxQLen; n != 500 {
		t.Errorf("its queue is %d packets long", n)
	}
	q := o.attach(2)
	if len(q.Queues) != 2 {
		t.Errorf("it has %d queues", len(q.Queues))
	}
	o.check(q.Close())
	o.is(d)
	// As another program makes it, for one queue.
	o.apply(remove(d))
	o.check(netlink.LinkAdd(&netlink.Tuntap{LinkAttrs: netlink.LinkAttrs{Name: d.Name}, Mode: netlink.TUNTAP_MODE_TUN}))
	o.check(o.SetAlias(d.Name, d.Alias))
	o.mend(d)
	q = o.attach(2)
	o.is(d)
	o.check(q.Close())
	o.apply(remove(d))
	o.none(d.Key())
}

// A device is never made anew: it may be in use, and there is no need to.
func TestMendTUN(t *testing.T) {
	o := newOverlay(t)
	d := tunDevice()
	o.apply(create(d))
	q := o.attach(1)
	defer q.Close()
	index := o.index(d.Name)
	for _, spoil := range []func(){
		func() { o.check(o.SetMTU(d.Name, 1000)) },
		func() { o.check(o.SetLink(d.Name, false)) },
		func() { o.check(o.SetLink(d.Name, false)); o.check(o.SetMTU(d.Name, 1000)) },
		func() { o.check(o.SetAlias(d.Name, "")) },
		func() { o.check(o.SetAlias(d.Name, "flanneld 10.9.0.0/16")) },
	} {
		spoil()
		if e := o.dump()[d.Key()]; state.Same(d, e.Object) || e.Owner != state.Ours {
			t.Fatalf("there is %+v", e)
		}
		o.mend(d)
		if o.index(d.Name) != index {
			t.Error("the device was remade")
		}
	}
}

// What else has the name is left, and it is said what that is.
func TestTUNInTheWay(t *testing.T) {
	d := tunDevice()
	attrs := netlink.NewLinkAttrs()
	attrs.Name = d.Name
	for text, make := range map[string]func(overlay){
		"device flannel0 of kind veth":   func(o overlay) { o.check(o.AddLink(d.Name)) },
		"device flannel0 of kind bridge": func(o overlay) { o.check(netlink.LinkAdd(&netlink.Bridge{LinkAttrs: attrs})) },
		"device flannel0 of kind tap": func(o overlay) {
			o.check(netlink.LinkAdd(&netlink.Tuntap{LinkAttrs: attrs, Mode: netlink.TUNTAP_MODE_TAP}))
		},
		"device flannel0 of kind tun that belongs to another process": func(o overlay) { o.check(o.AddTUN(d.Name, d.Alias, false)) },
		"device flannel0 of kind tun without an alias of ours": func(o overlay) {
			o.check(netlink.LinkAdd(&netlink.Tuntap{LinkAttrs: attrs, Mode: netlink.TUNTAP_MODE_TUN}))
		},
	} {
		t.Run(text, func(t *testing.T) {
			o := newOverlay(t)
			make(o)
			index := o.index(d.Name)
			e := o.dump()[d.Key()]
			if e.Owner != state.Foreign || e.Text != text {
				t.Fatalf("there is %+v", e)
			}
			o.refused(create(d), unix.EEXIST, d.Name)
			for _, op := range []state.Op{change(e.Object, d), remove(e.Object)} {
				err := o.k.Apply(t.Context(), []state.Op{op})[0]
				if err == nil || !strings.Contains(err.Error(), text) || !strings.Contains(err.Error(), "by hand") {
					t.Errorf("%s: %v", op, err)
				}
			}
			if o.index(d.Name) != index {
				t.Error("the device was remade")
			}
		})
	}
}

// Another process's queue on a device for one queue is seen by its carrier; even
// where it is not, the device is not deleted.
func TestSingleTUNHeld(t *testing.T) {
	o := newOverlay(t)
	d := tunDevice()
	o.check(netlink.LinkAdd(&netlink.Tuntap{LinkAttrs: netlink.LinkAttrs{Name: d.Name}, Mode: netlink.TUNTAP_MODE_TUN}))
	o.check(o.SetAlias(d.Name, d.Alias))
	detach, err := hold(d.Name, unix.IFF_TUN|unix.IFF_NO_PI, false)
	o.check(err)
	o.refused(remove(d), tun.ErrHeld, d.Name)
	o.check(o.SetLink(d.Name, true))
	if e := o.dump()[d.Key()]; e.Owner != state.Foreign {
		t.Errorf("there is %+v", e)
	}
	o.refused(remove(d), tun.ErrHeld, d.Name)
	o.refused(change(d, d), tun.ErrHeld, d.Name)
	detach()
	o.mend(d)
}

// Who attaches and detaches changes the carrier, and nothing that is wanted.
func TestCarrierEvents(t *testing.T) {
	o := newOverlay(t)
	w := watch(o)
	d := tunDevice()
	want := state.Set{d.Key(): d}
	o.apply(create(d))
	for _, x := range onTUN() {
		want[x.Key()] = x
		o.apply(create(x))
	}
	quiet := func(what string) {
		w.Helper()
		links := 0
		for _, e := range w.flush() {
			x, wanted := want[e.Key]
			if wanted && (e.Gone || !state.Same(x, e.Entry.Object) || e.Entry.Owner != state.Ours) {
				t.Errorf("%s: of %s it is said: %+v", what, x, e)
			}
			if e.Key == d.Key() {
				links++
			}
		}
		if links == 0 {
			t.Errorf("%s: there is no event", what)
		}
		for _, x := range want {
			o.is(x)
		}
	}
	quiet("creation")
	for range 3 {
		q := o.attach(2)
		quiet("attaching")
		o.check(q.Close())
		quiet("detaching")
	}
}

// TestOwnQueuesBeingClosed asks whose a device is while this process attaches and
// detaches: nobody else's, however far the kernel is with it.
func TestOwnQueuesBeingClosed(t *testing.T) {
	o := newOverlay(t)
	d := tunDevice()
	o.apply(create(d))
	asked, stop := make(chan bool), make(chan struct{})
	var counts sync.WaitGroup
	go func() {
		defer close(asked)
		for {
			r, ok, err := lookUp(d.Name)
			select {
			case <-stop:
				return
			case asked <- ok && err == nil && !r.held():
			}
		}
	}()
	defer func() {
		close(stop)
		<-asked
		counts.Wait()
	}()
	ours := func() {
		if !<-asked {
			t.Error("another process is said to be attached")
		}
	}
	counts.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
				tun.Own()
			}
		}
	})
	for i := range 100 {
		q := o.attach(2)
		// Of one that comes and goes while it is asked for, nothing is said here.
		ours()
		ours()
		time.Sleep(time.Duration(i) * 2 * time.Microsecond)
		o.check(q.Close())
		ours()
	}
}
