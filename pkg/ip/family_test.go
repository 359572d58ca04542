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
