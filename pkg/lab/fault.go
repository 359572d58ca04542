package lab

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"flanneld/pkg/ip"
)

// LinkDown takes an interface down; the kernel removes the routes through it, and the IPv6
// addresses.
func (ns *Namespace) LinkDown(name string) error {
	link, err := ns.nl.LinkByName(name)
	if err == nil {
		err = ns.nl.LinkSetDown(link)
	}
	if err != nil {
		return fmt.Errorf("taking %s of %s down: %w", name, ns.Name, err)
	}
	return nil
}

// RenameLink gives an interface that is down another name, and brings it up.
func (ns *Namespace) RenameLink(name, to string) error {
	link, err := ns.nl.LinkByName(name)
	if err == nil {
		err = ns.nl.LinkSetName(link, to)
	}
	if err != nil {
		return fmt.Errorf("renaming %s of %s: %w", name, ns.Name, err)
	}
	return ns.setUp(to)
}

// LinkDown takes an interface down, and takes note of what LinkUp restores.
func (h *Host) LinkDown(name string) error {
	if n, _, err := h.nic(name); err == nil {
		addrs, err := h.Addrs(name, ip.V6)
		if err != nil {
			return err
		}
		n.lost = append(n.lost, addrs...)
	}
	return h.Namespace.LinkDown(name)
}

// LinkUp brings an interface up again as who manages the network does, with the IPv6 addresses
// that it had and the host's default routes if they lead through it, and no other route that
// was lost.
func (h *Host) LinkUp(name string) error {
	if err := h.setUp(name); err != nil {
		return err
	}
	n, _, err := h.nic(name)
	if err != nil {
		return h.restoreDefaultRoutes(name)
	}
	for _, a := range n.lost {
		if err := h.AddAddr(name, a); err != nil {
			return err
		}
	}
	n.lost = nil
	if err := h.restoreDefaultRoutes(name); err != nil {
		return err
	}
	return n.sw.awaitForwarding(n.port)
}

// RecreateNIC replaces an interface by a new one, as the reload of a driver
// does: it has another index, the same name, MAC and addresses, MTU and
// default routes, and no other route. A NIC that was cut off is not any more.
func (h *Host) RecreateNIC(name string) error {
	n, link, err := h.nic(name)
	if err != nil {
		return err
	}
	addrs, err := h.Addrs(name, ip.V4, ip.V6)
	if err != nil {
		return err
	}
	if err := h.nl.LinkDel(link); err != nil {
		return fmt.Errorf("deleting %s of %s: %w", name, h.Name, err)
	}
	if err := n.sw.connect(n.port, h.Namespace, name, link.Attrs().MTU, n.mac); err != nil {
		return err
	}
	for _, a := range addrs {
		if err := h.AddAddr(name, a); err != nil {
			return err
		}
	}
	if err := h.restoreDefaultRoutes(name); err != nil {
		return err
	}
	return n.sw.awaitForwarding(n.port)
}

// awaitForwarding waits until the switch forwards what comes in by a port that was just
// connected: the kernel tells a bridge of a carrier once a second at most.
func (s *Switch) awaitForwarding(port string) error {
	const longest = 3 * time.Second
	for begin := time.Now(); ; time.Sleep(time.Millisecond) {
		link, err := s.nl.LinkByName(port)
		switch {
		case err != nil:
			return fmt.Errorf("port %s of %s: %w", port, s.Name, err)
		case link.Attrs().OperState == netlink.OperUp:
			return nil
		case time.Since(begin) > longest:
			return fmt.Errorf("port %s of %s is %s after %s", port, s.Name, link.Attrs().OperState, longest)
		}
	}
}

// CutOff unplugs the switch's side of an interface: its carrier stays, and
// packets vanish without a word.
func (h *Host) CutOff(name string) error {
	n, _, err := h.nic(name)
	if err != nil {
		return err
	}
	port, err := n.sw.nl.LinkByName(n.port)
	if err == nil {
		err = n.sw.nl.LinkSetNoMaster(port)
	}
	if err != nil {
		return fmt.Errorf("cutting off %s of %s: %w", name, h.Name, err)
	}
	return nil
}

// CutCarrier takes the switch's side of an interface down: the interface has no carrier,
// and keeps its addresses and routes.
func (h *Host) CutCarrier(name string) error {
	n, _, err := h.nic(name)
	if err != nil {
		return err
	}
	return n.sw.LinkDown(n.port)
}

// Restore undoes CutOff.
func (h *Host) Restore(name string) error {
	n, _, err := h.nic(name)
	if err != nil {
		return err
	}
	port, err := n.sw.nl.LinkByName(n.port)
	if err == nil {
		err = n.sw.nl.LinkSetMasterByIndex(port, n.sw.bridge)
	}
	if err != nil {
		return fmt.Errorf("restoring %s of %s: %w", name, h.Name, err)
	}
	return nil
}

// SetCarrier switches the switch's side of an interface on or off.
func (h *Host) SetCarrier(name string, on bool) error {
	n, _, err := h.nic(name)
	if err != nil {
		return err
	}
	port, err := n.sw.nl.LinkByName(n.port)
	switch {
	case err != nil:
	case on:
		err = n.sw.nl.LinkSetUp(port)
	default:
		err = n.sw.nl.LinkSetDown(port)
	}
	if err != nil {
		return fmt.Errorf("switching the carrier of %s of %s: %w", name, h.Name, err)
	}
	return nil
}

// SetMTU changes the MTU of an interface and of the port it is plugged into.
func (h *Host) SetMTU(name string, mtu int) error {
	n, link, err := h.nic(name)
	if err != nil {
		return err
	}
	port, err := n.sw.nl.LinkByName(n.port)
	if err == nil {
		err = n.sw.nl.LinkSetMTU(port, mtu)
	}
	if err == nil {
		err = h.nl.LinkSetMTU(link, mtu)
	}
	if err != nil {
		return fmt.Errorf("setting the MTU of %s of %s to %d: %w", name, h.Name, mtu, err)
	}
	return nil
}

// NarrowPath has the switch drop what is larger than an MTU on its way from or to an interface,
// without a word to anybody.
func (h *Host) NarrowPath(name string, mtu int) error {
	n, _, err := h.nic(name)
	if err != nil {
		return err
	}
	port, err := n.sw.nl.LinkByName(n.port)
	if err == nil {
		err = n.sw.nl.LinkSetMTU(port, mtu)
	}
	if err != nil {
		return fmt.Errorf("narrowing the path to %s of %s: %w", name, h.Name, err)
	}
	return nil
}

// AddAddr gives an interface an address, with the length of its network, and waits until it
// can be used.
func (ns *Namespace) AddAddr(name string, addr netip.Prefix) error {
	link, err := ns.nl.LinkByName(name)
	if err == nil {
		err = ns.nl.AddrAdd(link, &netlink.Addr{IPNet: ipNet(addr)})
	}
	if err == nil && addr.Addr().Is6() {
		err = ns.awaitUsable(link, addr)
	}
	if err != nil {
		return fmt.Errorf("adding address %s to %s of %s: %w", addr, name, ns.Name, err)
	}
	return nil
}

// awaitUsable waits until an IPv6 address can be used: the kernel looks in a thread of its own
// whether it is to look for duplicates.
func (ns *Namespace) awaitUsable(link netlink.Link, addr netip.Prefix) error {
	const longest = 3 * time.Second
	for begin := time.Now(); ; time.Sleep(time.Millisecond) {
		list, err := ns.nl.AddrList(link, netlink.FAMILY_V6)
		if err != nil {
			return err
		}
		i := slices.IndexFunc(list, func(a netlink.Addr) bool { return prefix(a.IPNet) == addr })
		switch {
		case i < 0:
			return errors.New("it is gone again")
		case list[i].Flags&unix.IFA_F_TENTATIVE == 0:
			return nil
		case time.Since(begin) > longest:
			return fmt.Errorf("it is tentative after %s", longest)
		}
	}
}

// DelAddr takes an address from an interface.
func (ns *Namespace) DelAddr(name string, addr netip.Prefix) error {
	link, err := ns.nl.LinkByName(name)
	if err == nil {
		err = ns.nl.AddrDel(link, &netlink.Addr{IPNet: ipNet(addr)})
	}
	if err != nil {
		return fmt.Errorf("deleting address %s of %s of %s: %w", addr, name, ns.Name, err)
	}
	return nil
}

// FlushAddrs takes all addresses that Addrs lists from an interface.
func (ns *Namespace) FlushAddrs(name string, families ...ip.Family) error {
	addrs, err := ns.Addrs(name, families...)
	if err != nil {
		return err
	}
	for _, a := range addrs {
		if err := ns.DelAddr(name, a); err != nil {
			return err
		}
	}
	return nil
}

// Addrs lists the addresses of an interface: the IPv4 ones if no families are given, and never
// those that IPv6 has for the link alone.
func (ns *Namespace) Addrs(name string, families ...ip.Family) ([]netip.Prefix, error) {
	addrs := []netip.Prefix{}
	for _, f := range orIPv4(families) {
		link, err := ns.nl.LinkByName(name)
		var list []netlink.Addr
		if err == nil {
			list, err = ns.nl.AddrList(link, afOf(f))
		}
		if err != nil {
			return nil, fmt.Errorf("listing the addresses of %s of %s: %w", name, ns.Name, err)
		}
		for _, a := range list {
			if p := prefix(a.IPNet); f == ip.V4 || !p.Addr().IsLinkLocalUnicast() {
				addrs = append(addrs, p)
			}
		}
	}
	return addrs, nil
}

// orIPv4 is what is listed if no families are given.
func orIPv4(families []ip.Family) []ip.Family {
	if len(families) == 0 {
		return []ip.Family{ip.V4}
	}
	return families
}

// afOf is the kernel's number of a family.
func afOf(f ip.Family) int {
	if f == ip.V4 {
		return unix.AF_INET
	}
	return unix.AF_INET6
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

// prefix is the inverse of ipNet, and the default route for nil.
func prefix(n *net.IPNet) netip.Prefix {
	if n == nil {
		return netip.PrefixFrom(netip.IPv4Unspecified(), 0)
	}
	ip, _ := netip.AddrFromSlice(n.IP)
	ones, _ := n.Mask.Size()
	return netip.PrefixFrom(ip.Unmap(), ones)
}
