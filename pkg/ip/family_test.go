package ip

import (
	"net/netip"
	"slices"
	"testing"
)

func TestFamily(t *testing.T) {
	both := Subnet{netip.MustParsePrefix("10.5.3.0/24"), netip.MustParsePrefix("fc00::/64")}
	addrs := Addrs{netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8::1")}
	for _, f := range Families {
		if got := both.Of(f); FamilyOf(got.Addr()) != f || got.Addr().BitLen() != f.Bits() {
			t.Errorf("the prefix of %s is %s", f, got)
		}
		if got := addrs.Of(f); FamilyOf(got) != f {
			t.Errorf("the address of %s is %s", f, got)
		}
	}
	if got := (Subnet{V6: both.V6}).Families(); !slices.Equal(got, []Family{V6}) {
		t.Errorf("a subnet of IPv6 alone is of %v", got)
	}
}

func TestMatches(t *testing.T) {
	addrs := func(v4, v6 string) (a Addrs) {
		if v4 != "" {
			a.V4 = netip.MustParseAddr(v4)
		}
		if v6 != "" {
			a.V6 = netip.MustParseAddr(v6)
		}
		return a
	}
	for _, c := range []struct {
		a, b Addrs
		want bool
	}{
		{addrs("192.0.2.1", ""), addrs("192.0.2.1", "2001:db8::1"), true},
		{addrs("192.0.2.1", "2001:db8::2"), addrs("192.0.2.1", "2001:db8::1"), true},
		{addrs("192.0.2.2", "2001:db8::1"), addrs("192.0.2.1", "2001:db8::1"), false},
		{addrs("", "2001:db8::1"), addrs("192.0.2.1", "2001:db8::1"), true},
		{addrs("", "2001:db8::1"), addrs("192.0.2.1", ""), false},
		{Addrs{}, Addrs{}, false},
	} {
		if c.a.Matches(c.b) != c.want || c.b.Matches(c.a) != c.want {
			t.Errorf("that %s and %s match is not %t", c.a, c.b, c.want)
		}
	}
}

func TestShares(t *testing.T) {
	v4, v6 := netip.MustParsePrefix("10.5.3.0/24"), netip.MustParsePrefix("fc00::/64")
	both := Subnet{v4, v6}
	for _, f := range Families {
		one := Subnet{}.With(f, both.Of(f))
		if !both.Shares(one) || !one.Shares(both) || one.With(f, netip.Prefix{}) != (Subnet{}) {
			t.Errorf("%s and %s share nothing", both, one)
		}
	}
	if (Subnet{V4: v4}).Shares(Subnet{V6: v6}) || (Subnet{}).Shares(Subnet{}) {
		t.Error("subnets of different families share something")
	}
}
