package udptunnel

import (
	"encoding/binary"
	"math/bits"
)

// The Internet checksum is the same in whatever byte order one adds, if the
// result is stored in that order. Here it is little endian throughout.
var order = binary.LittleEndian

// sum adds b to a partial sum. Only the last of several pieces may have an odd
// length.
func sum(b []byte, s uint64) uint64 {
	var c uint64
	for len(b) >= 128 {
		p := (*[128]byte)(b)
		s, c = bits.Add64(s, order.Uint64(p[0:8]), c)
		s, c = bits.Add64(s, order.Uint64(p[8:16]), c)
		s, c = bits.Add64(s, order.Uint64(p[16:24]), c)
		s, c = bits.Add64(s, order.Uint64(p[24:32]), c)
		s, c = bits.Add64(s, order.Uint64(p[32:40]), c)
		s, c = bits.Add64(s, order.Uint64(p[40:48]), c)
		s, c = bits.Add64(s, order.Uint64(p[48:56]), c)
		s, c = bits.Add64(s, order.Uint64(p[56:64]), c)
		s, c = bits.Add64(s, order.Uint64(p[64:72]), c)
		s, c = bits.Add64(s, order.Uint64(p[72:80]), c)
		s, c = bits.Add64(s, order.Uint64(p[80:88]), c)
		s, c = bits.Add64(s, order.Uint64(p[88:96]), c)
		s, c = bits.Add64(s, order.Uint64(p[96:104]), c)
		s, c = bits.Add64(s, order.Uint64(p[104:112]), c)
		s, c = bits.Add64(s, order.Uint64(p[112:120]), c)
		s, c = bits.Add64(s, order.Uint64(p[120:128]), c)
		b = b[128:]
	}
	for len(b) >= 8 {
		s, c = bits.Add64(s, order.Uint64(b), c)
		b = b[8:]
	}
	var last uint64
	for i, v := range b {
		last |= uint64(v) << (8 * i)
	}
	s, c = bits.Add64(s, last, c)
	s, c = bits.Add64(s, 0, c)
	return s + c
}

// fold makes 16 bits of a partial sum.
func fold(s uint64) uint16 {
	s = s>>32 + s&0xffffffff
	s = s>>32 + s&0xffffffff
	s = s>>16 + s&0xffff
	s = s>>16 + s&0xffff
	return uint16(s>>16 + s)
}

// pseudoSum is the sum of what TCP and UDP add in thought: both addresses of an
// IPv4 header, the protocol, and the length of what follows the header.
func pseudoSum(ip []byte, length int) uint64 {
	return uint64(order.Uint32(ip[12:])) + uint64(order.Uint32(ip[16:])) +
		uint64(ip[9])<<8 + swap16(length)
}

// adjust updates the checksum in b for two bytes that changed.
func adjust(b []byte, old, now uint16) {
	// As RFC 1624 has it: HC' = ~(~HC + ~m + m').
	order.PutUint16(b, ^fold(uint64(^order.Uint16(b))+uint64(^old)+uint64(now)))
}

func swap16(v int) uint64 { return uint64(bits.ReverseBytes16(uint16(v))) }
