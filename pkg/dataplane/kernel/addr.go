package kernel

import (
	"fmt"
	"net/netip"
	"strings"

	"golang.org/x/sys/unix"

	"flanneld/pkg/state"
)

// addrMessage adds a message about an address.
func (b *batch) addrMessage(typ, flags uint16, seq uint32, o state.Object, ifindex int) {
	p := as[state.Addr](o).Prefix
	peer := p.Addr()
	if u, ok := o.(unmanaged); ok {
		peer = u.peer
	}
	// Nobody else has the address, so nothing waits until that is found out.
	header := [unix.SizeofIfAddrmsg]byte{familyOf(peer), byte(p.Bits()), unix.IFA_F_NODAD, unix.RT_SCOPE_UNIVERSE}
	native.PutUint32(header[4:], uint32(ifindex))
	b.begin(typ, flags, seq, header[:])
	b.addr(unix.IFA_LOCAL, p.Addr())
	b.addr(unix.IFA_ADDRESS, peer)
	b.end()
}

// rawAddr is a message about an address of an interface, decoded.
type rawAddr struct {
	index int
	bits  int
	flags uint32
	scope byte
	local netip.Addr
	peer  netip.Addr // of a point-to-point address; else the address itself
	label string
}

// decodeAddr reads the payload of a RTM_NEWADDR or RTM_DELADDR message.
func decodeAddr(b []byte) (rawAddr, bool) {
	if len(b) < unix.SizeofIfAddrmsg {
		return rawAddr{}, false
	}
	r := rawAddr{index: int(native.Uint32(b[4:])), bits: int(b[1]), flags: uint32(b[2]), scope: b[3]}
	for typ, data := range attrs(b[unix.SizeofIfAddrmsg:]) {
		switch typ {
		case unix.IFA_LOCAL:
			r.local, _ = netip.AddrFromSlice(data)
		case unix.IFA_ADDRESS:
			r.peer, _ = netip.AddrFromSlice(data)
		case unix.IFA_LABEL:
			r.label = unix.ByteSliceToString(data)
		case unix.IFA_FLAGS:
			r.flags = u32(data)
		}
	}
	// Of IPv6, only what has a peer has both.
	if !r.local.IsValid() {
		r.local = r.peer
	}
	if !r.peer.IsValid() {
		r.peer = r.local
	}
	family := familyOf(r.local)
	return r, r.local.IsValid() && familyOf(r.peer) == family && b[0] == family && r.bits <= r.local.BitLen()
}

// entry turns the address into what it is to the reconciler; false if it is none on a device
// of ours, or such as the kernel gives to each.
func (r rawAddr) entry(links *links) (state.Entry, bool) {
	dev := links.name(r.index)
	v6 := r.local.Is6()
	if !links.ours(dev) || v6 && r.local.IsLinkLocalUnicast() {
		return state.Entry{}, false
	}
	a := state.Addr{Dev: dev, Prefix: netip.PrefixFrom(r.local, r.bits)}
	var differs strings.Builder
	if r.peer != r.local {
		fmt.Fprintf(&differs, " peer %s", r.peer)
	}
	if r.scope != unix.RT_SCOPE_UNIVERSE {
		fmt.Fprintf(&differs, " scope %d", r.scope)
	}
	if r.label != dev && r.label != "" {
		fmt.Fprintf(&differs, " label %s", r.label)
	}
	// Secondary is what comes later to the same network: nothing of its own. An address that
	// was looked for on the link is like one that was not, once it is of use.
	if r.flags&^(unix.IFA_F_SECONDARY|unix.IFA_F_NODAD) != unix.IFA_F_PERMANENT {
		fmt.Fprintf(&differs, " flags %#x", r.flags)
	}
	if v6 && !a.Prefix.IsSingleIP() {
		differs.WriteString(" which brings a route")
	}
	if differs.Len() == 0 {
		return state.Entry{Object: a, Owner: state.Ours}, true
	}
	// The kernel replaces next to nothing of an address.
	u := unmanaged{Object: a, text: a.String() + differs.String(), remake: true, peer: r.peer}
	return state.Entry{Object: u, Owner: state.Ours}, true
}

// addAddr puts e into have. The same address may be there with several peers: it
// keeps the plain one if there is one, and the others are seen when that is gone.
func addAddr(have state.Observed, e state.Entry) {
	k := e.Object.Key()
	if _, plain := have[k].Object.(state.Addr); !plain {
		have[k] = e
	}
}

// addrs are the addresses, of one device if index is not 0.
func addrs(index int) table {
	header := make([]byte, unix.SizeofIfAddrmsg) // of all families
	native.PutUint32(header[4:], uint32(index))
	return table{"addresses", unix.RTM_GETADDR, header}
}
