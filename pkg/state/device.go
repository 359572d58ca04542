package state

import (
	"fmt"
	"net/netip"
)

// VXLAN is a VXLAN device, which is up.
type VXLAN struct {
	Name     string
	VNI      uint32
	Port     uint16     // UDP, of both ends
	Lower    string     // the interface that its packets leave by
	Local    netip.Addr // their source
	GBP      bool       // group based policy: packets carry their marks along
	Learning bool       // from received packets, where senders are
	MAC      MAC
	MTU      int // bytes
	// TxChecksumOff calls for checksums by software. If it is not set, the
	// device may do as it likes.
	TxChecksumOff bool
}

// LinkKey is the key of the device of a name, whatever its kind.
func LinkKey(name string) Key { return Key{Kind: KindLink, Dev: name} }

// Key is the name.
func (v VXLAN) Key() Key { return LinkKey(v.Name) }

func (v VXLAN) String() string {
	s := fmt.Sprintf("device %s vxlan id %d local %s dev %s dstport %d address %s mtu %d", v.Name, v.VNI, v.Local, v.Lower, v.Port, v.MAC, v.MTU)
	if v.GBP {
		s += " gbp"
	}
	if v.Learning {
		s += " learning"
	}
	if v.TxChecksumOff {
		s += " tx-checksum off"
	}
	return s
}

// SameTunnel reports whether one device can become the other without being
// made anew.
func (v VXLAN) SameTunnel(w VXLAN) bool {
	v.MAC, v.MTU, v.TxChecksumOff = w.MAC, w.MTU, w.TxChecksumOff
	return v == w
}

// Addr is an address of a device, with the length of its network.
type Addr struct {
	Dev    string
	Prefix netip.Prefix
}

// Key is the device and the address.
func (a Addr) Key() Key { return Key{Kind: KindAddr, Dev: a.Dev, Dst: a.Prefix} }

func (a Addr) String() string { return fmt.Sprintf("address %s dev %s", a.Prefix, a.Dev) }

// Needs is the device.
func (a Addr) Needs() Key { return LinkKey(a.Dev) }

// Neigh is a permanent neighbour entry: it says which MAC address has Addr.
type Neigh struct {
	Dev  string
	Addr netip.Addr
	MAC  MAC
}

// NeighKey is the key of the neighbour entry for an address.
func NeighKey(dev string, a netip.Addr) Key {
	return Key{Kind: KindNeigh, Dev: dev, Dst: netip.PrefixFrom(a, a.BitLen())}
}

// Key is the device and the address.
func (n Neigh) Key() Key { return NeighKey(n.Dev, n.Addr) }

func (n Neigh) String() string {
	return fmt.Sprintf("neighbour %s lladdr %s dev %s", n.Addr, n.MAC, n.Dev)
}

// Needs is the device.
func (n Neigh) Needs() Key { return LinkKey(n.Dev) }

// FDB is a permanent entry of a VXLAN device's forwarding database: it says at
// which host, Dst, a MAC address is.
type FDB struct {
	Dev string
	MAC MAC
	Dst netip.Addr
}

// FDBKey is the key of the entry for a MAC address.
func FDBKey(dev string, m MAC) Key { return Key{Kind: KindFDB, Dev: dev, MAC: m} }

// Key is the device and the MAC address.
func (f FDB) Key() Key { return FDBKey(f.Dev, f.MAC) }

func (f FDB) String() string { return fmt.Sprintf("FDB entry %s dst %s dev %s", f.MAC, f.Dst, f.Dev) }

// Needs is the device.
func (f FDB) Needs() Key { return LinkKey(f.Dev) }
