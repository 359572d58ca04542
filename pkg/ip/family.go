package ip

import "net/netip"

// Family is an address family.
type Family int

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
