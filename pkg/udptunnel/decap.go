package udptunnel

import (
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"

	"flanneld/pkg/tun"
)

// decap makes packets for the TUN device of the datagrams that come in.
type decap struct {
	table   *Table
	own     ownSubnet
	live    *live
	headers bool // a tun.Header goes in front of each packet
	joinTCP bool
	joinUDP bool
	write   func([]unix.Iovec) error // one packet, from its pieces
	refuse  func(why refusal, ip []byte)
	spoofed func(outer, inner uint32) // is told of drops for the source
	say     func(string)              // what happened and lasts
	tally   *tally

	group   group
	single  [2]unix.Iovec
	strikes int // joined packets that the kernel did not take
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
	src := srcOf(b)
	owner := d.table.lookup(src)
	checked := d.live.sourceCheck.Load()
	if checked && owner != from && !d.routed(from, src) {
		return
	}
	if b[8] <= 1 {
		d.tally.add(InExpired, 1)
		// Without the check nobody knows who sent it. Only pods get an answer then: a
		// forged source cannot direct answers out of the network.
		if b[8] == 1 && (checked || owner != 0) {
			d.refuse(refusal{kind: expired}, b)
		}
		return
	}
	decrementTTL(b)
	d.pass(b)
}

// routed reports whether a packet, whose source is not in a subnet of the sender, may
// come from there all the same: peers also send what they route from outside the
// network. It counts what may not.
func (d *decap) routed(from, src uint32) bool {
	switch {
	case d.table.inNetwork(src):
		d.tally.add(InSpoofed, 1)
		d.spoofed(from, src)
	case !d.table.hasPeer(from):
		d.tally.add(InStranger, 1)
	default:
		return true
	}
	return false
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
		err := d.write(g.packet())
		d.tally.add(InCalls, 1)
		if err != nil {
			d.apart(err)
			break
		}
		d.strikes = 0
		d.tally.add(InPackets, g.n)
		d.tally.add(InBytes, g.total+(g.n-1)*g.heads)
	}
	g.n = 0
}

// apart writes the packets of the group one by one, as they could not be written
// as one. If that helps, time after time, no more are joined.
func (d *decap) apart(err error) {
	const patience = 16
	helped := true
	for _, b := range d.group.packets[:d.group.n] {
		helped = d.one(b) && helped
	}
	if helped {
		d.strikes++
	}
	if d.strikes == patience && helped {
		d.joinTCP, d.joinUDP = false, false
		d.say(fmt.Sprintf("writing joined packets: %v; each is written by itself from now on", err))
	}
}

func (d *decap) one(b []byte) bool {
	pieces := d.single[:0]
	if d.headers {
		pieces = append(pieces, piece(noHeader[:]))
	}
	pieces = append(pieces, piece(b))
	d.tally.add(InCalls, 1)
	if d.write(pieces) != nil {
		d.tally.add(InWriteErrors, 1)
		return false
	}
	d.tally.add(InPackets, 1)
	d.tally.add(InBytes, len(b))
	return true
}

func piece(b []byte) unix.Iovec {
	v := unix.Iovec{Base: &b[0]}
	v.SetLen(len(b))
	return v
}

func newOwnSubnet(p netip.Prefix) ownSubnet {
	return ownSubnet{base: addrToUint(p.Addr()), mask: ^uint32(0) << (32 - p.Bits())}
}
