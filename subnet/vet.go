package subnet

import (
	"fmt"
	"net/netip"

	"flanneld/pkg/ip"
)

// Vet divides what a store holds into the leases of other hosts that may be
// acted upon, and problems. own is this host's lease; local is the network that
// its external interface is in, which no lease may cover.
func Vet(c *Config, own *Lease, local ip.Subnet, s Snapshot) (peers []*Lease, problems []Problem) {
	peers = make([]*Lease, 0, len(s.Leases))
	for _, p := range s.Problems {
		if p.Subnet != own.Subnet { // the keeper mends our own
			problems = append(problems, p)
		}
	}
	for _, l := range s.Leases {
		if l.Subnet == own.Subnet {
			continue
		}
		if reason := unfit(c, own, local, l); reason != "" {
			problems = append(problems, Problem{
				Key: l.Subnet.Key(), Subnet: l.Subnet, Reason: reason, Expires: l.Expires, Revision: l.Revision,
			})
			continue
		}
		peers = append(peers, l)
	}
	sortProblems(problems)
	return peers, problems
}

// unfit returns why the lease of another host can't be used; nothing if it can.
func unfit(c *Config, own *Lease, local ip.Subnet, l *Lease) string {
	for _, f := range [...]struct {
		r                 Range
		subnet, own, host netip.Prefix
		public, ownPublic netip.Addr
	}{
		{c.V4, l.Subnet.V4, own.Subnet.V4, local.V4, l.PublicIP.V4, own.PublicIP.V4},
		{c.V6, l.Subnet.V6, own.Subnet.V6, local.V6, l.PublicIP.V6, own.PublicIP.V6},
	} {
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
		case f.subnet.Overlaps(f.host):
			return fmt.Sprintf("%s overlaps the network of this host's external interface, %s", f.subnet, f.host)
		case f.public == f.ownPublic:
			return fmt.Sprintf("its public address %s is this host's own", f.public)
		case f.subnet.Contains(f.public):
			return fmt.Sprintf("its public address %s lies inside the subnet itself", f.public)
		}
	}
	return ""
}
