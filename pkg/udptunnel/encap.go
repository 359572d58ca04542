package udptunnel

import "flanneld/pkg/tun"

// encap makes datagrams of what the TUN device yields.
type encap struct {
	table   *Table
	live    *live
	headers bool // a tun.Header is in front of each packet
	out     *outbox
	flush   func() // sends what is in out
	refuse  func(why refusal, ip []byte)
	tally   *tally

	// Headers of the segments in out, one after the other.
	heads []byte
	used  int
}

// maxHeads is the most that IPv4 and TCP headers can be in length.
const maxHeads = 60 + 60

func newEncap() *encap { return &encap{heads: make([]byte, 1024*maxHeads)} }

// packet takes one packet as it was read, whose bytes have to stay until out is
// sent.
func (e *encap) packet(b []byte) {
	var h tun.Header
	if e.headers {
		if len(b) < tun.HeaderLen {
			e.tally.add(OutMalformed, 1)
			return
		}
		h.Decode(b)
		b = b[tun.HeaderLen:]
	}
	b, why := trim(b)
	switch {
	case why == notIPv4:
		e.tally.add(OutIPv6, 1)
		return
	case why != none:
		e.tally.add(OutMalformed, 1)
		return
	}
	peer := e.table.lookup(dstOf(b))
	if peer == 0 {
		e.tally.add(OutNoRoute, count(b, h))
		e.refuse(refusal{kind: noRoute}, b)
		return
	}
	if b[8] <= 1 {
		e.tally.add(OutExpired, count(b, h))
		e.refuse(refusal{kind: expired}, b)
		return
	}
	if h.GSO == tun.GSONone {
		e.whole(peer, b, h)
	} else {
		e.joined(peer, b, h)
	}
}

// whole sends on a packet that is one.
func (e *encap) whole(peer uint32, b []byte, h tun.Header) {
	if !e.fits(b, len(b)) {
		e.tally.add(OutTooBig, 1)
		return
	}
	if h.Flags&tun.NeedsChecksum != 0 {
		start, at := int(h.CsumStart), int(h.CsumStart)+int(h.CsumOffset)
		if start < headLen(b) || at+2 > len(b) {
			e.tally.add(OutMalformed, 1)
			return
		}
		mangle(b[at:], ^fold(sum(b[start:], 0)))
	}
	decrementTTL(b)
	e.add(peer, b, nil)
}

// mangle stores a checksum that must not be 0: to UDP that would mean that there
// is none. For others its other form, all ones, is as good.
func mangle(b []byte, v uint16) {
	if v == 0 {
		v = 0xffff
	}
	order.PutUint16(b, v)
}

// fits tells whether packets of a length go out as they are, which is so unless
// they must not be fragmented.
func (e *encap) fits(b []byte, length int) bool {
	mtu := int(e.live.mtu.Load())
	if length <= mtu || fragOf(b)&ipDF == 0 {
		return true
	}
	e.refuse(refusal{kind: tooBig, mtu: mtu}, b)
	return false
}

func (e *encap) add(peer uint32, head, body []byte) {
	if !e.out.add(peer, head, body) {
		e.send()
		e.out.add(peer, head, body)
	}
}

func (e *encap) send() {
	e.flush()
	e.out.n = 0
}

// finish sends what is left of a batch. Nothing refers to the arena then.
func (e *encap) finish() {
	if e.out.n > 0 {
		e.send()
	}
	e.used = 0
}
