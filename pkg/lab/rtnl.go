package lab

import (
	"errors"
	"net"

	"github.com/vishvananda/netlink"
)

// rtnl talks to the kernel about a namespace's interfaces and routes. Every
// call goes through Do, for a netlink.Handle that has been closed works on:
// with a new socket in the namespace of whoever calls, which would be the
// user's own.
type rtnl struct {
	ns     *Namespace
	handle *netlink.Handle
}

// ask repeats a listing that a change has broken.
func ask[T any](r rtnl, fn func() (T, error)) (v T, err error) {
	for {
		err = r.ns.Do(func() error {
			v, err = fn()
			return err
		})
		if !errors.Is(err, netlink.ErrDumpInterrupted) {
			return v, err
		}
	}
}

func (r rtnl) LinkByName(name string) (netlink.Link, error) {
	return ask(r, func() (netlink.Link, error) { return r.handle.LinkByName(name) })
}

func (r rtnl) LinkList() ([]netlink.Link, error) {
	return ask(r, func() ([]netlink.Link, error) { return r.handle.LinkList() })
}

func (r rtnl) LinkAdd(l netlink.Link) error {
	return r.ns.Do(func() error { return r.handle.LinkAdd(l) })
}

func (r rtnl) LinkDel(l netlink.Link) error {
	return r.ns.Do(func() error { return r.handle.LinkDel(l) })
}

func (r rtnl) LinkSetName(l netlink.Link, name string) error {
	return r.ns.Do(func() error { return r.handle.LinkSetName(l, name) })
}

func (r rtnl) LinkSetUp(l netlink.Link) error {
	return r.ns.Do(func() error { return r.handle.LinkSetUp(l) })
}

func (r rtnl) LinkSetDown(l netlink.Link) error {
	return r.ns.Do(func() error { return r.handle.LinkSetDown(l) })
}

func (r rtnl) LinkSetMTU(l netlink.Link, mtu int) error {
	return r.ns.Do(func() error { return r.handle.LinkSetMTU(l, mtu) })
}

func (r rtnl) LinkSetNoMaster(l netlink.Link) error {
	return r.ns.Do(func() error { return r.handle.LinkSetNoMaster(l) })
}

func (r rtnl) LinkSetMasterByIndex(l netlink.Link, index int) error {
	return r.ns.Do(func() error { return r.handle.LinkSetMasterByIndex(l, index) })
}

func (r rtnl) LinkSetHardwareAddr(l netlink.Link, mac net.HardwareAddr) error {
	return r.ns.Do(func() error { return r.handle.LinkSetHardwareAddr(l, mac) })
}

func (r rtnl) NeighList(link, family int) ([]netlink.Neigh, error) {
	return ask(r, func() ([]netlink.Neigh, error) { return r.handle.NeighList(link, family) })
}

func (r rtnl) NeighSet(n *netlink.Neigh) error {
	return r.ns.Do(func() error { return r.handle.NeighSet(n) })
}

func (r rtnl) NeighDel(n *netlink.Neigh) error {
	return r.ns.Do(func() error { return r.handle.NeighDel(n) })
}

func (r rtnl) AddrList(l netlink.Link, family int) ([]netlink.Addr, error) {
	return ask(r, func() ([]netlink.Addr, error) { return r.handle.AddrList(l, family) })
}

func (r rtnl) AddrAdd(l netlink.Link, a *netlink.Addr) error {
	return r.ns.Do(func() error { return r.handle.AddrAdd(l, a) })
}

func (r rtnl) AddrDel(l netlink.Link, a *netlink.Addr) error {
	return r.ns.Do(func() error { return r.handle.AddrDel(l, a) })
}

func (r rtnl) RouteListFiltered(family int, filter *netlink.Route, mask uint64) ([]netlink.Route, error) {
	return ask(r, func() ([]netlink.Route, error) { return r.handle.RouteListFiltered(family, filter, mask) })
}

func (r rtnl) RouteAdd(route *netlink.Route) error {
	return r.ns.Do(func() error { return r.handle.RouteAdd(route) })
}

func (r rtnl) RouteReplace(route *netlink.Route) error {
	return r.ns.Do(func() error { return r.handle.RouteReplace(route) })
}

func (r rtnl) RouteDel(route *netlink.Route) error {
	return r.ns.Do(func() error { return r.handle.RouteDel(route) })
}

func (r rtnl) RuleList(family int) ([]netlink.Rule, error) {
	return ask(r, func() ([]netlink.Rule, error) { return r.handle.RuleList(family) })
}

func (r rtnl) RuleAdd(rule *netlink.Rule) error {
	return r.ns.Do(func() error { return r.handle.RuleAdd(rule) })
}

func (r rtnl) RuleDel(rule *netlink.Rule) error {
	return r.ns.Do(func() error { return r.handle.RuleDel(rule) })
}
