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
	for _, f := range ip.Families {
		switch addr, link, network := addr.Of(f), link.Of(f), c.Of(f).Network; {
		case !addr.IsValid():
		case link.Bits() <= network.Bits() && link.Contains(network.Addr()):
			local = append(local, netip.PrefixFrom(addr, addr.BitLen()))
		default:
			local = append(local, link)
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
// acted upon, and problems. Each address family of a lease is judged by itself: of a lease that
// can be used in one, the other is left out. It remembers its verdicts, so that a change costs
// what changed, and a comparison of pointers for each other lease.
type Vetter struct {
	config   *Config
	own      Lease
	self     Self
	local    []netip.Prefix // as of Config.Local
	families []*vetted
	last     []*Lease             // that the verdicts are about
	fit      []*Lease             // those of last that can be used in some family, each by itself
	odd      map[*Lease]struct{}  // those of fit that can't be used in some other one
	alone    map[*Lease][]refusal // of what cannot be used, whatever else there is
	parts    map[*Lease]*Lease    // of leases of which a part is used: that

	refused []Problem // alone and beside, by key; there may be thousands
	current bool      // refused is of them as they are now
}

// vetted is what is known of the leases of one family.
type vetted struct {
	family
	link   netip.Prefix
	own    *Lease
	fit    []*Lease           // that can be used, each by itself; by prefix
	hosts  []hostAt           // the public addresses of these inside Network, by address
	beside map[*Lease]refusal // of what cannot be used beside others
}

// refusal is a lease that cannot be used in a family, and why. Without a reason there is
// nothing wrong.
type refusal struct {
	ip.Family
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
	if v.config != c || v.own.Subnet != own.Subnet || v.own.PublicIP != own.PublicIP || v.own.Machine != own.Machine || !v.self.equal(self) {
		*v = Vetter{
			config: c, own: *own, self: self, local: c.Local(self.Addr, self.Link),
			odd: make(map[*Lease]struct{}), alone: make(map[*Lease][]refusal), parts: make(map[*Lease]*Lease),
		}
		for _, f := range c.families() {
			v.families = append(v.families, &vetted{family: f, link: self.Link.Of(f.Family), own: &v.own, beside: make(map[*Lease]refusal)})
		}
	}
	come, gone := v.sort(s.Leases)
	for _, f := range v.families {
		if f.follow(come[f], gone[f]) {
			v.current = false
		}
	}
	peers = v.usable()
	if !v.current {
		v.refused, v.current = v.problems(), true
	}
	if len(s.Problems) == 0 {
		return peers, v.refused
	}
	problems = slices.Clone(v.refused)
	for _, p := range s.Problems {
		off := p.Part && !c.part(p.Subnet).IsValid()
		if !off && p.Subnet != own.Subnet { // the keeper mends our own
			problems = append(problems, p)
		}
	}
	sortProblems(problems)
	return peers, problems
}

// problems returns what cannot be used.
func (v *Vetter) problems() (all []Problem) {
	add := func(l *Lease, r refusal) {
		if r.reason != "" {
			all = append(all, Problem{
				Key: l.Subnet.Key(), Subnet: ip.Subnet{}.With(r.Family, l.Subnet.Of(r.Family)), Reason: v.config.Trouble(l, r.reason),
				Withdraw: r.withdraw, Expires: l.Expires, Revision: l.Revision,
			})
		}
	}
	for l, refusals := range v.alone {
		for _, r := range refusals {
			add(l, r)
		}
	}
	for _, f := range v.families {
		for l, r := range f.beside {
			add(l, r)
		}
	}
	sortProblems(all)
	return all
}

// usable returns the leases that can be used together, each in the families in which it can.
func (v *Vetter) usable() []*Lease {
	odd := slices.Collect(maps.Keys(v.odd))
	for _, f := range v.families {
		for l := range f.beside {
			if _, is := v.odd[l]; !is {
				odd = append(odd, l)
			}
		}
	}
	if len(odd) == 0 {
		return v.fit
	}
	order := func(a, b *Lease) int { return a.Subnet.Compare(b.Subnet) }
	slices.SortFunc(odd, order)
	odd = slices.Compact(odd) // it may be refused beside others in each family
	used := make([]*Lease, 0, len(odd))
	for _, l := range odd {
		if part := v.part(l); part != nil {
			used = append(used, part)
		}
	}
	slices.SortFunc(used, order)
	return splice(v.fit, odd, used)
}

// part returns a lease of what can be used of a lease; nil if that is nothing.
func (v *Vetter) part(l *Lease) *Lease {
	s := v.uses(l)
	switch part := v.parts[l]; {
	case s == l.Subnet:
		return l
	case !s.IsValid():
		return nil
	case part != nil && part.Subnet == s:
		return part
	}
	v.parts[l] = l.only(s)
	return v.parts[l]
}

// uses returns what can be used of a lease.
func (v *Vetter) uses(l *Lease) (s ip.Subnet) {
	for _, f := range v.families {
		if _, refused := f.beside[l]; !refused && v.admits(f, l) {
			s = s.With(f.Family, f.of(l))
		}
	}
	return s
}

// admits reports whether a lease can be used in a family, whatever else there is.
func (v *Vetter) admits(f *vetted, l *Lease) bool {
	return f.covered(l) && !slices.ContainsFunc(v.alone[l], func(r refusal) bool { return r.Family == f.Family })
}

// sort judges each lease that is new by itself. For each family it returns those of them that can
// be used so far, and those that could be used before and are gone.
func (v *Vetter) sort(leases []*Lease) (come, gone map[*vetted][]*Lease) {
	come, gone = make(map[*vetted][]*Lease), make(map[*vetted][]*Lease)
	var fit, unfit []*Lease
	for was, is := range Changes(v.last, leases) {
		if was != nil && !v.ours(was) {
			usable := false
			for _, f := range v.families {
				if v.admits(f, was) {
					gone[f] = append(gone[f], was)
					usable = true
				}
			}
			if usable {
				unfit = append(unfit, was)
			}
			v.forget(was)
		}
		if is == nil || v.ours(is) {
			continue
		}
		if refusals := v.unfit(is); len(refusals) > 0 {
			v.alone[is] = refusals
			v.current = false
		}
		usable := ip.Subnet{}
		for _, f := range v.families {
			if v.admits(f, is) {
				come[f] = append(come[f], is)
				usable = usable.With(f.Family, f.of(is))
			}
		}
		if usable.IsValid() {
			fit = append(fit, is)
			if usable != is.Subnet {
				v.odd[is] = struct{}{}
			}
		}
	}
	v.last = leases
	if len(fit)+len(unfit) > 0 {
		v.fit = splice(v.fit, unfit, fit)
	}
	return come, gone
}

func (v *Vetter) forget(l *Lease) {
	if _, refused := v.alone[l]; refused {
		delete(v.alone, l)
		v.current = false
	}
	delete(v.odd, l)
	delete(v.parts, l)
}

// ours reports whether a lease is this host's own, or is what that was made of, or was.
func (v *Vetter) ours(l *Lease) bool {
	if l.Subnet == v.own.Subnet {
		return true
	}
	return l.Subnet.Shares(v.own.Subnet) && slices.ContainsFunc(v.families, func(f *vetted) bool {
		return f.supersedes(&v.own, l) || f.supersedes(l, &v.own)
	})
}

// follow takes the leases that are new and those that are gone, and reports whether it may be
// that others are refused beside others than before.
func (f *vetted) follow(come, gone []*Lease) bool {
	if len(come)+len(gone) == 0 {
		return false
	}
	again := slices.ContainsFunc(gone, f.concerns) || slices.ContainsFunc(come, f.concerns)
	f.place(come, gone)
	if !again && !f.anyCollides(come) {
		return false
	}
	f.together()
	return true
}

// few is how many leases are dealt with one by one; more, together with all others.
const few = 16

// place puts leases where they belong, and takes others away.
func (f *vetted) place(come, gone []*Lease) {
	if len(come)+len(gone) > few {
		isGone := make(map[*Lease]bool, len(gone))
		for _, l := range gone {
			isGone[l] = true
		}
		f.fit = append(slices.DeleteFunc(f.fit, func(l *Lease) bool { return isGone[l] }), come...)
		slices.SortFunc(f.fit, f.compare)
	} else {
		for _, l := range gone {
			i := f.at(l)
			f.fit = slices.Delete(f.fit, i, i+1)
		}
		for _, l := range come {
			f.fit = slices.Insert(f.fit, f.at(l), l)
		}
	}
	f.hosts = slices.DeleteFunc(f.hosts, func(h hostAt) bool { return slices.Contains(gone, h.lease) })
	stay := len(f.hosts)
	for _, l := range come {
		if a := l.PublicIP.Of(f.Family); f.Network.Contains(a) {
			f.hosts = append(f.hosts, hostAt{a, l})
		}
	}
	if len(f.hosts) > stay {
		slices.SortFunc(f.hosts, func(a, b hostAt) int {
			return cmp.Or(a.addr.Compare(b.addr), a.lease.Subnet.Compare(b.lease.Subnet))
		})
	}
}

// at returns where a lease is, or would be.
func (f *vetted) at(l *Lease) int {
	i, _ := slices.BinarySearchFunc(f.fit, l, f.compare)
	return i
}

// hostsIn returns the hosts with addresses in p.
func (f *vetted) hostsIn(p netip.Prefix) []hostAt {
	first, _ := slices.BinarySearchFunc(f.hosts, p.Addr(), func(h hostAt, a netip.Addr) int { return h.addr.Compare(a) })
	n := first
	for n < len(f.hosts) && p.Contains(f.hosts[n].addr) {
		n++
	}
	return f.hosts[first:n]
}

// concerns reports whether what comes of a lease may change who is refused beside
// others, because it has to do with one that is.
func (f *vetted) concerns(l *Lease) bool {
	const few = 100
	if len(f.beside) > few || len(f.beside) > 0 && f.assigned { // which length is usual may have changed
		return true
	}
	for r := range f.beside {
		if r == l || f.of(r).Overlaps(f.of(l)) || f.of(r).Contains(l.PublicIP.Of(f.Family)) || f.of(l).Contains(r.PublicIP.Of(f.Family)) {
			return true
		}
	}
	return false
}

// anyCollides reports whether some of the leases that came may not be in force together with the
// others, which have no trouble with each other. Of many it may say so although none is.
func (f *vetted) anyCollides(come []*Lease) bool {
	if len(come) <= few {
		return slices.ContainsFunc(come, f.collides)
	}
	if len(f.beside)+len(f.hosts) > 0 {
		return true
	}
	for i := 1; i < len(f.fit); i++ { // of those that overlap, two are next to each other
		if f.of(f.fit[i-1]).Overlaps(f.of(f.fit[i])) {
			return true
		}
	}
	return false
}

// collides reports whether a lease may not be in force together with the others, which
// have no trouble with each other.
func (f *vetted) collides(l *Lease) bool {
	// used returns the closest lease before or after a place that is not refused.
	used := func(i, step int) *Lease {
		for i += step; i >= 0 && i < len(f.fit); i += step {
			if _, refused := f.beside[f.fit[i]]; !refused {
				return f.fit[i]
			}
		}
		return nil
	}
	i, p, a := f.at(l), f.of(l), l.PublicIP.Of(f.Family)
	for _, step := range []int{-1, 1} {
		if o := used(i, step); o != nil && f.of(o).Overlaps(p) {
			return true
		}
	}
	if len(f.hostsIn(p)) > 0 {
		return true
	}
	if !f.Network.Contains(a) {
		return false
	}
	i, _ = slices.BinarySearchFunc(f.fit, a, func(l *Lease, a netip.Addr) int {
		if f.of(l).Addr().Compare(a) <= 0 {
			return -1
		}
		return 1
	})
	o := used(i, -1)
	return o != nil && f.of(o).Contains(a)
}

// together finds the leases that cannot be used beside the others.
func (f *vetted) together() {
	reasons := make(map[*Lease]string)
	n := f.nest(f.fit)
	if f.assigned {
		n.SubnetLen = f.usualLen(append(slices.Clone(f.fit), f.own)...)
	}
	type held struct{ lease, holder *Lease }
	var inside []held
	lost := make(map[*Lease]*Lease)
	for _, h := range f.hosts {
		for _, holder := range n.holders(h.addr) {
			switch {
			case holder == h.lease:
			case f.link.Contains(h.addr),
				n.of(h.lease).Bits() == n.SubnetLen && n.of(holder).Bits() != n.SubnetLen:
				lost[holder] = h.lease
				reasons[holder] = fmt.Sprintf("%s holds %s, the address of the host that has the lease %s", n.of(holder), h.addr, h.lease.Subnet)
			default:
				inside = append(inside, held{h.lease, holder})
			}
		}
	}
	n.losers(lost)
	for l, winner := range lost {
		if reasons[l] == "" && !f.supersedes(winner, l) {
			reasons[l] = fmt.Sprintf("%s overlaps the lease %s, which is in force in its place", n.of(l), winner.Subnet)
		}
	}
	for _, h := range inside {
		if _, out := lost[h.holder]; !out && reasons[h.lease] == "" {
			reasons[h.lease] = fmt.Sprintf("its public address %s lies inside %s, the subnet of another lease: packets to it would go round in circles", h.lease.PublicIP.Of(f.Family), h.holder.Subnet)
		}
	}
	clear(f.beside)
	for l := range lost {
		f.beside[l] = refusal{f.Family, reasons[l], true}
	}
	for l, reason := range reasons {
		f.beside[l] = refusal{f.Family, reason, true}
	}
}

// lingers reports whether a lease that vanished may go on to be used.
func (v *Vetter) lingers(l *Lease) bool {
	return !slices.ContainsFunc(l.Subnet.Families(), func(f ip.Family) bool { return !v.config.Of(f).Network.IsValid() }) &&
		!slices.ContainsFunc(v.unfit(l), func(r refusal) bool { return r.withdraw })
}

// unfit returns why the lease of another host can't be used in which families, whatever
// others there are.
func (v *Vetter) unfit(l *Lease) (all []refusal) {
	if !v.config.part(l.Subnet).IsValid() {
		return []refusal{{l.Subnet.Families()[0], fmt.Sprintf("%s is of an address family that the configuration does not enable", l.Subnet), true}}
	}
	for _, f := range v.families {
		if f.covered(l) {
			if reason, withdraw := v.unfitIn(f.family, l); reason != "" {
				all = append(all, refusal{f.Family, reason, withdraw})
			}
		}
	}
	return all
}

func (v *Vetter) unfitIn(f family, l *Lease) (reason string, withdraw bool) {
	withdrawn := func(format string, a ...any) (string, bool) { return fmt.Sprintf(format, a...), true }
	// What leads to the host by the address that it had stays.
	kept := func(format string, a ...any) (string, bool) { return fmt.Sprintf(format, a...), false }
	subnet, public := f.of(l), l.PublicIP.Of(f.Family)
	own, ownPublic, addr := f.of(&v.own), v.own.PublicIP.Of(f.Family), v.self.Addr.Of(f.Family)
	i := slices.IndexFunc(v.local, subnet.Overlaps)
	ours, broadcast := v.self.has(public)
	switch {
	case !f.contains(subnet):
		return withdrawn("%s lies outside Network %s, or is all of it", subnet, f.Network)
	case subnet.Overlaps(own):
		return withdrawn("%s overlaps this host's own subnet %s", subnet, own)
	case i >= 0:
		return withdrawn("%s overlaps %s, which is on this host's external interface", subnet, v.local[i])
	case public == ownPublic:
		return kept("its public address %s is this host's own", public)
	case subnet.Contains(public):
		return withdrawn("its public address %s lies inside the subnet itself", public)
	case own.Contains(public):
		return withdrawn("its public address %s lies inside this host's own subnet %s", public, own)
	case ours:
		return withdrawn("its public address %s is one of this host's own", public)
	case broadcast.IsValid():
		return kept("its public address %s is the broadcast or network address of %s, a network of this host", public, broadcast)
	case f.Network.Contains(public) && f.allows(netip.PrefixFrom(public, public.BitLen())) &&
		!f.Network.Contains(addr) && !f.Network.Contains(ownPublic):
		return withdrawn("its public address %s lies inside Network %s, where pods are and no hosts", public, f.Network)
	}
	return "", false
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
