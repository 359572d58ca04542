package state

import (
	"fmt"
	"net/netip"
)

// Addr is an address of a device, with the length of its network.
type Addr struct {
	Dev    string
	Prefix netip.Prefix
}

// Key is the device and the address; in IPv4 with the length, by which one address may be
// there several times.
func (a Addr) Key() Key {
	k := Key{Kind: KindAddr, Scope: a.Dev, Prefix: a.Prefix}
	if at := a.Prefix.Addr(); at.Is6() {
		k.Prefix = netip.PrefixFrom(at, at.BitLen())
	}
	return k
}

func (a Addr) String() string { return fmt.Sprintf("address %s dev %s", a.Prefix, a.Dev) }

// Needs is the device.
func (a Addr) Needs() []Key { return []Key{LinkKey(a.Dev)} }

// Owned is for an address in our networks, on a device of ours.
func (a Addr) Owned(o *Ownership) bool { return o.Devices[a.Dev] && o.Contains(a.Prefix.Addr()) }

// FlushedBy is for when the device goes.
func (a Addr) FlushedBy(op Op) bool { return op.Flushes(a.Dev) == FlushAll }

// Essential is true.
func (Addr) Essential() bool { return true }
