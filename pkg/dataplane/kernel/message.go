package kernel

import (
	"encoding/binary"
	"iter"
	"net/netip"

	"golang.org/x/sys/unix"
)

// Netlink messages are built and read here by hand, with no allocation for each
// attribute: tens of thousands of routes are written and dumped at a time. Those about
// devices are, too: netlink libraries know neither protodown, forwarding and carrier nor
// all settings of VXLAN devices, and leave out what the kernel says about an error.

var native = binary.NativeEndian

// attrTypeMask leaves out the two flag bits of an attribute's type.
const attrTypeMask = 0x3fff

// aside and afterwards mark the sequence numbers of messages that go before a step's own and
// after it, and may fail.
const (
	aside      = 1 << 31
	afterwards = 1 << 30
)

// batch is netlink messages one after the other.
type batch struct {
	buf   []byte
	start int // of the last message
}

// begin adds a message with a header of family-specific bytes.
func (b *batch) begin(typ, flags uint16, seq uint32, header []byte) {
	b.start = len(b.buf)
	b.buf = native.AppendUint32(b.buf, 0) // length: set by end
	b.buf = native.AppendUint16(b.buf, typ)
	b.buf = native.AppendUint16(b.buf, flags|unix.NLM_F_REQUEST)
	b.buf = native.AppendUint32(b.buf, seq)
	b.buf = native.AppendUint32(b.buf, 0) // port: the kernel fills it in
	b.buf = append(b.buf, header...)
	b.pad()
}

func (b *batch) attr(typ uint16, data []byte) {
	b.buf = native.AppendUint16(b.buf, uint16(unix.SizeofRtAttr+len(data)))
	b.buf = native.AppendUint16(b.buf, typ)
	b.buf = append(b.buf, data...)
	b.pad()
}

func (b *batch) addr(typ uint16, a netip.Addr) {
	if a.Is4() {
		v := a.As4()
		b.attr(typ, v[:])
		return
	}
	v := a.As16()
	b.attr(typ, v[:])
}

func (b *batch) attr32(typ uint16, v uint32) {
	b.buf = native.AppendUint16(b.buf, unix.SizeofRtAttr+4)
	b.buf = native.AppendUint16(b.buf, typ)
	b.buf = native.AppendUint32(b.buf, v)
}

// nest begins an attribute that holds attributes; endNest ends it.
func (b *batch) nest(typ uint16) (start int) {
	start = len(b.buf)
	b.attr(typ, nil)
	return start
}

func (b *batch) endNest(start int) { native.PutUint16(b.buf[start:], uint16(len(b.buf)-start)) }

func (b *batch) pad() {
	for len(b.buf)%unix.NLMSG_ALIGNTO != 0 {
		b.buf = append(b.buf, 0)
	}
}

func (b *batch) end() {
	native.PutUint32(b.buf[b.start:], uint32(len(b.buf)-b.start))
}

// acknowledge asks for an answer to the last message even if it succeeds. It returns the
// number of that.
func (b *batch) acknowledge() (last uint32) {
	flags, seq := b.buf[b.start+6:], b.buf[b.start+8:]
	native.PutUint16(flags, native.Uint16(flags)|unix.NLM_F_ACK)
	return native.Uint32(seq)
}

func u32(b []byte) uint32 {
	if len(b) < 4 {
		return 0
	}
	return native.Uint32(b)
}

// attrs yields the attributes in b, by type. It stops at the first that is
// malformed.
func attrs(b []byte) iter.Seq2[uint16, []byte] {
	return func(yield func(uint16, []byte) bool) {
		for len(b) >= unix.SizeofRtAttr {
			n := int(native.Uint16(b))
			if n < unix.SizeofRtAttr || n > len(b) {
				return
			}
			if !yield(native.Uint16(b[2:])&attrTypeMask, b[unix.SizeofRtAttr:n]) {
				return
			}
			b = b[min((n+unix.RTA_ALIGNTO-1)&^(unix.RTA_ALIGNTO-1), len(b)):]
		}
	}
}
