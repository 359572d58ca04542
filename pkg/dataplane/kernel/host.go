package kernel

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

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
}

// Address is an address of an interface.
type Address struct {
	Prefix netip.Prefix
	// Deprecated: still valid, and not for new use.
	Deprecated bool
	// Temporary: an IPv6 privacy address.
	Temporary bool
}

// Passage is what decides whether packets can pass through an interface.
type Passage struct {
	Name string
	Up   bool
	// Carrier is false if the interface is up, and what is at its other end is not.
	Carrier bool
	// ProtoDown is whether someone keeps its carrier off.
	ProtoDown bool
	// Forwards is whether IPv4 packets that come in by it are forwarded.
	Forwards bool
	Addrs    []netip.Prefix // of IPv4
}

// Passages returns the interfaces, by index, and whether the host forwards IPv4 packets:
// whether interfaces that it will have do.
func (*Kernel) Passages(ctx context.Context) (all []Passage, hostForwarding bool, err error) {
	at := make(map[int]*Passage)
	err = uninterrupted(ctx, func() error {
		clear(at)
		return dump(unix.RTM_GETLINK, unix.RTM_NEWLINK, make([]byte, unix.SizeofIfInfomsg), func(payload []byte) {
			if r, ok := decodeLink(payload); ok {
				at[r.index] = &Passage{
					Name: r.name, Up: r.up, Carrier: !r.up || r.flags&unix.IFF_LOWER_UP != 0,
					ProtoDown: r.protoDown, Forwards: r.forwards,
				}
			}
		})
	})
	if err != nil {
		return nil, false, fmt.Errorf("listing interfaces: %w", err)
	}
	err = uninterrupted(ctx, func() error {
		for _, p := range at {
			p.Addrs = nil
		}
		return dumpAddrs(0, func(payload []byte) {
			index, address := decodeLocal(payload)
			if p := at[index]; p != nil && address.IsValid() {
				p.Addrs = append(p.Addrs, address)
			}
		})
	})
	if err != nil {
		return nil, false, fmt.Errorf("listing addresses: %w", err)
	}
	for _, index := range slices.Sorted(maps.Keys(at)) {
		all = append(all, *at[index])
	}
	return all, hostForwards(), nil
}

// DefaultRoute is a default route of the main table.
type DefaultRoute struct {
	Iface     string // empty for a multipath route
	Metric    int
	Multipath bool
}

// Interfaces returns the host's interfaces with their addresses, by index.
func (*Kernel) Interfaces(ctx context.Context) ([]Interface, error) {
	list, err := listLinks(ctx)
	if err != nil {
		return nil, err
	}
	ifaces := make([]Interface, len(list))
	at := make(map[int]*Interface, len(list))
	for i, l := range list {
		a := l.Attrs()
		ifaces[i] = Interface{
			Name: a.Name, Index: a.Index, MTU: a.MTU,
			Up:       a.RawFlags&unix.IFF_UP != 0,
			Running:  a.RawFlags&unix.IFF_UP != 0 && a.RawFlags&unix.IFF_RUNNING != 0,
			Loopback: a.Flags&net.FlagLoopback != 0,
			Dummy:    l.Type() == "dummy",
			Master:   a.MasterIndex,
			VXLAN:    l.Type() == "vxlan",
			Bridge:   l.Type() == "bridge",

			PointToPoint: a.RawFlags&(unix.IFF_POINTOPOINT|unix.IFF_NOARP) != 0,
		}
		if v, ok := l.(*netlink.Vxlan); ok {
			src, _ := netip.AddrFromSlice(v.SrcAddr)
			ifaces[i].Local = src.Unmap()
		}
		if len(a.HardwareAddr) == len(state.MAC{}) {
			ifaces[i].MAC = state.MAC(a.HardwareAddr)
		}
		at[a.Index] = &ifaces[i]
	}
	var addrs []netlink.Addr
	err = uninterrupted(ctx, func() (err error) {
		addrs, err = netlink.AddrList(nil, netlink.FAMILY_ALL)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("listing addresses: %w", err)
	}
	for _, a := range addrs {
		p, ok := prefixOf(a.IPNet)
		iface := at[a.LinkIndex]
		if !ok || iface == nil {
			continue
		}
		iface.Addrs = append(iface.Addrs, Address{
			Prefix:     p,
			Deprecated: a.Flags&unix.IFA_F_DEPRECATED != 0,
			Temporary:  a.Flags&unix.IFA_F_TEMPORARY != 0,
		})
	}
	slices.SortFunc(ifaces, func(a, b Interface) int { return a.Index - b.Index })
	return ifaces, nil
}

// DefaultRoutes returns the IPv4 default routes in the order in which the
// kernel lists them: lowest metric first.
func (*Kernel) DefaultRoutes(ctx context.Context) ([]DefaultRoute, error) {
	var routes []rawRoute
	err := uninterrupted(ctx, func() error {
		routes = routes[:0]
		return dumpRoutes(func(payload []byte) {
			if len(payload) < unix.SizeofRtMsg || payload[1] != 0 { // the length of the destination
				return // there may be 50,000
			}
			if r, ok := decodeRoute(payload); ok && r.table == unix.RT_TABLE_MAIN && r.typ == unix.RTN_UNICAST {
				routes = append(routes, r)
			}
		})
	})
	if err != nil && !errors.Is(err, unix.ENOENT) { // no route was ever in that table
		return nil, fmt.Errorf("listing routes: %w", err)
	}
	var defaults []DefaultRoute
	for _, r := range routes {
		d := DefaultRoute{Metric: int(r.priority), Multipath: r.multipath}
		if !d.Multipath {
			l, err := netlink.LinkByIndex(r.oif)
			if err != nil {
				continue // gone since
			}
			d.Iface = l.Attrs().Name
		}
		defaults = append(defaults, d)
	}
	return defaults, nil
}

// RouteTo returns the interface by which the kernel reaches a, and the source
// address that it prefers there.
func (*Kernel) RouteTo(a netip.Addr) (iface string, src netip.Addr, err error) {
	routes, err := netlink.RouteGet(a.AsSlice())
	if err == nil && len(routes) == 0 {
		err = errors.New("no route")
	}
	if err != nil {
		return "", netip.Addr{}, fmt.Errorf("looking up the route to %s: %w", a, err)
	}
	l, err := netlink.LinkByIndex(routes[0].LinkIndex)
	if err != nil {
		return "", netip.Addr{}, fmt.Errorf("looking up the interface towards %s: %w", a, err)
	}
	src, _ = netip.AddrFromSlice(routes[0].Src)
	return l.Attrs().Name, src.Unmap(), nil
}

func prefixOf(n *net.IPNet) (netip.Prefix, bool) {
	if n == nil {
		return netip.Prefix{}, false
	}
	a, ok := netip.AddrFromSlice(n.IP)
	ones, _ := n.Mask.Size()
	return netip.PrefixFrom(a.Unmap(), ones), ok
}
