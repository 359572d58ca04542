// Package network is this host's end of the overlay: the choice of the external
// interface, the reconciler that makes the host as a backend wants it, and
// subnet.env.
package network

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strings"

	"flanneld/backend"
	"flanneld/pkg/dataplane/kernel"
	"flanneld/pkg/ip"
)

// Selection says which interface is the external one, and by which of its addresses
// this host is reached, in each address family.
type Selection struct {
	Ifaces []string // names or addresses
	// IPv6Ifaces go before Ifaces, for IPv6 alone.
	IPv6Ifaces []string
	Regexes    []*regexp.Regexp
	CanReach   ip.Addrs
	// PublicIP is advertised in the place of the interface's address.
	PublicIP ip.Addrs
	// MachineID is the host's own, which another one made from the same image
	// may share.
	MachineID string
}

// View is what is seen of the host's interfaces and routes.
type View interface {
	Interfaces(context.Context) ([]kernel.Interface, error)
	DefaultRoutes(context.Context, ip.Family) ([]kernel.DefaultRoute, error)
	RouteTo(netip.Addr) (iface string, src netip.Addr, err error)
}

// candidate is an interface with one of its addresses.
type candidate struct {
	backend.Underlay
	rank rank
}

// rank orders candidates, at the start as well as later: the lower is the better, and
// the fields count in this order.
type rank struct {
	link int // what the interface carries
	// source is the option that led here. Without options it is the interface that
	// owns the public address, then that of the default route, then that of the other
	// family, then a known address.
	source    int
	linkLocal int // 1 for an address that only hosts on the link reach
	metric    int // of the default route
	apart     int // 1 for IPv6 by another interface than IPv4
	address   int // a preference among the addresses of one interface
}

// Values of rank.link.
const (
	linkCarries = iota
	linkNoCarrier
	linkDown
	linkInert // a loopback or dummy device leads to no other host
)

// What rank.address has of an address that is the worse for it. The next one counts more
// than all before.
const (
	deprecatedAddress = 1 << iota
	singleAddress     // often it is one that moves from host to host
	passingAddress    // of IPv6, for new use no more, or for privacy: it is gone soon
)

func (r rank) compare(o rank) int {
	return cmp.Or(cmp.Compare(r.link, o.link), cmp.Compare(r.source, o.source), cmp.Compare(r.linkLocal, o.linkLocal),
		cmp.Compare(r.metric, o.metric), cmp.Compare(r.apart, o.apart), cmp.Compare(r.address, o.address))
}

// is reports whether the candidate is the interface and address of u.
func (c candidate) is(u backend.Underlay) bool { return sameWay(c.Underlay, u) }

// sameWay reports whether both are by one interface and address.
func sameWay(a, b backend.Underlay) bool { return a.Iface == b.Iface && a.Addr == b.Addr }

// Choose returns the best external interface and its address in a family, for a host that
// may have one in the other family already. Without an option that names the interface, and
// without a default route, it is that one, or the interface that has one of
// the known addresses. An error says for each source why it leads nowhere now; later it
// may.
func (s Selection) Choose(ctx context.Context, v View, f ip.Family, h backend.Host, known ...netip.Addr) (backend.Underlay, error) {
	return s.choose(ctx, v, f, h, netip.Addr{}, known)
}

// ChooseLost returns the interface that Choose would take if the host had an address of the family
// there: this one, which it had when it last ran.
func (s Selection) ChooseLost(ctx context.Context, v View, f ip.Family, h backend.Host, lost netip.Addr) (backend.Underlay, error) {
	return s.choose(ctx, v, f, h, lost, nil)
}

func (s Selection) choose(ctx context.Context, v View, f ip.Family, h backend.Host, lost netip.Addr, known []netip.Addr) (backend.Underlay, error) {
	l, err := s.look(ctx, v, f, h, lost)
	if err != nil {
		return backend.Underlay{}, err
	}
	if !s.Explicit(f) {
		l.addBeside()
		for _, addr := range known {
			l.addHolders(addr)
		}
	}
	if len(l.found) == 0 {
		return backend.Underlay{}, errors.Join(l.failed...)
	}
	return l.best(backend.Underlay{}).Underlay, nil
}

// Sight is how the external interface looks while it is followed.
type Sight struct {
	// Now is the interface and address in use, with what changed of them, such as
	// the interface's name or MTU.
	Now backend.Underlay
	// Lost says why Now is not there any more; then Now is as it was.
	Lost error
	// Next is the best choice; it is Now if none is better.
	Next backend.Underlay
	// Works says that Now can serve for as long as it is not certain that Next stays.
	Works bool
}

// Follow looks what became of h in a family. Among equally good choices, h stays.
func (s Selection) Follow(ctx context.Context, v View, f ip.Family, h backend.Host) (Sight, error) {
	l, err := s.look(ctx, v, f, h, netip.Addr{})
	if err != nil {
		return Sight{}, err
	}
	u := h.Of(f)
	// The default route often goes with the address, and an interface may be renamed.
	l.addHolders(u.Addr)
	l.found = slices.DeleteFunc(l.found, func(c candidate) bool {
		// A /32 of the same address on another device, such as a tunnel, is no sign that
		// the address moved there.
		return c.Addr == u.Addr && c.Iface != u.Iface && c.Net.IsSingleIP() && !u.Net.IsSingleIP()
	})
	was := byName(l.ifaces, u.Iface)
	if was != nil {
		u.Up = u.Up && was.Up // with a link that is down, addresses of IPv6 go
	}
	if !s.Explicit(f) {
		l.source++
		if was != nil {
			l.add("", was, 0, anyAddr)
		}
		l.source++
		l.addBeside()
	}
	sight := Sight{Now: u, Next: u}
	if i := slices.IndexFunc(l.found, func(c candidate) bool { return c.is(u) }); i >= 0 {
		now, best := l.found[i], l.best(u)
		if best.is(u) {
			now = best
		}
		sight.Now, sight.Next = now.Underlay, best.Underlay
		sight.Works = now.rank.link == linkCarries && now.rank.linkLocal == 0
		return sight, nil
	}
	// What has the address and the MAC address is the same interface: it was renamed, or
	// is a port of a bridge now.
	if i := slices.IndexFunc(l.found, func(c candidate) bool { return c.Addr == u.Addr && c.ID == u.ID }); i >= 0 {
		sight.Now = l.found[i].Underlay
		sight.Next = l.best(sight.Now).Underlay
		return sight, nil
	}
	if len(l.found) > 0 {
		sight.Next = l.best(u).Underlay
	}
	if was == nil {
		sight.Lost = fmt.Errorf("there is no interface %s any more, and none with its address %s", u.Iface, u.Addr)
	} else {
		sight.Lost = fmt.Errorf("interface %s no longer has the address %s, which other hosts send to, nor another one for them", u.Iface, u.Addr)
	}
	return sight, nil
}

// Explicit reports whether an option names the interface of a family.
func (s Selection) Explicit(f ip.Family) bool {
	return len(s.named(f)) > 0 || len(s.Regexes) > 0 || s.CanReach != ip.Addrs{}
}

// named returns the options that name an interface of a family, or an address. Where some are
// addresses of it, those of the other family are not for it.
func (s Selection) named(f ip.Family) []string {
	var named []string
	if f == ip.V6 {
		for _, name := range s.IPv6Ifaces {
			named = append(named, "-iface-ipv6="+name)
		}
	}
	for _, name := range s.Ifaces {
		named = append(named, "-iface="+name)
	}
	of := func(f ip.Family) func(string) bool {
		return func(option string) bool {
			a, err := netip.ParseAddr(value(option))
			return err == nil && ip.FamilyOf(a) == f
		}
	}
	if slices.ContainsFunc(named, of(f)) {
		named = slices.DeleteFunc(named, of(f.Other()))
	}
	return named
}

// value is that of an option.
func value(option string) string {
	_, value, _ := strings.Cut(option, "=")
	return value
}

// look collects the candidates that the host has now in a family.
type look struct {
	Selection
	family ip.Family
	beside string     // the interface that IPv6 had better share with IPv4
	lost   netip.Addr // what stands for the address of an interface that has none
	ifaces []kernel.Interface
	found  []candidate
	failed []error // why a source has none, once for each
	said   string  // the source of the last one
	source int     // the rank of the next source
}

func (s Selection) look(ctx context.Context, v View, f ip.Family, h backend.Host, lost netip.Addr) (*look, error) {
	l := &look{Selection: s, family: f, lost: lost}
	if f == ip.V6 {
		l.beside = h.V4.Iface
	}
	var err error
	if l.ifaces, err = v.Interfaces(ctx); err != nil {
		return nil, err
	}
	if !s.Explicit(f) {
		return l, l.addDefaults(ctx, v)
	}
	for _, option := range s.named(f) {
		l.addNamed(option)
		l.source++
	}
	for _, re := range s.Regexes {
		l.addMatching(re)
		l.source++
	}
	l.addWay(v)
	return l, nil
}

// addWay adds the interface by which an address is reached; the source that the kernel
// prefers there, if it is of this family.
func (l *look) addWay(v View) {
	to := l.CanReach.Of(l.family)
	if !to.IsValid() {
		to = l.CanReach.Of(l.family.Other())
	}
	if !to.IsValid() {
		return
	}
	what := "-iface-can-reach=" + to.String()
	name, src, err := v.RouteTo(to)
	if err != nil {
		l.failed = append(l.failed, fmt.Errorf("%s: %w", what, err))
	} else {
		any := !src.IsValid() || ip.FamilyOf(src) != l.family
		l.add(what, byName(l.ifaces, name), 0, func(a netip.Addr) bool { return any || a == src })
	}
	l.source++
}

// addDefaults adds what no option needs to name: the interface that owns the public
// address, as nobody would listen there elsewhere, and those of default routes.
func (l *look) addDefaults(ctx context.Context, v View) error {
	if a := l.PublicIP.Of(l.family); a.IsValid() {
		l.addHolders(a)
	}
	l.source++
	defaults, err := v.DefaultRoutes(ctx, l.family)
	if err != nil {
		return err
	}
	switch {
	case len(defaults) == 0:
		l.failed = append(l.failed, fmt.Errorf("there is no default route to find the external interface by; %s can name it", l.option()))
	case defaults[0].Multipath:
		l.failed = append(l.failed, fmt.Errorf("the default route has several next hops; %s must name the external interface", l.option()))
	default:
		for _, d := range defaults {
			if !d.Multipath {
				l.add("the default route's interface "+d.Iface, byName(l.ifaces, d.Iface), d.Metric, anyAddr)
			}
		}
	}
	l.source++
	return nil
}

// option names the interface of the family.
func (l *look) option() string {
	if l.family == ip.V6 {
		return "-iface-ipv6"
	}
	return "-iface"
}

// addBeside adds the interface of the other family.
func (l *look) addBeside() {
	if l.beside != "" {
		what := "IPv4's interface " + l.beside
		if strings.HasSuffix(l.said, " "+l.beside) {
			what = "" // it is said already
		}
		l.add(what, byName(l.ifaces, l.beside), 0, anyAddr)
	}
	l.source++
}

// addNamed adds the interface with the name or the address that is the value of an option. An
// address of the other family leads to its interface.
func (l *look) addNamed(option string) {
	name := value(option)
	is, want := func(i *kernel.Interface) bool { return i.Name == name }, anyAddr
	if addr, err := netip.ParseAddr(name); err == nil {
		is = func(i *kernel.Interface) bool { return hasAddr(i, addr) }
		if ip.FamilyOf(addr) == l.family {
			want = func(a netip.Addr) bool { return a == addr || a == l.PublicIP.Of(l.family) }
		}
	}
	if !l.addAll(option, is, want) {
		l.add(option, nil, 0, nil)
	}
}

// addMatching adds the addresses that re matches; failing that, the interfaces whose name
// it matches, or an address of the other family.
func (l *look) addMatching(re *regexp.Regexp) {
	matches := func(a netip.Addr) bool { return re.MatchString(a.String()) }
	byAddr := func(f ip.Family) func(*kernel.Interface) bool {
		return func(i *kernel.Interface) bool {
			return slices.ContainsFunc(i.Addrs, func(a kernel.Address) bool { return usable(a, f) && matches(a.Prefix.Addr()) })
		}
	}
	byName := func(i *kernel.Interface) bool { return re.MatchString(i.Name) }
	what := "-iface-regex=" + re.String()
	if !l.addAll(what, byAddr(l.family), matches) && !l.addAll(what, byName, anyAddr) && !l.addAll(what, byAddr(l.family.Other()), anyAddr) {
		l.add(what, nil, 0, nil)
	}
}

// addHolders adds the interfaces that have an address and lead to other hosts.
func (l *look) addHolders(addr netip.Addr) {
	is := func(i *kernel.Interface) bool { return hasAddr(i, addr) && linkRank(i) < linkInert }
	l.addAll("", is, func(a netip.Addr) bool { return a == addr })
}

// addAll adds the interfaces that are so, with the addresses that are wanted. It reports
// whether there are any.
func (l *look) addAll(what string, is func(*kernel.Interface) bool, want func(netip.Addr) bool) (there bool) {
	for i := range l.ifaces {
		if is(&l.ifaces[i]) {
			there = true
			l.add(what, &l.ifaces[i], 0, want)
		}
	}
	return there
}

func anyAddr(netip.Addr) bool { return true }

// usable reports whether other hosts could send to an address of a family: in IPv6 not to one
// that is known on its link alone, as it may be on all others, too, or is not there for sure.
func usable(has kernel.Address, f ip.Family) bool {
	a := has.Prefix.Addr()
	return ip.FamilyOf(a) == f && !a.IsLoopback() && !has.Tentative && !has.Duplicate && (f == ip.V4 || !a.IsLinkLocalUnicast())
}

// add adds an interface with its addresses, as far as they are wanted. The source's
// failure, if there is a source to name, is that there is none.
func (l *look) add(what string, iface *kernel.Interface, metric int, want func(netip.Addr) bool) {
	err := l.addAddrs(iface, metric, want)
	if err != nil && what != l.said && what != "" {
		l.said = what
		l.failed = append(l.failed, fmt.Errorf("%s: %w", what, err))
	}
}

func (l *look) addAddrs(iface *kernel.Interface, metric int, want func(netip.Addr) bool) error {
	switch {
	case iface == nil:
		return errors.New("there is no such interface")
	case iface.MTU == 0:
		return fmt.Errorf("interface %s has no MTU", iface.Name)
	}
	serves := func(a kernel.Address) bool { return usable(a, l.family) && want(a.Prefix.Addr()) }
	// The addresses of a port are on its bridge or bond.
	from := iface
	for range l.ifaces {
		i := slices.IndexFunc(l.ifaces, func(i kernel.Interface) bool { return i.Index == from.Master })
		if from.Master == 0 || i < 0 || slices.ContainsFunc(from.Addrs, serves) {
			break
		}
		from = &l.ifaces[i]
	}
	addrs := slices.DeleteFunc(slices.Clone(from.Addrs), func(a kernel.Address) bool { return !serves(a) })
	if len(addrs) == 0 && l.lost.IsValid() {
		addrs = []kernel.Address{{Prefix: netip.PrefixFrom(l.lost, l.lost.BitLen())}}
	}
	if len(addrs) == 0 {
		return l.noAddress(from)
	}
	for _, a := range addrs {
		r := rank{link: linkRank(from), source: l.source, metric: metric, address: l.preference(a)}
		if a.Prefix.Addr().IsLinkLocalUnicast() {
			r.linkLocal = 1
		}
		if l.beside != "" && from.Name != l.beside {
			r.apart = 1
		}
		l.found = append(l.found, candidate{l.underlay(from, a.Prefix), r})
	}
	return nil
}

// preference is rank.address.
func (l *look) preference(a kernel.Address) (n int) {
	if a.Prefix.Addr() == l.PublicIP.Of(l.family) {
		return -1
	}
	if a.Deprecated {
		n |= deprecatedAddress
	}
	if a.Prefix.IsSingleIP() {
		n |= singleAddress
	}
	if a.Temporary || a.Deprecated && l.family == ip.V6 {
		n |= passingAddress
	}
	return n
}

// noAddress says why an interface has no address that serves.
func (l *look) noAddress(i *kernel.Interface) error {
	why := ""
	for _, a := range i.Addrs {
		switch {
		case ip.FamilyOf(a.Prefix.Addr()) != l.family:
		case a.Duplicate:
			why = fmt.Sprintf("; another host on the link has %s", a.Prefix.Addr())
		case a.Prefix.Addr().IsLinkLocalUnicast() && l.family == ip.V6 && why == "":
			why = ", but for the link alone; give it one, or have a router or DHCPv6 do so"
		}
	}
	switch {
	case l.family != ip.V6:
	case i.MTU < backend.LeastMTU6:
		why = fmt.Sprintf("; its MTU %d is below the %d that IPv6 needs", i.MTU, backend.LeastMTU6)
	case i.NoIPv6:
		why = "; IPv6 is disabled on it: sysctl net.ipv6.conf." + i.Name + ".disable_ipv6=0"
	}
	return fmt.Errorf("interface %s has no %s address yet%s", i.Name, l.family, why)
}

func linkRank(i *kernel.Interface) int {
	switch {
	case i.Loopback || i.Dummy:
		return linkInert
	case !i.Up:
		return linkDown
	case !i.Running:
		return linkNoCarrier
	}
	return linkCarries
}

// best returns the candidate of the lowest rank. Of several it is u; else one on u's
// interface; else the first.
func (l *look) best(u backend.Underlay) candidate {
	return slices.MinFunc(l.found, func(a, b candidate) int {
		return cmp.Or(a.rank.compare(b.rank), first(a.is(u), b.is(u)), first(a.Iface == u.Iface, b.Iface == u.Iface))
	})
}

func first(a, b bool) int {
	switch {
	case a == b:
		return 0
	case a:
		return -1
	}
	return 1
}

// underlay returns what there is to know of iface as the external interface.
func (l *look) underlay(iface *kernel.Interface, p netip.Prefix) backend.Underlay {
	u := backend.Underlay{
		Iface:    iface.Name,
		MTU:      iface.MTU,
		Up:       iface.Up,
		Addr:     p.Addr(),
		Net:      p.Masked(),
		PublicIP: p.Addr(),
		ID:       l.MachineID + " " + iface.MAC.String(),
	}
	if a := l.PublicIP.Of(l.family); a.IsValid() {
		u.PublicIP = a
	}
	u.OwnsPublicIP = slices.ContainsFunc(l.ifaces, func(i kernel.Interface) bool { return hasAddr(&i, u.PublicIP) })
	return u
}

func byName(ifaces []kernel.Interface, name string) *kernel.Interface {
	for i := range ifaces {
		if ifaces[i].Name == name {
			return &ifaces[i]
		}
	}
	return nil
}

func hasAddr(iface *kernel.Interface, a netip.Addr) bool {
	return slices.ContainsFunc(iface.Addrs, func(have kernel.Address) bool { return have.Prefix.Addr() == a })
}
