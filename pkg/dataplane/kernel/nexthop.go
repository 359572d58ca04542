package kernel

import (
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"

	"flanneld/pkg/state"
)

// sizeofNhmsg is that of struct nhmsg.
const sizeofNhmsg = 8

// nexthopMessage adds a message about a nexthop. To delete one, nothing but its number
// matters.
func (b *batch) nexthopMessage(typ, flags uint16, seq uint32, n state.Nexthop, ifindex int) {
	if typ == unix.RTM_DELNEXTHOP {
		b.begin(typ, flags, seq, make([]byte, sizeofNhmsg))
		b.attr32(unix.NHA_ID, n.ID)
		b.end()
		return
	}
	header := [sizeofNhmsg]byte{familyOf(n.Via), 0, RouteProtocol, 0}
	native.PutUint32(header[4:], onlinkFlag(n.Onlink))
	b.begin(typ, flags, seq, header[:])
	b.attr32(unix.NHA_ID, n.ID)
	b.attr32(unix.NHA_OIF, uint32(ifindex))
	b.addr(unix.NHA_GATEWAY, n.Via)
	b.end()
}

// decodeNexthop reads the payload of a RTM_NEWNEXTHOP or RTM_DELNEXTHOP
// message.
func decodeNexthop(b []byte, links *links) (state.Entry, bool) {
	if len(b) < sizeofNhmsg {
		return state.Entry{}, false
	}
	protocol := b[2]
	n := state.Nexthop{Onlink: native.Uint32(b[4:])&unix.RTNH_F_ONLINK != 0}
	// The kernel does not turn a group, a blackhole or one for forwarding databases into
	// one of ours. The routes by it go along; they come back as any that is missing.
	var extra, remake bool
	for typ, data := range attrs(b[sizeofNhmsg:]) {
		switch typ {
		case unix.NHA_ID:
			n.ID = u32(data)
		case unix.NHA_OIF:
			n.Dev = links.name(int(u32(data)))
		case unix.NHA_GATEWAY:
			n.Via, _ = netip.AddrFromSlice(data)
		case unix.NHA_ENCAP, unix.NHA_ENCAP_TYPE:
			extra = true
		default:
			extra, remake = true, true
		}
	}
	if n.ID == 0 {
		return state.Entry{}, false
	}
	e := state.Entry{Object: n}
	if protocol == RouteProtocol {
		e.Owner = state.Ours
	} else {
		e.Text = fmt.Sprintf("%s proto %d", n, protocol)
	}
	if extra || !n.Via.IsValid() || n.Dev == "" {
		e.Object = unmanaged{Object: n, text: fmt.Sprintf("nexthop %d proto %d", n.ID, protocol), remake: remake}
	}
	return e, true
}
