// Package ip holds what net/netip leaves out: values that exist once per
// address family, the text form of a subnet as an etcd key, and subnet
// arithmetic that cannot wrap around the end of the address space.
package ip

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"
)

// Subnet is what one lease covers: an IPv4 prefix, an IPv6 prefix, or both.
// A family that is absent holds the zero Prefix. Subnets are comparable and
// serve as map keys.
type Subnet struct{ V4, V6 netip.Prefix }

// Addrs is an address in each family; an absent one is the zero Addr.
type Addrs struct{ V4, V6 netip.Addr }

// SubnetOf returns the Subnet that covers p alone.
func SubnetOf(p netip.Prefix) Subnet {
	if p.Addr().Is4() {
		return Subnet{V4: p}
	}
	return Subnet{V6: p}
}

// IsValid reports whether s covers anything at all.
func (s Subnet) IsValid() bool { return s.V4.IsValid() || s.V6.IsValid() }

// Prefixes returns the prefixes that s has, IPv4 first.
func (s Subnet) Prefixes() []netip.Prefix {
	ps := make([]netip.Prefix, 0, 2)
	for _, p := range [...]netip.Prefix{s.V4, s.V6} {
		if p.IsValid() {
			ps = append(ps, p)
		}
	}
	return ps
}

// Overlaps reports whether s and o share an address in either family.
func (s Subnet) Overlaps(o Subnet) bool {
	return s.V4.Overlaps(o.V4) || s.V6.Overlaps(o.V6)
}

// Compare orders subnets by their IPv4 prefix, then by their IPv6 prefix.
func (s Subnet) Compare(o Subnet) int {
	// Comparing prefixes that are not valid allocates memory.
	if s.V4 != o.V4 {
		return s.V4.Compare(o.V4)
	}
	if s.V6 != o.V6 {
		return s.V6.Compare(o.V6)
	}
	return 0
}

// String returns the prefixes in CIDR notation, joined by a comma.
func (s Subnet) String() string {
	var parts []string
	for _, p := range s.Prefixes() {
		parts = append(parts, p.String())
	}
	if len(parts) == 0 {
		return "none"
	}
	return strings.Join(parts, ",")
}

// Key returns the name of s below "subnets/" in etcd: "10.5.3.0-24", or
// "10.5.3.0-24&fc00:5:3::-64" where both families are present.
func (s Subnet) Key() string {
	var b []byte
	for i, p := range s.Prefixes() {
		if i > 0 {
			b = append(b, '&')
		}
		b = appendPart(b, p)
	}
	return string(b)
}

// maxKey is more than the longest key has.
const maxKey = 100

// noV4 is what flannel writes in the place of an IPv4 subnet in networks of IPv6 alone.
var noV4 = netip.PrefixFrom(netip.IPv4Unspecified(), 0)

// Placeholder reports whether the IPv4 prefix of s is none, but what flannel has in the
// place of one: "0.0.0.0-0&fc00::-64". Such a key is not that of the IPv6 subnet alone.
func (s Subnet) Placeholder() bool { return s.V4 == noV4 && s.V6.IsValid() }

// ParseKey is the inverse of Key. It accepts only what Key writes: a base
// address without host bits, a length that leaves room for a host, and the
// IPv4 prefix before the IPv6 one.
func ParseKey(key string) (Subnet, error) {
	var s Subnet
	if len(key) > maxKey {
		return Subnet{}, fmt.Errorf("subnet key %.*q…: it has %d bytes", maxKey, key, len(key))
	}
	parts := strings.Split(key, "&")
	for i, part := range parts {
		if i == 0 && len(parts) == 2 && part == "0.0.0.0-0" {
			s.V4 = noV4
			continue
		}
		p, err := parsePart(part)
		if err != nil {
			return Subnet{}, fmt.Errorf("subnet key %q: %w", key, err)
		}
		switch {
		case p.Addr().Is4() && i == 0:
			s.V4 = p
		case p.Addr().Is6() && i == 0, p.Addr().Is6() && i == 1 && s.V4.IsValid():
			s.V6 = p
		default:
			return Subnet{}, fmt.Errorf("subnet key %q: want one IPv4 subnet, one IPv6 subnet, or IPv4&IPv6", key)
		}
	}
	return s, nil
}

func appendPart(b []byte, p netip.Prefix) []byte {
	return strconv.AppendInt(append(p.Addr().AppendTo(b), '-'), int64(p.Bits()), 10)
}

func parsePart(part string) (netip.Prefix, error) {
	i := strings.LastIndexByte(part, '-')
	if i < 0 {
		return netip.Prefix{}, fmt.Errorf("%q is not of the form address-length", part)
	}
	p, err := netip.ParsePrefix(part[:i] + "/" + part[i+1:])
	if err != nil {
		return netip.Prefix{}, fmt.Errorf("%q is not of the form address-length", part)
	}
	switch {
	case p.Addr().Is4In6():
		return netip.Prefix{}, fmt.Errorf("%q is an IPv4-mapped IPv6 address", part)
	case p.Bits() == 0 || p.Bits() >= p.Addr().BitLen():
		return netip.Prefix{}, fmt.Errorf("length %d is out of range", p.Bits())
	case p != p.Masked():
		return netip.Prefix{}, fmt.Errorf("%s has host bits set; the subnet is %s", p, p.Masked())
	case string(appendPart(make([]byte, 0, maxKey), p)) != part:
		return netip.Prefix{}, fmt.Errorf("%q is not the canonical form of %s", part, p)
	}
	return p, nil
}

// String returns the addresses, joined by a comma.
func (a Addrs) String() string {
	switch {
	case a.V4.IsValid() && a.V6.IsValid():
		return a.V4.String() + "," + a.V6.String()
	case a.V6.IsValid():
		return a.V6.String()
	case a.V4.IsValid():
		return a.V4.String()
	}
	return "none"
}
