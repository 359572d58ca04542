package tun

import (
	"encoding/binary"

	"golang.org/x/sys/unix"
)

// HeaderLen is the length of a Header in front of a packet.
const HeaderLen = 10

// Header is what the kernel says of a packet that it did not finish, or joined
// from several: virtio_net_hdr in its language. The zero Header is that of an
// ordinary packet.
type Header struct {
	Flags uint8
	// GSO is the kind of the packets that were joined.
	GSO uint8
	// HeadLen is how much of the packet is headers; a hint.
	HeadLen uint16
	// Size is how much payload each of the joined packets has, but for the
	// last, which may have less.
	Size uint16
	// With NeedsChecksum, CsumStart is where to begin to sum, and CsumOffset
	// how much further the sum belongs. The sum of the pseudo header is there.
	CsumStart, CsumOffset uint16
}

// What Header has in Flags and GSO.
const (
	NeedsChecksum = unix.VIRTIO_NET_HDR_F_NEEDS_CSUM
	GSONone       = unix.VIRTIO_NET_HDR_GSO_NONE
	GSOTCP4       = unix.VIRTIO_NET_HDR_GSO_TCPV4
	GSOUDP        = unix.VIRTIO_NET_HDR_GSO_UDP_L4
	GSOWithCWR    = unix.VIRTIO_NET_HDR_GSO_ECN // with GSOTCP4: the first has CWR
)

// Decode reads a header from the front of b, which is long enough.
func (h *Header) Decode(b []byte) {
	_ = b[HeaderLen-1]
	h.Flags, h.GSO = b[0], b[1]
	h.HeadLen = binary.NativeEndian.Uint16(b[2:])
	h.Size = binary.NativeEndian.Uint16(b[4:])
	h.CsumStart = binary.NativeEndian.Uint16(b[6:])
	h.CsumOffset = binary.NativeEndian.Uint16(b[8:])
}

// Encode writes a header to the front of b, which is long enough.
func (h *Header) Encode(b []byte) {
	_ = b[HeaderLen-1]
	b[0], b[1] = h.Flags, h.GSO
	binary.NativeEndian.PutUint16(b[2:], h.HeadLen)
	binary.NativeEndian.PutUint16(b[4:], h.Size)
	binary.NativeEndian.PutUint16(b[6:], h.CsumStart)
	binary.NativeEndian.PutUint16(b[8:], h.CsumOffset)
}
