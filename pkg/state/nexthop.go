package state

import (
	"encoding/binary"
	"fmt"
	"net/netip"
)

// Nexthop is a next hop that the kernel knows by number, for routes to refer
// to. Through these, a kernel finds its way among tens of thousands of IPv4 routes on
// one interface; without, each new route is compared with all others.
type Nexthop struct {
	ID     uint32 // never 0
	Onlink bool   // Via is on Dev's link, whatever its addresses say
	Via    netip.Addr
	Dev    string
}

// NexthopID returns the number of the nexthop for a subnet: its IPv4 base
// address, so that no two subnets have the same. Of IPv6 there is none: its routes are
// compared with no others.
func NexthopID(subnet netip.Prefix) uint32 {
	if !subnet.Addr().Is4() {
		return 0
	}
	a := subnet.Addr().As4()
	return binary.BigEndian.Uint32(a[:])
}

// NexthopSubnet is the inverse of NexthopID: the base address of the subnet.
func NexthopSubnet(id uint32) netip.Addr {
	var a [4]byte
	binary.BigEndian.PutUint32(a[:], id)
	return netip.AddrFrom4(a)
}

// NexthopKey is the key of the nexthop of a number.
func NexthopKey(id uint32) Key { return Key{Kind: KindNexthop, ID: id} }

// Key is the number.
func (n Nexthop) Key() Key { return NexthopKey(n.ID) }

// Kind is that of the key.
func (Nexthop) Kind() Kind { return KindNexthop }

func (n Nexthop) String() string {
	return fmt.Sprintf("nexthop %d via %s dev %s%s", n.ID, n.Via, n.Dev, onlink(n.Onlink))
}

func onlink(is bool) string {
	if is {
		return " onlink"
	}
	return ""
}

// Needs is the device, and the neighbour entry if the kernel does not find Via by itself.
func (n Nexthop) Needs() []Key { return needsOf(LinkKey(n.Dev), n.Dev, n.Via, n.Onlink) }

func needsOf(first Key, dev string, via netip.Addr, onlink bool) []Key {
	if onlink {
		return []Key{first, NeighKey(dev, via)}
	}
	return []Key{first}
}

// Owned is for a number that stands for a subnet of ours.
func (n Nexthop) Owned(o *Ownership) bool { return o.Contains(NexthopSubnet(n.ID)) }

// FlushedBy is for when the device is made anew.
func (n Nexthop) FlushedBy(op Op) bool { return op.Verb == Replace && op.Flushes(n.Dev) == FlushAll }

// LeaseSubnet is that of the number.
func (n Nexthop) LeaseSubnet() netip.Prefix { return BySubnetAddr(NexthopSubnet(n.ID)) }

// PeerDevice is the device.
func (n Nexthop) PeerDevice() string { return n.Dev }

// DependsOnRoutes is true: the kernel takes no next hop that it does not reach.
func (Nexthop) DependsOnRoutes() bool { return true }
