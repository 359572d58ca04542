package kernel

import (
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"flanneld/pkg/dataplane"
	"flanneld/pkg/ip"
	"flanneld/pkg/state"
)

// sysctl sets one of an interface's IPv6 settings until the test ends.
func (o overlay) sysctl(dev, name, value string) {
	o.Helper()
	file := "/proc/sys/net/ipv6/conf/" + dev + "/" + name
	was, err := os.ReadFile(file)
	o.check(err)
	o.check(os.WriteFile(file, []byte(value), 0))
	o.Cleanup(func() { _ = os.WriteFile(file, was, 0) }) // the interface may be gone
}

// The kinds of addresses that this program does not make.
func TestOddAddressesIPv6(t *testing.T) {
	o := newOverlay(t)
	v := vxlanOf(ip.V6)
	o.apply(create(v))
	want := state.Addr{Dev: v.Name, Prefix: netip.MustParsePrefix("fd00:1::/128")}
	l, err := netlink.LinkByName(want.Dev)
	o.check(err)
	o.sysctl(v.Name, "dad_transmits", "20") // so long is an address tentative
	for text, a := range map[string]*netlink.Addr{
		"peer":        {Peer: ipNet(netip.MustParsePrefix("fd00:9::/128")), Flags: unix.IFA_F_NODAD},
		"flags 0x2":   {ValidLft: 1000, PreferedLft: 1000, Flags: unix.IFA_F_NODAD},
		"flags 0x282": {Flags: unix.IFA_F_NOPREFIXROUTE | unix.IFA_F_NODAD},
		"flags 0xc0":  {}, // tentative
		"a route":     {IPNet: ipNet(netip.MustParsePrefix("fd00:1::/64")), Flags: unix.IFA_F_NODAD},
	} {
		if a.IPNet == nil {
			a.IPNet = ipNet(want.Prefix)
		}
		o.check(netlink.AddrAdd(l, a))
		e := o.dump()[want.Key()]
		if _, odd := e.Object.(unmanaged); !odd || e.Owner != state.Ours || !strings.Contains(e.Object.String(), text) {
			t.Errorf("%q: there is %+v", text, e)
		}
		o.mend(want)
		o.apply(remove(want))
		o.check(netlink.AddrAdd(l, a))
		o.apply(remove(o.dump()[want.Key()].Object))
		o.none(want.Key())
	}
	// As an older flannel makes it, it is right as soon as it can be used.
	o.sysctl(v.Name, "dad_transmits", "1")
	w := watch(o)
	o.check(netlink.AddrAdd(l, &netlink.Addr{IPNet: ipNet(want.Prefix)}))
	w.expect("the address of use", want)
	o.is(want)
}

func TestNeighboursIPv6(t *testing.T) {
	o := newOverlay(t)
	v := vxlanOf(ip.V6)
	o.apply(create(v))
	n := state.Neigh{Dev: v.Name, Addr: netip.MustParseAddr("fd00:1:2::"), MAC: state.MAC{2, 1}}
	for _, there := range []*netlink.Neigh{
		{State: unix.NUD_REACHABLE},
		{State: unix.NUD_PERMANENT, Flags: unix.NTF_ROUTER},
		{State: unix.NUD_PERMANENT, Flags: unix.NTF_EXT_LEARNED},
	} {
		there.LinkIndex, there.Family, there.IP, there.HardwareAddr = o.index(n.Dev), unix.AF_INET6, n.Addr.AsSlice(), []byte{2, 2, 0, 0, 0, 0}
		o.check(netlink.NeighAdd(there))
		o.none(n.Key())
		o.apply(create(n))
		o.is(n)
		o.apply(remove(n))
		o.none(n.Key())
	}
	// Of what the kernel finds out for itself there is no word.
	link := state.Neigh{Dev: v.Name, Addr: netip.MustParseAddr("fe80::9"), MAC: state.MAC{2, 9}}
	o.check(o.AddNeigh(link, true))
	o.none(link.Key())
	if err := explain(create(n), unix.ENOBUFS, ""); !strings.Contains(err.Error(), "net.ipv6.neigh.default.gc_thresh3") {
		t.Error(err)
	}
}

// address waits for one of eth0 that fits, and for the event of it.
func (w *witness) address(what string, a netip.Addr, fits func(Address) bool) {
	w.Helper()
	var last []Address
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); {
		w.take(what, func(e dataplane.Event) bool { return e.Iface == "eth0" })
		ifaces, err := w.k.Interfaces(w.Context())
		w.check(err)
		last = nil
		for _, i := range ifaces {
			for _, have := range i.Addrs {
				if i.Name == "eth0" && have.Prefix.Addr() == a && fits(have) {
					return
				}
			}
			if i.Name == "eth0" {
				last = i.Addrs
			}
		}
	}
	w.Fatalf("%s: there is %+v", what, last)
}

// What an address may be used for is told, and that it changed is an event.
func TestAddressFlags(t *testing.T) {
	o := newOverlay(t)
	w := watch(o)
	a := netip.MustParseAddr("2001:db8:5::7")
	o.check(o.SetLink("eth0-far", false)) // nobody can be asked
	ipCommand(t, "addr add 2001:db8:5::7/64 dev eth0")
	w.address("a tentative address", a, func(a Address) bool { return a.Tentative && a.Permanent && !a.Duplicate })
	o.check(o.SetLink("eth0-far", true))
	w.address("a usable address", a, func(a Address) bool { return !a.Tentative && a.Permanent && !a.Duplicate && !a.Temporary })
	ipCommand(t, "addr change 2001:db8:5::7/64 dev eth0 valid_lft 1000 preferred_lft 0")
	w.address("a deprecated address", a, func(a Address) bool { return a.Deprecated && !a.Permanent })
	ipCommand(t, "addr add 2001:db8:5::8/64 dev eth0-far nodad\naddr add 2001:db8:5::8/64 dev eth0")
	w.address("an address that another host has", netip.MustParseAddr("2001:db8:5::8"), func(a Address) bool { return a.Duplicate && !a.Tentative })

	o.sysctl("eth0", "use_tempaddr", "2")
	ipCommand(t, "addr add 2001:db8:6::1/64 dev eth0 mngtmpaddr nodad valid_lft 100000 preferred_lft 100000")
	var temporary netip.Addr
	for deadline := time.Now().Add(20 * time.Second); !temporary.IsValid() && time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		ifaces, err := o.k.Interfaces(o.Context())
		o.check(err)
		for _, i := range ifaces {
			for _, a := range i.Addrs {
				if a.Temporary && netip.MustParsePrefix("2001:db8:6::/64").Contains(a.Prefix.Addr()) {
					temporary = a.Prefix.Addr()
				}
			}
		}
	}
	if !temporary.IsValid() || temporary == netip.MustParseAddr("2001:db8:6::1") {
		t.Errorf("the temporary address is %s", temporary)
	}
	// A second address of IPv4 in a network is no temporary one.
	o.check(o.AddAddr("eth0", netip.MustParsePrefix("192.168.5.77/24")))
	ifaces, err := o.k.Interfaces(o.Context())
	o.check(err)
	for _, i := range ifaces {
		for _, a := range i.Addrs {
			if a.Prefix.Addr().Is4() && (a.Temporary || a.Tentative || !a.Permanent) {
				t.Errorf("%s has %+v", i.Name, a)
			}
		}
	}
}

func TestDisabledIPv6(t *testing.T) {
	o := newOverlay(t)
	off := func() bool {
		ifaces, err := o.k.Interfaces(o.Context())
		o.check(err)
		for _, i := range ifaces {
			if i.Name == "eth0" {
				return i.NoIPv6
			}
		}
		t.Fatal("there is no eth0")
		return false
	}
	if off() {
		t.Error("IPv6 is said to be disabled")
	}
	w := watch(o)
	o.sysctl("eth0", "disable_ipv6", "1")
	w.take("an address gone", func(e dataplane.Event) bool { return e.Iface == "eth0" })
	if !off() {
		t.Error("IPv6 is said to be enabled")
	}
	o.sysctl("eth0", "disable_ipv6", "0")
	o.check(o.SetMTU("eth0", 1279))
	if !off() {
		t.Error("an MTU of 1279 is said to be enough for IPv6")
	}
}

// In each family the host decides by itself whether it forwards, and that is an event.
func TestForwards(t *testing.T) {
	o := newOverlay(t)
	v := vxlanOf(ip.V6)
	o.apply(create(v))
	w := watch(o)
	for _, value := range []string{"1", "0"} {
		o.sysctl("all", "forwarding", value)
		w.take("forwarding "+value, func(e dataplane.Event) bool { return e.Forwarding })
		if o.k.Forwards(ip.V6) != (value == "1") || !o.k.Forwards(ip.V4) {
			t.Errorf("with forwarding at %s, the host forwards IPv6: %v, IPv4: %v", value, o.k.Forwards(ip.V6), o.k.Forwards(ip.V4))
		}
		o.is(v)
		w.flush()
	}
	// That of a device alone says no more than whether it is a router's.
	o.sysctl("all", "forwarding", "1")
	o.sysctl(v.Name, "forwarding", "0")
	o.is(v)
}

// TestLookUpIPv6 asks what TestPaths, TestForeignRoutes and TestRules do of IPv4.
func TestLookUpIPv6(t *testing.T) {
	o := newOverlay(t)
	a := netip.MustParseAddr
	o.sysctl("all", "forwarding", "1")
	o.check(o.AddLink("pods"))
	o.check(o.AddLink("vpn"))
	ipCommand(t, `addr add fd00:5:1::1/64 dev pods nodad
route add 2001:db8:7::/64 via 2001:db8:5::fe
route add blackhole fd00:5:4::/64
route add fd00:5:2::/64 via 2001:db8:5::2 dev eth0 proto 70
route add fd00:5:2:0:8000::/65 dev vpn
route add fd00:5::/32 dev vpn table 52 proto static metric 7
rule add prio 5270 to fd00:5:3::/64 lookup 52
rule add prio 5271 iif pods to fd00:5:5::/64 lookup 52
rule add prio 5272 to fd00:5:6::/64 prohibit`, "-6")
	t.Cleanup(func() {
		ipCommand(t, "rule del prio 5270\nrule del prio 5271\nrule del prio 5272\nroute del blackhole fd00:5:4::/64", "-6")
	})
	fromPod := func(to string) PathQuery { return PathQuery{To: a(to), From: a("fd00:5:1::9"), IIF: "pods"} }
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		paths, err := o.k.Paths(t.Context(), []PathQuery{{To: a("fd00:5:1::1")}, {To: a("2001:db8:5::1")}})
		o.check(err)
		if paths[0].Local && paths[1].Local { // an address is this host's a moment after it was added
			break
		}
	}
	const viaVPN = "fd00:5::/32 dev vpn proto static metric 7 table 52"
	for _, c := range []struct {
		query PathQuery
		want  Path
		match string // the route that decides
	}{
		{PathQuery{To: a("2001:db8:5::2")}, Path{Dev: "eth0"}, "2001:db8:5::/64 dev eth0 proto kernel metric 256"},
		{PathQuery{To: a("2001:db8:7::2"), From: a("2001:db8:5::1")}, Path{Dev: "eth0", Via: a("2001:db8:5::fe")}, "2001:db8:7::/64 via 2001:db8:5::fe dev eth0 proto boot metric 1024"},
		{PathQuery{To: a("fd00:5:2::1")}, Path{Dev: "eth0", Via: a("2001:db8:5::2")}, "fd00:5:2::/64 via 2001:db8:5::2 dev eth0 proto 70 metric 1024"},
		{fromPod("fd00:5:2::1"), Path{Dev: "eth0", Via: a("2001:db8:5::2")}, "fd00:5:2::/64 via 2001:db8:5::2 dev eth0 proto 70 metric 1024"},
		{PathQuery{To: a("fd00:5:2:0:8000::1")}, Path{Dev: "vpn"}, "fd00:5:2:0:8000::/65 dev vpn proto boot metric 1024"},
		{PathQuery{To: a("fd00:5:3::1")}, Path{Dev: "vpn"}, viaVPN},
		{fromPod("fd00:5:5::1"), Path{Dev: "vpn"}, viaVPN},
		{PathQuery{To: a("fd00:5:5::1")}, Path{Err: unix.ENETUNREACH}, ""},
		{PathQuery{To: a("fd00:5:4::1")}, Path{Err: unix.EINVAL}, ""},
		{PathQuery{To: a("fd00:5:6::1")}, Path{Err: unix.EACCES}, ""},
		{PathQuery{To: a("fd00:5:1::1")}, Path{Dev: "lo", Local: true}, "local fd00:5:1::1/128 dev pods proto kernel table local"},
	} {
		paths, err := o.k.Paths(t.Context(), []PathQuery{c.query})
		o.check(err)
		if paths[0] != c.want {
			t.Errorf("%+v goes %+v, want %+v", c.query, paths[0], c.want)
		}
		if r, ok, err := o.k.Matched(c.query); err != nil || ok != (c.match != "") || r.String() != c.match {
			t.Errorf("%+v is matched by %q, %v, %v; want %q", c.query, r, ok, err, c.match)
		}
	}

	routes, err := o.k.ForeignRoutes(t.Context(), ip.V6, netip.MustParsePrefix("fd00:5::/32").Overlaps)
	o.check(err)
	var got []string
	for _, r := range routes {
		if !r.IsLocal() { // those for anycast may be there or not
			got = append(got, r.Delete())
		}
	}
	want := []string{
		"ip -6 route del fd00:5:1::/64 dev pods proto kernel metric 256",
		"ip -6 route del fd00:5:2:0:8000::/65 dev vpn proto boot metric 1024",
		"ip -6 route del blackhole fd00:5:4::/64 dev lo proto boot metric 1024",
		"ip -6 route del fd00:5::/32 dev vpn proto static metric 7 table 52",
	}
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("routes:\n%s\nwant:\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}

	rules, err := o.k.Rules(t.Context(), ip.V6)
	o.check(err)
	var texts []string
	for _, r := range rules {
		texts = append(texts, r.String())
	}
	if got := strings.Join(texts, "\n"); !strings.Contains(got, "5270: from all to fd00:5:3::/64 lookup 52\n5271: from all to fd00:5:5::/64 iif pods lookup 52\n5272: from all to fd00:5:6::/64 prohibit\n32766: from all lookup main") {
		t.Errorf("rules:\n%s", got)
	}
	if r := rules[1]; !r.Matches(PathQuery{To: a("fd00:5:3::1")}) || r.Matches(PathQuery{To: a("fd00:5:4::1")}) {
		t.Errorf("%s does not match what it should", r)
	}
}

// Each family has default routes of its own, of which the kernel lists the best first.
func TestDefaultRoutes(t *testing.T) {
	o := newOverlay(t)
	o.check(o.AddLink("eth1"))
	ipCommand(t, "addr add 2001:db8:6::1/64 dev eth1 nodad")
	w := watch(o)
	for line, option := range map[string]string{
		"route add default via 192.168.5.254": "-4", "route add default via 2001:db8:6::fe metric 100": "-6", "route add default via fe80::1 dev eth0 proto ra metric 1024": "-6",
	} {
		ipCommand(t, line, option)
		w.take(line, func(e dataplane.Event) bool { return e.Defaults && e.Paths })
	}
	for f, want := range map[ip.Family][]DefaultRoute{
		ip.V4: {{Iface: "eth0"}}, ip.V6: {{Iface: "eth1", Metric: 100}, {Iface: "eth0", Metric: 1024}},
	} {
		got, err := o.k.DefaultRoutes(t.Context(), f)
		o.check(err)
		if len(got) != len(want) {
			t.Errorf("of %s there is %+v; want %+v", f, got, want)
			continue
		}
		for i := range want {
			if got[i] != want[i] {
				t.Errorf("of %s there is %+v; want %+v", f, got, want)
			}
		}
	}
	dev, src, err := o.k.RouteTo(netip.MustParseAddr("2001:db8:9::9"))
	if err != nil || dev != "eth1" || src != netip.MustParseAddr("2001:db8:6::1") {
		t.Errorf("the way is by %s, from %s, %v", dev, src, err)
	}
	ipCommand(t, `route del default via 2001:db8:6::fe metric 100
route append default via 2001:db8:5::fe metric 5
route append default via 2001:db8:6::fe metric 5`, "-6")
	got, err := o.k.DefaultRoutes(t.Context(), ip.V6)
	if err != nil || len(got) != 2 || !got[0].Multipath || got[1].Iface != "eth0" {
		t.Errorf("there is %+v, %v", got, err)
	}
}

// Several next hops by one interface are one choice of it: two routers that announce themselves, or
// two gateways.
func TestDefaultRouteOfSeveralGateways(t *testing.T) {
	o := newOverlay(t)
	ipCommand(t, `route append default via fe80::1 dev eth0 proto ra metric 1024
route append default via fe80::2 dev eth0 proto ra metric 1024
route append default via fe80::3 dev eth0 proto ra metric 1024`, "-6")
	ipCommand(t, "route add default nexthop via 192.168.5.253 dev eth0 nexthop via 192.168.5.254 dev eth0", "-4")
	for f, metric := range map[ip.Family]int{ip.V4: 0, ip.V6: 1024} {
		got, err := o.k.DefaultRoutes(t.Context(), f)
		if want := (DefaultRoute{Iface: "eth0", Metric: metric}); err != nil || len(got) != 1 || got[0] != want {
			t.Errorf("of %s there is %+v, %v; want %+v", f, got, err, want)
		}
	}
	ipCommand(t, `nexthop add id 7 via 192.168.5.253 dev eth0
nexthop add id 8 via 192.168.5.254 dev eth0
nexthop add id 9 group 7/8
route replace default nhid 9`)
	got, err := o.k.DefaultRoutes(t.Context(), ip.V4)
	if want := (DefaultRoute{Iface: "eth0"}); err != nil || len(got) != 1 || got[0] != want {
		t.Errorf("of a group there is %+v, %v; want %+v", got, err, want)
	}
}
