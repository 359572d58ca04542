package kernel

import (
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"

	"flanneld/pkg/state"
)

// Of linux/nexthop.h, which the unix package does not have in full.
const (
	sizeofNhmsg    = 8
	rtnlgrpNexthop = 32 // the group of notifications
)

// unmanagedNexthop is a nexthop such as this program does not make.
type unmanagedNexthop struct {
	state.Nexthop
	// remake is set if the kernel does not turn it into one of ours: it is a
	// group, a blackhole, or for forwarding databases.
	remake bool
	text   string
}

func (n unmanagedNexthop) String() string { return n.text }

// Is implements state.Unmanaged.
func (n unmanagedNexthop) Is() state.Object { return n.Nexthop }

func nexthopOf(o state.Object) state.Nexthop {
	if other, ok := o.(unmanagedNexthop); ok {
		return other.Nexthop
	}
	return o.(state.Nexthop)
}

// appendNexthop adds the message for op, whose objects are nexthops.
func (b *batch) appendNexthop(op state.Op, seq uint32, ifindex int) {
	var typ, flags uint16 = unix.RTM_NEWNEXTHOP, unix.NLM_F_CREATE
	switch op.Verb {
	case state.Create:
		flags |= unix.NLM_F_EXCL
	case state.Replace:
		flags |= unix.NLM_F_REPLACE
		if other, ok := op.Have.(unmanagedNexthop); ok && other.remake {
			// The routes by it go along. They come back as any that is missing.
			b.deleteNexthop(op.Key().ID, seq|aside)
		}
	case state.Delete:
		b.deleteNexthop(op.Key().ID, seq)
		return
	}
	n := nexthopOf(op.Want)
	header := [sizeofNhmsg]byte{familyOf(n.Via), 0, RouteProtocol, 0}
	native.PutUint32(header[4:], onlinkFlag(n.Onlink))
	b.begin(typ, flags, seq, header[:])
	b.attr32(unix.NHA_ID, n.ID)
	b.attr32(unix.NHA_OIF, uint32(ifindex))
	b.addr(unix.NHA_GATEWAY, n.Via)
	b.end()
}

func (b *batch) deleteNexthop(id, seq uint32) {
	b.begin(unix.RTM_DELNEXTHOP, 0, seq, make([]byte, sizeofNhmsg))
	b.attr32(unix.NHA_ID, id)
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
		e.Object = unmanagedNexthop{n, remake, fmt.Sprintf("nexthop %d proto %d", n.ID, protocol)}
	}
	return e, true
}
