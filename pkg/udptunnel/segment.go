package udptunnel

import (
	"encoding/binary"

	"flanneld/pkg/tun"
)

// joined cuts a packet up that the kernel left joined: it writes the headers of
// each segment to the arena and refers to the payload where it is.
func (e *encap) joined(peer uint32, b []byte, h tun.Header) {
	ip := headLen(b)
	heads, ok := headsOf(b, h.GSO)
	if !ok || h.Size == 0 || isFragment(b) {
		e.tally.add(OutMalformed, 1)
		return
	}
	size, payload := int(h.Size), b[heads:]
	if !e.fits(b, heads+min(size, len(payload))) {
		e.tally.add(OutTooBig, count(b, h))
		return
	}
	s := segmenter{
		proto: b[9], ip: ip, heads: heads, size: size, total: len(payload),
		withSum: b[9] == protoTCP || h.Flags&tun.NeedsChecksum != 0 || order.Uint16(b[ip+6:]) != 0,
	}
	for at := 0; at < len(payload); at += size {
		if len(e.heads)-e.used < heads {
			e.finish()
		}
		head := e.heads[e.used : e.used+heads : e.used+heads]
		body := payload[at:min(at+size, len(payload))]
		s.write(head, b[:heads], body, at)
		e.add(peer, head, body)
		e.used += heads
	}
}

// count is how many packets a packet is that may be joined ones.
func count(b []byte, h tun.Header) int {
	heads, ok := headsOf(b, h.GSO)
	if !ok || h.Size == 0 {
		return 1
	}
	return (len(b) - heads + int(h.Size) - 1) / int(h.Size)
}

// headsOf is the length of the headers in front of the payload of a joined
// packet, which must have some payload.
func headsOf(b []byte, gso uint8) (int, bool) {
	ip := headLen(b)
	switch {
	case gso&^tun.GSOWithCWR == tun.GSOTCP4 && b[9] == protoTCP && len(b) >= ip+tcpLen:
		heads := ip + int(b[ip+12]>>4)*4
		return heads, heads >= ip+tcpLen && heads < len(b)
	case gso == tun.GSOUDP && b[9] == protoUDP:
		return ip + udpLen, len(b) > ip+udpLen
	}
	return 0, false
}

// segmenter writes the headers of segments.
type segmenter struct {
	proto     byte
	ip, heads int // lengths: of the IPv4 header, of all headers
	size      int
	total     int  // bytes of payload in all segments
	withSum   bool // or it is UDP without a checksum
}

// write makes the headers of the segment whose payload begins at an offset from
// those of the whole, like the kernel would.
func (s *segmenter) write(head, whole, body []byte, at int) {
	copy(head, whole)
	ip, l4 := head[:s.ip], head[s.ip:]
	binary.BigEndian.PutUint16(ip[2:], uint16(s.heads+len(body)))
	binary.BigEndian.PutUint16(ip[4:], ident(whole)+uint16(at/s.size))
	ip[8]--
	sumHeader(ip)

	length := len(l4) + len(body)
	if s.proto == protoUDP {
		binary.BigEndian.PutUint16(l4[4:], uint16(length))
		l4[6], l4[7] = 0, 0
		if s.withSum {
			mangle(l4[6:], ^fold(sum(l4, sum(body, pseudoSum(ip, length)))))
		}
		return
	}
	binary.BigEndian.PutUint32(l4[4:], binary.BigEndian.Uint32(l4[4:])+uint32(at))
	if at > 0 {
		l4[13] &^= tcpCWR
	}
	if at+len(body) < s.total {
		l4[13] &^= tcpFIN | tcpPSH
	}
	l4[16], l4[17] = 0, 0
	order.PutUint16(l4[16:], ^fold(sum(l4, sum(body, pseudoSum(ip, length)))))
}
