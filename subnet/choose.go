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

// draw completes a subnet: in each family that c has and s not, it draws a prefix that c allows,
// that overlaps neither a lease of the snapshot, readable or not, nor any of avoid, and that
// holds no host's own address. It is that of the same number as in the other family, if that is
// to be had, so that two hosts which draw at once do not get one prefix with different others.
func (c *Config) draw(s ip.Subnet, now Snapshot, avoid []netip.Prefix, rnd *rand.Rand) (ip.Subnet, error) {
	taken := newOccupied(c, now, avoid)
	for _, l := range now.Leases {
		for _, f := range c.Families() {
			taken.addHost(c.Of(f), l.PublicIP.Of(f))
		}
	}
	for _, f := range c.Families() {
		if s.Of(f).IsValid() {
			continue
		}
		p := c.paired(f, s)
		if !c.Of(f).fits(p) || taken.overlaps(p) {
			var err error
			if p, err = c.Of(f).choose(taken, rnd); err != nil {
				return ip.Subnet{}, err
			}
		}
		s = s.With(f, p)
	}
	return s, nil
}

// paired returns the prefix of a family that has the number of that of the other family. It
// is not valid if there is none.
func (c *Config) paired(f ip.Family, s ip.Subnet) netip.Prefix {
	for _, other := range s.Families() {
		from, to := c.Of(other), c.Of(f)
		n := ip.CountSubnets(from.Network.Addr(), s.Of(other).Addr(), from.SubnetLen) - 1
		if p, ok := ip.Nth(ip.Base(to.Network, to.SubnetLen), n); ok && n >= 0 {
			return p
		}
	}
	return netip.Prefix{}
}

// Free reports whether subnet overlaps no lease of s, readable or not, that
// could be somebody's.
func (c *Config) Free(s Snapshot, subnet ip.Subnet) bool {
	taken := newOccupied(c, s, nil)
	return !slices.ContainsFunc(subnet.Prefixes(), taken.overlaps)
}

// occupied is what can't be chosen: by length, since nearly all of it is of one
// length, and looking for an overlap is then one look-up.
type occupied map[space]map[netip.Prefix]bool

// space is all prefixes of one length.
type space struct {
	ip.Family
	bits int
}

// newOccupied takes all leases that could be somebody's, readable or not. A lease that
// loses its subnet to others, or covers all of Network, is nobody's.
func newOccupied(c *Config, s Snapshot, avoid []netip.Prefix) occupied {
	o := make(occupied)
	for _, f := range c.families() {
		lost := f.losers(s.Leases)
		add := func(s ip.Subnet) {
			if p := s.Of(f.Family); p.Bits() > f.Network.Bits() {
				o.add(p)
			}
		}
		for _, l := range s.Leases {
			if _, isLost := lost[l]; !isLost {
				add(l.Subnet)
			}
		}
		for _, p := range s.Problems {
			add(p.Subnet)
		}
	}
	for _, p := range avoid {
		o.add(p)
	}
	return o
}

// addHost adds the subnet that would hold a host's own address: many hosts may be
// inside Network, and looking through single addresses would take long.
func (o occupied) addHost(r Range, a netip.Addr) {
	if r.Network.Contains(a) {
		o.add(netip.PrefixFrom(a, r.SubnetLen))
	}
}

func (o occupied) add(p netip.Prefix) {
	s := space{ip.FamilyOf(p.Addr()), p.Bits()}
	if o[s] == nil {
		o[s] = make(map[netip.Prefix]bool)
	}
	o[s][p.Masked()] = true
}

func (o occupied) overlaps(p netip.Prefix) bool { return o.over(p).IsValid() }

// over returns the shortest of what p overlaps, or p if that is longer; not valid if there
// is nothing.
func (o occupied) over(p netip.Prefix) (over netip.Prefix) {
	for s, set := range o {
		switch {
		case s.Family != ip.FamilyOf(p.Addr()) || over.IsValid() && over.Bits() <= s.bits:
		case s.bits <= p.Bits():
			if shorter := netip.PrefixFrom(p.Addr(), s.bits).Masked(); set[shorter] {
				over = shorter
			}
		default:
			for longer := range set {
				if p.Overlaps(longer) {
					over = p
					break
				}
			}
		}
	}
	return over
}

// choose draws one of those that are free. What is taken as a whole is gone over as a whole.
func (r Range) choose(taken occupied, rnd *rand.Rand) (netip.Prefix, error) {
	var free []netip.Prefix
	for p, ok := netip.PrefixFrom(r.Min, r.SubnetLen), true; ok && !r.Max.Less(p.Addr()) && len(free) < candidates; p, ok = ip.Next(p) {
		if over := taken.over(p); over.IsValid() {
			p = ip.LastSubnet(over, r.SubnetLen)
		} else {
			free = append(free, p)
		}
	}
	if len(free) == 0 {
		return netip.Prefix{}, fmt.Errorf("no free subnet: all %d of length /%d from %s to %s in Network %s are taken",
			ip.CountSubnets(r.Min, r.Max, r.SubnetLen), r.SubnetLen, r.Min, r.Max, r.Network)
	}
	return free[rnd.IntN(len(free))], nil
}
