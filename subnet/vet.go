package subnet

import (
	"fmt"
	"net/netip"
	"slices"

	"flanneld/pkg/ip"
)

// Local returns the networks that no lease may overlap on a host whose external
// interface has address addr in network link: these two. If link holds all of
// the cluster's Network, as where hosts are in 10.0.0.0/8, that is how it was
// set up, and it is the address alone.
func (c *Config) Local(addr ip.Addrs, link ip.Subnet) []netip.Prefix {
	var local []netip.Prefix
	for _, f := range [...]struct {
		addr          netip.Addr
		link, network netip.Prefix
	}{{addr.V4, link.V4, c.V4.Network}, {addr.V6, link.V6, c.V6.Network}} {
		switch {
		case !f.addr.IsValid():
		case f.link.Bits() <= f.network.Bits() && f.link.Contains(f.network.Addr()):
			local = append(local, netip.PrefixFrom(f.addr, f.addr.BitLen()))
		default:
			local = append(local, f.link)
		}
	}
	return local
}

// Vetter divides what a store holds into the leases of other hosts that may be
// acted upon, and problems. It remembers its verdicts, so that a change costs
// what changed, and a comparison of pointers for each other lease.
type Vetter struct {
	config *Config
	own    Lease
	local  []netip.Prefix
	last   []*Lease          // that the verdicts are about
	mine   *Lease            // the one of last that is this host's; nil for none
	bad    map[*Lease]string // why, for those that can't be used
}

// Vet takes a snapshot. own is this host's lease, local are its networks as of
// Config.Local.
func (v *Vetter) Vet(c *Config, own *Lease, local []netip.Prefix, s Snapshot) (peers []*Lease, problems []Problem) {
	if v.config != c || v.own.Subnet != own.Subnet || v.own.PublicIP != own.PublicIP || !slices.Equal(v.local, local) {
		*v = Vetter{config: c, own: *own, local: local}
	}
	for _, p := range s.Problems {
		if p.Subnet != own.Subnet { // the keeper mends our own
			problems = append(problems, p)
		}
	}
	peers = make([]*Lease, 0, len(s.Leases))
	bad := make(map[*Lease]string)
	last, was := v.last, v.mine
	v.mine = nil
	for rest := s.Leases; len(rest) > 0; {
		// What was good before is good, and there may be 50,000 in a row: they are
		// not even looked at.
		n := 0
		for len(v.bad) == 0 && n < min(len(rest), len(last)) && rest[n] == last[n] && rest[n] != was {
			n++
		}
		if n > 0 {
			peers = append(peers, rest[:n]...)
			rest, last = rest[n:], last[n:]
			continue
		}
		l := rest[0]
		rest = rest[1:]
		for len(last) > 0 && last[0] != l && last[0].Subnet.Compare(l.Subnet) < 0 {
			last = last[1:]
		}
		known := len(last) > 0 && last[0] == l
		if known {
			last = last[1:]
		}
		var reason string
		switch {
		case l.Subnet == own.Subnet:
			v.mine = l
			continue
		case !known:
			reason = unfit(c, own, local, l)
		case len(v.bad) > 0:
			reason = v.bad[l]
		}
		if reason == "" {
			peers = append(peers, l)
			continue
		}
		bad[l] = reason
		problems = append(problems, Problem{
			Key: l.Subnet.Key(), Subnet: l.Subnet, Reason: reason, Expires: l.Expires, Revision: l.Revision,
		})
	}
	v.last, v.bad = s.Leases, bad
	sortProblems(problems)
	return peers, problems
}

// unfit returns why the lease of another host can't be used; nothing if it can.
func unfit(c *Config, own *Lease, local []netip.Prefix, l *Lease) string {
	for _, f := range [...]struct {
		r                 Range
		subnet, own       netip.Prefix
		public, ownPublic netip.Addr
	}{
		{c.V4, l.Subnet.V4, own.Subnet.V4, l.PublicIP.V4, own.PublicIP.V4},
		{c.V6, l.Subnet.V6, own.Subnet.V6, l.PublicIP.V6, own.PublicIP.V6},
	} {
		i := slices.IndexFunc(local, f.subnet.Overlaps)
		switch {
		case !f.subnet.IsValid():
		case !f.r.Network.IsValid():
			return fmt.Sprintf("%s is of an address family that the configuration does not enable", f.subnet)
		case !f.r.Network.Contains(f.subnet.Addr()):
			return fmt.Sprintf("%s lies outside Network %s", f.subnet, f.r.Network)
		case f.subnet.Bits() != f.r.SubnetLen:
			return fmt.Sprintf("%s does not have the length that the configuration gives, /%d", f.subnet, f.r.SubnetLen)
		case f.subnet.Overlaps(f.own):
			return fmt.Sprintf("%s overlaps this host's own subnet %s", f.subnet, f.own)
		case i >= 0:
			return fmt.Sprintf("%s overlaps %s, which is on this host's external interface", f.subnet, local[i])
		case f.public == f.ownPublic:
			return fmt.Sprintf("its public address %s is this host's own", f.public)
		case f.subnet.Contains(f.public):
			return fmt.Sprintf("its public address %s lies inside the subnet itself", f.public)
		}
	}
	return ""
}
