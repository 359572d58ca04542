package udptunnel

import (
	"bytes"
	"math/rand/v2"
	"testing"

	"golang.org/x/sys/unix"

	"flanneld/pkg/tun"
)

func TestSum(t *testing.T) {
	g := rand.New(rand.NewPCG(1, 2))
	b := make([]byte, 3000)
	for i := range b {
		b[i] = byte(g.Uint32())
	}
	for n := range b {
		if got, want := ^fold(sum(b[:n], 0)), slowSum(b[:n]); got != want>>8|want<<8 {
			t.Fatalf("%d bytes: %04x, want %04x", n, got, want)
		}
	}
	ones := bytes.Repeat([]byte{0xff}, 2000)
	if got := fold(sum(ones, ^uint64(0))); got != 0xffff {
		t.Errorf("the sum of nothing but ones is %04x", got)
	}
}

// TestWriteApart loses no packet where the kernel refuses to take joined ones.
func TestWriteApart(t *testing.T) {
	c := newCore(t)
	said := 0
	c.dec.say = func(string) { said++ }
	c.dec.write = func(v []unix.Iovec) error {
		b := tun.Gather(v)
		if b[1] != tun.GSONone {
			return unix.EINVAL
		}
		c.wrote = append(c.wrote, b)
		return nil
	}
	g := gen{rand.New(rand.NewPCG(7, 8))}
	for range 100 {
		flow := g.flow(host(theirs[0], 9), host(coreOwn, 9), 9, 1472, false)
		c.checkReceive(t, corePeers[0], flow, 1472)
	}
	if said != 1 || c.tally.now[InWriteErrors] != 0 {
		t.Errorf("said it %d times; %s", said, c.tally.now)
	}
}

// TestWriteFails goes on to join packets after a time in which the device took
// none at all, as while it is down, and counts none of these as passed on.
func TestWriteFails(t *testing.T) {
	c := newCore(t)
	c.dec.say = func(s string) { t.Error(s) }
	c.dec.write = func([]unix.Iovec) error { return unix.EIO }
	g := gen{rand.New(rand.NewPCG(7, 8))}
	pass := func() {
		for _, b := range g.flow(host(theirs[0], 9), host(coreOwn, 9), 9, 1472, false) {
			c.dec.train(addrToUint(corePeers[0]), b, len(b))
		}
		c.dec.finish()
	}
	for range 100 {
		pass()
	}
	if c.tally.now[InPackets] != 0 || c.tally.now[InWriteErrors] < 500 {
		t.Errorf("while it is down: %s", c.tally.now)
	}
	c.dec.write = func([]unix.Iovec) error { return nil }
	calls := c.tally.now[InCalls]
	for range 100 {
		pass()
	}
	if packets := c.tally.now[InPackets]; (c.tally.now[InCalls]-calls)*2 > packets {
		t.Errorf("afterwards %d calls took %d packets", c.tally.now[InCalls]-calls, packets)
	}
}
