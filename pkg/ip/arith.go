package ip

import (
	"math"
	"net/netip"
)

// Next returns the prefix of the same length that follows p, and false where
// p is the last one of its address family.
func Next(p netip.Prefix) (netip.Prefix, bool) {
	if p.Bits() <= 0 {
		return netip.Prefix{}, false
	}
	return Nth(p, 1)
}

// Nth returns the nth prefix of the same length after p, and false where the address family
// ends before it.
func Nth(p netip.Prefix, n int) (netip.Prefix, bool) {
	a := p.Masked().Addr().AsSlice()
	left := uint64(n)
	for bit := p.Bits() - 1; bit >= 0 && left > 0; bit-- { // a sum, from the last bit of the prefix up
		mask := byte(1) << (7 - bit%8)
		left += uint64(a[bit/8] >> (7 - bit%8) & 1)
		a[bit/8] &^= mask
		if left&1 == 1 {
			a[bit/8] |= mask
		}
		left >>= 1
	}
	if left > 0 {
		return netip.Prefix{}, false
	}
	b, _ := netip.AddrFromSlice(a)
	return netip.PrefixFrom(b, p.Bits()), true
}

// LastAddr returns the highest address in p.
func LastAddr(p netip.Prefix) netip.Addr {
	b := p.Masked().Addr().AsSlice()
	for bit := p.Bits(); bit < len(b)*8; bit++ {
		b[bit/8] |= 1 << (7 - bit%8)
	}
	a, _ := netip.AddrFromSlice(b)
	return a
}

// Base returns the prefix of the given length that starts where p starts. The
// length must be at least that of p.
func Base(p netip.Prefix, bits int) netip.Prefix {
	return netip.PrefixFrom(p.Masked().Addr(), bits)
}

// LastSubnet returns the highest prefix of the given length inside p.
func LastSubnet(p netip.Prefix, bits int) netip.Prefix {
	return netip.PrefixFrom(LastAddr(p), bits).Masked()
}

// CountSubnets returns how many subnets of length bits there are from the one
// at min to the one at max, both included; it stops at math.MaxInt.
func CountSubnets(min, max netip.Addr, bits int) int {
	if min.BitLen() != max.BitLen() || max.Less(min) {
		return 0
	}
	lo, hi := min.AsSlice(), max.AsSlice()
	var diff uint64 // hi - lo in units of one subnet
	for bit := range bits {
		d := uint64(hi[bit/8]>>(7-bit%8)&1) - uint64(lo[bit/8]>>(7-bit%8)&1)
		if int64(diff) > math.MaxInt/4 {
			return math.MaxInt
		}
		diff = diff*2 + d // two's complement: borrows settle as lower bits follow
	}
	return int(diff) + 1
}
