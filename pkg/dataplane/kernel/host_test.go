package kernel

import (
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"flanneld/pkg/dataplane/dataplanetest"
)

// manual changes the namespace as someone else would. Its links are ends of veth
// pairs; the other end of eth0 is called eth0-far.
type manual struct{}

func (manual) AddLink(name string) error {
	attrs := netlink.NewLinkAttrs()
	attrs.Name = name
	v := &netlink.Veth{LinkAttrs: attrs, PeerName: strings.TrimPrefix(name, "flannel") + "-far"}
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

func (manual) DelLink(name string) error {
	return onLink(name, netlink.LinkDel)
}

func (manual) SetLink(name string, up bool) error {
	if up {
		return onLink(name, netlink.LinkSetUp)
	}
	return onLink(name, netlink.LinkSetDown)
}

func (manual) AddAddr(name string, p netip.Prefix) error {
	return onLink(name, func(l netlink.Link) error {
		return netlink.AddrAdd(l, &netlink.Addr{IPNet: ipNet(p), Flags: unix.IFA_F_NODAD})
	})
}

func (manual) DelAddr(name string, p netip.Prefix) error {
	return onLink(name, func(l netlink.Link) error { return netlink.AddrDel(l, &netlink.Addr{IPNet: ipNet(p)}) })
}

const (
	addNew   = unix.NLM_F_CREATE | unix.NLM_F_EXCL
	appendTo = unix.NLM_F_CREATE | unix.NLM_F_APPEND
	replace  = unix.NLM_F_CREATE | unix.NLM_F_REPLACE
)

func (manual) AddRoute(r dataplanetest.Route) error { return edit(r, unix.RTM_NEWROUTE, addNew) }

func (manual) AppendRoute(r dataplanetest.Route) error { return edit(r, unix.RTM_NEWROUTE, appendTo) }

func (manual) ReplaceRoute(r dataplanetest.Route) error { return edit(r, unix.RTM_NEWROUTE, replace) }
func (manual) DelRoute(r dataplanetest.Route) error     { return edit(r, unix.RTM_DELROUTE, 0) }

func (manual) AddNexthop(n dataplanetest.Nexthop) error     { return editNexthop(n, addNew) }
func (manual) ReplaceNexthop(n dataplanetest.Nexthop) error { return editNexthop(n, replace) }

func (manual) DelNexthop(id uint32) error {
	var b batch
	b.begin(unix.RTM_DELNEXTHOP, 0, 0, make([]byte, sizeofNhmsg))
	b.attr32(unix.NHA_ID, id)
	return b.send()
}

func edit(r dataplanetest.Route, typ, flags uint16) error {
	var scope byte = unix.RT_SCOPE_UNIVERSE
	if r.ScopeLink {
		scope = unix.RT_SCOPE_LINK
	}
	header := native.AppendUint32([]byte{
		familyOf(r.Dst.Addr()), byte(r.Dst.Bits()), 0, 0,
		unix.RT_TABLE_MAIN, byte(r.Protocol), scope, unix.RTN_UNICAST,
	}, onlinkFlag(r.Onlink && r.Nexthop == 0))
	var b batch
	b.begin(typ, flags, 0, header)
	b.attr(unix.RTA_DST, r.Dst.Addr().AsSlice())
	b.attr32(unix.RTA_PRIORITY, basePriority(r.Dst.Addr())+r.Metric)
	if r.Nexthop != 0 {
		b.attr32(rtaNHID, r.Nexthop)
		return b.send()
	}
	l, err := netlink.LinkByName(r.Dev)
	if err != nil {
		return err
	}
	b.attr32(unix.RTA_OIF, uint32(l.Attrs().Index))
	if r.Via.IsValid() {
		b.attr(unix.RTA_GATEWAY, r.Via.AsSlice())
	}
	return b.send()
}

func editNexthop(n dataplanetest.Nexthop, flags uint16) error {
	l, err := netlink.LinkByName(n.Dev)
	if err != nil {
		return err
	}
	var b batch
	b.begin(unix.RTM_NEWNEXTHOP, flags, 0, native.AppendUint32([]byte{familyOf(n.Via), 0, byte(n.Protocol), 0}, onlinkFlag(n.Onlink)))
	b.attr32(unix.NHA_ID, n.ID)
	b.attr32(unix.NHA_OIF, uint32(l.Attrs().Index))
	if n.Via.IsValid() {
		b.attr(unix.NHA_GATEWAY, n.Via.AsSlice())
	}
	return b.send()
}

// send sends the one message of the batch.
func (b *batch) send() error {
	b.end()
	return b.exchangeOne()
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

// freshHost returns the namespace without links, lo aside.
func freshHost(t *testing.T) manual {
	t.Helper()
	dataplanetest.NeedNetns(t)
	if err := os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for _, fd := range held {
			_ = fd.Close()
		}
		held = nil
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
	return manual{}
}
