package netfilter

import (
	"net/netip"
	"strings"

	"golang.org/x/sys/unix"

	"flanneld/pkg/ip"
	"flanneld/pkg/state"
)

// family is what differs between the rules of the address families.
type family struct {
	ip.Family
	number    byte // in nf_tables
	table     string
	anywhere  netip.Prefix
	multicast netip.Prefix
	// size is how long an address is, in bytes, and srcAt and dstAt where they are in a header.
	size         int
	srcAt, dstAt uint32
	program      string // its iptables
	modules      string // those of iptables-legacy
}

var families = map[ip.Family]*family{
	ip.V4: {
		ip.V4, unix.NFPROTO_IPV4, "flannel-ipv4", netip.PrefixFrom(netip.IPv4Unspecified(), 0), netip.MustParsePrefix("224.0.0.0/4"),
		4, 12, 16, "iptables", "iptable_nat iptable_filter",
	},
	ip.V6: {
		ip.V6, unix.NFPROTO_IPV6, "flannel-ipv6", netip.PrefixFrom(netip.IPv6Unspecified(), 0), netip.MustParsePrefix("ff00::/8"),
		16, 8, 24, "ip6tables", "ip6table_nat ip6table_filter",
	},
}

// familyOf returns the family of a prefix.
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

// Program returns what a family calls the programs of a way of iptables, and the way itself where
// there are none.
func Program(w state.RuleBackend, f ip.Family) string {
	return strings.Replace(string(w), families[ip.V4].program, families[f].program, 1)
}

// wayKey is a way to write the rules of a family. Of each, what is wrong with it is of no
// consequence to the others.
type wayKey struct {
	state.RuleBackend
	ip.Family
}

// wayOf is that of an object's key.
func wayOf(k state.Key) wayKey {
	return wayKey{state.RuleBackend(k.Scope), ip.FamilyOf(k.Prefix.Addr())}
}

func (k wayKey) String() string {
	text := Program(k.RuleBackend, k.Family)
	if k.Family == ip.V6 && text == string(k.RuleBackend) {
		text += " for " + k.Family.String()
	}
	return text
}

// compare sorts ways.
func (k wayKey) compare(o wayKey) int { return strings.Compare(k.String(), o.String()) }
