package kernel

import (
	"fmt"
	"net/netip"
	"strings"

	"golang.org/x/sys/unix"

	"flanneld/pkg/ip"
	"flanneld/pkg/state"
)

// RouteProtocol marks the routes that are ours: "proto 70" in ip-route(8). It
// is a number that no entry of iproute2's rt_protos has.
const RouteProtocol = 70

// rtaNHID is the attribute of a route that uses a nexthop object.
const rtaNHID = 30

// routeMessage adds a message about a route.
func (b *batch) routeMessage(typ, flags uint16, seq uint32, r state.Route, ifindex int) {
	var scope, kind byte = unix.RT_SCOPE_UNIVERSE, unix.RTN_UNICAST
	if typ == unix.RTM_DELROUTE {
		scope, kind = unix.RT_SCOPE_NOWHERE, unix.RTN_UNSPEC // match any
	}
	header := [unix.SizeofRtMsg]byte{
		familyOf(r.Dst.Addr()), byte(r.Dst.Bits()), 0, 0,
		unix.RT_TABLE_MAIN, RouteProtocol, scope, kind,
	}
	native.PutUint32(header[8:], onlinkFlag(r.Onlink && r.Nexthop == 0))
	b.begin(typ, flags, seq, header[:])
	b.addr(unix.RTA_DST, r.Dst.Addr())
	if p := basePriority(r.Dst.Addr()) + r.Metric; p != 0 {
		b.attr32(unix.RTA_PRIORITY, p)
	}
	switch {
	case r.Nexthop != 0:
		b.attr32(rtaNHID, r.Nexthop)
	default:
		if r.Via.IsValid() {
			b.addr(unix.RTA_GATEWAY, r.Via)
		}
		if ifindex != 0 {
			b.attr32(unix.RTA_OIF, uint32(ifindex))
		}
	}
	b.end()
}

// byDevice reports whether a route has a device only, and no next hop.
func byDevice(r state.Route) bool { return r.Dev != "" && !r.Via.IsValid() && r.Nexthop == 0 }

func familyOf(a netip.Addr) byte { return numberOf(ip.FamilyOf(a)) }

func numberOf(f ip.Family) byte {
	if f == ip.V4 {
		return unix.AF_INET
	}
	return unix.AF_INET6
}

// ip6Priority is IP6_RT_PRIO_USER, which the kernel takes if it is told none.
const ip6Priority = 1024

// basePriority is what the kernel has for the metric 0.
func basePriority(dst netip.Addr) uint32 {
	if dst.Is4() {
		return 0
	}
	return ip6Priority
}

func onlinkFlag(is bool) uint32 {
	if is {
		return unix.RTNH_F_ONLINK
	}
	return 0
}

// rawRoute is a route message, decoded.
type rawRoute struct {
	dst       netip.Prefix
	via       netip.Addr
	oif       int
	table     uint32
	priority  uint32
	tos       byte
	protocol  byte
	scope     byte
	typ       byte
	flags     uint32
	nexthop   uint32 // 0 for none
	multipath bool
	shared    int      // the interface of all next hops of a multipath route; 0 if they have several
	extra     []string // what routes of ours do not have
}

// metric is the route's, from 0 on; of one that goes before all such it is very large.
func (r rawRoute) metric() uint32 { return r.priority - basePriority(r.dst.Addr()) }

// keyed reports whether the route is of the main table, with a metric that ours have and
// for any type of service. Other routes have no key here.
func (r rawRoute) keyed() bool {
	return r.table == unix.RT_TABLE_MAIN && r.metric() <= state.YieldingMetric && r.tos == 0
}

// decodeRoute reads the payload of a RTM_NEWROUTE or RTM_DELROUTE message. It
// reports false for what is malformed, and for entries of route caches.
func decodeRoute(b []byte) (rawRoute, bool) {
	if len(b) < unix.SizeofRtMsg {
		return rawRoute{}, false
	}
	family, bits := b[0], int(b[1])
	r := rawRoute{
		tos: b[3], table: uint32(b[4]), protocol: b[5], scope: b[6], typ: b[7],
		flags: native.Uint32(b[8:]),
	}
	if family != unix.AF_INET && family != unix.AF_INET6 || r.flags&unix.RTM_F_CLONED != 0 {
		return rawRoute{}, false
	}
	dst := netip.IPv4Unspecified()
	if family == unix.AF_INET6 {
		dst = netip.IPv6Unspecified()
	}
	for typ, data := range attrs(b[unix.SizeofRtMsg:]) {
		switch typ {
		case unix.RTA_DST:
			dst, _ = netip.AddrFromSlice(data)
		case unix.RTA_GATEWAY:
			r.via, _ = netip.AddrFromSlice(data)
		case unix.RTA_OIF:
			r.oif = int(u32(data))
		case unix.RTA_TABLE:
			r.table = u32(data)
		case unix.RTA_PRIORITY:
			r.priority = u32(data)
		case unix.RTA_PREFSRC:
			src, _ := netip.AddrFromSlice(data)
			r.extra = append(r.extra, "src "+src.String())
		case unix.RTA_MULTIPATH:
			r.multipath, r.shared = true, sharedLink(data)
			r.extra = append(r.extra, "multipath")
		case rtaNHID:
			r.nexthop = u32(data)
		case unix.RTA_METRICS, unix.RTA_ENCAP, unix.RTA_VIA, unix.RTA_FLOW:
			r.extra = append(r.extra, fmt.Sprintf("attribute %d", typ))
		}
	}
	if !dst.IsValid() || bits > dst.BitLen() {
		return rawRoute{}, false
	}
	r.dst = netip.PrefixFrom(dst, bits)
	return r, true
}

// sharedLink returns the interface by which all next hops of a list lead; 0 if there are several.
func sharedLink(hops []byte) (index int) {
	for len(hops) >= unix.SizeofRtNexthop {
		length, i := int(native.Uint16(hops)), int(native.Uint32(hops[4:]))
		if length < unix.SizeofRtNexthop || index != 0 && i != index {
			return 0
		}
		index = i
		hops = hops[min(len(hops), (length+unix.RTNH_ALIGNTO-1)&^(unix.RTNH_ALIGNTO-1)):]
	}
	return index
}

// entry turns the route into what it is to the reconciler.
func (r rawRoute) entry(links *links) state.Entry {
	route := state.Route{Dst: r.dst, Via: r.via, Dev: links.name(r.oif), Onlink: r.flags&unix.RTNH_F_ONLINK != 0, Nexthop: r.nexthop, Metric: r.metric()}
	// Of a route by nexthop, the kernel may leave out where that leads. One that
	// "ip route" writes without a gateway has the scope of its link.
	plain := r.typ == unix.RTN_UNICAST && r.scope == unix.RT_SCOPE_UNIVERSE && len(r.extra) == 0 &&
		(r.nexthop != 0 || route.Dev != "")
	ours := r.protocol == RouteProtocol && !links.byName[route.Dev].foreign // else of whoever has the device
	if plain && ours {
		return state.Entry{Object: route, Owner: state.Ours}
	}
	e := state.Entry{Object: route, Text: r.text(route.Dev)}
	if !plain {
		e.Object = unmanaged{Object: route, text: e.Text}
	}
	switch {
	case ours:
		e.Owner = state.Ours
	case r.protocol == unix.RTPROT_BOOT: // as flannel writes them, and "ip route add"
		e.Owner = state.Adoptable
	}
	return e
}

var (
	typeNames = map[byte]string{
		unix.RTN_LOCAL: "local ", unix.RTN_BROADCAST: "broadcast ", unix.RTN_MULTICAST: "multicast ",
		unix.RTN_BLACKHOLE: "blackhole ", unix.RTN_UNREACHABLE: "unreachable ", unix.RTN_PROHIBIT: "prohibit ",
		unix.RTN_THROW: "throw ", unix.RTN_ANYCAST: "anycast ",
	}
	protocolNames = map[byte]string{
		unix.RTPROT_KERNEL: "kernel", unix.RTPROT_BOOT: "boot", unix.RTPROT_STATIC: "static",
		unix.RTPROT_DHCP: "dhcp", unix.RTPROT_BIRD: "bird", unix.RTPROT_ZEBRA: "zebra", unix.RTPROT_BGP: "bgp",
	}
)

// text words the route as ip-route(8) does.
func (r rawRoute) text(dev string) string {
	var b strings.Builder
	b.WriteString(typeNames[r.typ] + r.dst.String())
	if r.via.IsValid() {
		fmt.Fprintf(&b, " via %s", r.via)
	}
	if dev != "" {
		fmt.Fprintf(&b, " dev %s", dev)
	}
	if name, ok := protocolNames[r.protocol]; ok {
		fmt.Fprintf(&b, " proto %s", name)
	} else {
		fmt.Fprintf(&b, " proto %d", r.protocol)
	}
	if r.scope == unix.RT_SCOPE_LINK {
		b.WriteString(" scope link")
	}
	if r.nexthop != 0 {
		fmt.Fprintf(&b, " nhid %d", r.nexthop)
	}
	if r.flags&unix.RTNH_F_ONLINK != 0 {
		b.WriteString(" onlink")
	}
	if r.priority != 0 {
		fmt.Fprintf(&b, " metric %d", r.priority)
	}
	for _, x := range r.extra {
		b.WriteString(" " + x)
	}
	return b.String()
}
