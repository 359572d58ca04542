package dataplanetest

import (
	"net/netip"

	"golang.org/x/sys/unix"

	"flanneld/pkg/ip"
	"flanneld/pkg/state"
)

// addressing has addresses of one family for those of IPv4 that the tests name, one for one;
// of zero, IPv4's own. With IPv6 each byte has a group of its own, but for the host's part,
// so that 10.1.2.3 is fd00:a:1:2::3, and a /24 is a /64.
type addressing ip.Family

func (a addressing) v6() bool { return ip.Family(a) == ip.V6 }

// of leaves an address of IPv6 as it is.
func (a addressing) of(v4 netip.Addr) netip.Addr {
	if !a.v6() || !v4.Is4() {
		return v4
	}
	b := v4.As4()
	return netip.AddrFrom16([16]byte{0: 0xfd, 3: b[0], 5: b[1], 7: b[2], 15: b[3]})
}

func (a addressing) addr(v4 string) netip.Addr { return a.of(netip.MustParseAddr(v4)) }

func (a addressing) prefix(v4 string) netip.Prefix {
	p := netip.MustParsePrefix(v4)
	switch {
	case !a.v6() || p.Addr().Is6():
		return p
	case p.Bits() == 0:
		return netip.PrefixFrom(netip.IPv6Unspecified(), 0)
	case p.IsSingleIP():
		return a.single(p.Addr())
	}
	return netip.PrefixFrom(a.of(p.Addr()), 16+2*p.Bits())
}

func (a addressing) single(v4 netip.Addr) netip.Prefix {
	at := a.of(v4)
	return netip.PrefixFrom(at, at.BitLen())
}

// stranger is an address of the other family.
func (a addressing) stranger() netip.Addr {
	if a.v6() {
		return netip.MustParseAddr("192.0.2.1")
	}
	return netip.MustParseAddr("2001:db8::1")
}

// offLink is what the kernel answers if a gateway is not on the link.
func (a addressing) offLink() error {
	return forFamily[error](a, unix.ENETUNREACH, unix.EHOSTUNREACH)
}

// downLoses tells which addresses a link loses when it goes down, and which it keeps.
func (a addressing) downLoses(addrs ...state.Object) (lost, kept []state.Object) {
	if a.v6() {
		return addrs, nil
	}
	return nil, addrs
}

// forFamily returns what is so in IPv4, or else in IPv6.
func forFamily[T any](a addressing, v4, v6 T) T {
	if a.v6() {
		return v6
	}
	return v4
}
