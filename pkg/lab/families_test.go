package lab_test

import (
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	client "go.etcd.io/etcd/client/v2"

	"flanneld/pkg/ip"
	"flanneld/pkg/lab"
)

var (
	lan4 = netip.MustParsePrefix("192.168.50.0/24")
	lan6 = netip.MustParsePrefix("fd00:50::/64")
)

// familyVariants are the networks that a switch may have.
var familyVariants = map[string][]netip.Prefix{
	"IPv6": {lan6}, "dual": {lan4, lan6},
}

// bothRoutes are all of a namespace but those that IPv6 has for each link.
func bothRoutes(t *testing.T, ns *lab.Namespace) []string {
	t.Helper()
	return slices.DeleteFunc(must(ns.Routes(ip.V4, ip.V6))(t), func(r string) bool { return strings.HasPrefix(r, "fe80::/64 ") })
}

// All that is done with IPv4 is done with IPv6, beside it or alone.
func TestFamilies(t *testing.T) {
	t.Parallel()
	for name, nets := range familyVariants {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			testFamilies(t, nets)
		})
	}
}

func testFamilies(t *testing.T, nets []netip.Prefix) {
	l := newLab(t)
	sw := must(l.AddSwitch("lan", nets...))(t)
	h1 := must(l.AddHost("h1", sw, lab.HostOptions{}))(t)
	h2 := must(l.AddHost("h2", sw, lab.HostOptions{}))(t)
	if h1.Addr != nets[0].Addr().Next().Next() || h1.Of(ip.V6) != netip.MustParseAddr("fd00:50::2") {
		t.Errorf("the host has %s and %s", h1.Addr, h1.Of(ip.V6))
	}
	pingAll := func() {
		t.Helper()
		for _, p := range nets {
			wantPing(t, h1.Namespace, h2.Of(ip.FamilyOf(p.Addr())))
		}
	}
	pingAll()
	before := bothRoutes(t, h1.Namespace)
	if !slices.Contains(before, "default via fd00:50::1 dev eth0 proto 3 metric 1024") {
		t.Errorf("there are %q", before)
	}

	t.Log("the faults of an interface")
	for name, fault := range map[string]func(){
		"down and up": func() { check(t, h1.LinkDown("eth0")); check(t, h1.LinkUp("eth0")) },
		"made anew":   func() { check(t, h1.RecreateNIC("eth0")) },
	} {
		fault()
		if now := bothRoutes(t, h1.Namespace); !slices.Equal(now, before) {
			t.Errorf("%s: there were %q, and are %q", name, before, now)
		}
		pingAll()
	}
	check(t, h1.CutOff("eth0"))
	wantNoPing(t, h1.Namespace, h2.Of(ip.V6))
	check(t, h1.Restore("eth0"))
	pingAll()

	t.Log("pods")
	env := func(i string) map[string]string {
		env := map[string]string{"FLANNEL_IPV6_SUBNET": "fd00:5:0:" + i + "::1/64", "FLANNEL_MTU": "1430"}
		if len(nets) == 2 {
			env["FLANNEL_SUBNET"] = "10.5." + i + ".1/24"
		}
		return env
	}
	p1, p2 := must(h1.AddPod("p1", env("1")))(t), must(h2.AddPod("p2", env("2")))(t)
	pods := netip.MustParsePrefix("fd00:5:0:2::/64")
	check(t, h1.AddRoute(lab.Route{Dst: pods, Via: h2.Of(ip.V6), Protocol: 77}))
	check(t, h2.AddRoute(lab.Route{Dst: netip.MustParsePrefix("fd00:5:0:1::/64"), Via: h1.Of(ip.V6)}))
	if p2.In(ip.V6).Addr != netip.MustParseAddr("fd00:5:0:2::2") || p2.In(ip.V4).Addr.IsValid() != (len(nets) == 2) {
		t.Errorf("the pod has %s and %s", p2.In(ip.V4).Addr, p2.In(ip.V6).Addr)
	}
	wantPing(t, p1.Namespace, p2.In(ip.V6).Addr)
	must(p1.Transfer(testContext(t), p2.In(ip.V6), 1_000_003))(t)
	pinger := must(p1.StartPinger(p2.In(ip.V6).Addr, 2*time.Millisecond))(t)
	time.Sleep(shortly / 3)
	check(t, h1.DelRoute(pods))
	time.Sleep(shortly / 3)
	check(t, h1.ReplaceRoute(lab.Route{Dst: pods, Via: h2.Of(ip.V6), Protocol: 77}))
	if report := pinger.Stop(); report.Lost == 0 || report.Received == 0 {
		t.Errorf("while a route was away: %s", report)
	}
	if n := must(h1.DelRoutesByProtocol(77))(t); n != 1 {
		t.Errorf("%d routes deleted", n)
	}

	t.Log("what a tunnel has")
	n := lab.Nexthop{ID: 7, Via: h2.Of(ip.V6), Dev: "eth0", Protocol: 70}
	check(t, h1.ReplaceNexthop(n))
	check(t, h1.AddRouteByNexthop(pods, 7, 70))
	if got := must(h1.Nexthops())(t); !slices.Equal(got, []lab.Nexthop{n}) {
		t.Errorf("the nexthops are %+v", got)
	}
	wantPing(t, p1.Namespace, p2.In(ip.V6).Addr)
	check(t, h1.DelNexthop(7))
	mac := net.HardwareAddr{2, 0, 0, 0, 0, 9}
	check(t, h1.AddNeighbour("eth0", netip.MustParseAddr("fd00:50::99"), mac))
	if got := must(h1.Neighbours("eth0"))(t); !slices.Equal(got, []string{"fd00:50::99 lladdr 02:00:00:00:00:09"}) {
		t.Errorf("the neighbours are %q", got)
	}
	check(t, h1.DelNeighbour("eth0", netip.MustParseAddr("fd00:50::99")))

	t.Log("the bridge gets other subnets, and another family")
	must(h1.AddPod("p3", map[string]string{"FLANNEL_SUBNET": "10.5.9.1/24", "FLANNEL_IPV6_SUBNET": "fd00:5:0:1::1/64", "FLANNEL_MTU": "1430"}))(t)
	if got := must(h1.Addrs("docker0", ip.V4, ip.V6))(t); !slices.Equal(got, []netip.Prefix{netip.MustParsePrefix("10.5.9.1/24"), netip.MustParsePrefix("fd00:5:0:1::1/64")}) {
		t.Errorf("docker0 has %s", got)
	}
}

// Routers have the first address of each network.
func TestRouterOfBothFamilies(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	a := must(l.AddSwitch("a", lan4, lan6))(t)
	b := must(l.AddSwitch("b", netip.MustParsePrefix("192.168.51.0/24"), netip.MustParsePrefix("fd00:51::/64")))(t)
	h1 := must(l.AddHost("h1", a, lab.HostOptions{}))(t)
	h2 := must(l.AddHost("h2", b, lab.HostOptions{}))(t)
	must(l.AddRouter(a, b))(t)
	for _, f := range ip.Families {
		wantPing(t, h1.Namespace, h2.Of(f))
	}
	for _, bad := range [][]netip.Prefix{{}, {lan4, lan4}, {netip.MustParsePrefix("fd00::/126")}} {
		if _, err := l.AddSwitch("bad", bad...); err == nil {
			t.Errorf("a switch with %s was made", bad)
		}
	}
}

// etcd serves at an IPv6 address, with a certificate for it.
func TestEtcdByIPv6(t *testing.T) {
	t.Parallel()
	for name, addr := range map[string]netip.Addr{"the host's": {}, "loopback": netip.IPv6Loopback()} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := newLab(t)
			h := must(l.AddHost("h1", must(l.AddSwitch("lan", lan6))(t), lab.HostOptions{}))(t)
			ca := must(lab.NewCA(t.TempDir(), "ca"))(t)
			server := must(ca.Server("etcd", lab.Valid, h.Addr, netip.IPv6Loopback()))(t)
			e := must(l.StartEtcd(testContext(t), h, lab.EtcdOptions{Addr: addr, Server: server}))(t)
			if want := map[bool]string{true: "https://[::1]:2379", false: "https://[fd00:50::2]:2379"}[addr.IsValid()]; e.Endpoint() != want {
				t.Errorf("it is at %s", e.Endpoint())
			}
			must(must(e.Keys())(t).Set(testContext(t), "/a", "1", &client.SetOptions{}))(t)
			wantKey(t, e, "/a", "1")
		})
	}
}
