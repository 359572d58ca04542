package lab_test

import (
	"net"
	"net/netip"
	"slices"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Routes tells whatever a route can have besides what AddRoute gives it.
func TestRoutesOfOthers(t *testing.T) {
	t.Parallel()
	_, h1, h2 := twoHosts(t)
	base := must(h1.Routes())(t)
	dst := func(s string) *net.IPNet { return must(netlink.ParseIPNet(s))(t) }
	check(t, h1.Do(func() error {
		eth0, err := netlink.LinkByName("eth0")
		check(t, err)
		index, via := eth0.Attrs().Index, net.IP(h2.Addr.AsSlice())
		next := net.IP(h2.Addr.Next().AsSlice())
		for _, r := range []*netlink.Route{
			{Dst: dst("10.1.2.0/24"), Gw: via, LinkIndex: index, MTU: 1400, Src: net.IP(h1.Addr.AsSlice())},
			{Dst: dst("10.1.3.0/24"), MultiPath: []*netlink.NexthopInfo{{Gw: via, LinkIndex: index}, {Gw: next, LinkIndex: index, Hops: 4}}},
			{Dst: dst("10.1.4.0/24"), Gw: net.IPv4(10, 9, 9, 9), LinkIndex: index, Flags: unix.RTNH_F_ONLINK},
			{Dst: dst("10.1.5.0/24"), Type: unix.RTN_BLACKHOLE},
			{Dst: dst("10.1.6.0/24"), Gw: via, LinkIndex: index, Table: 100},
			{Dst: dst("10.1.7.0/24"), Gw: via, LinkIndex: index, Table: 1000},
		} {
			if r.Protocol = 4; r.Table == 0 {
				r.Table = unix.RT_TABLE_MAIN
			}
			check(t, netlink.RouteAdd(r))
		}
		return nil
	}))
	want := append([]string{
		"10.1.2.0/24 via 192.168.50.3 dev eth0 proto 4 src 192.168.50.2 mtu 1400",
		"10.1.3.0/24 proto 4 nexthop via 192.168.50.3 dev eth0 weight 1 nexthop via 192.168.50.4 dev eth0 weight 5",
		"10.1.4.0/24 via 10.9.9.9 dev eth0 onlink proto 4",
		"blackhole 10.1.5.0/24 proto 4",
	}, base...)
	slices.Sort(want)
	wantRoutes(t, h1.Namespace, want...)
	check(t, h1.DelRoute(netip.MustParsePrefix("10.1.3.0/24")))
}
