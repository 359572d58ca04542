package udptunnel

import (
	"bytes"
	"encoding/binary"

	"golang.org/x/sys/unix"

	"flanneld/pkg/tun"
)

// group are consecutive packets of one flow, to be written as one. Only what
// would come out again if that one were cut up is joined, so nobody can tell the
// difference; and only what has a good checksum, for nobody looks at it later.
type group struct {
	n       int // packets; 0 is no group
	most    int // packets that there may be
	packets [maxJoined][]byte
	first   []byte // of them
	proto   byte
	heads   int // length of IPv4 and further header
	size    int // payload of each packet but the last
	total   int // length of the packet that is made
	seq     uint32
	step    uint16 // by which the ident grows
	lastFl  byte   // what only the last packet's TCP flags have
	closed  bool   // after a last packet
	checked bool   // the first packet's checksum is good
	head    [tun.HeaderLen + ipLen + 60]byte
	pieces  []unix.Iovec // the first is for head
}

// maxJoined is the most packets that are joined: the kernel takes 1024 pieces. Of
// UDP it takes no more than a socket could send at once.
const maxJoined = 512

// begin starts a group if a packet is one that others could follow. It is
// deliberately picky: the rest are written one by one and lose nothing.
func (g *group) begin(b []byte, tcp, udp bool) bool {
	if headLen(b) != ipLen || isFragment(b) {
		return false
	}
	switch {
	case b[9] == protoTCP && tcp && len(b) > ipLen+tcpLen:
		g.heads = ipLen + int(b[ipLen+12]>>4)*4
		if flags := b[ipLen+13]; g.heads < ipLen+tcpLen || flags&^tcpECE != tcpACK {
			return false // with PSH or FIN it is the last, with CWR alone
		}
		if g.heads >= len(b) {
			return false
		}
		g.most = maxJoined
		g.seq = binary.BigEndian.Uint32(b[ipLen+4:])
	case b[9] == protoUDP && udp && len(b) > ipLen+udpLen:
		g.heads, g.most = ipLen+udpLen, maxSegments
		if !soundUDP(b) {
			return false
		}
	default:
		return false
	}
	g.proto, g.first, g.packets[0], g.n = b[9], b, b, 1
	g.size, g.total = len(b)-g.heads, len(b)
	g.closed, g.checked, g.lastFl = false, false, 0
	if cap(g.pieces) == 0 {
		g.pieces = make([]unix.Iovec, 0, maxJoined+1)
	}
	g.pieces = append(g.pieces[:0], unix.Iovec{}, piece(b[g.heads:]))
	return true
}

// join adds a packet to the group if it is the next of the flow.
func (g *group) join(b []byte) bool {
	if g.closed || g.n == g.most || len(b) <= g.heads || len(b)-g.heads > g.size ||
		g.total+len(b)-g.heads > maxPacket || !g.sameIP(b) {
		return false
	}
	payload := b[g.heads:]
	var last byte
	if g.proto == protoTCP {
		if !g.nextTCP(b) {
			return false
		}
		last = b[ipLen+13] & (tcpPSH | tcpFIN)
	} else if !bytes.Equal(b[ipLen:ipLen+4], g.first[ipLen:ipLen+4]) || !soundUDP(b) {
		return false
	}
	if !g.checked {
		if !goodSum(g.first) {
			return false
		}
		g.checked = true
	}
	if !goodSum(b) {
		return false
	}
	g.pieces = append(g.pieces, piece(payload))
	g.packets[g.n] = b
	g.n++
	g.total += len(payload)
	g.lastFl = last
	g.closed = last != 0 || len(payload) < g.size
	return true
}

// sameIP compares IPv4 headers. The ident has to count up, as it does where a
// packet is cut up. Some senders have it always the same on packets that are never
// fragmented, where it means nothing.
func (g *group) sameIP(b []byte) bool {
	f := g.first
	if b[0] != f[0] || b[1] != f[1] || fragOf(b) != fragOf(f) ||
		order.Uint16(b[8:]) != order.Uint16(f[8:]) || order.Uint64(b[12:]) != order.Uint64(f[12:]) {
		return false
	}
	diff := ident(b) - ident(f)
	if g.n == 1 {
		g.step = diff
		return diff == 1 || diff == 0 && fragOf(b)&ipDF != 0
	}
	return diff == g.step*uint16(g.n)
}

// nextTCP tells whether b is the segment that follows, alike but for its place
// and the flags that end a row.
func (g *group) nextTCP(b []byte) bool {
	t, f := b[ipLen:g.heads], g.first[ipLen:g.heads]
	return order.Uint32(t) == order.Uint32(f) &&
		binary.BigEndian.Uint32(t[4:]) == g.seq+uint32(g.n*g.size) &&
		order.Uint32(t[8:]) == order.Uint32(f[8:]) &&
		t[12] == f[12] && t[13]&^(tcpPSH|tcpFIN) == f[13] &&
		order.Uint16(t[14:]) == order.Uint16(f[14:]) &&
		bytes.Equal(t[18:], f[18:])
}

// soundUDP tells whether UDP's length is right and there is a checksum.
func soundUDP(b []byte) bool {
	return int(binary.BigEndian.Uint16(b[ipLen+4:])) == len(b)-ipLen && order.Uint16(b[ipLen+6:]) != 0
}

// goodSum verifies the TCP or UDP checksum of a packet without IPv4 options.
func goodSum(b []byte) bool {
	return fold(sum(b[ipLen:], pseudoSum(b, len(b)-ipLen))) == 0xffff
}

// packet returns the pieces of the packet that was joined.
func (g *group) packet() []unix.Iovec {
	h := tun.Header{
		Flags: tun.NeedsChecksum, GSO: tun.GSOTCP4,
		HeadLen: uint16(g.heads), Size: uint16(g.size),
		CsumStart: ipLen, CsumOffset: 16,
	}
	ip := g.head[tun.HeaderLen : tun.HeaderLen+g.heads]
	copy(ip, g.first[:g.heads])
	binary.BigEndian.PutUint16(ip[2:], uint16(g.total))
	sumHeader(ip[:ipLen])
	l4 := ip[ipLen:]
	if g.proto == protoUDP {
		h.GSO, h.CsumOffset = tun.GSOUDP, 6
		binary.BigEndian.PutUint16(l4[4:], uint16(g.total-ipLen))
	} else {
		l4[13] |= g.lastFl
	}
	h.Encode(g.head[:])
	// The kernel wants the pseudo header's sum, and adds the rest.
	order.PutUint16(l4[h.CsumOffset:], fold(pseudoSum(ip, g.total-ipLen)))
	g.pieces[0] = piece(g.head[:tun.HeaderLen+g.heads])
	return g.pieces
}
