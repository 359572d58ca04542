package dataplanetest

import (
	"net/netip"
	"regexp"
	"strings"

	"flanneld/pkg/ip"
)

// familyWords are addresses of IPv4, and words that are others in IPv6.
var familyWords = regexp.MustCompile(`\b\d+\.\d+\.\d+\.\d+(/\d+)?|\bip6?tables\b|\bip6?\b|\bipv[46](_addr)?\b|\bicmp-[a-z-]+`)

// in6 are the words that are not turned into IPv6 as all others of their kind.
var in6 = map[string]string{
	"127.0.0.1": "::1", "224.0.0.0/4": "ff00::/8",
	"ip": "ip6", "ip6": "ip", "ipv4": "ipv6", "ipv6": "ipv4", "ipv4_addr": "ipv6_addr", "ipv6_addr": "ipv4_addr", "iptables": "ip6tables", "ip6tables": "iptables",
	"icmp-port-unreachable": "icmp6-port-unreachable", "icmp-host-prohibited": "icmp6-adm-prohibited",
}

// In turns what is written for IPv4, such as rules for packets, into what is the same in a
// family: 10.1.5.0/24 is fdaa:a:1:5::/64 in IPv6.
func In(f ip.Family, text string) string {
	if f == ip.V4 {
		return text
	}
	return familyWords.ReplaceAllStringFunc(text, func(word string) string {
		if other, ok := in6[word]; ok {
			return other
		}
		if p, err := netip.ParsePrefix(word); err == nil {
			return PrefixIn(f, p).String()
		}
		if a, err := netip.ParseAddr(word); err == nil {
			return PrefixIn(f, netip.PrefixFrom(a, 32)).Addr().String()
		}
		return word
	})
}

// PrefixIn is In for a prefix of IPv4.
func PrefixIn(f ip.Family, p netip.Prefix) netip.Prefix {
	if f == ip.V4 {
		return p
	}
	if p.Bits() == 0 {
		return netip.PrefixFrom(netip.IPv6Unspecified(), 0)
	}
	// Each octet is the lower half of a group, and the last one that of the last.
	a := p.Addr().As4()
	b := [16]byte{0: 0xfd, 1: 0xaa, 3: a[0], 5: a[1], 7: a[2], 15: a[3]}
	bits := 16 + 2*(p.Bits()&^7)
	if rest := p.Bits() % 8; rest > 0 {
		bits += 8 + rest
	}
	if p.Bits() > 24 {
		bits = p.Bits() + 96
	}
	return netip.PrefixFrom(netip.AddrFrom16(b), bits)
}

// prefixIn is PrefixIn for a text that is a prefix.
func prefixIn(f ip.Family, text string) netip.Prefix {
	return PrefixIn(f, netip.MustParsePrefix(text))
}

// in turns several texts.
func in(f ip.Family, texts ...string) []string {
	return strings.Split(In(f, strings.Join(texts, "\n")), "\n")
}
