package kernel

import (
	"net"
	"net/netip"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"flanneld/pkg/target/targettest"
)

// hand changes the namespace as someone else would. Its links are ends of veth
// pairs; the other end of eth0 is called eth0-far.
type hand struct{}

func (hand) AddLink(name string) error {
	attrs := netlink.NewLinkAttrs()
	attrs.Name = name
	v := &netlink.Veth{LinkAttrs: attrs, PeerName: name + "-far"}
	if err := netlink.LinkAdd(v); err != nil {
		return err
	}
	for _, end := range []string{v.PeerName, name} {
		l, err := netlink.LinkByName(end)
		if err != nil {
			return err
		}
		if err := netlink.LinkSetUp(l); err != nil {
			return err
		}
	}
	return nil
}

func (hand) DelLink(name string) error {
	l, err := netlink.LinkByName(name)
	if err != nil {
		return err
	}
	return netlink.LinkDel(l)
}

func (hand) SetLink(name string, up bool) error {
	l, err := netlink.LinkByName(name)
	if err != nil {
		return err
	}
	if up {
		return netlink.LinkSetUp(l)
	}
	return netlink.LinkSetDown(l)
}

func (hand) AddAddr(name string, p netip.Prefix) error {
	l, err := netlink.LinkByName(name)
	if err != nil {
		return err
	}
	return netlink.AddrAdd(l, &netlink.Addr{IPNet: ipNet(p)})
}

func (hand) DelAddr(name string, p netip.Prefix) error {
	l, err := netlink.LinkByName(name)
	if err != nil {
		return err
	}
	return netlink.AddrDel(l, &netlink.Addr{IPNet: ipNet(p)})
}

func (hand) AddRoute(r targettest.Route) error     { return edit(r, netlink.RouteAdd) }
func (hand) AppendRoute(r targettest.Route) error  { return edit(r, netlink.RouteAppend) }
func (hand) ReplaceRoute(r targettest.Route) error { return edit(r, netlink.RouteReplace) }
func (hand) DelRoute(r targettest.Route) error     { return edit(r, netlink.RouteDel) }

func edit(r targettest.Route, do func(*netlink.Route) error) error {
	l, err := netlink.LinkByName(r.Dev)
	if err != nil {
		return err
	}
	n := &netlink.Route{
		Dst: ipNet(r.Dst), LinkIndex: l.Attrs().Index, Table: unix.RT_TABLE_MAIN,
		Protocol: netlink.RouteProtocol(r.Protocol), Priority: r.Metric, Scope: netlink.SCOPE_LINK,
	}
	if r.Via.IsValid() {
		n.Gw, n.Scope = r.Via.AsSlice(), netlink.SCOPE_UNIVERSE
	}
	return do(n)
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

// freshHost returns the namespace without links, lo aside.
func freshHost(t *testing.T) hand {
	t.Helper()
	needNetns(t)
	t.Cleanup(func() {
		links, err := netlink.LinkList()
		if err != nil {
			t.Error(err)
		}
		for _, l := range links {
			if l.Attrs().Name != "lo" {
				_ = netlink.LinkDel(l) // it may have gone with the one before
			}
		}
	})
	return hand{}
}
