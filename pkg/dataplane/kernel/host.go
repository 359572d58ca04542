package kernel

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"flanneld/pkg/ip"
	"flanneld/pkg/state"
)

// Interface is a network interface of the host.
type Interface struct {
	Name     string
	Index    int
	MTU      int // bytes
	Up       bool
	Running  bool // up, and with a carrier where it can have one
	Loopback bool
	Dummy    bool // of the kind dummy, such as kube-ipvs0: its packets go nowhere
	Master   int  // index of the bridge or bond that it is a port of; 0 for none
	// Local is the address that a VXLAN device sends from.
	Local netip.Addr
	// PointToPoint: it has no link with several hosts, or asks nobody for their addresses.
	PointToPoint bool

	MAC    state.MAC // zero if it has none of 48 bits
	VXLAN  bool      // a VXLAN device
	Bridge bool      // a bridge
	Addrs  []Address

	NoCarrier bool // it is up, and what is at its other end is not
	ProtoDown bool // someone keeps its carrier off
	Forwards  bool // IPv4 packets that come in by it are forwarded; of IPv6 the host alone decides
	NoIPv6    bool // IPv6 is disabled on it, or its MTU is too small for that
	// StrictSource: IPv4 packets that come in by it are dropped if the way back to where they are
	// from is by another interface (rp_filter).
	StrictSource bool
}

// Address is an address of an interface.
type Address struct {
	Prefix netip.Prefix
	// Deprecated: still valid, and not for new use.
	Deprecated bool
	// Temporary: an IPv6 privacy address.
	Temporary bool
	// Permanent: its lifetime has no end. What a router or DHCP brings has one.
	Permanent bool
	// Tentative: it is of no use yet, as another host on the link may have it.
	Tentative bool
	// Duplicate: it is of no use, as another host has it.
	Duplicate bool
}

// DefaultRoute is a default route of the main table.
type DefaultRoute struct {
	Iface  string // empty for a multipath route
	Metric int
	// Multipath: it has next hops by several interfaces.
	Multipath bool
}

// Interfaces returns the host's interfaces with their addresses, by index.
func (*Kernel) Interfaces(ctx context.Context) ([]Interface, error) {
	links, err := list(ctx, allLinks, decodeLink)
	if err != nil {
		return nil, err
	}
	addrs, err := list(ctx, addrs(0), decodeAddr)
	if err != nil {
		return nil, err
	}
	slices.SortFunc(links, func(a, b rawLink) int { return a.index - b.index })
	ifaces := make([]Interface, len(links))
	filterOfAll := reversePathFilter()
	at := make(map[int]*Interface, len(links))
	for i, l := range links {
		ifaces[i] = l.iface()
		ifaces[i].StrictSource = max(l.rpFilter, filterOfAll) == strictFilter
		at[l.index] = &ifaces[i]
	}
	for _, a := range addrs {
		if i := at[a.index]; i != nil {
			i.Addrs = append(i.Addrs, a.address())
		}
	}
	return ifaces, nil
}

// iface turns the link into an interface without addresses.
func (r rawLink) iface() Interface {
	is := func(flag uint32) bool { return r.flags&flag != 0 }
	return Interface{
		Name: r.name, Index: r.index, MTU: r.mtu, Master: r.master, MAC: r.mac,
		Up:       r.up,
		Running:  r.up && is(unix.IFF_RUNNING),
		Loopback: is(unix.IFF_LOOPBACK),
		Dummy:    r.kind == "dummy",
		VXLAN:    r.kind == "vxlan",
		Local:    r.vxlan.local,
		Bridge:   r.kind == "bridge",

		PointToPoint: is(unix.IFF_POINTOPOINT | unix.IFF_NOARP),
		NoCarrier:    r.up && !is(unix.IFF_LOWER_UP),
		ProtoDown:    r.protoDown,
		Forwards:     r.forwards,
		NoIPv6:       r.noIPv6,
	}
}

// address is the address as that of an interface. One with a peer is in no network.
func (r rawAddr) address() Address {
	if r.peer != r.local {
		r.bits = r.local.BitLen()
	}
	is := func(flag uint32) bool { return r.flags&flag != 0 }
	return Address{
		Prefix:     netip.PrefixFrom(r.local, r.bits),
		Deprecated: is(unix.IFA_F_DEPRECATED),
		Temporary:  is(unix.IFA_F_TEMPORARY) && r.local.Is6(), // in IPv4 it is IFA_F_SECONDARY
		Permanent:  is(unix.IFA_F_PERMANENT),
		Tentative:  is(unix.IFA_F_TENTATIVE) && !is(unix.IFA_F_OPTIMISTIC|unix.IFA_F_DADFAILED),
		Duplicate:  is(unix.IFA_F_DADFAILED),
	}
}

// Forwards reports whether this host forwards packets of a family at all; of IPv4, whether
// interfaces that it will have do. That is for the administrator to decide.
func (*Kernel) Forwards(f ip.Family) bool { return hostForwards(f) }

func hostForwards(f ip.Family) bool {
	name := "/proc/sys/net/ipv4/ip_forward"
	if f == ip.V6 {
		name = "/proc/sys/net/ipv6/conf/all/forwarding"
	}
	value, err := os.ReadFile(name)
	return err == nil && strings.TrimSpace(string(value)) != "0"
}

// strictFilter is the value of rp_filter that has the way back be by the same interface. 0 and
// 2 let it be another one. The larger of an interface's own value and that of all counts.
const strictFilter = 1

// reversePathFilter returns the value of rp_filter for all interfaces.
func reversePathFilter() uint32 {
	value, err := os.ReadFile("/proc/sys/net/ipv4/conf/all/rp_filter")
	if err != nil {
		return 0
	}
	n, _ := strconv.ParseUint(strings.TrimSpace(string(value)), 10, 32)
	return uint32(n)
}

// DefaultRoutes returns the default routes of a family in the order in which the
// kernel lists them: lowest metric first.
func (*Kernel) DefaultRoutes(ctx context.Context, f ip.Family) ([]DefaultRoute, error) {
	routes, err := list(ctx, mainRoutes(f), func(payload []byte) (r rawRoute, ok bool) {
		if len(payload) < unix.SizeofRtMsg || payload[0] != numberOf(f) || payload[1] != 0 { // the length of the destination
			return r, false // there may be 50,000
		}
		r, ok = decodeRoute(payload)
		return r, ok && r.table == unix.RT_TABLE_MAIN && r.typ == unix.RTN_UNICAST
	})
	if err != nil && !noTable(err) {
		return nil, err
	}
	var defaults []DefaultRoute
	for _, r := range routes {
		d := DefaultRoute{Metric: int(r.priority), Multipath: r.multipath && r.shared == 0}
		if !d.Multipath {
			l, ok, err := getLink(max(r.oif, r.shared), "")
			if !ok || err != nil {
				continue // gone since
			}
			d.Iface = l.name
		}
		defaults = append(defaults, d)
	}
	return defaults, nil
}

// RouteTo returns the interface by which the kernel reaches a, and the source
// address that it prefers there.
func (*Kernel) RouteTo(a netip.Addr) (iface string, src netip.Addr, err error) {
	var index int
	err = PathQuery{To: a}.ask(0, 0, func(payload []byte) {
		for typ, data := range attrs(payload[min(unix.SizeofRtMsg, len(payload)):]) {
			switch typ {
			case unix.RTA_OIF:
				index = int(u32(data))
			case unix.RTA_PREFSRC:
				src, _ = netip.AddrFromSlice(data)
			}
		}
	})
	if err != nil {
		return "", netip.Addr{}, fmt.Errorf("looking up the route to %s: %w", a, err)
	}
	l, ok, err := getLink(index, "")
	if err == nil && !ok {
		err = unix.ENODEV
	}
	if err != nil {
		return "", netip.Addr{}, fmt.Errorf("looking up the interface towards %s: %w", a, err)
	}
	return l.name, src, nil
}
