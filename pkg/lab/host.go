package lab

import (
	"fmt"
	"net/netip"
	"slices"
	"sync"

	"github.com/vishvananda/netlink"
)

// Host is a machine: a namespace that forwards packets, with network
// interfaces on switches.
type Host struct {
	*Namespace
	// Addr is the address of eth0; the zero value if it was made without.
	Addr netip.Addr

	mu       sync.Mutex
	nics     []*nic
	defroute netip.Addr // zero if there is none
	defdev   string
	pods     []*Pod
}

// nic is one network interface of a host and the port it is plugged into.
type nic struct {
	name string
	sw   *Switch
	port string
	mac  []byte
}

// HostOptions are the ways in which a host may be special.
type HostOptions struct {
	// NoAddress leaves eth0 without an address, and so without a route.
	NoAddress bool
	// NoDefaultRoute leaves out the default route through the switch's
	// first address.
	NoDefaultRoute bool
}

// AddHost adds a host with eth0 on a switch. Hosts get the second address of
// the switch's network, the third, and so on. The default route leads to the
// first, even while no router is there.
func (l *Lab) AddHost(name string, sw *Switch, opts HostOptions) (*Host, error) {
	h, err := l.addHost(name)
	if err != nil {
		return nil, err
	}
	if !opts.NoAddress {
		if h.Addr, err = sw.nextAddr(); err != nil {
			return nil, fmt.Errorf("adding host %s: %w", name, err)
		}
	}
	if err := h.plug("eth0", sw, h.Addr); err != nil {
		return nil, err
	}
	if opts.NoAddress || opts.NoDefaultRoute {
		return h, nil
	}
	h.defroute, h.defdev = sw.gateway(), "eth0"
	return h, h.restoreDefaultRoute("eth0")
}

// AddNIC plugs a further interface of the host into a switch. Without an
// address (the zero value) the switch's next free one is taken.
func (h *Host) AddNIC(name string, sw *Switch, addr netip.Addr) error {
	if !addr.IsValid() {
		var err error
		if addr, err = sw.nextAddr(); err != nil {
			return fmt.Errorf("adding %s to %s: %w", name, h.Name, err)
		}
	}
	return h.plug(name, sw, addr)
}

func (l *Lab) addHost(name string) (*Host, error) {
	ns, err := l.addNamespace(name)
	if err != nil {
		return nil, err
	}
	if err := ns.Sysctl("net.ipv4.ip_forward", "1"); err != nil {
		return nil, err
	}
	return &Host{Namespace: ns}, nil
}

// plug makes an interface on a switch, with an address unless it is zero.
func (h *Host) plug(name string, sw *Switch, addr netip.Addr) error {
	n := &nic{name: name, sw: sw, port: sw.nextPort(), mac: h.lab.hardwareAddr(addr)}
	if err := sw.connect(n.port, h.Namespace, name, 0, n.mac); err != nil {
		return err
	}
	h.mu.Lock()
	h.nics = append(h.nics, n)
	h.mu.Unlock()
	if !addr.IsValid() {
		return nil
	}
	sw.take(addr)
	return h.AddAddr(name, netip.PrefixFrom(addr, sw.Prefix.Bits()))
}

// restoreDefaultRoute sets the host's default route if it leads through the
// interface.
func (h *Host) restoreDefaultRoute(name string) error {
	if !h.defroute.IsValid() || h.defdev != name {
		return nil
	}
	return h.ReplaceRoute(Route{
		Dst: netip.PrefixFrom(netip.IPv4Unspecified(), 0), Via: h.defroute, Dev: name, Protocol: protoBoot,
	})
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
