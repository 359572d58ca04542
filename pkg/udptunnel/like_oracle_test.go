package udptunnel

import (
	"bytes"
	"encoding/binary"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"flanneld/pkg/tun"
)

// core is a tunnel's code without any device, next to the oracle.
type core struct {
	slowNet
	table *Table
	sent  map[netip.Addr][][]byte
	wrote [][]byte // as the device gets them
	errs  int      // refusals
	tally tally
	out   outbox
	enc   *encap
	dec   *decap
}

var (
	corePeers = []netip.Addr{netip.MustParseAddr("192.0.2.2"), netip.MustParseAddr("192.0.2.3")}
	coreOwn   = netip.MustParsePrefix("10.60.1.0/24")
	theirs    = []netip.Prefix{netip.MustParsePrefix("10.60.2.0/24"), netip.MustParsePrefix("10.60.3.0/24")}
)

func newCore(t testing.TB) *core {
	c := &core{
		slowNet: slowNet{
			own: coreOwn, network: network, mtu: 1472,
			leases: map[netip.Prefix]netip.Addr{theirs[0]: corePeers[0], theirs[1]: corePeers[1]},
		},
		sent: map[netip.Addr][][]byte{},
	}
	var err error
	c.table, err = NewTable(network, 24)
	check(t, err)
	check(t, c.table.Replace(c.leases))
	c.enc = newEncap()
	c.out.limit = maxSegments
	e := c.enc
	e.table, e.live, e.headers, e.out, e.tally = c.table, newLive(c.mtu, true), true, &c.out, &c.tally
	e.refuse = func(refusal, []byte) { c.errs++ }
	e.flush = func() { c.deliver(t) }
	c.dec = &decap{
		table: c.table, own: newOwnSubnet(c.own), live: e.live, headers: true, joinTCP: true, joinUDP: true,
		refuse: func(refusal, []byte) { c.errs++ }, spoofed: func(uint32, uint32) {}, say: func(string) {}, tally: &c.tally,
		write: func(v []unix.Iovec) error { c.wrote = append(c.wrote, tun.Gather(v)); return nil },
	}
	return c
}

// deliver does what the kernel would do with the outbox, and checks that it could.
func (c *core) deliver(t testing.TB) {
	for i := range c.out.n {
		tr := &c.out.trains[i]
		if tr.n > maxSegments || tr.bytes > maxDatagram && tr.n > 1 || tr.pieces > 1024 {
			t.Fatalf("a train of %d datagrams, %d bytes in %d pieces", tr.n, tr.bytes, tr.pieces)
		}
		peer := uintToAddr(tr.peer)
		all := tun.Gather(tr.iov[:tr.pieces])
		if len(all) != tr.bytes {
			t.Fatalf("a train of %d bytes has %d", tr.bytes, len(all))
		}
		cut := slices.Collect(slices.Chunk(all, tr.size))
		if len(cut) != tr.n {
			t.Fatalf("a train of %d datagrams has %d", tr.n, len(cut))
		}
		for k, d := range cut {
			if !bytes.Equal(d, tun.Gather(tr.datagram(k))) || len(d) != tr.datagramLen(k) {
				t.Fatalf("datagram %d of a train is not what its pieces are", k)
			}
		}
		c.sent[peer] = append(c.sent[peer], cut...)
	}
}

// checkSend has packets sent and compares with the oracle.
func (c *core) checkSend(t testing.TB, packets [][]byte) {
	t.Helper()
	want := map[netip.Addr][][]byte{}
	for _, p := range packets {
		if peer, all := c.slowNet.out(p); peer.IsValid() {
			want[peer] = append(want[peer], all...)
		}
	}
	clear(c.sent)
	for _, p := range packets {
		c.enc.packet(slices.Clone(p))
	}
	c.enc.finish()
	for _, peer := range corePeers {
		compare(t, "sent to "+peer.String(), c.sent[peer], want[peer])
	}
	for peer := range c.sent {
		if !slices.Contains(corePeers, peer) {
			t.Fatalf("something was sent to %s", peer)
		}
	}
}

// checkReceive has trains received and compares with the oracle what the device
// gets, cut up again.
func (c *core) checkReceive(t testing.TB, from netip.Addr, trains [][]byte, size int) {
	t.Helper()
	var want [][]byte
	for _, train := range trains {
		for d := range slices.Chunk(train, max(1, min(size, len(train)))) {
			if p := c.in(from, d); p != nil {
				want = append(want, p)
			}
		}
	}
	c.wrote = nil
	for _, train := range trains {
		c.dec.train(addrToUint(from), slices.Clone(train), size)
	}
	c.dec.finish()
	var got [][]byte
	for _, w := range c.wrote {
		all, ok := slowSegments(w)
		if !ok {
			t.Fatalf("the device got what can't be: %x", w)
		}
		if len(all) > 1 { // the ident of a packet that is never fragmented is nothing
			for i, p := range all {
				if at := len(got) + i; at < len(want) && p[6]&0x40 != 0 && len(want[at]) > 20 {
					copy(p[4:6], want[at][4:6])
					copy(p[10:12], want[at][10:12])
				}
			}
		}
		got = append(got, all...)
	}
	compare(t, "written", got, want)
}

func compare(t testing.TB, what string, got, want [][]byte) {
	t.Helper()
	for i := range max(len(got), len(want)) {
		switch {
		case i >= len(got):
			t.Fatalf("%s: %d packets, want %d; the next is\n%x", what, len(got), len(want), want[i])
		case i >= len(want):
			t.Fatalf("%s: %d packets, want %d; the next is\n%x", what, len(got), len(want), got[i])
		case !bytes.Equal(got[i], want[i]):
			t.Fatalf("%s: packet %d is\n%x, want\n%x", what, i, got[i], want[i])
		}
	}
}

// gen makes packets at random that are mostly good.
type gen struct{ *rand.Rand }

func (g gen) chance(n int) bool { return g.IntN(n) == 0 }

// flow is a row of packets of one flow between two pods, each as it is on the
// wire, with faults now and then.
func (g gen) flow(src, dst netip.Addr, n, mtu int, faults bool) [][]byte {
	const seqStart = 0xfffff000 // it wraps
	udp := g.chance(3)
	heads := 28
	if !udp {
		heads = 40 + 4*g.IntN(11)
	}
	size := 1 + g.IntN(mtu-heads)
	head := make([]byte, heads)
	for i := range head {
		head[i] = byte(g.Uint32())
	}
	head[0], head[8] = 0x45, byte(2+g.IntN(100))
	copy(head[12:], src.AsSlice())
	copy(head[16:], dst.AsSlice())
	binary.BigEndian.PutUint16(head[6:], uint16(g.IntN(2))<<14)
	head[9] = protoTCP
	if udp {
		head[9] = protoUDP
	} else {
		head[32], head[33] = byte((heads-20)/4)<<4, tcpACK
		if g.chance(4) {
			head[33] |= byte(g.Uint32())
		}
	}
	id, seq, step := uint16(g.Uint32()), uint32(seqStart), uint16(1-g.IntN(2)*g.IntN(2))
	var all [][]byte
	for i := range n {
		body := make([]byte, size)
		if i == n-1 && g.chance(2) || faults && g.chance(10) {
			body = body[:g.IntN(size+1)]
		}
		for k := range body {
			body[k] = byte(g.Uint32())
		}
		p := slices.Concat(head, body)
		binary.BigEndian.PutUint16(p[4:], id)
		id += step
		if udp {
			binary.BigEndian.PutUint16(p[24:], uint16(len(p)-20))
		} else {
			binary.BigEndian.PutUint32(p[24:], seq)
			seq += uint32(len(body))
			if i == n-1 || g.chance(20) {
				p[33] |= byte(g.Uint32()) & (tcpPSH | tcpFIN)
			}
		}
		if faults && g.chance(12) {
			p[g.IntN(len(p))] ^= 1 << g.IntN(8)
		}
		if faults && g.chance(12) {
			p[g.IntN(heads)] ^= 1 << g.IntN(8)
		}
		all = append(all, seal(p, !faults || !g.chance(15), !faults || !g.chance(15)))
		if faults && g.chance(20) { // trailing bytes, or some that are missing
			last := &all[len(all)-1]
			*last = append(*last, make([]byte, g.IntN(5))...)
			*last = (*last)[:len(*last)-g.IntN(3)]
		}
	}
	return all
}

// seal sets length and checksums.
func seal(p []byte, ip, l4 bool) []byte {
	binary.BigEndian.PutUint16(p[2:], uint16(len(p)))
	head := int(p[0]&15) * 4
	at := map[byte]int{protoTCP: 16, protoUDP: 6}[p[9]]
	if l4 && at != 0 && head >= 20 && head+at+2 <= len(p) {
		p[head+at], p[head+at+1] = 0, 0
		binary.BigEndian.PutUint16(p[head+at:], slowL4Sum(p))
	}
	if ip && head >= 20 && head <= len(p) {
		p[10], p[11] = 0, 0
		binary.BigEndian.PutUint16(p[10:], slowSum(p[:head]))
	}
	return p
}

func host(p netip.Prefix, n int) netip.Addr {
	b := p.Addr().As4()
	b[3] = byte(n)
	return netip.AddrFrom4(b)
}

func TestReceiveLikeOracle(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	g := gen{rand.New(rand.NewPCG(seed, 0))}
	c := newCore(t)
	for range 1500 {
		var trains [][]byte
		size := 0
		for range 1 + g.IntN(4) {
			src := host(theirs[g.IntN(2)], g.IntN(256))
			for _, p := range g.flow(src, host(coreOwn, g.IntN(256)), 1+g.IntN(12), 1472, g.chance(2)) {
				if len(trains) == 0 || len(p) > size || len(trains[len(trains)-1])%max(size, 1) != 0 || g.chance(10) {
					if len(trains) > 0 && len(p) != size {
						c.checkReceive(t, corePeers[0], trains, size)
						trains = nil
					}
					size = len(p)
					trains = append(trains, nil)
				}
				trains[len(trains)-1] = append(trains[len(trains)-1], p...)
			}
		}
		c.checkReceive(t, corePeers[0], trains, size)
	}
	t.Log(c.tally.now)
}

func TestSendLikeOracle(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	g := gen{rand.New(rand.NewPCG(seed, 0))}
	c := newCore(t)
	for range 1500 {
		var all [][]byte
		for range 1 + g.IntN(6) {
			dst := host(theirs[g.IntN(2)], g.IntN(256))
			if g.chance(20) {
				dst = netip.MustParseAddr("10.60.9.9")
			}
			all = append(all, g.fromDevice(host(coreOwn, 5), dst)...)
		}
		c.checkSend(t, all)
	}
	t.Log(c.tally.now)
}

// fromDevice makes what can be read from a device: joined packets, such without
// their checksum, and faults.
func (g gen) fromDevice(src, dst netip.Addr) [][]byte {
	var h tun.Header
	mtu := 100 + g.IntN(1500)
	p := g.flow(src, dst, 1, mtu, g.chance(4))[0]
	if g.chance(2) {
		heads := 28
		if p[9] == protoTCP && len(p) > 32 {
			heads = 20 + int(p[32]>>4)*4
		}
		h = tun.Header{Flags: tun.NeedsChecksum, GSO: tun.GSOTCP4, Size: uint16(1 + g.IntN(mtu)), CsumStart: 20, CsumOffset: 16}
		if p[9] == protoUDP {
			h.GSO, h.CsumOffset = tun.GSOUDP, 6
		}
		if g.chance(3) {
			h.GSO |= tun.GSOWithCWR
		}
		p = append(p, make([]byte, g.IntN(65000-heads))...)
		for i := heads; i < len(p); i += 7 {
			p[i] = byte(g.Uint32())
		}
		seal(p, true, false)
	} else if g.chance(2) {
		h = tun.Header{Flags: tun.NeedsChecksum, CsumStart: uint16(20 + g.IntN(2)*g.IntN(40)), CsumOffset: uint16(2 * g.IntN(10))}
	}
	if g.chance(30) {
		h.GSO = byte(g.Uint32())
	}
	b := make([]byte, tun.HeaderLen, tun.HeaderLen+len(p))
	h.Encode(b)
	return [][]byte{append(b, p...)}
}

func FuzzReceive(f *testing.F) {
	g := gen{rand.New(rand.NewPCG(1, 2))}
	for range 20 {
		flow := g.flow(host(theirs[0], 9), host(coreOwn, 9), 3, 300, false)
		f.Add(slices.Concat(flow...), len(flow[0]), true)
	}
	c := newCore(f)
	f.Fuzz(func(t *testing.T, b []byte, size int, fix bool) {
		if size <= 0 || len(b) > maxPacket || len(b) == 0 {
			return
		}
		if fix { // so that more than the checks is reached
			for d := range slices.Chunk(b, size) {
				if len(d) >= 20 {
					d[0] = 4<<4 | max(d[0]&15, 5)
					copy(d[12:], []byte{10, 60, 2, 9, 10, 60, 1, 9})
					seal(d, true, true)
				}
			}
		}
		c.checkReceive(t, corePeers[0], [][]byte{b}, size)
	})
}

func FuzzSend(f *testing.F) {
	g := gen{rand.New(rand.NewPCG(1, 2))}
	for range 20 {
		f.Add(g.fromDevice(host(coreOwn, 9), host(theirs[0], 9))[0], true)
	}
	c := newCore(f)
	f.Fuzz(func(t *testing.T, b []byte, fix bool) {
		if len(b) < tun.HeaderLen || len(b) > biggest {
			return
		}
		if p := b[tun.HeaderLen:]; fix && len(p) >= 20 {
			p[0] = 4<<4 | max(p[0]&15, 5)
			copy(p[12:], []byte{10, 60, 1, 9, 10, 60, 2, 9})
			seal(p, true, false)
		}
		c.checkSend(t, [][]byte{b})
	})
}
