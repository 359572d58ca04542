package lab

import (
	"errors"
	"fmt"
	"net/netip"
	"sync"

	"github.com/vishvananda/netlink"
)

// Switch is a namespace with a bridge, onto which hosts are plugged.
type Switch struct {
	*Namespace
	// Prefix is the network on the switch.
	Prefix netip.Prefix

	bridge int // interface index

	mu    sync.Mutex
	ports int
	used  map[netip.Addr]bool
}

// AddSwitch adds a switch whose hosts get addresses of prefix, an IPv4 network.
// The first address is kept for a router.
func (l *Lab) AddSwitch(name string, prefix netip.Prefix) (*Switch, error) {
	prefix = prefix.Masked()
	if !prefix.Addr().Is4() || prefix.Bits() > 29 {
		return nil, fmt.Errorf("adding switch %s: %s is not an IPv4 network of at least 8 addresses", name, prefix)
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
	s := &Switch{Namespace: ns, Prefix: prefix, bridge: bridge.Index, used: map[netip.Addr]bool{}}
	s.used[s.gateway()] = true
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
	h.Addr = switches[0].gateway()
	for i, s := range switches {
		if err := h.plug(fmt.Sprintf("eth%d", i), s, s.gateway()); err != nil {
			return nil, err
		}
	}
	return h, nil
}

// gateway is the router's address on the switch, whether there is one or not.
func (s *Switch) gateway() netip.Addr { return s.Prefix.Addr().Next() }

// nextAddr takes the lowest free address.
func (s *Switch) nextAddr() (netip.Addr, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for a := s.gateway(); s.Prefix.Contains(a.Next()); a = a.Next() {
		if !s.used[a] {
			s.used[a] = true
			return a, nil
		}
	}
	return netip.Addr{}, fmt.Errorf("no address left on switch %s", s.Name)
}

// take marks an address as used.
func (s *Switch) take(a netip.Addr) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.used[a] = true
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
