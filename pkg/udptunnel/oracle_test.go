package udptunnel

import (
	"encoding/binary"
	"net/netip"
	"slices"

	"flanneld/pkg/tun"
)

// The oracle does what a tunnel does, one packet after the other, in the most
// obvious way. It shares no code with what it judges.

func slowSum(b []byte) uint16 {
	s := uint32(0)
	for i, v := range b {
		if i%2 == 0 {
			s += uint32(v) << 8
		} else {
			s += uint32(v)
		}
		for s > 0xffff {
			s = s&0xffff + s>>16
		}
	}
	return ^uint16(s)
}

// slowL4Sum is the checksum of TCP or UDP in a packet, whose field holds 0.
func slowL4Sum(p []byte) uint16 {
	ihl := int(p[0]&15) * 4
	pseudo := slices.Concat(p[12:20], []byte{0, p[9]}, binary.BigEndian.AppendUint16(nil, uint16(len(p)-ihl)))
	return slowSum(append(pseudo, p[ihl:]...))
}

// slowHop counts a hop. A checksum that is wrong stays so, by as much.
func slowHop(p []byte) {
	ihl := int(p[0]&15) * 4
	wrong := slowSum(p[:ihl])
	p[8]--
	if wrong != 0 {
		v := uint32(^binary.BigEndian.Uint16(p[10:])) + uint32(^(uint16(p[8]+1)<<8 | uint16(p[9]))) + uint32(binary.BigEndian.Uint16(p[8:]))
		v = v&0xffff + v>>16
		binary.BigEndian.PutUint16(p[10:], ^uint16(v&0xffff+v>>16))
		return
	}
	p[10], p[11] = 0, 0
	binary.BigEndian.PutUint16(p[10:], slowSum(p[:ihl]))
}

// slowPlain tells whether b is a good IPv4 packet, and returns it without what is
// behind it.
func slowPlain(b []byte) ([]byte, bool) {
	if len(b) < 20 || b[0]>>4 != 4 {
		return nil, false
	}
	ihl, total := int(b[0]&15)*4, int(b[2])<<8|int(b[3])
	if ihl < 20 || total < ihl || total > len(b) {
		return nil, false
	}
	return slices.Clone(b[:total]), true
}

// slowSegments cuts a packet up that has a header saying how.
func slowSegments(b []byte) ([][]byte, bool) {
	var h tun.Header
	h.Decode(b)
	p, ok := slowPlain(b[tun.HeaderLen:])
	if !ok {
		return nil, false
	}
	ihl := int(p[0]&15) * 4
	if h.GSO == tun.GSONone {
		if h.Flags&tun.NeedsChecksum != 0 {
			start, at := int(h.CsumStart), int(h.CsumStart)+int(h.CsumOffset)
			if start < ihl || at+2 > len(p) {
				return nil, false
			}
			v := slowSum(p[start:])
			if v == 0 {
				v = 0xffff
			}
			binary.BigEndian.PutUint16(p[at:], v)
		}
		return [][]byte{p}, true
	}
	udp := h.GSO == tun.GSOUDP
	heads := ihl + 8
	switch {
	case h.Size == 0 || p[6]&0x3f != 0 || p[7] != 0:
		return nil, false
	case !udp && (h.GSO&^tun.GSOWithCWR != tun.GSOTCP4 || p[9] != 6 || len(p) < ihl+20 || p[ihl+12]>>4 < 5):
		return nil, false
	case udp && p[9] != 17:
		return nil, false
	case !udp:
		heads = ihl + int(p[ihl+12]>>4)*4
	}
	if heads >= len(p) {
		return nil, false
	}
	noSum := udp && h.Flags&tun.NeedsChecksum == 0 && p[ihl+6] == 0 && p[ihl+7] == 0
	parts := slices.Collect(slices.Chunk(p[heads:], int(h.Size)))
	var all [][]byte
	for i, part := range parts {
		s := slices.Concat(p[:heads], part)
		binary.BigEndian.PutUint16(s[2:], uint16(len(s)))
		binary.BigEndian.PutUint16(s[4:], binary.BigEndian.Uint16(p[4:])+uint16(i))
		s[10], s[11] = 0, 0
		binary.BigEndian.PutUint16(s[10:], slowSum(s[:ihl]))
		l4 := s[ihl:]
		if udp {
			binary.BigEndian.PutUint16(l4[4:], uint16(len(l4)))
			l4[6], l4[7] = 0, 0
			if !noSum {
				v := slowL4Sum(s)
				if v == 0 {
					v = 0xffff
				}
				binary.BigEndian.PutUint16(l4[6:], v)
			}
		} else {
			binary.BigEndian.PutUint32(l4[4:], binary.BigEndian.Uint32(l4[4:])+uint32(i*int(h.Size)))
			if i > 0 {
				l4[13] &= 0x7f
			}
			if i < len(parts)-1 {
				l4[13] &^= 9
			}
			l4[16], l4[17] = 0, 0
			binary.BigEndian.PutUint16(l4[16:], slowL4Sum(s))
		}
		all = append(all, s)
	}
	return all, true
}

// slowNet is what the oracle knows.
type slowNet struct {
	own, network netip.Prefix
	leases       map[netip.Prefix]netip.Addr
	mtu          int
}

func (n slowNet) peer(a netip.Addr) netip.Addr {
	for subnet, peer := range n.leases {
		if subnet.Contains(a) {
			return peer
		}
	}
	return netip.Addr{}
}

func (n slowNet) isPeer(host netip.Addr) bool {
	for _, peer := range n.leases {
		if peer == host {
			return true
		}
	}
	return false
}

// out is which datagrams go where for what was read.
func (n slowNet) out(b []byte) (netip.Addr, [][]byte) {
	p, ok := slowPlain(b[tun.HeaderLen:])
	if !ok {
		return netip.Addr{}, nil
	}
	peer := n.peer(netip.AddrFrom4([4]byte(p[16:20])))
	if !peer.IsValid() || p[8] <= 1 {
		return netip.Addr{}, nil
	}
	all, ok := slowSegments(b)
	if !ok {
		return netip.Addr{}, nil
	}
	for _, s := range all {
		if len(s) > n.mtu && s[6]&0x40 != 0 {
			return netip.Addr{}, nil
		}
		slowHop(s)
	}
	return peer, all
}

// in is which packet a datagram makes; none if it is dropped.
func (n slowNet) in(from netip.Addr, b []byte) []byte {
	p, ok := slowPlain(b)
	if !ok || slowSum(p[:int(p[0]&15)*4]) != 0 {
		return nil
	}
	src, dst := netip.AddrFrom4([4]byte(p[12:16])), netip.AddrFrom4([4]byte(p[16:20]))
	if !n.own.Contains(dst) || n.peer(src) != from && (n.network.Contains(src) || !n.isPeer(from)) || p[8] <= 1 {
		return nil
	}
	slowHop(p)
	return p
}
