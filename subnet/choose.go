package subnet

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"

	"flanneld/pkg/ip"
)

// candidates is how many free subnets are drawn from: early hosts get subnets
// near the start of the range, and two that start at once rarely the same.
const candidates = 100

// chooseSubnet draws a subnet that c allows, that overlaps neither a lease of s, readable or
// not, nor any of avoid, and that holds no host's own address.
func chooseSubnet(c *Config, s Snapshot, avoid []netip.Prefix, rnd *rand.Rand) (ip.Subnet, error) {
	taken := newOccupied(c, s, avoid)
	for _, l := range s.Leases {
		taken.addHost(c.V4, l.PublicIP.V4)
		taken.addHost(c.V6, l.PublicIP.V6)
	}
	var chosen ip.Subnet
	var err error
	if c.V4.Network.IsValid() {
		if chosen.V4, err = c.V4.choose(taken, rnd); err != nil {
			return ip.Subnet{}, err
		}
	}
	if c.V6.Network.IsValid() {
		if chosen.V6, err = c.V6.choose(taken, rnd); err != nil {
			return ip.Subnet{}, err
		}
	}
	return chosen, nil
}

// Free reports whether subnet overlaps no lease of s, readable or not, that
// could be somebody's.
func (c *Config) Free(s Snapshot, subnet ip.Subnet) bool {
	taken := newOccupied(c, s, nil)
	return !slices.ContainsFunc(subnet.Prefixes(), taken.overlaps)
}

// occupied is what can't be chosen: by length, since nearly all of it is of one
// length, and looking for an overlap is then one look-up.
type occupied map[int]map[netip.Prefix]bool

// newOccupied takes all leases that could be somebody's, readable or not. A lease that
// loses its subnet to others, or covers all of Network, is nobody's.
func newOccupied(c *Config, s Snapshot, avoid []netip.Prefix) occupied {
	o := make(occupied)
	lost := c.losers(s.Leases)
	for _, l := range s.Leases {
		if _, isLost := lost[l]; !isLost {
			o.addLease(c, l.Subnet)
		}
	}
	for _, p := range s.Problems {
		o.addLease(c, p.Subnet)
	}
	for _, p := range avoid {
		o.add(p)
	}
	return o
}

func (o occupied) addLease(c *Config, s ip.Subnet) {
	if p := s.V4; p.IsValid() && p.Bits() > c.V4.Network.Bits() {
		o.add(p)
	}
	if p := s.V6; p.IsValid() && p.Bits() > c.V6.Network.Bits() {
		o.add(p)
	}
}

// addHost adds the subnet that would hold a host's own address: many hosts may be
// inside Network, and looking through single addresses would take long.
func (o occupied) addHost(r Range, a netip.Addr) {
	if r.Network.IsValid() && r.Network.Contains(a) {
		o.add(netip.PrefixFrom(a, r.SubnetLen))
	}
}

func (o occupied) add(p netip.Prefix) {
	if o[p.Bits()] == nil {
		o[p.Bits()] = make(map[netip.Prefix]bool)
	}
	o[p.Bits()][p.Masked()] = true
}

func (o occupied) overlaps(p netip.Prefix) bool {
	for bits, set := range o {
		if bits <= p.Bits() {
			if set[netip.PrefixFrom(p.Addr(), bits).Masked()] {
				return true
			}
			continue
		}
		for longer := range set {
			if p.Overlaps(longer) {
				return true
			}
		}
	}
	return false
}

func (r Range) choose(taken occupied, rnd *rand.Rand) (netip.Prefix, error) {
	var free []netip.Prefix
	for p, ok := netip.PrefixFrom(r.Min, r.SubnetLen), true; ok && !r.Max.Less(p.Addr()) && len(free) < candidates; p, ok = ip.Next(p) {
		if !taken.overlaps(p) {
			free = append(free, p)
		}
	}
	if len(free) == 0 {
		return netip.Prefix{}, fmt.Errorf("no free subnet: all %d of length /%d from %s to %s in Network %s are taken",
			ip.CountSubnets(r.Min, r.Max, r.SubnetLen), r.SubnetLen, r.Min, r.Max, r.Network)
	}
	return free[rnd.IntN(len(free))], nil
}
