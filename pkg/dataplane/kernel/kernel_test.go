package kernel

import (
	"net/netip"
	"runtime"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"flanneld/pkg/dataplane"
	"flanneld/pkg/dataplane/dataplanetest"
	"flanneld/pkg/state"
)

func TestKernel(t *testing.T) {
	dataplanetest.Suite(t, func(t *testing.T) (dataplane.Dataplane, dataplanetest.Host) {
		return New(), freshHost(t)
	})
}

// A namespace in which there never was a route has no main table yet.
func TestDumpWithoutTables(t *testing.T) {
	dataplanetest.NeedNetns(t)
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // for good: the thread ends with the goroutine
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			t.Error(err)
			return
		}
		have, err := New().Dump(t.Context(), nil)
		if err != nil || len(have) != 0 {
			t.Errorf("Dump() = %v, %v", have, err)
		}
	}()
	<-done
}

// A route that is listed twice is one, whatever others there are.
func TestRouteListedTwice(t *testing.T) {
	r := state.Route{Dst: netip.MustParsePrefix("fd00:1::/64"), Via: netip.MustParseAddr("fd00:5::9"), Dev: "eth0"}
	for _, owner := range []state.Owner{state.Ours, state.Adoptable, state.Foreign} {
		e := state.Entry{Object: r, Owner: owner}
		have := make(state.Observed)
		add(have, e)
		add(have, e)
		if have[r.Key()] != e {
			t.Errorf("there is %+v", have[r.Key()])
		}
	}
}

// The kinds of routes that this program does not make, as they are listed.
func TestOddRoutes(t *testing.T) {
	h := freshHost(t)
	addr := netip.MustParsePrefix("192.168.5.1/24")
	for _, err := range []error{h.AddLink("eth0"), h.AddAddr("eth0", addr)} {
		if err != nil {
			t.Fatal(err)
		}
	}
	l, err := netlink.LinkByName("eth0")
	if err != nil {
		t.Fatal(err)
	}
	via := netip.MustParseAddr("192.168.5.9").AsSlice()
	hop := func() *netlink.NexthopInfo { return &netlink.NexthopInfo{LinkIndex: l.Attrs().Index, Gw: via} }
	second := hop()
	second.Gw = netip.MustParseAddr("192.168.5.8").AsSlice()
	for text, r := range map[string]*netlink.Route{
		"blackhole 10.1.1.0/24":   {Type: unix.RTN_BLACKHOLE},
		"unreachable 10.1.1.0/24": {Type: unix.RTN_UNREACHABLE},
		"src 192.168.5.1":         {Gw: via, LinkIndex: l.Attrs().Index, Src: addr.Addr().AsSlice()},
		"multipath":               {MultiPath: []*netlink.NexthopInfo{hop(), second}},
		"attribute 8":             {Gw: via, LinkIndex: l.Attrs().Index, MTU: 1400}, // metrics
		"10.1.1.0/24 dev eth0":    {LinkIndex: l.Attrs().Index, Scope: netlink.SCOPE_LINK},
	} {
		t.Run(text, func(t *testing.T) {
			r.Dst = ipNet(netip.MustParsePrefix("10.1.1.0/24"))
			k := New()
			key := state.Key{Kind: state.KindRoute, Prefix: netip.MustParsePrefix("10.1.1.0/24")}
			for _, protocol := range []netlink.RouteProtocol{unix.RTPROT_STATIC, RouteProtocol} {
				r.Protocol = protocol
				if err := netlink.RouteAdd(r); err != nil {
					t.Fatal(err)
				}
				have, err := k.Dump(t.Context(), nil)
				if err != nil {
					t.Fatal(err)
				}
				e := have[key]
				if _, odd := e.Object.(unmanaged); !odd || !strings.Contains(e.Text, text) {
					t.Fatalf("there is %+v", e)
				}
				if protocol == unix.RTPROT_STATIC {
					if e.Owner != state.Foreign {
						t.Errorf("owner is %d", e.Owner)
					}
					if err := netlink.RouteDel(r); err != nil {
						t.Fatal(err)
					}
					continue
				}
				// With our mark it is ours to remove, whatever it is.
				if err := k.Apply(t.Context(), []state.Op{{Verb: state.Delete, Have: e.Object}})[0]; err != nil {
					t.Error(err)
				}
				if have, err = k.Dump(t.Context(), nil); err != nil || have[key].Object != nil {
					t.Errorf("after Delete there is %+v, %v", have[key], err)
					_ = netlink.RouteDel(r)
				}
			}
		})
	}
}
