package kernel

import (
	"fmt"

	"golang.org/x/sys/unix"

	"flanneld/pkg/state"
)

// fdbMessage adds a message about an entry of a forwarding database. One that is
// unmanaged is deleted whatever its destination.
func (b *batch) fdbMessage(typ, flags uint16, seq uint32, o state.Object, ifindex int) {
	f := as[state.FDB](o)
	b.beginFDB(typ, flags, seq, f.MAC, ifindex)
	if _, ok := o.(unmanaged); !ok {
		b.addr(unix.NDA_DST, f.Dst)
	}
	b.end()
}

func (b *batch) beginFDB(typ, flags uint16, seq uint32, m state.MAC, ifindex int) {
	b.beginNeigh(typ, flags, seq, unix.AF_BRIDGE, unix.NTF_SELF, ifindex)
	b.attr(unix.NDA_LLADDR, m[:])
}

// fdb returns the entry of the forwarding database of a device of ours; false if
// it is none, or for no one host. One that is not permanent is no one's.
func (r rawNeigh) fdb(dev string) (state.Entry, bool) {
	// A bridge has one of its own for each of its ports.
	if r.family != unix.AF_BRIDGE || r.flags&unix.NTF_SELF == 0 || !r.hasMAC || !r.mac.IsUnicast() {
		return state.Entry{}, false
	}
	f := state.FDB{Dev: dev, MAC: r.mac, Dst: r.dst}
	permanent := r.state == unix.NUD_PERMANENT
	if permanent && r.flags == unix.NTF_SELF && r.extra == 0 && r.dst.IsValid() {
		return state.Entry{Object: f, Owner: state.Ours}, true
	}
	text := fmt.Sprintf("%s state %#x flags %#x", f, r.state, r.flags)
	if r.extra != 0 {
		text += fmt.Sprintf(" attribute %d", r.extra)
	}
	// Not all of it can be replaced, such as a nexthop.
	e := state.Entry{Object: unmanaged{Object: f, text: text, remake: true}}
	if permanent {
		e.Owner = state.Ours
	} else {
		e.Text = text
	}
	return e, true
}
