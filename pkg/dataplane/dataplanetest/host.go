package dataplanetest

import (
	"net/netip"

	"flanneld/pkg/state"
)

// The owner marks of routes, by number as in iproute2's rt_protos.
const (
	ProtoKernel = 2
	ProtoBoot   = 3 // "ip route add" without a mark, and flannel
	ProtoStatic = 4
	ProtoOurs   = 70
)

// Route is a route of the main table as anyone may write it.
type Route struct {
	state.Route // with Nexthop, that tells where
	Protocol    int
	// ScopeLink is for one without Via: Dst is on the link itself. "ip route"
	// writes such routes so, unless it is told "scope global".
	ScopeLink bool
}

// Nexthop is a nexthop object as anyone may write it.
type Nexthop struct {
	state.Nexthop // without Via, packets go to the link itself
	Protocol      int
}

// Hindrance is a way to have a device carry no packets, though it stays up.
type Hindrance int

// The hindrances.
const (
	ProtoDown         Hindrance = iota // of VXLAN devices
	ProtoDownReasoned                  // of VXLAN devices: the kernel is told a reason as well
	NoARP                              // of VXLAN devices: neighbours go, and get no MAC address
	NoQueue                            // of TUN devices
	NoCarrier                          // of TUN devices that the program under test is attached to
	NoForwarding                       // of any
	NoIPv6                             // of VXLAN devices over IPv6
)

// Host is the hand of someone else on the host that a target is about.
type Host interface {
	AddLink(name string) error // it is up, with no address
	DelLink(name string) error
	SetLink(name string, up bool) error
	AddAddr(name string, p netip.Prefix) error
	DelAddr(name string, p netip.Prefix) error
	SetMAC(name string, m state.MAC) error
	SetMTU(name string, mtu int) error
	AddVXLAN(state.VXLAN) error // it is up, with no address
	SetAlias(name, alias string) error
	// Hinder has a device of ours carry no packets, in one of several ways.
	Hinder(name string, how Hindrance) error
	// AddTUN makes a TUN device, which is up and has no address, as another
	// process does. If it is not persistent, that process holds it.
	AddTUN(name, alias string, persistent bool) error
	// Attach attaches the program under test to a TUN device, or else another
	// process.
	Attach(name string, own bool) (detach func(), err error)

	// The neighbours and FDB entries as "ip neigh" and "bridge fdb" replace,
	// append and delete them. A neighbour is permanent or reachable.
	AddNeigh(n state.Neigh, permanent bool) error
	DelNeigh(dev string, a netip.Addr) error
	AddFDB(state.FDB) error
	AppendFDB(state.FDB) error
	DelFDB(state.FDB) error

	// The routes as "ip route" adds, appends, replaces and deletes them.
	AddRoute(Route) error
	AppendRoute(Route) error
	ReplaceRoute(Route) error
	DelRoute(Route) error

	// The nexthop objects as "ip nexthop" adds, replaces and deletes them.
	AddNexthop(Nexthop) error
	ReplaceNexthop(Nexthop) error
	DelNexthop(id uint32) error
}
