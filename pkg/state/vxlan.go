package state

import (
	"fmt"
	"net/netip"
	"slices"

	"flanneld/pkg/ip"
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

// VXLANName returns the name of the VXLAN device for the pods of a family.
func VXLANName(f ip.Family, vni uint32) string { return fmt.Sprint(vxlanPrefix(f), vni) }

func vxlanPrefix(f ip.Family) string {
	if f == ip.V4 {
		return "flannel."
	}
	return "flannel-v6."
}

// IsVXLANName reports whether a name is that of a VXLAN device of ours.
func IsVXLANName(name string) bool {
	return isNumbered(name, vxlanPrefix(ip.V4)) || isNumbered(name, vxlanPrefix(ip.V6))
}

// Overhead is what the device puts around a packet, in bytes: headers of Ethernet, IP, UDP
// and VXLAN.
func (v VXLAN) Overhead() int { return VXLANOverhead(ip.FamilyOf(v.Local)) }

// VXLANOverhead is that of a device whose packets leave in a family.
func VXLANOverhead(f ip.Family) int {
	if f == ip.V4 {
		return 50
	}
	return 70
}

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

// Same does not mind checksums by software that nobody called for.
func (v VXLAN) Same(there Object) bool {
	t, ok := there.(VXLAN)
	if !v.TxChecksumOff {
		t.TxChecksumOff = false
	}
	return ok && t == v
}

// OwnedWith is true if the device has addresses and all are in our networks: it is left
// from an earlier configuration.
func (v VXLAN) OwnedWith(addrs []netip.Addr, o *Ownership) bool {
	return len(addrs) > 0 && !slices.ContainsFunc(addrs, func(a netip.Addr) bool { return !o.Contains(a) })
}

// Owned is for a device of ours.
func (v VXLAN) Owned(o *Ownership) bool { return o.Devices[v.Name] }

// Flushes is all if the device has to be made anew, and neighbours if its MAC address
// changes.
func (v VXLAN) Flushes(there Object) Flush {
	is, ok := managed(there).(VXLAN)
	switch {
	case !ok || !is.SameTunnel(v) || !putRight(there):
		return FlushAll
	case is.MAC != v.MAC:
		return FlushNeighbours
	}
	return FlushNone
}

// InUse reports whether packets pass until the device is as wanted: with another MTU they
// do.
func (v VXLAN) InUse(want Object) bool {
	w, ok := want.(VXLAN)
	return ok && v.SameTunnel(w)
}

// Essential is true.
func (VXLAN) Essential() bool { return true }

// Datagrams have a source port for each flow.
func (v VXLAN) Datagrams() Datagrams {
	return Datagrams{Dev: v.Name, Family: ip.FamilyOf(v.Local), Port: v.Port}
}
