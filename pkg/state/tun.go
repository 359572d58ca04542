package state

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// TUN is a TUN device that stays when the process ends, and that is up.
type TUN struct {
	Name string
	MTU  int // bytes
	// Alias is the interface's, by which it is known again: a TUNAlias.
	Alias string
}

const tunAlias = "flanneld "

// TUNAlias is the alias of the TUN device of a network.
func TUNAlias(network netip.Prefix) string { return tunAlias + network.String() }

// IsTUNAlias reports whether an alias is that of some network's TUN device.
func IsTUNAlias(alias string) bool { return strings.HasPrefix(alias, tunAlias) }

// IsTUNName reports whether a name is that of a TUN device of ours: flannel and a number.
func IsTUNName(name string) bool { return isNumbered(name, "flannel") }

// Key is the name.
func (t TUN) Key() Key { return LinkKey(t.Name) }

func (t TUN) String() string {
	return fmt.Sprintf("device %s tun mtu %d alias %q", t.Name, t.MTU, t.Alias)
}

// OwnedWith is true if the device has the alias of one of our networks.
func (t TUN) OwnedWith(_ []netip.Addr, o *Ownership) bool {
	return slices.ContainsFunc(o.Networks, func(n netip.Prefix) bool { return t.Alias == TUNAlias(n) })
}

// Owned is for a device of ours.
func (t TUN) Owned(o *Ownership) bool { return o.Devices[t.Name] }

// Flushes is none: a TUN device is not made anew.
func (TUN) Flushes(Object) Flush { return FlushNone }

// Essential is true.
func (TUN) Essential() bool { return true }
