package lab

import (
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"flanneld/pkg/ip"
)

// Neighbours lists the permanent neighbour entries of an interface, of both families, sorted,
// as "ADDRESS lladdr MAC".
func (ns *Namespace) Neighbours(dev string) ([]string, error) {
	return ns.neighbours(dev, unix.AF_UNSPEC, func(n netlink.Neigh) string {
		return fmt.Sprintf("%s lladdr %s", n.IP, n.HardwareAddr)
	})
}

// FDB lists the permanent entries of a VXLAN device's forwarding database,
// sorted, as "MAC dst ADDRESS".
func (ns *Namespace) FDB(dev string) ([]string, error) {
	return ns.neighbours(dev, unix.AF_BRIDGE, func(n netlink.Neigh) string {
		return fmt.Sprintf("%s dst %s", n.HardwareAddr, n.IP)
	})
}

func (ns *Namespace) neighbours(dev string, family int, text func(netlink.Neigh) string) ([]string, error) {
	link, err := ns.nl.LinkByName(dev)
	if err != nil {
		return nil, fmt.Errorf("looking up %s of %s: %w", dev, ns.Name, err)
	}
	list, err := ns.nl.NeighList(link.Attrs().Index, family)
	if err != nil {
		return nil, fmt.Errorf("listing the neighbours of %s of %s: %w", dev, ns.Name, err)
	}
	var texts []string
	for _, n := range list {
		if n.State == unix.NUD_PERMANENT {
			texts = append(texts, text(n))
		}
	}
	slices.Sort(texts)
	return texts, nil
}

// AddNeighbour makes a permanent neighbour entry in place of what is there.
func (ns *Namespace) AddNeighbour(dev string, a netip.Addr, mac net.HardwareAddr) error {
	return ns.changeNeighbour("adding", dev, ns.nl.NeighSet, netlink.Neigh{
		Family: afOf(ip.FamilyOf(a)), IP: a.AsSlice(), HardwareAddr: mac,
	})
}

// DelNeighbour deletes a neighbour entry.
func (ns *Namespace) DelNeighbour(dev string, a netip.Addr) error {
	return ns.changeNeighbour("deleting", dev, ns.nl.NeighDel, netlink.Neigh{
		Family: afOf(ip.FamilyOf(a)), IP: a.AsSlice(),
	})
}

// AddFDB makes a permanent entry of a forwarding database in place of what is
// there.
func (ns *Namespace) AddFDB(dev string, mac net.HardwareAddr, dst netip.Addr) error {
	return ns.changeNeighbour("adding", dev, ns.nl.NeighSet, netlink.Neigh{
		Family: unix.AF_BRIDGE, Flags: unix.NTF_SELF, IP: dst.AsSlice(), HardwareAddr: mac,
	})
}

// DelFDB deletes an entry of a forwarding database.
func (ns *Namespace) DelFDB(dev string, mac net.HardwareAddr, dst netip.Addr) error {
	return ns.changeNeighbour("deleting", dev, ns.nl.NeighDel, netlink.Neigh{
		Family: unix.AF_BRIDGE, Flags: unix.NTF_SELF, IP: dst.AsSlice(), HardwareAddr: mac,
	})
}

func (ns *Namespace) changeNeighbour(what, dev string, change func(*netlink.Neigh) error, n netlink.Neigh) error {
	link, err := ns.nl.LinkByName(dev)
	if err == nil {
		n.LinkIndex, n.State = link.Attrs().Index, unix.NUD_PERMANENT
		err = change(&n)
	}
	if err != nil {
		return fmt.Errorf("%s %s on %s of %s: %w", what, n.String(), dev, ns.Name, err)
	}
	return nil
}

// DelLink deletes an interface.
func (ns *Namespace) DelLink(name string) error {
	link, err := ns.nl.LinkByName(name)
	if err == nil {
		err = ns.nl.LinkDel(link)
	}
	if err != nil {
		return fmt.Errorf("deleting %s of %s: %w", name, ns.Name, err)
	}
	return nil
}

// HardwareAddr returns the MAC address of an interface, and its index, which
// tells it from another one made later by that name.
func (ns *Namespace) HardwareAddr(name string) (mac net.HardwareAddr, index int, err error) {
	link, err := ns.nl.LinkByName(name)
	if err != nil {
		return nil, 0, fmt.Errorf("looking up %s of %s: %w", name, ns.Name, err)
	}
	return link.Attrs().HardwareAddr, link.Attrs().Index, nil
}

// SetHardwareAddr gives an interface another MAC address.
func (ns *Namespace) SetHardwareAddr(name string, mac net.HardwareAddr) error {
	link, err := ns.nl.LinkByName(name)
	if err == nil {
		err = ns.nl.LinkSetHardwareAddr(link, mac)
	}
	if err != nil {
		return fmt.Errorf("setting the address of %s of %s to %s: %w", name, ns.Name, mac, err)
	}
	return nil
}

// MTU returns the MTU of an interface.
func (ns *Namespace) MTU(name string) (int, error) {
	link, err := ns.nl.LinkByName(name)
	if err != nil {
		return 0, fmt.Errorf("looking up %s of %s: %w", name, ns.Name, err)
	}
	return link.Attrs().MTU, nil
}
