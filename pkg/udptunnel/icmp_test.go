package udptunnel

import (
	"bytes"
	"encoding/binary"
	"math/rand/v2"
	"net/netip"
	"testing"
	"time"
)

func TestICMPError(t *testing.T) {
	packet := func(change func([]byte)) []byte {
		p := make([]byte, 900)
		p[0], p[8], p[9] = 0x45, 64, protoUDP
		copy(p[12:], []byte{10, 60, 1, 9, 10, 60, 2, 9})
		if change != nil {
			change(p)
		}
		return seal(p, true, false)
	}
	var buf [icmpMost]byte
	from := netip.MustParseAddr("10.60.1.0")
	p := packet(nil)
	b := icmpError(buf[:], refusal{kind: tooBig, mtu: 1400}, addrToUint(from), p)
	if len(b) != 576 || slowSum(b[:20]) != 0 || slowSum(b[20:]) != 0 || !bytes.Equal(b[12:20], []byte{10, 60, 1, 0, 10, 60, 1, 9}) ||
		b[20] != 3 || b[21] != 4 || binary.BigEndian.Uint16(b[26:]) != 1400 || !bytes.Equal(b[28:], p[:548]) || b[9] != protoICMP {
		t.Errorf("the error is %x", b)
	}
	for name, change := range map[string]func([]byte){
		"later fragment": func(p []byte) { p[7] = 5 },
		"from multicast": func(p []byte) { p[12] = 224 },
		"from nobody":    func(p []byte) { p[12] = 0 },
		"from itself":    func(p []byte) { p[12] = 127 },
		"to multicast":   func(p []byte) { p[16] = 239 },
		"to all":         func(p []byte) { copy(p[16:], []byte{255, 255, 255, 255}) },
		"unreachable":    func(p []byte) { p[9], p[20] = protoICMP, 3 },
		"expired":        func(p []byte) { p[9], p[20] = protoICMP, 11 },
	} {
		if b := icmpError(buf[:], refusal{}, 1, packet(change)); b != nil {
			t.Errorf("%s was answered with %x", name, b)
		}
	}
	for name, change := range map[string]func([]byte){
		"first fragment": func(p []byte) { p[6] = 0x20 },
		"ping":           func(p []byte) { p[9], p[20] = protoICMP, 8 },
	} {
		if icmpError(buf[:], refusal{}, 1, packet(change)) == nil {
			t.Errorf("%s was not answered", name)
		}
	}
}

func TestICMPLimit(t *testing.T) {
	sent := 0
	a := &answerer{from: 1, send: func([]byte) error { sent++; return nil }}
	p := make([]byte, 40)
	p[0], p[12], p[16] = 0x45, 10, 10
	var c tally
	start := time.Now()
	for range 5000 {
		a.refuse(&c, refusal{}, p)
	}
	most := icmpBurst + int(time.Since(start).Seconds()*icmpRate) + 1
	if sent < icmpBurst || sent > most || c.now[ICMPSent] != uint64(sent) || c.now[ICMPLimited] != uint64(5000-sent) {
		t.Errorf("%d errors were sent, %v; want %d to %d", sent, c.now, icmpBurst, most)
	}
}

// TestTooBig refuses what must not be fragmented, joined or not.
func TestTooBig(t *testing.T) {
	c := newCore(t)
	for _, b := range joinedKinds(gen{rand.New(rand.NewPCG(5, 6))}, host(coreOwn, 5), host(theirs[0], 5)) {
		c.mtu = 1000
		c.enc.live.mtu.Store(1000)
		errs, dropped := c.errs, c.tally.now[OutTooBig]
		segments, _ := slowSegments(b) // before they are changed
		c.checkSend(t, [][]byte{b})
		want := uint64(len(segments) * (c.errs - errs)) // one answer, however many packets
		if got := c.tally.now[OutTooBig] - dropped; got != want {
			t.Errorf("%d packets were too big, want %d", got, want)
		}
	}
	if c.errs == 0 {
		t.Error("none was refused")
	}
}
