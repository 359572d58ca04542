package udptunnel

import (
	"encoding/binary"
	"sync"
	"time"
)

// refusal is why a packet is not sent on, as its sender is told.
type refusal struct {
	kind refusalKind
	mtu  int // of tooBig
}

type refusalKind int

const (
	noRoute refusalKind = iota
	expired
	tooBig
)

const (
	icmpUnreachable   = 3
	icmpSourceQuench  = 4
	icmpRedirect      = 5
	icmpTimeExceeded  = 11
	icmpParameter     = 12
	icmpNetwork       = 0 // codes of icmpUnreachable
	icmpFragNeeded    = 4
	icmpHeader        = 8
	icmpMost          = 576 // RFC 1812: no longer than that in all
	precedenceControl = 6 << 5
)

// icmpError makes the error message about a packet, in buf, which has room for
// icmpMost bytes. It returns nil where RFC 1812 wants none sent.
func icmpError(buf []byte, r refusal, from uint32, ip []byte) []byte {
	if !mayRefuse(ip) {
		return nil
	}
	quote := ip[:min(len(ip), icmpMost-ipLen-icmpHeader)]
	b := buf[:ipLen+icmpHeader+len(quote)]
	clear(b[:ipLen+icmpHeader])
	b[0] = 4<<4 | ipLen/4
	b[1] = precedenceControl
	binary.BigEndian.PutUint16(b[2:], uint16(len(b)))
	b[8] = 64
	b[9] = protoICMP
	binary.BigEndian.PutUint32(b[12:], from)
	copy(b[16:20], ip[12:16])
	sumHeader(b[:ipLen])

	m := b[ipLen:]
	switch r.kind {
	case noRoute:
		m[0], m[1] = icmpUnreachable, icmpNetwork
	case expired:
		m[0] = icmpTimeExceeded
	case tooBig:
		m[0], m[1] = icmpUnreachable, icmpFragNeeded
		binary.BigEndian.PutUint16(m[6:], uint16(min(r.mtu, maxPacket)))
	}
	copy(m[icmpHeader:], quote)
	order.PutUint16(m[2:], ^fold(sum(m, 0)))
	return b
}

// mayRefuse tells whether an error message may answer a packet: not if it is an
// error message itself, a later fragment, or to or from other than one host.
func mayRefuse(ip []byte) bool {
	if fragOf(ip)&ipFragment != 0 || !isHost(srcOf(ip)) || !isHost(dstOf(ip)) {
		return false
	}
	if ip[9] != protoICMP {
		return true
	}
	m := ip[headLen(ip):]
	if len(m) == 0 {
		return false // nobody can tell
	}
	switch m[0] {
	case icmpUnreachable, icmpSourceQuench, icmpRedirect, icmpTimeExceeded, icmpParameter:
		return false
	}
	return true
}

// isHost tells whether an address may be that of one host, as far as can be seen.
func isHost(a uint32) bool {
	top := a >> 24
	return top != 0 && top != 127 && top < 224
}

// answerer sends error messages in one direction, and not too many. Several goroutines use it.
type answerer struct {
	from uint32
	send func([]byte) error

	mu     sync.Mutex
	buf    [icmpMost]byte
	tokens float64
	filled time.Time
}

// At most so many error messages a second, and at once.
const (
	icmpRate  = 1000
	icmpBurst = 50
)

func (a *answerer) refuse(t *tally, r refusal, ip []byte) {
	a.mu.Lock()
	defer a.mu.Unlock()
	b := icmpError(a.buf[:], r, a.from, ip)
	if b == nil {
		return
	}
	now := time.Now()
	a.tokens = min(icmpBurst, a.tokens+now.Sub(a.filled).Seconds()*icmpRate)
	a.filled = now
	if a.tokens < 1 {
		t.add(ICMPLimited, 1)
		return
	}
	a.tokens--
	if a.send(b) == nil {
		t.add(ICMPSent, 1)
	}
}
