package kernel

import (
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"

	"flanneld/pkg/state"
)

// Of linux/neighbour.h, which the unix package does not have in full.
const (
	ndaProtocol = 12
	ndaFlagsExt = 15
)

// neighMessage adds a message about a neighbour. To delete one, its MAC address does not
// matter.
func (b *batch) neighMessage(typ, flags uint16, seq uint32, n state.Neigh, ifindex int) {
	b.beginNeigh(typ, flags, seq, familyOf(n.Addr), 0, ifindex)
	b.addr(unix.NDA_DST, n.Addr)
	if typ == unix.RTM_NEWNEIGH {
		b.attr(unix.NDA_LLADDR, n.MAC[:])
	}
	b.end()
}

// beginNeigh begins a message about a permanent entry of a neighbour table or,
// in the bridge family, of a forwarding database.
func (b *batch) beginNeigh(typ, flags uint16, seq uint32, family, entryFlags byte, ifindex int) {
	header := [unix.SizeofNdMsg]byte{0: family, 10: entryFlags}
	native.PutUint32(header[4:], uint32(ifindex))
	native.PutUint16(header[8:], unix.NUD_PERMANENT)
	b.begin(typ, flags, seq, header[:])
}

// rawNeigh is a message about an entry of a neighbour table or a forwarding
// database, decoded.
type rawNeigh struct {
	family  byte
	ifindex int
	state   uint16
	flags   byte
	dst     netip.Addr
	mac     state.MAC
	hasMAC  bool
	extra   uint16 // an attribute that entries of ours do not have
}

func decodeNeigh(b []byte) (rawNeigh, bool) {
	if len(b) < unix.SizeofNdMsg {
		return rawNeigh{}, false
	}
	r := rawNeigh{family: b[0], ifindex: int(native.Uint32(b[4:])), state: native.Uint16(b[8:]), flags: b[10]}
	for typ, data := range attrs(b[unix.SizeofNdMsg:]) {
		switch typ {
		case unix.NDA_DST:
			r.dst, _ = netip.AddrFromSlice(data)
		case unix.NDA_LLADDR:
			r.mac, r.hasMAC = macOf(data)
		case unix.NDA_CACHEINFO, unix.NDA_PROBES:
		case ndaFlagsExt:
			if u32(data) != 0 {
				r.extra = typ
			}
		default:
			r.extra = typ
		}
	}
	return r, true
}

// neigh returns the entry of the neighbour tables of a device of ours; false if it is none,
// or for an address that no peer has. One that is not permanent, or otherwise unlike ours, comes and goes by
// itself, or with what replaces it: it is no one's.
func (r rawNeigh) neigh(dev string) (state.Entry, bool) {
	if r.family == unix.AF_BRIDGE || !r.dst.IsValid() || r.dst.Is6() && !r.dst.IsGlobalUnicast() || r.flags&unix.NTF_PROXY != 0 {
		return state.Entry{}, false
	}
	n := state.Neigh{Dev: dev, Addr: r.dst, MAC: r.mac}
	// Who claims that an address is there, with ip-neighbour(8)'s "proto", is no matter.
	if r.state == unix.NUD_PERMANENT && r.flags == 0 && r.hasMAC && (r.extra == 0 || r.extra == ndaProtocol) {
		return state.Entry{Object: n, Owner: state.Ours}, true
	}
	u := unmanaged{Object: n, text: fmt.Sprintf("%s state %#x flags %#x", n, r.state, r.flags)}
	return state.Entry{Object: u, Text: u.text}, true
}

// Tables of neighbours are those of one device. A kernel before 4.20 may list all the same
// what others have.

// neighs are the tables of the neighbours of a device.
func neighs(index int) table {
	b := batch{buf: make([]byte, unix.SizeofNdMsg)} // of all families
	b.attr32(unix.NDA_IFINDEX, uint32(index))
	return table{"neighbours", unix.RTM_GETNEIGH, b.buf}
}

// fdb is the forwarding database of a device.
func fdb(index int) table {
	header := make([]byte, unix.SizeofNdMsg)
	header[0] = unix.AF_BRIDGE
	native.PutUint32(header[4:], uint32(index))
	return table{"the forwarding database", unix.RTM_GETNEIGH, header}
}
