package lab_test

import (
	"net/netip"
	"slices"
	"testing"

	"flanneld/pkg/lab"
)

func TestNexthops(t *testing.T) {
	t.Parallel()
	_, h1, h2 := twoHosts(t)
	want := func(want ...lab.Nexthop) {
		t.Helper()
		if got := must(h1.Nexthops())(t); !slices.Equal(got, want) {
			t.Fatalf("nexthops are %+v, want %+v", got, want)
		}
	}
	want()
	n := lab.Nexthop{ID: 7, Via: h2.Addr, Dev: "eth0", Protocol: 70}
	check(t, h1.ReplaceNexthop(n))
	want(n)
	n.Protocol = 4
	check(t, h1.ReplaceNexthop(n))
	want(n)

	base := must(h1.Routes())(t)
	dst := netip.MustParsePrefix("10.1.2.0/24")
	check(t, h1.AddRouteByNexthop(dst, n.ID, 70))
	wantRoutes(t, h1.Namespace, append([]string{"10.1.2.0/24 nhid 7 via 192.168.50.3 dev eth0 proto 70"}, base...)...)
	check(t, h1.DelRoute(dst))
	wantRoutes(t, h1.Namespace, base...)

	off := lab.Nexthop{ID: 8, Via: netip.MustParseAddr("10.9.9.9"), Dev: "eth0"}
	if err := h1.ReplaceNexthop(off); err == nil {
		t.Error("a nexthop that is not on the link was accepted")
	}
	check(t, h1.DelNexthop(n.ID))
	if err := h1.DelNexthop(n.ID); err == nil {
		t.Error("a nexthop was deleted twice")
	}
}
