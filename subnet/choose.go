package subnet

import (
	"fmt"
	"math/rand/v2"
	"net/netip"

	"flanneld/pkg/ip"
)

// candidates is how many free subnets are drawn from: early hosts get subnets
// near the start of the range, and two that start at once rarely the same.
const candidates = 100

// Choose draws a subnet that c allows and that overlaps neither a lease of s,
// readable or not, nor any of avoid.
func Choose(c *Config, s Snapshot, avoid []netip.Prefix, rnd *rand.Rand) (ip.Subnet, error) {
	taken := newOccupied(s, avoid)
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

// Free reports whether subnet overlaps no lease of s, readable or not.
func (s Snapshot) Free(subnet ip.Subnet) bool {
	for _, l := range s.Leases {
		if l.Subnet.Overlaps(subnet) {
			return false
		}
	}
	for _, p := range s.Problems {
		if p.Subnet.Overlaps(subnet) {
			return false
		}
	}
	return true
}

// occupied is what can't be chosen: by length, since nearly all of it is of one
// length, and looking for an overlap is then one look-up.
type occupied map[int]map[netip.Prefix]bool

func newOccupied(s Snapshot, avoid []netip.Prefix) occupied {
	o := make(occupied)
	add := func(p netip.Prefix) {
		if o[p.Bits()] == nil {
			o[p.Bits()] = make(map[netip.Prefix]bool)
		}
		o[p.Bits()][p.Masked()] = true
	}
	for _, l := range s.Leases {
		for _, p := range l.Subnet.Prefixes() {
			add(p)
		}
	}
	for _, p := range s.Problems {
		for _, p := range p.Subnet.Prefixes() {
			add(p)
		}
	}
	for _, p := range avoid {
		add(p)
	}
	return o
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
