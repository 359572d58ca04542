package kernel

import (
	"fmt"

	"golang.org/x/sys/unix"

	"flanneld/pkg/state"
)

// unmanagedFDB is an entry of a forwarding database such as this program does not
// make.
type unmanagedFDB struct {
	state.FDB
	text string
}

func (f unmanagedFDB) String() string { return f.text }

// Is implements state.Unmanaged.
func (f unmanagedFDB) Is() state.Object { return f.FDB }

// appendFDB adds the messages for op, whose objects are entries of forwarding
// databases. As for neighbours, to create is to replace.
func (b *batch) appendFDB(op state.Op, seq uint32, ifindex int) {
	remove := func(o state.Object, seq uint32) {
		if other, ok := o.(unmanagedFDB); ok {
			b.beginFDB(unix.RTM_DELNEIGH, 0, seq, other.MAC, ifindex) // whatever its destination
		} else {
			f := o.(state.FDB)
			b.beginFDB(unix.RTM_DELNEIGH, 0, seq, f.MAC, ifindex)
			b.addr(unix.NDA_DST, f.Dst)
		}
		b.end()
	}
	if op.Verb == state.Delete {
		remove(op.Have, seq)
		return
	}
	if _, odd := op.Have.(unmanagedFDB); odd { // not all of it can be replaced, as with a nexthop
		remove(op.Have, seq|aside)
	}
	f := op.Want.(state.FDB)
	b.beginFDB(unix.RTM_NEWNEIGH, unix.NLM_F_CREATE|unix.NLM_F_REPLACE, seq, f.MAC, ifindex)
	b.addr(unix.NDA_DST, f.Dst)
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
	e := state.Entry{Object: unmanagedFDB{f, text}}
	if permanent {
		e.Owner = state.Ours
	} else {
		e.Text = text
	}
	return e, true
}
