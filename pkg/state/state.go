// Package state is the language between those who say how a host should look
// and those who make it so: objects, sets of them, and the difference between
// what is wanted and what is there.
package state

import (
	"encoding/binary"
	"fmt"
	"net/netip"
)

// Kind of an object. Kinds are numbered in the order of dependency: what has a
// higher number may need what has a lower one.
type Kind uint8

// The kinds of objects.
const (
	KindLink Kind = iota + 1
	KindAddr
	// A neighbour entry tells to whom an FDB entry belongs: it comes first and
	// goes last.
	KindNeigh
	KindFDB
	KindTunnel
	KindTunnelPeer
	KindNexthop
	KindRoute
	KindMasquerade
	KindForward
	// What is in the cloud is slow to change: it comes last.
	KindCloudInterface
	KindCloudRoute
	KindCloudPeer
)

func (k Kind) String() string {
	switch k {
	case KindLink:
		return "device"
	case KindAddr:
		return "address"
	case KindNeigh:
		return "neighbour"
	case KindFDB:
		return "FDB entry"
	case KindTunnel:
		return "tunnel"
	case KindTunnelPeer:
		return "tunnel peer"
	case KindNexthop:
		return "nexthop"
	case KindRoute:
		return "route"
	case KindMasquerade:
		return "masquerading"
	case KindForward:
		return "forwarding"
	case KindCloudInterface:
		return "cloud interface"
	case KindCloudRoute:
		return "cloud route"
	case KindCloudPeer:
		return "cloud peer"
	}
	return fmt.Sprintf("kind %d", uint8(k))
}

// Key says which object something is: a host has at most one of each key that
// is ours.
type Key struct {
	Kind Kind
	Dev  string       // devices: the name; what is a device's own: whose; packet rules: the Way; cloud routes and peers: the table
	Dst  netip.Prefix // routes of any kind: the destination; addresses; neighbours: of one address; tunnel peers: the subnet; packet rules: the network; cloud interfaces: the address
	ID   uint32       // nexthops: the number; routes: the metric
	MAC  MAC          // FDB entries
}

// Object is one thing that a host can have. Objects are values of comparable
// types: two objects are the same if they are ==.
type Object interface {
	Key() Key
	// String is for people: what the object is and what it is about.
	String() string
}

// Odd is a device that is not as this program leaves one: down, say.
type Odd interface {
	Object
	// Is returns the device as far as it is one of ours; nil if it is something
	// else.
	Is() Object
	// InPlace reports whether it can be put right as it is; else it has to be made
	// anew.
	InPlace() bool
}

// Nexthop is a next hop that the kernel knows by number, for routes to refer
// to. Through these, a kernel finds its way among tens of thousands of routes on
// one interface; without, each new route is compared with all others.
type Nexthop struct {
	ID     uint32 // never 0
	Via    netip.Addr
	Dev    string
	Onlink bool // Via is on Dev's link, whatever its addresses say
}

// NexthopID returns the number of the nexthop for a subnet: its IPv4 base
// address, so that no two subnets have the same.
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

// Key is the number.
func (n Nexthop) Key() Key { return Key{Kind: KindNexthop, ID: n.ID} }

func (n Nexthop) String() string {
	return fmt.Sprintf("nexthop %d via %s dev %s%s", n.ID, n.Via, n.Dev, onlink(n.Onlink))
}

// Needs is the device.
func (n Nexthop) Needs() Key { return LinkKey(n.Dev) }

func onlink(is bool) string {
	if is {
		return " onlink"
	}
	return ""
}

// YieldingMetric is that of a route which gives way to one that anyone else makes to the
// same destination: those have metric 0, as all others of ours, unless told otherwise.
const YieldingMetric = 1

// Route sends packets for Dst out of the interface Dev, to the next hop Via. It
// is in the main table. If Nexthop is not 0, the route refers to
// the Nexthop of that number, and Via, Dev and Onlink are what that says. Without
// Via, the device itself takes the packets.
type Route struct {
	Dst     netip.Prefix
	Via     netip.Addr
	Dev     string
	Onlink  bool // as for Nexthop
	Nexthop uint32
	Metric  uint32 // 0 or YieldingMetric
}

// Key is the destination and the metric.
func (r Route) Key() Key { return Key{Kind: KindRoute, Dst: r.Dst, ID: r.Metric} }

func (r Route) String() string {
	metric := ""
	if r.Metric != 0 {
		metric = fmt.Sprintf(" metric %d", r.Metric)
	}
	if !r.Via.IsValid() {
		return fmt.Sprintf("route %s dev %s%s", r.Dst, r.Dev, metric)
	}
	return fmt.Sprintf("route %s via %s dev %s%s%s", r.Dst, r.Via, r.Dev, onlink(r.Onlink), metric)
}

// Needs is the nexthop or, without one, the device.
func (r Route) Needs() Key {
	if r.Nexthop != 0 {
		return Key{Kind: KindNexthop, ID: r.Nexthop}
	}
	return LinkKey(r.Dev)
}

// Same reports whether what is there is what is wanted. A route that refers to
// the right Nexthop is, whatever that says at the moment.
func Same(want, there Object) bool {
	switch w := want.(type) {
	case Route:
		if t, ok := there.(Route); ok && w.Nexthop != 0 {
			return t.Dst == w.Dst && t.Metric == w.Metric && t.Nexthop == w.Nexthop
		}
	case VXLAN:
		if t, ok := there.(VXLAN); ok && !w.TxChecksumOff {
			t.TxChecksumOff = false
			return t == w
		}
	}
	return want == there
}

// Needs returns the key of what an object cannot be without, if there is such a
// thing; it may be one that is not among the objects. Types that embed an object
// of this package need what that needs.
func Needs(o Object) (Key, bool) {
	if d, ok := o.(interface{ Needs() Key }); ok {
		return d.Needs(), true
	}
	return Key{}, false
}

// serves reports whether what is there, and is not ours, does what is wanted.
func serves(want, there Object) bool {
	if w, ok := want.(Route); ok {
		if t, ok := there.(Route); ok {
			w.Nexthop, t.Nexthop = 0, 0
			return w == t
		}
	}
	return want == there
}

// Set is objects by key.
type Set map[Key]Object

// Owner says whom something on the host belongs to.
type Owner uint8

// The owners. Only what is Ours is ever removed; what is Adoptable is replaced by what
// is wanted in its place.
const (
	Foreign   Owner = iota // someone else's
	Adoptable              // bears the marks of an older flannel, or of anyone
	Ours
)

// Entry is what a host has under one key.
type Entry struct {
	// Object is never nil; what this program would not make itself is of a
	// type of the target's own, and so equal to nothing that is wanted.
	Object Object
	Owner  Owner
	// Text says what is there and whose, in the target's own terms, where it is
	// not Ours.
	Text string
	// Front is set if the entry is Ours and something else under the same key comes
	// before it, and so is what the host uses.
	Front *Entry
}

// Have is what a host has, by key.
type Have map[Key]Entry
