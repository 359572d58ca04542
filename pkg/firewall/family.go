package firewall

import (
	"net/netip"

	"golang.org/x/sys/unix"

	"flanneld/pkg/ip"
)

// family is what differs between packets of the address families, and between what ip_tables
// and ip6_tables say about them.
type family struct {
	ip.Family
	number    byte // in nf_tables
	name      string
	etherType uint16
	// Of a packet: its beginning as far as it is known, how long it is without the payload,
	// where the protocol and the addresses are, and how long these are.
	first, firstMask  byte
	header            int
	proto, addrs, len int
	xt                xtHeader
}

// xtHeader is where in what an entry is about things are: addresses, which begin it, are
// followed by their masks, the names of interfaces by theirs.
type xtHeader struct {
	ifaces, proto, flags, invert int
	gotoFlag                     byte
	protoFlag                    byte // without it any will do; 0 if that is so for protocol 0
	otherFlag                    byte // it is about fragments, or what a sample does not tell
	other                        truth
}

var families = map[ip.Family]*family{
	ip.V4: {
		ip.V4, unix.NFPROTO_IPV4, "ip", unix.ETH_P_IP, 0x45, 0xff, 20, 9, 12, 4,
		xtHeader{ifaces: 16, proto: 80, flags: 82, invert: 83, gotoFlag: 2, otherFlag: 1, other: no},
	},
	ip.V6: {
		ip.V6, unix.NFPROTO_IPV6, "ip6", unix.ETH_P_IPV6, 0x60, 0xf0, 40, 6, 8, 16,
		xtHeader{ifaces: 64, proto: 128, flags: 131, invert: 132, protoFlag: 1, gotoFlag: 4, otherFlag: 2, other: maybe},
	},
}

// familyOf returns that of a prefix.
func familyOf(p netip.Prefix) *family { return families[ip.FamilyOf(p.Addr())] }

// numbered returns the family that has a number in nf_tables; nil if that is of neither, or of
// both.
func numbered(number byte) *family {
	for _, f := range families {
		if f.number == number {
			return f
		}
	}
	return nil
}
