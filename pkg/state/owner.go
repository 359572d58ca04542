package state

import (
	"net/netip"
	"slices"
	"sync"

	"flanneld/pkg/ip"
)

// Ownership is what tells which of a host's objects are this daemon's. A dataplane cannot
// always know: it says that all are ours that could be. Another daemon, with another
// network, may be on the same host.
type Ownership struct {
	// Networks that this daemon has, or had.
	Networks []netip.Prefix
	// LongestLease is the length of the smallest subnet that a lease of a family can have.
	LongestLease func(ip.Family) int
	// Devices are those of ours.
	Devices map[string]bool

	known func(Key) bool          // that was ours when it was last seen, and is the same
	led   func() map[Key]struct{} // by objects of ours
}

// NewOwnership finds out which devices of a host are ours: those that are wanted, and those
// that say so. What was ours before, and is the same object now, is by known.
func NewOwnership(networks []netip.Prefix, longest func(ip.Family) int, wanted map[string]bool, have Observed, known func(Key) bool) *Ownership {
	o := &Ownership{Networks: networks, LongestLease: longest, Devices: make(map[string]bool), known: known}
	devices := make(map[string]Device)
	addrs := make(map[string][]netip.Addr)
	for k, e := range have {
		if e.Owner != Ours {
			continue
		}
		if d, ok := managed(e.Object).(Device); ok {
			devices[k.Scope] = d
		}
		if k.Kind == KindAddr {
			addrs[k.Scope] = append(addrs[k.Scope], k.Prefix.Addr())
		}
	}
	for dev, d := range devices {
		o.Devices[dev] = d.OwnedWith(addrs[dev], o)
	}
	for dev := range wanted {
		o.Devices[dev] = true
	}
	o.led = sync.OnceValue(func() map[Key]struct{} {
		all := make(map[Key]struct{})
		for _, e := range have {
			if to, ok := LeadsTo(e.Object); ok && o.Owns(e.Object) {
				all[to] = struct{}{}
			}
		}
		return all
	})
	return o
}

// Owns reports whether an object is this daemon's, if the dataplane says that it could be.
func (o *Ownership) Owns(obj Object) bool {
	owned, ok := managed(obj).(interface{ Owned(*Ownership) bool })
	return ok && owned.Owned(o)
}

// Contains reports whether an address is in one of our networks.
func (o *Ownership) Contains(a netip.Addr) bool {
	return slices.ContainsFunc(o.Networks, func(n netip.Prefix) bool { return n.Contains(a) })
}

// CanBeLease reports whether a destination is smaller than our network that it is in, and
// not too small for a lease.
func (o *Ownership) CanBeLease(dst netip.Prefix) bool {
	return dst.Bits() <= o.LongestLease(ip.FamilyOf(dst.Addr())) && slices.ContainsFunc(o.Networks, func(n netip.Prefix) bool {
		return n.Contains(dst.Addr()) && n.Bits() < dst.Bits()
	})
}

// LedTo reports whether an object of ours leads to that of a key.
func (o *Ownership) LedTo(k Key) bool {
	if o.led == nil {
		return false
	}
	_, ok := o.led()[k]
	return ok
}

// Known reports whether what is under a key was ours before, and has not changed.
func (o *Ownership) Known(k Key) bool { return o.known != nil && o.known(k) }
