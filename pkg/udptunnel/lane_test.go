package udptunnel

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"sync"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"flanneld/pkg/tun"
)

// memoryLink is a link whose other end is another one, without a network.
type memoryLink struct {
	peer         uint32
	ours, theirs *tun.Memory // what is sent, with the size of its datagrams in front
	buf          [maxPacket + 3]byte
}

func (m *memoryLink) FD() int { return m.ours.FD() }

func (m *memoryLink) Send(o *outbox, t *tally) {
	for i := range o.n {
		tr := &o.trains[i]
		t.add(OutPackets, tr.n)
		size := []byte{byte(tr.size >> 8), byte(tr.size)}
		m.theirs.Feed(append(size, tun.Gather(tr.iov[:tr.pieces])...))
	}
}

func (m *memoryLink) Recv(in *inbox, _ int) error {
	n, err := m.ours.Read(m.buf[:])
	if in.n = 0; n == 0 || err != nil {
		return err
	}
	b := m.buf[:n]
	in.n = 1
	in.names[0].Addr = uintToAddr(m.peer).As4()
	in.msgs[0].len = uint32(copy(in.bufs[0], b[2:]))
	in.msgs[0].hdr.SetControllen(unix.CmsgLen(4))
	setCmsg(&in.controls[0])
	(*unix.Cmsghdr)(ptr(&in.controls[0])).Type = unix.UDP_GRO
	*(*int32)(unsafe.Add(ptr(&in.controls[0]), unix.CmsgLen(0))) = int32(b[0])<<8 | int32(b[1])
	return nil
}

func memory(t *testing.T) *tun.Memory {
	t.Helper()
	m, err := tun.NewMemory()
	check(t, err)
	t.Cleanup(func() { _ = m.Close() })
	return m
}

func rope(t *testing.T) *bell {
	t.Helper()
	b, err := newBell()
	check(t, err)
	t.Cleanup(func() { _ = b.Close() })
	return b
}

// TestLanesInMemory passes joined packets from one lane to another: what goes in
// joined comes out joined.
func TestLanesInMemory(t *testing.T) {
	ab, ba := memory(t), memory(t)
	stop := rope(t)
	hostsIn := [2]netip.Addr{netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2")}
	var queues [2]*tun.Memory
	var lanes [2]*lane
	for i := range 2 {
		queues[i] = memory(t)
		table, err := NewTable(network, 24)
		check(t, err)
		check(t, table.Set(subnets[1-i], hostsIn[1-i]))
		l := &memoryLink{peer: addrToUint(hostsIn[1-i]), ours: ba, theirs: ab}
		if i == 1 {
			l.ours, l.theirs = ab, ba
		}
		c := Config{Own: subnets[i], MTU: 1472, SourceCheck: true, Offload: true, Log: func(s string) { t.Error(s) }}
		lanes[i] = newLane(c, newLive(c.MTU, c.SourceCheck), table, queues[i], l, tun.Features{Header: true, TSO: true, USO: true}, abilities{true, true})
		lanes[i].reads, lanes[i].stop, lanes[i].back = true, stop, rope(t)
		lanes[i].errorsOut, lanes[i].errorsIn, lanes[i].hints = &answerer{}, &answerer{}, &hints{table: table, say: c.Log}
	}
	var wg sync.WaitGroup
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	for _, l := range lanes {
		wg.Go(func() { check(t, l.carry()) })
		wg.Go(func() { check(t, l.help(ctx)) })
	}
	g := gen{rand.New(rand.NewPCG(9, 10))}
	for i, q := range queues {
		for name, b := range joinedKinds(g, host(subnets[i], 9), host(subnets[1-i], 9)) {
			want, _ := slowSegments(b)
			for i := range want {
				want[i] = twoHops(want[i])
			}
			q.Feed(b)
			var got [][]byte
			for len(got) < len(want) {
				for _, w := range queues[1-i].Written(1) {
					all, ok := slowSegments(w)
					if !ok {
						t.Fatalf("%s: %x was written", name, w)
					}
					got = append(got, all...)
				}
			}
			compare(t, name, got, want)
		}
	}
	cancel()
	stop.ring()
	wg.Wait()
	var c Counters
	lanes[1].inTally.addTo(&c)
	if c[InCalls]*4 > c[InPackets] {
		t.Errorf("too little was joined: %s", c)
	}
}

// failing is a link whose first messages are errors.
type failing struct {
	memoryLink
	errs []error
	stop *bell
}

func (f *failing) Recv(in *inbox, _ int) error {
	if len(f.errs) == 0 {
		f.stop.ring()
		in.n = 0
		return nil
	}
	err := f.errs[0]
	f.errs = f.errs[1:]
	return err
}

// TestReceiveErrors goes on after errors that are about a message, and ends with
// one that is about the socket.
func TestReceiveErrors(t *testing.T) {
	for _, test := range []struct {
		last []error
		want string
	}{{nil, "<nil>"}, {[]error{unix.EBADF}, "receiving datagrams: bad file descriptor"}} {
		link := &failing{errs: append([]error{unix.ECONNREFUSED, unix.EHOSTUNREACH}, test.last...), stop: rope(t)}
		link.ours = memory(t)
		link.ours.Feed(nil) // it can be read
		table, err := NewTable(network, 24)
		check(t, err)
		c := Config{Own: subnets[0], MTU: 1472, Log: func(string) {}}
		l := newLane(c, newLive(1472, true), table, memory(t), link, tun.Features{}, abilities{})
		l.reads, l.stop, l.back = true, link.stop, rope(t)
		if got := fmt.Sprint(l.carry()); got != test.want {
			t.Errorf("it ended with %s, want %s", got, test.want)
		}
		if n := l.inTally.now[InErrors]; n != 2 {
			t.Errorf("%d errors were counted", n)
		}
	}
}

// TestHelp has another goroutine receive while there is much, and no longer.
func TestHelp(t *testing.T) {
	table, err := NewTable(network, 24)
	check(t, err)
	peer := netip.MustParseAddr("192.0.2.2")
	check(t, table.Set(subnets[1], peer))
	queue := memory(t)
	link := &memoryLink{peer: addrToUint(peer), ours: memory(t), theirs: memory(t)}
	c := Config{Own: subnets[0], MTU: 1472, SourceCheck: true, Offload: true, Log: func(s string) { t.Error(s) }}
	l := newLane(c, newLive(c.MTU, c.SourceCheck), table, queue, link, tun.Features{}, abilities{})
	l.reads, l.stop, l.back = true, rope(t), rope(t)
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	defer l.stop.ring()
	wg.Go(func() { check(t, l.carry()) })

	send := func(n int) {
		train := []byte{1472 >> 8, 1472 & 0xff}
		for range n {
			b := make([]byte, 1472)
			b[0], b[8], b[9] = 0x45, 64, 253
			copy(b[12:], host(subnets[1], 9).AsSlice())
			copy(b[16:], host(subnets[0], 9).AsSlice())
			train = append(train, seal(b, true, false)...)
		}
		link.ours.Feed(train)
	}
	waiting := func() bool {
		n, err := unix.Poll([]unix.PollFd{pollFor(link.FD())}, 0)
		return n == 1 && err == nil
	}
	for range 30 {
		send(1)
		queue.Written(1)
		time.Sleep(time.Millisecond)
	}
	if len(l.hand) > 0 {
		t.Fatal("packets that come alone are much")
	}
	send(20)
	queue.Written(20)
	waitFor(t, "the other goroutine to be called", func() bool { return len(l.hand) == 1 })
	send(1)
	time.Sleep(50 * time.Millisecond)
	if !waiting() {
		t.Error("it goes on to receive")
	}
	// It is calm by now, so that the other one gives back at once what it was called for.
	wg.Go(func() { check(t, l.help(ctx)) })
	queue.Written(1)
	for range 20 { // to and fro
		send(20)
		queue.Written(20)
		time.Sleep(calm)
		send(1)
		queue.Written(1)
	}
}

// TestHints tells of NAT where the sender is unknown, and of nobody who merely lies.
func TestHints(t *testing.T) {
	table, err := NewTable(network, 24)
	check(t, err)
	a, b, nat := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2"), netip.MustParseAddr("192.0.2.9")
	check(t, table.Set(subnets[0], a))
	check(t, table.Set(subnets[1], b))
	inner := addrToUint(host(subnets[1], 7))
	for sender, want := range map[netip.Addr]int{a: 0, nat: 1} {
		said := 0
		h := &hints{table: table, say: func(string) { said++ }}
		for range 100 {
			h.spoofed(addrToUint(sender), inner)
		}
		if said != want {
			t.Errorf("%d hints about packets from %s, want %d", said, sender, want)
		}
	}
}

// TestNoAllocation passes packets on, joined and one by one, without any.
func TestNoAllocation(t *testing.T) {
	c := newCore(t)
	c.enc.refuse = func(refusal, []byte) { t.Error("refused") }
	c.enc.flush = func() {}
	c.dec.write = func([]unix.Iovec) error { return nil }
	g := gen{rand.New(rand.NewPCG(7, 8))}
	flow := g.flow(host(theirs[0], 9), host(coreOwn, 9), 9, 1472, false)
	var joined [][]byte
	for _, b := range joinedKinds(g, host(coreOwn, 9), host(theirs[0], 9)) {
		joined = append(joined, b)
	}
	scratch := make([]byte, maxPacket+tun.HeaderLen)
	ready := rope(t)
	ready.ring()
	files := [...]unix.PollFd{pollFor(ready.fd), pollFor(-1)}
	allocs := testing.AllocsPerRun(100, func() {
		for _, b := range joined {
			c.enc.packet(scratch[:copy(scratch, b)])
			c.enc.finish()
		}
		for _, b := range flow {
			b := scratch[:copy(scratch, b)]
			c.dec.train(addrToUint(corePeers[0]), b, len(b))
		}
		c.dec.finish()
		check(t, wait(files[:], forever))
	})
	if allocs != 0 {
		t.Errorf("%v allocations", allocs)
	}
	if c.tally.now[InPackets] == 0 || c.tally.now[OutMalformed] > 0 {
		t.Errorf("%s", c.tally.now)
	}
}
