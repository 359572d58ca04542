package kernel

import (
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"

	"flanneld/pkg/state"
)

// Of linux/nexthop.h, which the unix package does not have.
const (
	sizeofNhmsg = 8
	nhaID       = 1
	nhaOIF      = 5
	nhaGateway  = 6

	rtnlgrpNexthop = 32 // the group of notifications
)

// otherNexthop is a nexthop such as this program does not make.
type otherNexthop struct {
	state.Nexthop
	text string
}

func (n otherNexthop) String() string { return n.text }

func nexthopOf(o state.Object) state.Nexthop {
	if other, ok := o.(otherNexthop); ok {
		return other.Nexthop
	}
	return o.(state.Nexthop)
}

// appendNexthop adds the message for op, whose objects are nexthops.
func (b *batch) appendNexthop(op state.Op, seq uint32, ifindex int) {
	var typ, flags uint16 = unix.RTM_NEWNEXTHOP, unix.NLM_F_CREATE
	family, protocol := byte(unix.AF_UNSPEC), byte(0)
	switch op.Verb {
	case state.Create:
		flags |= unix.NLM_F_EXCL
	case state.Replace:
		flags |= unix.NLM_F_REPLACE
	case state.Delete:
		typ, flags = unix.RTM_DELNEXTHOP, 0
	}
	if op.Want != nil {
		family, protocol = familyOf(nexthopOf(op.Want).Via), RouteProtocol
	}
	b.begin(typ, flags, seq, []byte{family, 0, protocol, 0, 0, 0, 0, 0})
	b.attr32(nhaID, op.Key().ID)
	if op.Want != nil {
		b.attr32(nhaOIF, uint32(ifindex))
		b.attr(nhaGateway, nexthopOf(op.Want).Via.AsSlice())
	}
	b.end()
}

// decodeNexthop reads the payload of a RTM_NEWNEXTHOP or RTM_DELNEXTHOP
// message.
func decodeNexthop(b []byte, links *links) (state.Entry, bool) {
	if len(b) < sizeofNhmsg {
		return state.Entry{}, false
	}
	protocol := b[2]
	var n state.Nexthop
	var extra bool
	for typ, data := range attrs(b[sizeofNhmsg:]) {
		switch typ {
		case nhaID:
			n.ID = u32(data)
		case nhaOIF:
			n.Dev = links.name(int(u32(data)))
		case nhaGateway:
			n.Via, _ = netip.AddrFromSlice(data)
		default:
			extra = true
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
		e.Object = otherNexthop{n, fmt.Sprintf("nexthop %d proto %d", n.ID, protocol)}
	}
	return e, true
}
