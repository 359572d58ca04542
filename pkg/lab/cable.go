package lab

import (
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"

	"flanneld/pkg/ip"
)

// Plug is one end of a cable: the interface that is to be there.
type Plug struct {
	On   *Namespace
	Name string
	MAC  net.HardwareAddr // may be empty
}

// AddMachine adds a host that is on no switch, and so has no interface yet.
func (l *Lab) AddMachine(name string) (*Host, error) { return l.addHost(name) }

// Cable makes an interface at each of its ends, with this MTU, and brings both
// up.
func (l *Lab) Cable(a, b Plug, mtu int) error {
	attrs := linkAttrs(a.Name)
	attrs.HardwareAddr, attrs.MTU = a.MAC, mtu
	if err := addVeth(a.On, attrs, b.On, b.Name, b.MAC); err != nil {
		return fmt.Errorf("laying a cable from %s of %s to %s of %s: %w", a.Name, a.On.Name, b.Name, b.On.Name, err)
	}
	if err := a.On.setUp(a.Name); err != nil {
		return err
	}
	return b.On.setUp(b.Name)
}

// RemoveLink deletes an interface, and with it the other end of its cable. One that
// is not there is no error.
func (ns *Namespace) RemoveLink(name string) error {
	link, err := ns.nl.LinkByName(name)
	if err != nil {
		if errors.As(err, &netlink.LinkNotFoundError{}) {
			return nil
		}
		return fmt.Errorf("looking up %s of %s: %w", name, ns.Name, err)
	}
	if err := ns.nl.LinkDel(link); err != nil {
		return fmt.Errorf("deleting %s of %s: %w", name, ns.Name, err)
	}
	return nil
}

// SetDefaultRoute sets the default route of a family, which comes back with LinkUp.
func (h *Host) SetDefaultRoute(via netip.Addr, dev string) error {
	r := Route{Dst: Everywhere(ip.FamilyOf(via)), Via: via, Dev: dev, Protocol: protoBoot}
	h.defaults[ip.FamilyOf(via)] = r
	return h.ReplaceRoute(r)
}
