package lab

import (
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"flanneld/pkg/ip"
)

// protoBoot is the protocol of a route that an administrator's script set.
const protoBoot = unix.RTPROT_BOOT

// Route is a route of the main table.
type Route struct {
	Dst      netip.Prefix
	Via      netip.Addr // zero for a network that is on the link
	Dev      string     // may be empty where Via tells
	Protocol int        // 0 is taken as 3, boot
	Metric   int
}

// AddRoute adds a route and fails if there is one to the same destination
// with the same metric.
func (ns *Namespace) AddRoute(r Route) error {
	route, err := ns.route(r)
	if err == nil {
		err = ns.nl.RouteAdd(route)
	}
	if err != nil {
		return fmt.Errorf("adding route to %s on %s: %w", r.Dst, ns.Name, err)
	}
	return nil
}

// ReplaceRoute adds a route in place of one to the same destination with the
// same metric, if there is one.
func (ns *Namespace) ReplaceRoute(r Route) error {
	route, err := ns.route(r)
	if err == nil {
		err = ns.nl.RouteReplace(route)
	}
	if err != nil {
		return fmt.Errorf("replacing route to %s on %s: %w", r.Dst, ns.Name, err)
	}
	return nil
}

// DelRoute deletes every route to a destination, and fails if there is none.
func (ns *Namespace) DelRoute(dst netip.Prefix) error {
	n, err := ns.delRoutes(func(r listed) bool { return r.dst == dst })
	if err == nil && n == 0 {
		err = unix.ESRCH
	}
	if err != nil {
		return fmt.Errorf("deleting route to %s on %s: %w", dst, ns.Name, err)
	}
	return nil
}

// DelRoutesByProtocol deletes every route with a protocol number, and says how
// many these were.
func (ns *Namespace) DelRoutesByProtocol(protocol int) (int, error) {
	n, err := ns.delRoutes(func(r listed) bool { return int(r.protocol) == protocol })
	if err != nil {
		return n, fmt.Errorf("deleting routes with protocol %d on %s: %w", protocol, ns.Name, err)
	}
	return n, nil
}

func (ns *Namespace) route(r Route) (*netlink.Route, error) {
	route := &netlink.Route{
		Dst:      ipNet(r.Dst),
		Table:    unix.RT_TABLE_MAIN,
		Protocol: netlink.RouteProtocol(r.Protocol),
		Priority: r.Metric,
	}
	if r.Protocol == 0 {
		route.Protocol = protoBoot
	}
	if r.Via.IsValid() {
		route.Gw = r.Via.AsSlice()
	} else {
		route.Scope = netlink.SCOPE_LINK
	}
	if r.Dev != "" {
		link, err := ns.nl.LinkByName(r.Dev)
		if err != nil {
			return nil, fmt.Errorf("looking up %s: %w", r.Dev, err)
		}
		route.LinkIndex = link.Attrs().Index
	}
	return route, nil
}

// delRoutes deletes the routes that match. It names them by what identifies
// them and leaves out the next hop, which the kernel refuses to compare for a
// route through a nexthop object.
func (ns *Namespace) delRoutes(match func(listed) bool) (int, error) {
	list, err := ns.listRoutes(ip.V4, ip.V6)
	if err != nil {
		return 0, err
	}
	n := 0
	for _, r := range list {
		if !match(r) {
			continue
		}
		err := ns.nl.RouteDel(&netlink.Route{
			Dst:      ipNet(r.dst),
			Table:    unix.RT_TABLE_MAIN,
			Scope:    netlink.SCOPE_NOWHERE,
			Protocol: netlink.RouteProtocol(r.protocol),
			Priority: int(r.priority),
			Tos:      int(r.tos),
			Type:     int(r.typ),
		})
		if err != nil {
			return n, err
		}
		n++
	}
	return n, nil
}

// WatchRoutes tells the destination of each route of the main table that
// appears or changes from now on, until stop is called, once.
func (ns *Namespace) WatchRoutes() (added <-chan string, stop func(), err error) {
	updates := make(chan netlink.RouteUpdate, 1024)
	done := make(chan struct{})
	err = ns.Do(func() error { return netlink.RouteSubscribe(updates, done) })
	if err != nil {
		return nil, nil, fmt.Errorf("watching the routes of %s: %w", ns.Name, err)
	}
	texts := make(chan string, 1024)
	go func() {
		defer close(texts)
		for u := range updates { // to its end: its sender waits for us
			if u.Type != unix.RTM_NEWROUTE || u.Table != unix.RT_TABLE_MAIN {
				continue
			}
			select {
			case texts <- prefix(u.Dst).String():
			case <-done:
			}
		}
	}()
	return texts, func() { close(done) }, nil
}
