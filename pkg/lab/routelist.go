package lab

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"sort"
	"strings"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"flanneld/pkg/ip"
)

// rtaNHID is RTA_NH_ID of linux/rtnetlink.h: the netlink package leaves it out,
// so listings are read here.
const rtaNHID = 30

// listed is a route as the kernel lists it.
type listed struct {
	dst                       netip.Prefix
	tos, protocol, scope, typ uint8
	table, priority, mtu      uint32
	nexthop                   uint32 // the number of the nexthop object; 0 if there is none
	src                       netip.Addr
	hop                       hop
	hops                      []hop // of a multipath route
}

// hop is where a route leads.
type hop struct {
	via    netip.Addr
	index  int // of the interface
	flags  uint32
	weight int
}

// Routes lists the routes of the main table, the IPv4 ones if no families are given, sorted, in
// the manner of ip route show with every number as a number.
func (ns *Namespace) Routes(families ...ip.Family) ([]string, error) {
	list, err := ns.listRoutes(orIPv4(families)...)
	if err != nil {
		return nil, fmt.Errorf("listing the routes of %s: %w", ns.Name, err)
	}
	names, err := ns.linkNames()
	if err != nil {
		return nil, err
	}
	texts := make([]string, len(list))
	for i, r := range list {
		texts[i] = r.text(names)
	}
	sort.Strings(texts)
	return texts, nil
}

// linkNames are the names of the interfaces, by index.
func (ns *Namespace) linkNames() (map[int]string, error) {
	links, err := ns.nl.LinkList()
	if err != nil {
		return nil, fmt.Errorf("listing the interfaces of %s: %w", ns.Name, err)
	}
	names := map[int]string{}
	for _, l := range links {
		names[l.Attrs().Index] = l.Attrs().Name
	}
	return names, nil
}

// listRoutes repeats a listing that a change has broken.
func (ns *Namespace) listRoutes(families ...ip.Family) ([]listed, error) {
	var list []listed
	for _, f := range families {
		messages, err := ns.dump(unix.RTM_GETROUTE, unix.RTM_NEWROUTE, (&nl.RtMsg{RtMsg: unix.RtMsg{Family: uint8(afOf(f))}}).Serialize())
		if err != nil {
			return nil, err
		}
		for _, m := range messages {
			msg := nl.DeserializeRtMsg(m)
			r, err := readRoute(m)
			if err != nil {
				return nil, err
			}
			if msg.Flags&unix.RTM_F_CLONED == 0 && r.table == unix.RT_TABLE_MAIN {
				list = append(list, r)
			}
		}
	}
	return list, nil
}

// dump asks for a listing, again if a change has broken it.
func (ns *Namespace) dump(request int, answer uint16, header []byte) (messages [][]byte, err error) {
	for {
		err = ns.Do(func() (err error) {
			req := nl.NewNetlinkRequest(request, unix.NLM_F_DUMP)
			req.AddRawData(header)
			messages, err = req.Execute(unix.NETLINK_ROUTE, answer)
			return err
		})
		if !errors.Is(err, netlink.ErrDumpInterrupted) {
			return messages, err
		}
	}
}

// readRoute reads a message about a route.
func readRoute(m []byte) (listed, error) {
	msg := nl.DeserializeRtMsg(m)
	attrs, err := nl.ParseRouteAttr(m[msg.Len():])
	if err != nil {
		return listed{}, err
	}
	r := listed{
		tos: msg.Tos, protocol: msg.Protocol, scope: msg.Scope, typ: msg.Type, table: uint32(msg.Table),
		hop: hop{flags: msg.Flags},
	}
	dst := netip.IPv4Unspecified()
	if msg.Family == unix.AF_INET6 {
		dst = netip.IPv6Unspecified()
	}
	for _, a := range attrs {
		switch a.Attr.Type {
		case unix.RTA_DST:
			dst, _ = netip.AddrFromSlice(a.Value)
		case unix.RTA_GATEWAY:
			r.hop.via, _ = netip.AddrFromSlice(a.Value)
		case unix.RTA_OIF:
			r.hop.index = int(binary.NativeEndian.Uint32(a.Value))
		case unix.RTA_PREFSRC:
			r.src, _ = netip.AddrFromSlice(a.Value)
		case unix.RTA_TABLE:
			r.table = binary.NativeEndian.Uint32(a.Value)
		case unix.RTA_PRIORITY:
			r.priority = binary.NativeEndian.Uint32(a.Value)
		case rtaNHID:
			r.nexthop = binary.NativeEndian.Uint32(a.Value)
		case unix.RTA_METRICS:
			r.mtu, err = readMTU(a.Value)
		case unix.RTA_MULTIPATH:
			r.hops, err = readHops(a.Value)
		}
		if err != nil {
			return listed{}, err
		}
	}
	r.dst = netip.PrefixFrom(dst, int(msg.Dst_len))
	return r, nil
}

func readMTU(metrics []byte) (uint32, error) {
	attrs, err := nl.ParseRouteAttr(metrics)
	for _, a := range attrs {
		if a.Attr.Type == unix.RTAX_MTU {
			return binary.NativeEndian.Uint32(a.Value), nil
		}
	}
	return 0, err
}

func readHops(b []byte) ([]hop, error) {
	var hops []hop
	for len(b) >= unix.SizeofRtNexthop {
		n := nl.DeserializeRtNexthop(b)
		length := int(n.RtNexthop.Len)
		if length < unix.SizeofRtNexthop || length > len(b) {
			return nil, fmt.Errorf("a next hop of %d bytes", length)
		}
		attrs, err := nl.ParseRouteAttr(b[unix.SizeofRtNexthop:length])
		if err != nil {
			return nil, err
		}
		h := hop{index: int(n.Ifindex), flags: uint32(n.Flags), weight: int(n.Hops) + 1}
		for _, a := range attrs {
			if a.Attr.Type == unix.RTA_GATEWAY {
				h.via, _ = netip.AddrFromSlice(a.Value)
			}
		}
		hops = append(hops, h)
		b = b[length:]
	}
	return hops, nil
}

// routeTypes are the names of routes that do not lead anywhere.
var routeTypes = map[uint8]string{
	unix.RTN_BLACKHOLE:   "blackhole ",
	unix.RTN_UNREACHABLE: "unreachable ",
	unix.RTN_PROHIBIT:    "prohibit ",
	unix.RTN_THROW:       "throw ",
}

func (r listed) text(names map[int]string) string {
	var b strings.Builder
	b.WriteString(routeTypes[r.typ])
	if r.dst.Bits() == 0 {
		b.WriteString("default")
	} else {
		b.WriteString(r.dst.String())
	}
	if r.nexthop != 0 {
		fmt.Fprintf(&b, " nhid %d", r.nexthop)
	}
	r.hop.write(&b, names)
	fmt.Fprintf(&b, " proto %d", r.protocol)
	if r.scope != unix.RT_SCOPE_UNIVERSE {
		fmt.Fprintf(&b, " scope %s", netlink.Scope(r.scope))
	}
	if r.src.IsValid() {
		fmt.Fprintf(&b, " src %s", r.src)
	}
	if r.priority != 0 {
		fmt.Fprintf(&b, " metric %d", r.priority)
	}
	if r.mtu != 0 {
		fmt.Fprintf(&b, " mtu %d", r.mtu)
	}
	for _, h := range r.hops {
		b.WriteString(" nexthop")
		h.write(&b, names)
		fmt.Fprintf(&b, " weight %d", h.weight)
	}
	return b.String()
}

func (h hop) write(b *strings.Builder, names map[int]string) {
	if h.via.IsValid() {
		fmt.Fprintf(b, " via %s", h.via)
	}
	if h.index != 0 {
		fmt.Fprintf(b, " dev %s", names[h.index])
	}
	for _, f := range []struct {
		bit  uint32
		name string
	}{{unix.RTNH_F_ONLINK, "onlink"}, {unix.RTNH_F_LINKDOWN, "linkdown"}, {unix.RTNH_F_DEAD, "dead"}} {
		if h.flags&f.bit != 0 {
			b.WriteString(" " + f.name)
		}
	}
}
