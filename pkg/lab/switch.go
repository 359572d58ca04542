package lab

import (
	"errors"
	"fmt"
	"net/netip"
	"sync"

	"github.com/vishvananda/netlink"

	"flanneld/pkg/ip"
)

// Switch is a namespace with a bridge, onto which hosts are plugged.
type Switch struct {
	*Namespace
	// Prefix is the network on the switch: the IPv4 one, if it has both.
	Prefix netip.Prefix

	nets   ip.Subnet
	bridge int // interface index

	mu    sync.Mutex
	ports int
	used  map[netip.Addr]bool
}

// AddSwitch adds a switch whose hosts get an address of each network: an IPv4 one, an IPv6
// one, or both. The first address of each is kept for a router.
func (l *Lab) AddSwitch(name string, networks ...netip.Prefix) (*Switch, error) {
	var nets ip.Subnet
	for _, p := range networks {
		switch {
		case nets.Of(ip.FamilyOf(p.Addr())).IsValid() || p.Addr().BitLen()-p.Bits() < 3:
			return nil, fmt.Errorf("adding switch %s: %s is not the only network of its family, with at least 8 addresses", name, p)
		case p.Addr().Is4():
			nets.V4 = p.Masked()
		default:
			nets.V6 = p.Masked()
		}
	}
	if !nets.IsValid() {
		return nil, fmt.Errorf("adding switch %s: it has no network", name)
	}
	ns, err := l.addNamespace(name)
	if err != nil {
		return nil, err
	}
	bridge := &netlink.Bridge{LinkAttrs: linkAttrs("br0")}
	if err := ns.nl.LinkAdd(bridge); err != nil {
		return nil, fmt.Errorf("adding bridge br0 to switch %s: %w", name, err)
	}
	if err := ns.setUp("br0"); err != nil {
		return nil, err
	}
	s := &Switch{Namespace: ns, Prefix: nets.Prefixes()[0], nets: nets, bridge: bridge.Index, used: map[netip.Addr]bool{}}
	for _, a := range s.gateways() {
		s.used[a] = true
	}
	return s, nil
}

// AddRouter joins switches: a host that forwards, with the first address of
// each, on interfaces eth0, eth1 and so on in the order given. Hosts on the
// switches have it as their default route already.
func (l *Lab) AddRouter(switches ...*Switch) (*Host, error) {
	if len(switches) < 2 {
		return nil, errors.New("adding a router: it takes two switches at least")
	}
	h, err := l.addHost("router")
	if err != nil {
		return nil, err
	}
	h.setAddrs(switches[0].gateways())
	for i, s := range switches {
		if err := h.plug(fmt.Sprintf("eth%d", i), s, s.gateways()); err != nil {
			return nil, err
		}
	}
	return h, nil
}

// gateways are the router's addresses on the switch, whether there is one or not.
func (s *Switch) gateways() (all []netip.Addr) {
	for _, p := range s.nets.Prefixes() {
		all = append(all, p.Addr().Next())
	}
	return all
}

// nextAddrs takes the lowest free address of each network.
func (s *Switch) nextAddrs() (all []netip.Addr, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, p := range s.nets.Prefixes() {
		a := p.Addr().Next()
		for s.used[a] && p.Contains(a.Next()) {
			a = a.Next()
		}
		if s.used[a] || !p.Contains(a.Next()) {
			return nil, fmt.Errorf("no address of %s is left on switch %s", p, s.Name)
		}
		s.used[a] = true
		all = append(all, a)
	}
	return all, nil
}

// take marks addresses as used.
func (s *Switch) take(all []netip.Addr) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, a := range all {
		s.used[a] = true
	}
}

// nextPort names a port that the switch has not had before.
func (s *Switch) nextPort() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ports++
	return fmt.Sprintf("p%d", s.ports)
}

// connect lays a cable between the switch's port and a new interface of ns,
// and brings both ends up.
func (s *Switch) connect(port string, ns *Namespace, name string, mtu int, mac []byte) error {
	attrs := linkAttrs(port)
	attrs.MasterIndex = s.bridge
	attrs.MTU = mtu
	if err := addVeth(s.Namespace, attrs, ns, name, mac); err != nil {
		return fmt.Errorf("adding %s to %s: %w", name, ns.Name, err)
	}
	if err := s.setUp(port); err != nil {
		return err
	}
	return ns.setUp(name)
}

// addVeth makes one end of a pair in ns and the other at once in peer: no end
// is ever to be seen outside the lab.
func addVeth(ns *Namespace, attrs netlink.LinkAttrs, peer *Namespace, peerName string, mac []byte) error {
	return ns.nl.LinkAdd(&netlink.Veth{
		LinkAttrs:        attrs,
		PeerName:         peerName,
		PeerHardwareAddr: mac,
		PeerNamespace:    netlink.NsFd(peer.file.Fd()),
	})
}

func linkAttrs(name string) netlink.LinkAttrs {
	attrs := netlink.NewLinkAttrs()
	attrs.Name = name
	return attrs
}
