package lab

import (
	"encoding/binary"
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"flanneld/pkg/ip"
)

// Of linux/nexthop.h, which the netlink package does not have.
const (
	sizeofNhmsg = 8
	nhaID       = 1
	nhaOIF      = 5
	nhaGateway  = 6
)

// Nexthop is a nexthop object with a gateway.
type Nexthop struct {
	ID       uint32
	Via      netip.Addr
	Dev      string
	Protocol int
	Onlink   bool
}

// Nexthops lists the nexthop objects.
func (ns *Namespace) Nexthops() ([]Nexthop, error) {
	messages, err := ns.dump(unix.RTM_GETNEXTHOP, unix.RTM_NEWNEXTHOP, make([]byte, sizeofNhmsg))
	if err != nil {
		return nil, fmt.Errorf("listing the nexthops of %s: %w", ns.Name, err)
	}
	names, err := ns.linkNames()
	if err != nil {
		return nil, err
	}
	list := make([]Nexthop, len(messages))
	for i, m := range messages {
		n := Nexthop{Protocol: int(m[2]), Onlink: binary.NativeEndian.Uint32(m[4:])&unix.RTNH_F_ONLINK != 0}
		attrs, err := nl.ParseRouteAttr(m[sizeofNhmsg:])
		if err != nil {
			return nil, fmt.Errorf("listing the nexthops of %s: %w", ns.Name, err)
		}
		for _, a := range attrs {
			switch a.Attr.Type {
			case nhaID:
				n.ID = binary.NativeEndian.Uint32(a.Value)
			case nhaOIF:
				n.Dev = names[int(binary.NativeEndian.Uint32(a.Value))]
			case nhaGateway:
				n.Via, _ = netip.AddrFromSlice(a.Value)
			}
		}
		list[i] = n
	}
	return list, nil
}

// ReplaceNexthop adds a nexthop object in place of the one of its number, if
// there is one.
func (ns *Namespace) ReplaceNexthop(n Nexthop) error {
	link, err := ns.nl.LinkByName(n.Dev)
	if err != nil {
		return fmt.Errorf("looking up %s: %w", n.Dev, err)
	}
	header := []byte{byte(afOf(ip.FamilyOf(n.Via))), 0, byte(n.Protocol), 0, 0, 0, 0, 0}
	if n.Onlink {
		binary.NativeEndian.PutUint32(header[4:], unix.RTNH_F_ONLINK)
	}
	err = ns.change(unix.RTM_NEWNEXTHOP, unix.NLM_F_CREATE|unix.NLM_F_REPLACE, header,
		nl.NewRtAttr(nhaID, nl.Uint32Attr(n.ID)),
		nl.NewRtAttr(nhaOIF, nl.Uint32Attr(uint32(link.Attrs().Index))),
		nl.NewRtAttr(nhaGateway, n.Via.AsSlice()))
	if err != nil {
		return fmt.Errorf("replacing nexthop %d on %s: %w", n.ID, ns.Name, err)
	}
	return nil
}

// DelNexthop deletes a nexthop object, and the kernel with it the routes that
// refer to it.
func (ns *Namespace) DelNexthop(id uint32) error {
	err := ns.change(unix.RTM_DELNEXTHOP, 0, make([]byte, sizeofNhmsg), nl.NewRtAttr(nhaID, nl.Uint32Attr(id)))
	if err != nil {
		return fmt.Errorf("deleting nexthop %d on %s: %w", id, ns.Name, err)
	}
	return nil
}

// AddRouteByNexthop adds a route that refers to a nexthop object.
func (ns *Namespace) AddRouteByNexthop(dst netip.Prefix, id uint32, protocol int) error {
	msg := nl.NewRtMsg()
	msg.Family, msg.Dst_len, msg.Protocol = uint8(afOf(ip.FamilyOf(dst.Addr()))), uint8(dst.Bits()), uint8(protocol)
	err := ns.change(unix.RTM_NEWROUTE, unix.NLM_F_CREATE|unix.NLM_F_EXCL, msg.Serialize(),
		nl.NewRtAttr(unix.RTA_DST, dst.Addr().AsSlice()), nl.NewRtAttr(rtaNHID, nl.Uint32Attr(id)))
	if err != nil {
		return fmt.Errorf("adding route to %s by nexthop %d on %s: %w", dst, id, ns.Name, err)
	}
	return nil
}

func (ns *Namespace) change(typ, flags int, header []byte, attrs ...*nl.RtAttr) error {
	for _, a := range attrs {
		header = append(header, a.Serialize()...)
	}
	return ns.Do(func() error {
		req := nl.NewNetlinkRequest(typ, flags|unix.NLM_F_ACK)
		req.AddRawData(header)
		_, err := req.Execute(unix.NETLINK_ROUTE, 0)
		return err
	})
}
