package main_test

import (
	"net/netip"

	"flanneld/pkg/ip"
)

// families are the address families of a network and of its hosts.
type families string

const (
	ipv4Only  families = ""
	dualStack families = "dual"
	ipv6Only  families = "IPv6"
)

// overhead is how much of each packet the backend takes: a packet of any family has to fit.
func (v variant) overhead() int {
	if v.families != ipv4Only && v.backend.name == vxlanBackend.name {
		return v.backend.overhead + 20 // the longer header of the packet around it
	}
	return v.backend.overhead
}

// network4 and network6 are the networks of pods.
const (
	network4 = "10.5.0.0/16"
	network6 = "fd00:5::/48"
)

// networks are those of pods.
func (f families) networks() (all []string) {
	for _, f := range f.list() {
		all = append(all, map[ip.Family]string{ip.V4: network4, ip.V6: network6}[f])
	}
	return all
}

// list returns the families, IPv4 first.
func (f families) list() []ip.Family {
	switch f {
	case dualStack:
		return ip.Families[:]
	case ipv6Only:
		return []ip.Family{ip.V6}
	default:
		return []ip.Family{ip.V4}
	}
}

// config is what the network configuration says of the families.
func (f families) config() settings {
	all := settings{"Network": network4}
	if f != ipv4Only {
		all["EnableIPv6"], all["IPv6Network"] = true, network6
	}
	if f == ipv6Only {
		all["EnableIPv4"] = false
		delete(all, "Network")
	}
	return all
}

// of returns a stranger of IPv4 in the families of the network.
func (f families) of(p peer) peer {
	six := peer{subnet: subnet6(p.subnet), public: addr6(p.public)}
	switch f {
	case dualStack:
		p.also = &six
	case ipv6Only:
		return six
	case ipv4Only:
	}
	return p
}

// subnet6 is the IPv6 subnet of a host that has the IPv4 subnet p of 10.0.0.0/8: no host draws it
// of fd00:5::/48, as hosts draw of the first hundred.
func subnet6(p netip.Prefix) netip.Prefix {
	a := p.Addr().As4()
	return netip.PrefixFrom(netip.AddrFrom16([16]byte{0xfd, 0, 0, 5, 6: a[1], 7: a[2], 8: a[3]}), p.Bits()-24+64)
}

// addr6 is the IPv6 address of a host that has the IPv4 address a.
func addr6(a netip.Addr) netip.Addr {
	b, net := a.As4(), link6(a).Addr().As16()
	copy(net[12:], b[:])
	return netip.AddrFrom16(net)
}

// link6 is the network of IPv6 on the link of an IPv4 address: each /24 has one, and 172.16.0.0/16
// has.
func link6(a netip.Addr) netip.Prefix {
	b := a.As4()
	net := [16]byte{0xfd, 7: b[2]}
	if b[0] == 172 {
		net = [16]byte{0xfd, 0x10}
	}
	return netip.PrefixFrom(netip.AddrFrom16(net), 64)
}

// links are the networks of a link that has this one in IPv4.
func (v variant) links(network string) (all []netip.Prefix) {
	four := mustPrefix(network)
	for _, f := range v.families.list() {
		all = append(all, map[ip.Family]netip.Prefix{ip.V4: four, ip.V6: link6(four.Addr())}[f])
	}
	return all
}
