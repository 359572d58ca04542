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

// Choose draws a subnet that c allows and that overlaps neither a lease of s,
// readable or not, nor any of avoid.
func Choose(c *Config, s Snapshot, avoid []netip.Prefix, rnd *rand.Rand) (ip.Subnet, error) {
	taken := newOccupied(c, s, avoid)
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

func newOccupied(c *Config, s Snapshot, avoid []netip.Prefix) occupied {
	o := make(occupied)
	for _, l := range s.Leases {
		o.addLease(c, l.Subnet)
	}
	for _, p := range s.Problems {
		o.addLease(c, p.Subnet)
	}
	for _, p := range avoid {
		o.add(p)
	}
	return o
}

// addLease adds what s covers, except for keys such as 10.0.0.0-8 that cover all
// of the Network: these are nobody's lease, and would leave nothing to choose.
func (o occupied) addLease(c *Config, s ip.Subnet) {
	if p := s.V4; p.IsValid() && p.Bits() > c.V4.Network.Bits() {
		o.add(p)
	}
	if p := s.V6; p.IsValid() && p.Bits() > c.V6.Network.Bits() {
		o.add(p)
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
