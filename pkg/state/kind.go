package state

import (
	"fmt"
	"net/netip"
)

// Kind of an object. Kinds are numbered in the order of dependency: what has a higher
// number may need what has a lower one. So it is added later and deleted earlier. The
// numbers leave room for kinds between.
type Kind uint8

// The kinds of objects. What each needs, whose it is and what goes with it, its objects
// say: see Object.
const (
	KindLink           Kind = 10 // VXLAN, TUN
	KindAddr           Kind = 20
	KindNeigh          Kind = 30 // tells to whom an FDB entry belongs: it comes first and goes last
	KindFDB            Kind = 40
	KindTunnel         Kind = 50
	KindTunnelPeer     Kind = 60
	KindNexthop        Kind = 70
	KindRoute          Kind = 80
	KindMasquerade     Kind = 90
	KindForward        Kind = 100
	KindCloudInterface Kind = 110
	KindCloudRoute     Kind = 120
)

// kindNames are for people.
var kindNames = map[Kind]string{
	KindLink:           "device",
	KindAddr:           "address",
	KindNeigh:          "neighbour",
	KindFDB:            "FDB entry",
	KindTunnel:         "tunnel",
	KindTunnelPeer:     "tunnel peer",
	KindNexthop:        "nexthop",
	KindRoute:          "route",
	KindMasquerade:     "masquerading",
	KindForward:        "forwarding",
	KindCloudInterface: "cloud interface",
	KindCloudRoute:     "cloud route",
}

func (k Kind) String() string {
	if text := kindNames[k]; text != "" {
		return text
	}
	return fmt.Sprintf("kind %d", uint8(k))
}

// Key says which object something is: a host has at most one of each key that is ours.
type Key struct {
	Kind Kind
	MAC  MAC    // of FDB entries
	ID   uint32 // of nexthops the number, of routes the metric
	// Scope is where the rest of the key counts: the device, the route table, the
	// backend that writes rules for packets. Of a device it is the name.
	Scope string
	// Prefix is the destination, the network or the address.
	Prefix netip.Prefix
}
