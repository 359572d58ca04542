package state

import (
	"net/netip"
	"strings"
)

// Device is an object of KindLink.
type Device interface {
	Object
	// OwnedWith reports whether a device with these addresses is this daemon's, if
	// nobody wants it.
	OwnedWith(addrs []netip.Addr, o *Ownership) bool
	// Flushes returns what the kernel drops when this device is put in the place of
	// what is there.
	Flushes(there Object) Flush
}

// Flush is what the kernel drops of what is on a device.
type Flush uint8

// The flushes.
const (
	FlushNone       Flush = iota
	FlushNeighbours       // with the MAC address they go
	FlushAll              // the device is deleted, or made anew
)

// LinkKey is the key of the device of a name, whatever its kind.
func LinkKey(name string) Key { return Key{Kind: KindLink, Scope: name} }

// IsDeviceName reports whether a device of that name belongs to this program.
func IsDeviceName(name string) bool { return IsVXLANName(name) || IsTUNName(name) }

// isNumbered reports whether a name is a prefix and a number.
func isNumbered(name, prefix string) bool {
	digits, ok := strings.CutPrefix(name, prefix)
	return ok && digits != "" && strings.Trim(digits, "0123456789") == ""
}

// IsDevice reports whether an object is a device.
func IsDevice(o Object) bool { return o != nil && o.Key().Kind == KindLink }

// Flushes returns what the step makes the kernel drop of what is on a device.
func (o Op) Flushes(dev string) Flush {
	if o.Key() != LinkKey(dev) {
		return FlushNone
	}
	switch d, _ := o.Want.(Device); {
	case o.Verb == Delete:
		return FlushAll
	case o.Verb == Replace && d != nil:
		return d.Flushes(o.Have)
	}
	return FlushNone
}

// putRight reports whether what is there can be put right as it is; else it has to be made
// anew.
func putRight(there Object) bool {
	u, unmanaged := there.(Unmanaged)
	if !unmanaged {
		return true
	}
	i, ok := u.(interface{ InPlace() bool })
	return ok && i.InPlace()
}
