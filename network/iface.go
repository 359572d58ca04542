// Package network is this host's end of the overlay: the choice of the external
// interface, the reconciler that makes the host as a backend wants it, and
// subnet.env.
package network

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"regexp"

	"flanneld/backend"
	"flanneld/pkg/ip"
	"flanneld/pkg/target/kernel"
)

// Selection says which interface is the external one: the first of Ifaces that
// there is, else the first match of Regexes, else the way to CanReach; with
// none of them given, the interface of the default route.
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
	DefaultRoutes(context.Context) ([]kernel.DefaultRoute, error)
	RouteTo(netip.Addr) (iface string, src netip.Addr, err error)
}

// Choose returns the external interface and its address. An error tells for
// each way that was tried why it leads nowhere now; later it may.
func (s Selection) Choose(ctx context.Context, v View) (backend.Host, error) {
	ifaces, err := v.Interfaces(ctx)
	if err != nil {
		return backend.Host{}, err
	}
	var failed []error
	try := func(what string, iface *kernel.Interface, want netip.Addr) (backend.Host, bool) {
		h, err := s.host(iface, want)
		if err != nil {
			failed = append(failed, fmt.Errorf("%s: %w", what, err))
		}
		return h, err == nil
	}
	for _, name := range s.Ifaces {
		a, notAddr := netip.ParseAddr(name)
		iface := byName(ifaces, name)
		if notAddr == nil {
			iface = byAddr(ifaces, a)
		}
		if h, ok := try("-iface="+name, iface, a); ok {
			return h, nil
		}
	}
	for _, re := range s.Regexes {
		iface, a := byRegex(ifaces, re)
		if h, ok := try("-iface-regex="+re.String(), iface, a); ok {
			return h, nil
		}
	}
	if s.CanReach.IsValid() {
		what := "-iface-can-reach=" + s.CanReach.String()
		name, src, err := v.RouteTo(s.CanReach)
		if err != nil {
			failed = append(failed, fmt.Errorf("%s: %w", what, err))
		} else if h, ok := try(what, byName(ifaces, name), src); ok {
			return h, nil
		}
	}
	if len(s.Ifaces) == 0 && len(s.Regexes) == 0 && !s.CanReach.IsValid() {
		name, err := defaultIface(ctx, v)
		if err != nil {
			return backend.Host{}, err
		}
		if h, ok := try("the default route's interface "+name, byName(ifaces, name), netip.Addr{}); ok {
			return h, nil
		}
	}
	return backend.Host{}, errors.Join(failed...)
}

func defaultIface(ctx context.Context, v View) (string, error) {
	defaults, err := v.DefaultRoutes(ctx)
	switch {
	case err != nil:
		return "", err
	case len(defaults) == 0:
		return "", errors.New("there is no default route to find the external interface by; -iface can name it")
	case defaults[0].Multipath:
		return "", errors.New("the default route has several next hops; -iface must name the external interface")
	}
	return defaults[0].Iface, nil
}

// host returns what there is to know of iface as the external interface. Its
// address is want, or if that is not valid, its first global one.
func (s Selection) host(iface *kernel.Interface, want netip.Addr) (backend.Host, error) {
	if iface == nil {
		return backend.Host{}, errors.New("there is no such interface")
	}
	if iface.MTU == 0 {
		return backend.Host{}, fmt.Errorf("interface %s has no MTU", iface.Name)
	}
	p := address(iface, want)
	if !p.IsValid() {
		return backend.Host{}, fmt.Errorf("interface %s has no IPv4 address yet", iface.Name)
	}
	h := backend.Host{
		Iface:    iface.Name,
		MTU:      iface.MTU,
		Up:       iface.Up,
		Addr:     ip.Addrs{V4: p.Addr()},
		Net:      ip.SubnetOf(p.Masked()),
		PublicIP: ip.Addrs{V4: p.Addr()},
		ID:       s.MachineID + " " + iface.MAC.String(),
	}
	if s.PublicIP.IsValid() {
		h.PublicIP.V4 = s.PublicIP
	}
	return h, nil
}

// address returns the address of iface that is want, or by which others are to
// reach it: a global one before a link-local one, a preferred one before one
// that is deprecated, never a loopback one.
func address(iface *kernel.Interface, want netip.Addr) netip.Prefix {
	var best netip.Prefix
	var bestRank int
	for _, a := range iface.Addrs {
		addr := a.Prefix.Addr()
		rank := 4
		switch {
		case !addr.Is4() || addr.IsLoopback():
			continue
		case want.IsValid() && addr == want:
			return a.Prefix
		case addr.IsLinkLocalUnicast():
			rank -= 2
		}
		if a.Deprecated {
			rank--
		}
		if rank > bestRank {
			best, bestRank = a.Prefix, rank
		}
	}
	if want.IsValid() {
		return netip.Prefix{}
	}
	return best
}

func byName(ifaces []kernel.Interface, name string) *kernel.Interface {
	for i := range ifaces {
		if ifaces[i].Name == name {
			return &ifaces[i]
		}
	}
	return nil
}

func byAddr(ifaces []kernel.Interface, a netip.Addr) *kernel.Interface {
	for i := range ifaces {
		if hasAddr(&ifaces[i], a) {
			return &ifaces[i]
		}
	}
	return nil
}

func hasAddr(iface *kernel.Interface, a netip.Addr) bool {
	for _, have := range iface.Addrs {
		if have.Prefix.Addr() == a {
			return true
		}
	}
	return false
}

// byRegex returns the first interface with an address that re matches, and that
// address; failing that, the first whose name it matches.
func byRegex(ifaces []kernel.Interface, re *regexp.Regexp) (*kernel.Interface, netip.Addr) {
	for i := range ifaces {
		for _, a := range ifaces[i].Addrs {
			if addr := a.Prefix.Addr(); addr.Is4() && !addr.IsLoopback() && re.MatchString(addr.String()) {
				return &ifaces[i], addr
			}
		}
	}
	for i := range ifaces {
		if re.MatchString(ifaces[i].Name) {
			return &ifaces[i], netip.Addr{}
		}
	}
	return nil, netip.Addr{}
}

// Follow returns h with what has changed of its interface since, which may be
// its name or its address, too. While there is no such interface, or none of its
// addresses will do, Follow returns h itself and an error that says so.
func (s Selection) Follow(ctx context.Context, v View, h backend.Host) (backend.Host, error) {
	ifaces, err := v.Interfaces(ctx)
	if err != nil {
		return h, err
	}
	iface := byName(ifaces, h.Iface)
	if other := byAddr(ifaces, h.Addr.V4); other != nil && (iface == nil || !hasAddr(iface, h.Addr.V4)) {
		iface = other // renamed, or made a port of a bridge
	}
	if iface == nil {
		return h, fmt.Errorf("there is no interface %s any more, and none with its address %s", h.Iface, h.Addr)
	}
	now, err := s.host(iface, h.Addr.V4)
	if err == nil {
		return now, nil
	}
	if now, err = s.Choose(ctx, v); err == nil && now.Iface == iface.Name {
		return now, nil
	}
	if len(s.Ifaces) == 0 && len(s.Regexes) == 0 && !s.CanReach.IsValid() {
		// The default route often goes with the address.
		if now, err = s.host(iface, netip.Addr{}); err == nil {
			return now, nil
		}
	}
	return h, fmt.Errorf("interface %s no longer has the address %s, which other hosts send to, nor another one for them", h.Iface, h.Addr)
}
