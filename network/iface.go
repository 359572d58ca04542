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

	"flanneld/backend"
	"flanneld/pkg/dataplane/kernel"
	"flanneld/pkg/ip"
)

// Selection says which interface is the external one, and by which of its addresses
// this host is reached.
type Selection struct {
	Ifaces   []string // names or addresses
	Regexes  []*regexp.Regexp
	CanReach netip.Addr
	// PublicIP is advertised in the place of the interface's address.
	PublicIP netip.Addr
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
	host backend.Host
	rank rank
}

// rank orders candidates, at the start as well as later: the lower is the better, and
// the fields count in this order.
type rank struct {
	link int // what the interface carries
	// source is the option that led here. Without options it is the interface that
	// owns the public address, then that of the default route, then a known address.
	source    int
	linkLocal int // 1 for an address that only hosts on the link reach
	metric    int // of the default route
	address   int // a preference among the addresses of one interface
}

// Values of rank.link.
const (
	linkCarries = iota
	linkNoCarrier
	linkDown
	linkInert // a loopback or dummy device leads to no other host
)

func (r rank) compare(o rank) int {
	return cmp.Or(cmp.Compare(r.link, o.link), cmp.Compare(r.source, o.source), cmp.Compare(r.linkLocal, o.linkLocal),
		cmp.Compare(r.metric, o.metric), cmp.Compare(r.address, o.address))
}

// is reports whether the candidate is the interface and address of h.
func (c candidate) is(h backend.Host) bool {
	return c.host.V4.Iface == h.V4.Iface && c.host.V4.Addr == h.V4.Addr
}

// Choose returns the best external interface and its address. Without an option that
// names the interface, and without a default route, it is the interface that has one of
// the known addresses. An error says for each source why it leads nowhere now; later it
// may.
func (s Selection) Choose(ctx context.Context, v View, known ...netip.Addr) (backend.Host, error) {
	l, err := s.look(ctx, v)
	if err != nil {
		return backend.Host{}, err
	}
	if !s.Explicit() {
		for _, addr := range known {
			l.addHolders(addr)
		}
	}
	if len(l.found) == 0 {
		return backend.Host{}, errors.Join(l.failed...)
	}
	return l.best(backend.Host{}).host, nil
}

// Sight is how the external interface looks while it is followed.
type Sight struct {
	// Now is the interface and address in use, with what changed of them, such as
	// the interface's name or MTU.
	Now backend.Host
	// Lost says why Now is not there any more; then Now is as it was.
	Lost error
	// Next is the best choice; it is Now if none is better.
	Next backend.Host
	// Works says that Now can serve for as long as it is not certain that Next stays.
	Works bool
}

// Follow looks what became of h. Among equally good choices, h stays.
func (s Selection) Follow(ctx context.Context, v View, h backend.Host) (Sight, error) {
	l, err := s.look(ctx, v)
	if err != nil {
		return Sight{}, err
	}
	// The default route often goes with the address, and an interface may be renamed.
	l.addHolders(h.V4.Addr)
	l.found = slices.DeleteFunc(l.found, func(c candidate) bool {
		// A /32 of the same address on another device, such as a tunnel, is no sign that
		// the address moved there.
		return c.host.V4.Addr == h.V4.Addr && c.host.V4.Iface != h.V4.Iface && c.host.V4.Net.IsSingleIP() && !h.V4.Net.IsSingleIP()
	})
	was := byName(l.ifaces, h.V4.Iface)
	if !s.Explicit() && was != nil {
		l.source++
		l.add("", was, 0, anyAddr)
	}
	sight := Sight{Now: h, Next: h}
	if i := slices.IndexFunc(l.found, func(c candidate) bool { return c.is(h) }); i >= 0 {
		now, best := l.found[i], l.best(h)
		if best.is(h) {
			now = best
		}
		sight.Now, sight.Next = now.host, best.host
		sight.Works = now.rank.link == linkCarries && now.rank.linkLocal == 0
		return sight, nil
	}
	// What has the address and the MAC address is the same interface: it was renamed, or
	// is a port of a bridge now.
	if i := slices.IndexFunc(l.found, func(c candidate) bool { return c.host.V4.Addr == h.V4.Addr && c.host.ID == h.ID }); i >= 0 {
		sight.Now = l.found[i].host
		sight.Next = l.best(sight.Now).host
		return sight, nil
	}
	if len(l.found) > 0 {
		sight.Next = l.best(h).host
	}
	if was == nil {
		sight.Lost = fmt.Errorf("there is no interface %s any more, and none with its address %s", h.V4.Iface, h.V4.Addr)
	} else {
		sight.Lost = fmt.Errorf("interface %s no longer has the address %s, which other hosts send to, nor another one for them", h.V4.Iface, h.V4.Addr)
	}
	return sight, nil
}

// Explicit reports whether an option names the interface.
func (s Selection) Explicit() bool {
	return len(s.Ifaces) > 0 || len(s.Regexes) > 0 || s.CanReach.IsValid()
}

// look collects the candidates that the host has now.
type look struct {
	Selection
	ifaces []kernel.Interface
	found  []candidate
	failed []error // why a source has none, once for each
	said   string  // the source of the last one
	source int     // the rank of the next source
}

func (s Selection) look(ctx context.Context, v View) (*look, error) {
	l := &look{Selection: s}
	var err error
	if l.ifaces, err = v.Interfaces(ctx); err != nil {
		return nil, err
	}
	if !s.Explicit() {
		return l, l.addDefaults(ctx, v)
	}
	for _, name := range s.Ifaces {
		l.addNamed(name)
		l.source++
	}
	for _, re := range s.Regexes {
		l.addMatching(re)
		l.source++
	}
	if s.CanReach.IsValid() {
		what := "-iface-can-reach=" + s.CanReach.String()
		name, src, err := v.RouteTo(s.CanReach)
		if err != nil {
			l.failed = append(l.failed, fmt.Errorf("%s: %w", what, err))
		} else {
			l.add(what, byName(l.ifaces, name), 0, func(a netip.Addr) bool { return !src.IsValid() || a == src })
		}
		l.source++
	}
	return l, nil
}

// addDefaults adds what no option needs to name: the interface that owns the public
// address, as nobody would listen there elsewhere, and those of default routes.
func (l *look) addDefaults(ctx context.Context, v View) error {
	if l.PublicIP.IsValid() {
		l.addHolders(l.PublicIP)
	}
	l.source++
	defaults, err := v.DefaultRoutes(ctx, ip.V4)
	if err != nil {
		return err
	}
	switch {
	case len(defaults) == 0:
		l.failed = append(l.failed, errors.New("there is no default route to find the external interface by; -iface can name it"))
	case defaults[0].Multipath:
		l.failed = append(l.failed, errors.New("the default route has several next hops; -iface must name the external interface"))
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

// addNamed adds the interface with a name or an address.
func (l *look) addNamed(name string) {
	is, want := func(i *kernel.Interface) bool { return i.Name == name }, anyAddr
	if addr, err := netip.ParseAddr(name); err == nil {
		is = func(i *kernel.Interface) bool { return hasAddr(i, addr) }
		want = func(a netip.Addr) bool { return a == addr || a == l.PublicIP }
	}
	if what := "-iface=" + name; !l.addAll(what, is, want) {
		l.add(what, nil, 0, nil)
	}
}

// addMatching adds the addresses that re matches; failing that, the interfaces whose name
// it matches.
func (l *look) addMatching(re *regexp.Regexp) {
	matches := func(a netip.Addr) bool { return re.MatchString(a.String()) }
	byAddr := func(i *kernel.Interface) bool {
		return slices.ContainsFunc(i.Addrs, func(a kernel.Address) bool { return reachable(a.Prefix.Addr()) && matches(a.Prefix.Addr()) })
	}
	byName := func(i *kernel.Interface) bool { return re.MatchString(i.Name) }
	if what := "-iface-regex=" + re.String(); !l.addAll(what, byAddr, matches) && !l.addAll(what, byName, anyAddr) {
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

// reachable reports whether other hosts could send to an address.
func reachable(a netip.Addr) bool { return a.Is4() && !a.IsLoopback() }

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
	usable := func(a kernel.Address) bool { return reachable(a.Prefix.Addr()) && want(a.Prefix.Addr()) }
	// The addresses of a port are on its bridge or bond.
	from := iface
	for range l.ifaces {
		i := slices.IndexFunc(l.ifaces, func(i kernel.Interface) bool { return i.Index == from.Master })
		if from.Master == 0 || i < 0 || slices.ContainsFunc(from.Addrs, usable) {
			break
		}
		from = &l.ifaces[i]
	}
	if !slices.ContainsFunc(from.Addrs, usable) {
		return fmt.Errorf("interface %s has no IPv4 address yet", iface.Name)
	}
	for _, a := range from.Addrs {
		if !usable(a) {
			continue
		}
		r := rank{link: linkRank(from), source: l.source, metric: metric}
		if a.Prefix.Addr().IsLinkLocalUnicast() {
			r.linkLocal = 1
		}
		if a.Prefix.IsSingleIP() { // often it is one that moves from host to host
			r.address += 2
		}
		if a.Deprecated {
			r.address++
		}
		if a.Prefix.Addr() == l.PublicIP {
			r.address = -1
		}
		l.found = append(l.found, candidate{l.host(from, a.Prefix), r})
	}
	return nil
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

// best returns the candidate of the lowest rank. Of several it is h; else one on h's
// interface; else the first.
func (l *look) best(h backend.Host) candidate {
	return slices.MinFunc(l.found, func(a, b candidate) int {
		return cmp.Or(a.rank.compare(b.rank), first(a.is(h), b.is(h)), first(a.host.V4.Iface == h.V4.Iface, b.host.V4.Iface == h.V4.Iface))
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

// host returns what there is to know of iface as the external interface.
func (l *look) host(iface *kernel.Interface, p netip.Prefix) backend.Host {
	u := backend.Underlay{
		Iface:    iface.Name,
		MTU:      iface.MTU,
		Up:       iface.Up,
		Addr:     p.Addr(),
		Net:      p.Masked(),
		PublicIP: p.Addr(),
	}
	if l.PublicIP.IsValid() {
		u.PublicIP = l.PublicIP
	}
	u.OwnsPublicIP = slices.ContainsFunc(l.ifaces, func(i kernel.Interface) bool { return hasAddr(&i, u.PublicIP) })
	return backend.Host{V4: u, ID: l.MachineID + " " + iface.MAC.String()}
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
