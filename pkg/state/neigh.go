package state

import (
	"fmt"
	"net/netip"
)

// Neigh is a permanent neighbour entry: it says which MAC address has Addr.
type Neigh struct {
	Dev  string
	Addr netip.Addr
	MAC  MAC
}

// NeighKey is the key of the neighbour entry for an address.
func NeighKey(dev string, a netip.Addr) Key {
	return Key{Kind: KindNeigh, Scope: dev, Prefix: netip.PrefixFrom(a, a.BitLen())}
}

// Key is the device and the address.
func (n Neigh) Key() Key { return NeighKey(n.Dev, n.Addr) }

// Kind is that of the key.
func (Neigh) Kind() Kind { return KindNeigh }

func (n Neigh) String() string {
	return fmt.Sprintf("neighbour %s lladdr %s dev %s", n.Addr, n.MAC, n.Dev)
}

// Needs is the device.
func (n Neigh) Needs() []Key { return []Key{LinkKey(n.Dev)} }

// LeadsTo is the FDB entry, which says at which host the MAC address is. It is made after
// the neighbour entry and deleted before: so this one tells whose that is.
func (n Neigh) LeadsTo() Key { return FDBKey(n.Dev, n.MAC) }

// Owned is for an address in our networks, on a device of ours.
func (n Neigh) Owned(o *Ownership) bool { return o.Devices[n.Dev] && o.Contains(n.Addr) }

// FlushedBy is for when the device goes or gets another MAC address.
func (n Neigh) FlushedBy(op Op) bool { return op.Flushes(n.Dev) != FlushNone }

// LeaseSubnet is that of which the address is the base address.
func (n Neigh) LeaseSubnet() netip.Prefix { return BySubnetAddr(n.Addr) }

// PeerDevice is the device.
func (n Neigh) PeerDevice() string { return n.Dev }
