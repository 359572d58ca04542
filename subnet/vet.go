package subnet

import (
	"cmp"
	"fmt"
	"maps"
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

// Self is what a host knows of its own addresses.
type Self struct {
	// Addr is the address of the external interface, and Link the network of that.
	Addr ip.Addrs
	Link ip.Subnet
	// All are the addresses of all interfaces, with the lengths of their networks.
	All []netip.Prefix
}

func (s Self) equal(o Self) bool {
	return s.Addr == o.Addr && s.Link == o.Link && slices.Equal(s.All, o.All)
}

// Vetter divides what a store holds into the leases of other hosts that may be
// acted upon, and problems. It remembers its verdicts, so that a change costs
// what changed, and a comparison of pointers for each other lease.
type Vetter struct {
	config *Config
	own    Lease
	self   Self
	local  []netip.Prefix     // as of Config.Local
	last   []*Lease           // that the verdicts are about
	fit    []*Lease           // those of last that can be used, each by itself
	alone  map[*Lease]refusal // of what cannot be used, whatever else there is
	beside []refusal          // of what cannot be used beside others; by subnet
	hosts  []hostAt           // the public addresses inside Network of the others, by address

	refused []Problem // alone and beside, by key; there may be thousands
	current bool      // refused is of them as they are now
}

// refusal is a lease that cannot be used, and why.
type refusal struct {
	lease  *Lease
	reason string
	// withdraw is for a subnet that no packet may be sent to.
	withdraw bool
}

// hostAt is a host whose address is inside Network.
type hostAt struct {
	addr  netip.Addr
	lease *Lease
}

// Vet takes a snapshot. own is this host's lease.
func (v *Vetter) Vet(c *Config, own *Lease, self Self, s Snapshot) (peers []*Lease, problems []Problem) {
	if v.config != c || v.own.Subnet != own.Subnet || v.own.PublicIP != own.PublicIP || !v.self.equal(self) {
		*v = Vetter{config: c, own: *own, self: self, local: c.Local(self.Addr, self.Link), alone: make(map[*Lease]refusal)}
	}
	come, gone := v.sort(s.Leases)
	if slices.ContainsFunc(gone, v.concerns) || slices.ContainsFunc(come, v.concerns) {
		v.beside, v.current = v.together(v.fit), false
		come = nil
	}
	peers = v.usable()
	if slices.ContainsFunc(come, func(l *Lease) bool { return v.collides(peers, l) }) {
		v.beside, v.current = v.together(v.fit), false
		peers = v.usable()
	}
	if !v.current {
		v.refused, v.current = nil, true
		for _, r := range slices.AppendSeq(slices.Clone(v.beside), maps.Values(v.alone)) {
			l := r.lease
			v.refused = append(v.refused, Problem{
				Key: l.Subnet.Key(), Subnet: l.Subnet, Reason: c.Trouble(l, r.reason), Withdraw: r.withdraw, Expires: l.Expires, Revision: l.Revision,
			})
		}
		sortProblems(v.refused)
	}
	if len(s.Problems) == 0 {
		return peers, v.refused
	}
	problems = slices.Clone(v.refused)
	for _, p := range s.Problems {
		if p.Subnet != own.Subnet { // the keeper mends our own
			problems = append(problems, p)
		}
	}
	sortProblems(problems)
	return peers, problems
}

// usable returns the leases that can be used together.
func (v *Vetter) usable() []*Lease {
	if len(v.beside) == 0 {
		return v.fit
	}
	refused := make([]*Lease, len(v.beside))
	for i, r := range v.beside {
		refused[i] = r.lease
	}
	return splice(v.fit, refused, nil)
}

// sort judges each lease that is new by itself. It returns those of them that can be
// used so far, and those that could be used before and are gone.
func (v *Vetter) sort(leases []*Lease) (come, gone []*Lease) {
	for was, is := range Changes(v.last, leases) {
		if _, refused := v.alone[was]; refused {
			delete(v.alone, was)
			v.current = false
		} else if was != nil && was.Subnet != v.own.Subnet {
			gone = append(gone, was)
		}
		if is == nil || is.Subnet == v.own.Subnet {
			continue
		}
		if r := v.unfit(is); r.reason != "" {
			v.alone[is] = r
			v.current = false
			continue
		}
		come = append(come, is)
	}
	v.last = leases
	if len(come)+len(gone) > 0 {
		v.fit = splice(v.fit, gone, come)
		v.placeHosts(come, gone)
	}
	return come, gone
}

func (v *Vetter) placeHosts(come, gone []*Lease) {
	v.hosts = slices.DeleteFunc(v.hosts, func(h hostAt) bool {
		i, found := search(gone, h.lease.Subnet)
		return found && gone[i] == h.lease
	})
	stay := len(v.hosts)
	for _, f := range v.config.families() {
		for _, l := range come {
			if a := f.addr(l.PublicIP); f.Network.Contains(a) {
				v.hosts = append(v.hosts, hostAt{a, l})
			}
		}
	}
	if len(v.hosts) > stay {
		slices.SortFunc(v.hosts, func(a, b hostAt) int {
			return cmp.Or(a.addr.Compare(b.addr), a.lease.Subnet.Compare(b.lease.Subnet))
		})
	}
}

// hostsIn returns the hosts with addresses in p.
func (v *Vetter) hostsIn(p netip.Prefix) []hostAt {
	first, _ := slices.BinarySearchFunc(v.hosts, p.Addr(), func(h hostAt, a netip.Addr) int { return h.addr.Compare(a) })
	n := first
	for n < len(v.hosts) && p.Contains(v.hosts[n].addr) {
		n++
	}
	return v.hosts[first:n]
}

// concerns reports whether what comes of a lease may change who is refused beside
// others, because it has to do with one that is.
func (v *Vetter) concerns(l *Lease) bool {
	const few = 100
	if len(v.beside) > few || len(v.beside) > 0 && v.config.Assigned { // which length is usual may have changed
		return true
	}
	return slices.ContainsFunc(v.beside, func(r refusal) bool {
		return r.lease == l || r.lease.Subnet.Overlaps(l.Subnet) || holds(r.lease.Subnet, l.PublicIP) || holds(l.Subnet, r.lease.PublicIP)
	})
}

func holds(s ip.Subnet, a ip.Addrs) bool { return s.V4.Contains(a.V4) || s.V6.Contains(a.V6) }

// collides reports whether a lease may not be in force together with the others, which
// have no trouble with each other.
func (v *Vetter) collides(peers []*Lease, l *Lease) bool {
	i, _ := search(peers, l.Subnet)
	if i > 0 && peers[i-1].Subnet.Overlaps(l.Subnet) || i+1 < len(peers) && peers[i+1].Subnet.Overlaps(l.Subnet) {
		return true
	}
	for _, p := range l.Subnet.Prefixes() {
		if len(v.hostsIn(p)) > 0 {
			return true
		}
	}
	if v.config.V6.Network.IsValid() {
		return true // the leases are not in the order of that family
	}
	a := l.PublicIP.V4
	if !v.config.V4.Network.Contains(a) {
		return false
	}
	at, _ := slices.BinarySearchFunc(peers, a, func(l *Lease, a netip.Addr) int {
		if l.Subnet.V4.Addr().Compare(a) <= 0 {
			return -1
		}
		return 1
	})
	return at > 0 && peers[at-1].Subnet.V4.Contains(a)
}

// together returns the leases that cannot be used beside the others.
func (v *Vetter) together(fit []*Lease) []refusal {
	reasons := make(map[*Lease]string)
	for _, f := range v.config.families() {
		if v.config.Assigned {
			f.SubnetLen = f.usualLen(append(slices.Clone(fit), &v.own)...)
		}
		n := f.nest(fit)
		type held struct{ lease, holder *Lease }
		var inside []held
		lost := make(map[*Lease]*Lease)
		for _, h := range v.hosts {
			if !f.Network.Contains(h.addr) {
				continue
			}
			for _, holder := range n.holders(h.addr) {
				switch {
				case holder == h.lease:
				case f.prefix(v.self.Link).Contains(h.addr),
					f.prefix(h.lease.Subnet).Bits() == f.SubnetLen && f.prefix(holder.Subnet).Bits() != f.SubnetLen:
					lost[holder] = h.lease
					reasons[holder] = fmt.Sprintf("%s holds %s, the address of the host that has the lease %s", f.prefix(holder.Subnet), h.addr, h.lease.Subnet)
				default:
					inside = append(inside, held{h.lease, holder})
				}
			}
		}
		n.losers(lost)
		for l, winner := range lost {
			if reasons[l] == "" {
				reasons[l] = fmt.Sprintf("%s overlaps the lease %s, which is in force in its place", f.prefix(l.Subnet), winner.Subnet)
			}
		}
		for _, h := range inside {
			if _, out := lost[h.holder]; !out && reasons[h.lease] == "" {
				reasons[h.lease] = fmt.Sprintf("its public address %s lies inside %s, the subnet of another lease: packets to it would go round in circles", f.addr(h.lease.PublicIP), h.holder.Subnet)
			}
		}
	}
	var refused []refusal
	for _, l := range fit {
		if reason := reasons[l]; reason != "" {
			refused = append(refused, refusal{l, reason, true})
		}
	}
	return refused
}

// unfit returns why the lease of another host can't be used, whatever others there
// are; no reason if it can.
func (v *Vetter) unfit(l *Lease) refusal {
	c, own := v.config, v.own
	withdraw := func(format string, a ...any) refusal { return refusal{l, fmt.Sprintf(format, a...), true} }
	// What leads to the host by the address that it had stays.
	keep := func(format string, a ...any) refusal { return refusal{l, fmt.Sprintf(format, a...), false} }
	for _, f := range [...]struct {
		r                       Range
		subnet, own             netip.Prefix
		public, ownPublic, addr netip.Addr
	}{
		{c.V4, l.Subnet.V4, own.Subnet.V4, l.PublicIP.V4, own.PublicIP.V4, v.self.Addr.V4},
		{c.V6, l.Subnet.V6, own.Subnet.V6, l.PublicIP.V6, own.PublicIP.V6, v.self.Addr.V6},
	} {
		i := slices.IndexFunc(v.local, f.subnet.Overlaps)
		ours, broadcast := v.self.has(f.public)
		switch {
		case !f.subnet.IsValid():
		case !f.r.Network.IsValid():
			return withdraw("%s is of an address family that the configuration does not enable", f.subnet)
		case !f.r.contains(f.subnet):
			return withdraw("%s lies outside Network %s, or is all of it", f.subnet, f.r.Network)
		case f.subnet.Overlaps(f.own):
			return withdraw("%s overlaps this host's own subnet %s", f.subnet, f.own)
		case i >= 0:
			return withdraw("%s overlaps %s, which is on this host's external interface", f.subnet, v.local[i])
		case f.public == f.ownPublic:
			return keep("its public address %s is this host's own", f.public)
		case f.subnet.Contains(f.public):
			return withdraw("its public address %s lies inside the subnet itself", f.public)
		case f.own.Contains(f.public):
			return withdraw("its public address %s lies inside this host's own subnet %s", f.public, f.own)
		case ours:
			return withdraw("its public address %s is one of this host's own", f.public)
		case broadcast.IsValid():
			return keep("its public address %s is the broadcast or network address of %s, a network of this host", f.public, broadcast)
		case f.r.Network.Contains(f.public) && f.r.allows(netip.PrefixFrom(f.public, f.public.BitLen())) &&
			!f.r.Network.Contains(f.addr) && !f.r.Network.Contains(f.ownPublic):
			return withdraw("its public address %s lies inside Network %s, where pods are and no hosts", f.public, f.r.Network)
		}
	}
	return refusal{}
}

// has reports whether an address is one of this host's, or in which of its networks
// it is none of a host.
func (s Self) has(a netip.Addr) (ours bool, broadcast netip.Prefix) {
	for _, p := range s.All {
		switch {
		case p.Addr() == a:
			return true, netip.Prefix{}
		case !a.Is4() || p.Bits() > 30 || !p.Contains(a):
		case a == p.Masked().Addr(), a == ip.LastAddr(p):
			broadcast = p.Masked()
		}
	}
	return false, broadcast
}
