package udptunnel

import "encoding/binary"

// What the IPv4, TCP, UDP and ICMP headers have where.
const (
	ipLen  = 20 // without options
	tcpLen = 20 // without options
	udpLen = 8

	protoICMP = 1
	protoTCP  = 6
	protoUDP  = 17

	ipDF       = 0x4000
	ipMF       = 0x2000
	ipFragment = 0x1fff // the offset

	tcpFIN = 0x01
	tcpPSH = 0x08
	tcpACK = 0x10
	tcpECE = 0x40
	tcpCWR = 0x80

	maxPacket = 65535
	// maxDatagram is the most that fits behind an outer IP and UDP header.
	maxDatagram = maxPacket - ipLen - udpLen
)

// fault is why a packet is not IPv4 that could be forwarded; none if it is.
type fault int

const (
	none fault = iota
	notIPv4
	malformed
)

// trim checks the length fields of an IPv4 packet and cuts off what is behind it.
func trim(b []byte) ([]byte, fault) {
	if len(b) == 0 {
		return nil, malformed
	}
	if b[0]>>4 != 4 {
		return nil, notIPv4
	}
	if len(b) < ipLen {
		return nil, malformed
	}
	head, total := headLen(b), totalLen(b)
	if head < ipLen || total < head || total > len(b) {
		return nil, malformed
	}
	return b[:total], none
}

func headLen(ip []byte) int   { return int(ip[0]&0xf) * 4 }
func totalLen(ip []byte) int  { return int(binary.BigEndian.Uint16(ip[2:])) }
func ident(ip []byte) uint16  { return binary.BigEndian.Uint16(ip[4:]) }
func fragOf(ip []byte) uint16 { return binary.BigEndian.Uint16(ip[6:]) }
func srcOf(ip []byte) uint32  { return binary.BigEndian.Uint32(ip[12:]) }
func dstOf(ip []byte) uint32  { return binary.BigEndian.Uint32(ip[16:]) }

// isFragment tells whether there is more of the packet elsewhere.
func isFragment(ip []byte) bool { return fragOf(ip)&(ipMF|ipFragment) != 0 }

// decrementTTL counts a hop. The time to live was more than 0.
func decrementTTL(ip []byte) {
	old := order.Uint16(ip[8:])
	ip[8]--
	adjust(ip[10:], old, order.Uint16(ip[8:]))
}

// sumHeader sets the checksum of an IPv4 header.
func sumHeader(ip []byte) {
	ip[10], ip[11] = 0, 0
	order.PutUint16(ip[10:], ^fold(sum(ip, 0)))
}
