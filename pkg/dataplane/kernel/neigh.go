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

// unmanagedNeigh is a neighbour entry such as this program does not make.
type unmanagedNeigh struct {
	state.Neigh
	state uint16
	flags byte
}

func (n unmanagedNeigh) String() string {
	return fmt.Sprintf("%s state %#x flags %#x", n.Neigh, n.state, n.flags)
}

// Is implements state.Unmanaged.
func (n unmanagedNeigh) Is() state.Object { return n.Neigh }

func neighOf(o state.Object) state.Neigh {
	if other, ok := o.(unmanagedNeigh); ok {
		return other.Neigh
	}
	return o.(state.Neigh)
}

// appendNeigh adds the message for op, whose objects are neighbours. What the
// kernel found out by itself may be there at any time, so that to create is to
// replace.
func (b *batch) appendNeigh(op state.Op, seq uint32, ifindex int) {
	if op.Verb == state.Delete {
		n := neighOf(op.Have)
		b.beginNeigh(unix.RTM_DELNEIGH, 0, seq, familyOf(n.Addr), 0, ifindex)
		b.addr(unix.NDA_DST, n.Addr)
		b.end()
		return
	}
	n := op.Want.(state.Neigh)
	b.beginNeigh(unix.RTM_NEWNEIGH, unix.NLM_F_CREATE|unix.NLM_F_REPLACE, seq, familyOf(n.Addr), 0, ifindex)
	b.addr(unix.NDA_DST, n.Addr)
	b.attr(unix.NDA_LLADDR, n.MAC[:])
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

// neigh returns the entry of the IPv4 neighbour table of a device of ours; false
// if it is none. One that is not permanent, or otherwise odd, comes and goes by
// itself, or with what replaces it: it is no one's.
func (r rawNeigh) neigh(dev string) (state.Entry, bool) {
	if r.family != unix.AF_INET || !r.dst.Is4() || r.flags&unix.NTF_PROXY != 0 {
		return state.Entry{}, false
	}
	n := state.Neigh{Dev: dev, Addr: r.dst, MAC: r.mac}
	// Who says an address is there, with ip-neighbour(8)'s "proto", is no matter.
	if r.state == unix.NUD_PERMANENT && r.flags == 0 && r.hasMAC && (r.extra == 0 || r.extra == ndaProtocol) {
		return state.Entry{Object: n, Owner: state.Ours}, true
	}
	other := unmanagedNeigh{n, r.state, r.flags}
	return state.Entry{Object: other, Text: other.String()}, true
}

// dumpNeighs calls f with each entry of the neighbour table of a device.
func dumpNeighs(index int, f func(rawNeigh)) error {
	var b batch
	b.buf = append(make([]byte, 0, 32), unix.AF_INET)
	b.buf = b.buf[:unix.SizeofNdMsg]
	b.attr32(unix.NDA_IFINDEX, uint32(index))
	return dumpTable(b.buf, index, f)
}

// dumpFDB calls f with each entry of the forwarding database of a device.
func dumpFDB(index int, f func(rawNeigh)) error {
	header := [unix.SizeofNdMsg]byte{unix.AF_BRIDGE}
	native.PutUint32(header[4:], uint32(index))
	return dumpTable(header[:], index, f)
}

func dumpTable(header []byte, index int, f func(rawNeigh)) error {
	return dump(unix.RTM_GETNEIGH, unix.RTM_NEWNEIGH, header, func(payload []byte) {
		// A kernel before 4.20 may send those of all devices.
		if r, ok := decodeNeigh(payload); ok && r.ifindex == index {
			f(r)
		}
	})
}
