package state

import (
	"fmt"
	"net/netip"
)

// FDB is a permanent entry of a VXLAN device's forwarding database: it says at
// which host, Dst, a MAC address is.
type FDB struct {
	Dev string
	MAC MAC
	Dst netip.Addr
}

// FDBKey is the key of the entry for a MAC address.
func FDBKey(dev string, m MAC) Key { return Key{Kind: KindFDB, Scope: dev, MAC: m} }

// Key is the device and the MAC address.
func (f FDB) Key() Key { return FDBKey(f.Dev, f.MAC) }

// Kind is that of the key.
func (FDB) Kind() Kind { return KindFDB }

func (f FDB) String() string { return fmt.Sprintf("FDB entry %s dst %s dev %s", f.MAC, f.Dst, f.Dev) }

// Needs is the device.
func (f FDB) Needs() []Key { return []Key{LinkKey(f.Dev)} }

// Owned is for an entry on a device of ours that a neighbour entry of ours leads to, or
// that was ours before.
func (f FDB) Owned(o *Ownership) bool {
	return o.Devices[f.Dev] && (o.LedTo(f.Key()) || o.Known(f.Key()))
}

// Unmarked is true: an entry does not even have an address in our networks.
func (FDB) Unmarked() bool { return true }

// FlushedBy is for when the device goes.
func (f FDB) FlushedBy(op Op) bool { return op.Flushes(f.Dev) == FlushAll }

// PeerDevice is the device.
func (f FDB) PeerDevice() string { return f.Dev }

// Claim is the MAC address: it is at one host, and leases may differ in which.
func (f FDB) Claim() any { return vtepMAC(f.MAC) }

// vtepMAC is the attribute of a peer that has a VXLAN device.
type vtepMAC MAC

func (m vtepMAC) String() string { return "VtepMAC " + MAC(m).String() }
