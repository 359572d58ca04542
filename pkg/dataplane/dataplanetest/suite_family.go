package dataplanetest

import (
	"net/netip"

	"golang.org/x/sys/unix"

	"flanneld/pkg/ip"
	"flanneld/pkg/state"
)

// Addressing has addresses of one family for those of IPv4 that the tests name, one for one;
// of zero, IPv4's own. With IPv6 each byte has a group of its own, but for the host's part,
// so that 10.1.2.3 is fd00:a:1:2::3, and a /24 is a /64.
type Addressing ip.Family

// Family is IPv4 for zero.
func (a Addressing) Family() ip.Family { return forFamily(a, ip.V4, ip.V6) }

func (a Addressing) v6() bool { return ip.Family(a) == ip.V6 }

// Of leaves an address of IPv6 as it is.
func (a Addressing) Of(v4 netip.Addr) netip.Addr {
	if !a.v6() || !v4.Is4() {
		return v4
	}
	b := v4.As4()
	return netip.AddrFrom16([16]byte{0: 0xfd, 3: b[0], 5: b[1], 7: b[2], 15: b[3]})
}

func (a Addressing) addr(v4 string) netip.Addr { return a.Of(netip.MustParseAddr(v4)) }

func (a Addressing) prefix(v4 string) netip.Prefix { return a.Prefix(netip.MustParsePrefix(v4)) }

// Prefix leaves a prefix of IPv6 as it is.
func (a Addressing) Prefix(p netip.Prefix) netip.Prefix {
	switch {
	case !a.v6() || p.Addr().Is6():
		return p
	case p.Bits() == 0:
		return netip.PrefixFrom(netip.IPv6Unspecified(), 0)
	case p.IsSingleIP():
		return a.single(p.Addr())
	}
	return netip.PrefixFrom(a.Of(p.Addr()), 16+2*p.Bits()) // of all bytes but the last
}

func (a Addressing) single(v4 netip.Addr) netip.Prefix {
	at := a.Of(v4)
	return netip.PrefixFrom(at, at.BitLen())
}

// stranger is an address of the other family.
func (a Addressing) stranger() netip.Addr {
	if a.v6() {
		return netip.MustParseAddr("192.0.2.1")
	}
	return netip.MustParseAddr("2001:db8::1")
}

// offLink is what the kernel answers if a gateway is not on the link.
func (a Addressing) offLink() error {
	return forFamily[error](a, unix.ENETUNREACH, unix.EHOSTUNREACH)
}

// downLoses tells which addresses a link loses when it goes down, and which it keeps.
func (a Addressing) downLoses(addrs ...state.Object) (lost, kept []state.Object) {
	if a.v6() {
		return addrs, nil
	}
	return nil, addrs
}

// forFamily returns what is so in IPv4, or else in IPv6.
func forFamily[T any](a Addressing, v4, v6 T) T {
	if a.v6() {
		return v6
	}
	return v4
}
