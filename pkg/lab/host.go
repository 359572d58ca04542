package lab

import (
	"fmt"
	"net/netip"
	"slices"
	"sync"

	"github.com/vishvananda/netlink"

	"flanneld/pkg/ip"
)

// Host is a machine: a namespace that forwards packets, with network
// interfaces on switches.
type Host struct {
	*Namespace
	// Addr is the address of eth0, IPv4 if it has both; the zero value if it was made without.
	Addr netip.Addr

	second netip.Addr // of eth0, in the other family

	mu       sync.Mutex
	nics     []*nic
	defaults map[ip.Family]Route // where there is one
	pods     []*Pod
}

// Of returns the address of eth0 in a family; the zero value if it has none.
func (h *Host) Of(f ip.Family) netip.Addr { return addrsOf([]netip.Addr{h.Addr, h.second}).Of(f) }

// SetAddr takes note that eth0 has another address in the family of a.
func (h *Host) SetAddr(a netip.Addr) {
	if h.Addr.IsValid() && ip.FamilyOf(a) != ip.FamilyOf(h.Addr) {
		h.second = a
	} else {
		h.Addr = a
	}
}

// setAddrs takes note of the addresses of eth0.
func (h *Host) setAddrs(all []netip.Addr) {
	h.Addr = all[0]
	if len(all) > 1 {
		h.second = all[1]
	}
}

// addrsOf has each address in the place of its family.
func addrsOf(all []netip.Addr) (addrs ip.Addrs) {
	for _, a := range all {
		switch {
		case a.Is4():
			addrs.V4 = a
		case a.Is6():
			addrs.V6 = a
		}
	}
	return addrs
}

// nic is one network interface of a host and the port it is plugged into.
type nic struct {
	name string
	sw   *Switch
	port string
	mac  []byte
	lost []netip.Prefix // the IPv6 addresses that the interface had when it was taken down
}

// HostOptions are the ways in which a host may be special.
type HostOptions struct {
	// NoAddress leaves eth0 without an address, and so without a route.
	NoAddress bool
	// NoDefaultRoute leaves out the default routes through the switch's
	// first addresses.
	NoDefaultRoute bool
}

// AddHost adds a host with eth0 on a switch. Hosts get the second address of
// each of the switch's networks, the third, and so on. The default routes lead to
// the first, even while no router is there.
func (l *Lab) AddHost(name string, sw *Switch, opts HostOptions) (*Host, error) {
	h, err := l.addHost(name)
	if err != nil {
		return nil, err
	}
	var addrs []netip.Addr
	if !opts.NoAddress {
		if addrs, err = sw.nextAddrs(); err != nil {
			return nil, fmt.Errorf("adding host %s: %w", name, err)
		}
		h.setAddrs(addrs)
	}
	if err := h.plug("eth0", sw, addrs); err != nil {
		return nil, err
	}
	if opts.NoAddress || opts.NoDefaultRoute {
		return h, nil
	}
	for _, via := range sw.gateways() {
		if err := h.SetDefaultRoute(via, "eth0"); err != nil {
			return nil, err
		}
	}
	return h, nil
}

// AddNIC plugs a further interface of the host into a switch. Without an
// address (the zero value) the next free one of each of the switch's networks is taken.
func (h *Host) AddNIC(name string, sw *Switch, addr netip.Addr) error {
	addrs := []netip.Addr{addr}
	if !addr.IsValid() {
		var err error
		if addrs, err = sw.nextAddrs(); err != nil {
			return fmt.Errorf("adding %s to %s: %w", name, h.Name, err)
		}
	}
	return h.plug(name, sw, addrs)
}

func (l *Lab) addHost(name string) (*Host, error) {
	ns, err := l.addNamespace(name)
	if err != nil {
		return nil, err
	}
	for _, name := range []string{"net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding"} {
		if err := ns.Sysctl(name, "1"); err != nil {
			return nil, err
		}
	}
	return &Host{Namespace: ns, defaults: map[ip.Family]Route{}}, nil
}

// plug makes an interface on a switch, with these addresses.
func (h *Host) plug(name string, sw *Switch, addrs []netip.Addr) error {
	n := &nic{name: name, sw: sw, port: sw.nextPort(), mac: h.lab.hardwareAddr(addrsOf(addrs))}
	if err := sw.connect(n.port, h.Namespace, name, 0, n.mac); err != nil {
		return err
	}
	h.mu.Lock()
	h.nics = append(h.nics, n)
	h.mu.Unlock()
	sw.take(addrs)
	for _, a := range addrs {
		if err := h.AddAddr(name, netip.PrefixFrom(a, sw.nets.Of(ip.FamilyOf(a)).Bits())); err != nil {
			return err
		}
	}
	return nil
}

// restoreDefaultRoutes sets those of the host's default routes that lead through the
// interface.
func (h *Host) restoreDefaultRoutes(name string) error {
	for _, f := range ip.Families {
		if r, ok := h.defaults[f]; ok && r.Dev == name {
			if err := h.ReplaceRoute(r); err != nil {
				return err
			}
		}
	}
	return nil
}

// nic finds an interface that is plugged into a switch, and its link.
func (h *Host) nic(name string) (*nic, netlink.Link, error) {
	h.mu.Lock()
	i := slices.IndexFunc(h.nics, func(n *nic) bool { return n.name == name })
	if i < 0 {
		h.mu.Unlock()
		return nil, nil, fmt.Errorf("%s of %s is on no switch", name, h.Name)
	}
	n := h.nics[i]
	h.mu.Unlock()
	link, err := h.nl.LinkByName(name)
	if err != nil {
		return nil, nil, fmt.Errorf("looking up %s of %s: %w", name, h.Name, err)
	}
	return n, link, nil
}
