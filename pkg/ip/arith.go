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
	b := p.Masked().Addr().AsSlice()
	i := (p.Bits() - 1) / 8
	carry := uint(1) << (7 - (p.Bits()-1)%8)
	for ; i >= 0 && carry > 0; i-- {
		sum := uint(b[i]) + carry
		b[i] = byte(sum)
		carry = sum >> 8
	}
	if carry > 0 {
		return netip.Prefix{}, false
	}
	a, _ := netip.AddrFromSlice(b)
	return netip.PrefixFrom(a, p.Bits()), true
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
