package tunnel

import (
	"net/netip"

	"golang.org/x/sys/unix"

	"flanneld/pkg/tun"
)

// decap makes packets for the TUN device of the datagrams that come in.
type decap struct {
	table       *Table
	own         ownSubnet
	sourceCheck bool
	headers     bool // a tun.Header goes in front of each packet
	joinTCP     bool
	joinUDP     bool
	write       func([]unix.Iovec) error // one packet, from its pieces
	refuse      func(why refusal, ip []byte)
	spoofed     func(outer, inner uint32) // is told of drops for the source
	tally       *tally

	group  group
	single [2]unix.Iovec
}

// ownSubnet is what packets must be for to be accepted.
type ownSubnet struct{ base, mask uint32 }

func (o ownSubnet) has(a uint32) bool { return a&o.mask == o.base }

// noHeader is the tun.Header of a packet that is whole.
var noHeader [tun.HeaderLen]byte

// train takes the datagrams of one message: each has size bytes but the last,
// which may have fewer. They are changed, and have to stay until finish.
func (d *decap) train(from uint32, b []byte, size int) {
	if size <= 0 || size > len(b) {
		size = len(b)
	}
	if size == 0 {
		d.tally.add(InMalformed, 1)
		return
	}
	for len(b) > 0 {
		n := min(size, len(b))
		d.datagram(from, b[:n])
		b = b[n:]
	}
}

// datagram takes one datagram, which has some length.
func (d *decap) datagram(from uint32, b []byte) {
	b, why := trim(b)
	if why != none || fold(sum(b[:headLen(b)], 0)) != 0xffff {
		d.tally.add(InMalformed, 1)
		return
	}
	if !d.own.has(dstOf(b)) {
		d.tally.add(InForeign, 1)
		return
	}
	if src := srcOf(b); d.sourceCheck && d.table.inNetwork(src) && d.table.lookup(src) != from {
		d.tally.add(InSpoofed, 1)
		d.spoofed(from, src)
		return
	}
	if b[8] <= 1 {
		d.tally.add(InExpired, 1)
		if b[8] == 1 {
			d.refuse(refusal{kind: expired}, b)
		}
		return
	}
	decrementTTL(b)
	d.tally.add(InPackets, 1)
	d.tally.add(InBytes, len(b))
	d.pass(b)
}

// pass writes a packet, or keeps it for those that follow it.
func (d *decap) pass(b []byte) {
	if d.group.n > 0 {
		if d.group.join(b) {
			return
		}
		d.finish()
	}
	if (d.joinTCP || d.joinUDP) && d.group.begin(b, d.joinTCP, d.joinUDP) {
		return
	}
	d.one(b)
}

// finish writes what is kept.
func (d *decap) finish() {
	g := &d.group
	switch {
	case g.n == 1:
		d.one(g.first)
	case g.n > 1:
		d.done(g.n, d.write(g.packet()))
	}
	g.n = 0
}

func (d *decap) one(b []byte) {
	pieces := d.single[:0]
	if d.headers {
		pieces = append(pieces, piece(noHeader[:]))
	}
	pieces = append(pieces, piece(b))
	d.done(1, d.write(pieces))
}

// done counts a write of so many packets.
func (d *decap) done(n int, err error) {
	d.tally.add(InCalls, 1)
	if err != nil {
		d.tally.add(InWriteErrors, n)
	}
}

func piece(b []byte) unix.Iovec {
	v := unix.Iovec{Base: &b[0]}
	v.SetLen(len(b))
	return v
}

func newOwnSubnet(p netip.Prefix) ownSubnet {
	return ownSubnet{base: addrToUint(p.Addr()), mask: ^uint32(0) << (32 - p.Bits())}
}
