package ip

import "net/netip"

// Family is an address family.
type Family uint8

// The families, numbered as their versions.
const (
	V4 Family = 4
	V6 Family = 6
)

// Families are both, IPv4 first.
var Families = [...]Family{V4, V6}

// FamilyOf returns the family of an address that is valid.
func FamilyOf(a netip.Addr) Family {
	if a.Is4() {
		return V4
	}
	return V6
}

// Other is the one that f is not.
func (f Family) Other() Family { return V4 + V6 - f }

func (f Family) String() string {
	if f == V4 {
		return "IPv4"
	}
	return "IPv6"
}

// Bits is the length of an address.
func (f Family) Bits() int {
	if f == V4 {
		return 32
	}
	return 128
}

// Of returns the prefix of a family; the zero Prefix if s has none.
func (s Subnet) Of(f Family) netip.Prefix {
	if f == V4 {
		return s.V4
	}
	return s.V6
}

// Of returns the address of a family; the zero Addr if a has none.
func (a Addrs) Of(f Family) netip.Addr {
	if f == V4 {
		return a.V4
	}
	return a.V6
}

// Families returns those that s has, IPv4 first.
func (s Subnet) Families() []Family {
	fs := make([]Family, 0, len(Families))
	for _, f := range Families {
		if s.Of(f).IsValid() {
			fs = append(fs, f)
		}
	}
	return fs
}

// With returns s with another prefix of a family; none, if p is not valid.
func (s Subnet) With(f Family, p netip.Prefix) Subnet {
	if f == V4 {
		s.V4 = p
	} else {
		s.V6 = p
	}
	return s
}

// With returns a with another address of a family; none, if x is not valid.
func (a Addrs) With(f Family, x netip.Addr) Addrs {
	if f == V4 {
		a.V4 = x
	} else {
		a.V6 = x
	}
	return a
}

// Shares reports whether s and o have a prefix in common.
func (s Subnet) Shares(o Subnet) bool {
	return s.V4.IsValid() && s.V4 == o.V4 || s.V6.IsValid() && s.V6 == o.V6
}

// Matches reports whether a and o can be of one host: the first family that both have
// decides. A host may have got another IPv6 address, or may have none yet.
func (a Addrs) Matches(o Addrs) bool {
	for _, f := range Families {
		if x, y := a.Of(f), o.Of(f); x.IsValid() && y.IsValid() {
			return x == y
		}
	}
	return false
}

// Common returns the addresses that a and o have in common.
func (a Addrs) Common(o Addrs) (both Addrs) {
	for _, f := range Families {
		if a.Of(f) == o.Of(f) {
			both = both.With(f, a.Of(f))
		}
	}
	return both
}

// Without returns those addresses of a that o does not have.
func (a Addrs) Without(o Addrs) Addrs {
	for _, f := range Families {
		if a.Of(f) == o.Of(f) {
			a = a.With(f, netip.Addr{})
		}
	}
	return a
}
