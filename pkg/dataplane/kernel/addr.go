package kernel

import (
	"fmt"
	"net/netip"
	"strings"

	"golang.org/x/sys/unix"

	"flanneld/pkg/state"
)

// unmanagedAddr is an address of a device of ours such as this program does not
// make.
type unmanagedAddr struct {
	state.Addr
	peer netip.Addr // of a point-to-point address; else the address itself
	text string
}

func (a unmanagedAddr) String() string { return a.text }

// Is implements state.Unmanaged.
func (a unmanagedAddr) Is() state.Object { return a.Addr }

// appendAddr adds the messages for op, whose objects are addresses.
func (b *batch) appendAddr(op state.Op, seq uint32, ifindex int) {
	remove := func(o state.Object, seq uint32) {
		if a, ok := o.(unmanagedAddr); ok {
			b.addrMessage(unix.RTM_DELADDR, 0, seq, a.Addr, a.peer, ifindex)
		} else {
			a := o.(state.Addr)
			b.addrMessage(unix.RTM_DELADDR, 0, seq, a, a.Prefix.Addr(), ifindex)
		}
	}
	if op.Verb == state.Delete {
		remove(op.Have, seq)
		return
	}
	if _, odd := op.Have.(unmanagedAddr); odd { // the kernel replaces next to nothing of an address
		remove(op.Have, seq|aside)
	}
	a := op.Want.(state.Addr)
	b.addrMessage(unix.RTM_NEWADDR, unix.NLM_F_CREATE|unix.NLM_F_REPLACE, seq, a, a.Prefix.Addr(), ifindex)
}

func (b *batch) addrMessage(typ, flags uint16, seq uint32, a state.Addr, peer netip.Addr, ifindex int) {
	header := [unix.SizeofIfAddrmsg]byte{familyOf(peer), byte(a.Prefix.Bits()), 0, unix.RT_SCOPE_UNIVERSE}
	native.PutUint32(header[4:], uint32(ifindex))
	b.begin(typ, flags, seq, header[:])
	b.addr(unix.IFA_LOCAL, a.Prefix.Addr())
	b.addr(unix.IFA_ADDRESS, peer)
	b.end()
}

// decodeAddr reads the payload of a RTM_NEWADDR or RTM_DELADDR message. It
// reports false for what is not an IPv4 address of a device of ours.
func decodeAddr(b []byte, links *links) (state.Entry, bool) {
	if len(b) < unix.SizeofIfAddrmsg || b[0] != unix.AF_INET {
		return state.Entry{}, false
	}
	dev := links.name(int(native.Uint32(b[4:])))
	if !links.ours(dev) {
		return state.Entry{}, false
	}
	bits, flags, scope := int(b[1]), uint32(b[2]), b[3]
	var local, peer netip.Addr
	label := dev
	for typ, data := range attrs(b[unix.SizeofIfAddrmsg:]) {
		switch typ {
		case unix.IFA_LOCAL:
			local, _ = netip.AddrFromSlice(data)
		case unix.IFA_ADDRESS:
			peer, _ = netip.AddrFromSlice(data)
		case unix.IFA_LABEL:
			label = unix.ByteSliceToString(data)
		case unix.IFA_FLAGS:
			flags = u32(data)
		}
	}
	if !peer.IsValid() {
		peer = local
	}
	if !local.Is4() || !peer.Is4() || bits > 32 {
		return state.Entry{}, false
	}
	a := state.Addr{Dev: dev, Prefix: netip.PrefixFrom(local, bits)}
	var odd strings.Builder
	if peer != local {
		fmt.Fprintf(&odd, " peer %s", peer)
	}
	if scope != unix.RT_SCOPE_UNIVERSE {
		fmt.Fprintf(&odd, " scope %d", scope)
	}
	if label != dev {
		fmt.Fprintf(&odd, " label %s", label)
	}
	// Secondary is what comes later to the same network: nothing of its own.
	if flags&^unix.IFA_F_SECONDARY != unix.IFA_F_PERMANENT {
		fmt.Fprintf(&odd, " flags %#x", flags)
	}
	if odd.Len() > 0 {
		return state.Entry{Object: unmanagedAddr{a, peer, a.String() + odd.String()}, Owner: state.Ours}, true
	}
	return state.Entry{Object: a, Owner: state.Ours}, true
}

// decodeLocal reads from the payload of an address message whose address it is about,
// by index, and that; the zero Prefix for what is not an IPv4 address.
func decodeLocal(b []byte) (index int, address netip.Prefix) {
	if len(b) < unix.SizeofIfAddrmsg || b[0] != unix.AF_INET {
		return 0, netip.Prefix{}
	}
	for typ, data := range attrs(b[unix.SizeofIfAddrmsg:]) {
		if a, ok := netip.AddrFromSlice(data); ok && typ == unix.IFA_LOCAL && a.Is4() {
			address = netip.PrefixFrom(a, int(b[1]))
		}
	}
	return int(native.Uint32(b[4:])), address
}

// addAddr puts e into have. The same address may be there with several peers: it
// keeps the plain one if there is one, and the others are seen when that is gone.
func addAddr(have state.Observed, e state.Entry) {
	k := e.Object.Key()
	if _, plain := have[k].Object.(state.Addr); !plain {
		have[k] = e
	}
}

// dumpAddrs calls f with each address of a device, as a message's payload.
func dumpAddrs(index int, f func([]byte)) error {
	header := [unix.SizeofIfAddrmsg]byte{unix.AF_INET}
	native.PutUint32(header[4:], uint32(index))
	return dump(unix.RTM_GETADDR, unix.RTM_NEWADDR, header[:], f)
}
