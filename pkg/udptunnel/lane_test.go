package udptunnel

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"sync"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"flanneld/pkg/tun"
)

// memoryLink is a link whose other end is another one, without a network.
type memoryLink struct {
	peer   uint32
	ours   chan []byte
	theirs chan []byte
	quit   chan struct{}
	once   sync.Once
}

func (m *memoryLink) Send(o *outbox, t *tally) {
	for i := range o.n {
		tr := &o.trains[i]
		t.add(OutPackets, tr.n)
		size := []byte{byte(tr.size >> 8), byte(tr.size)}
		m.theirs <- append(size, tun.Gather(tr.iov[:tr.pieces])...)
	}
}

func (m *memoryLink) Recv(in *inbox) error {
	select {
	case b := <-m.ours:
		in.n = 1
		in.names[0].Addr = uintToAddr(m.peer).As4()
		in.msgs[0].len = uint32(copy(in.bufs[0], b[2:]))
		in.msgs[0].hdr.SetControllen(unix.CmsgLen(4))
		setCmsg(&in.controls[0])
		(*unix.Cmsghdr)(ptr(&in.controls[0])).Type = unix.UDP_GRO
		*(*int32)(unsafe.Add(ptr(&in.controls[0]), unix.CmsgLen(0))) = int32(b[0])<<8 | int32(b[1])
		return nil
	case <-m.quit:
		return os.ErrDeadlineExceeded
	}
}

func (m *memoryLink) Interrupt()   { m.once.Do(func() { close(m.quit) }) }
func (m *memoryLink) Close() error { return nil }

// TestLanesInMemory passes joined packets from one lane to another: what goes in
// joined comes out joined.
func TestLanesInMemory(t *testing.T) {
	ab, ba := make(chan []byte, 100), make(chan []byte, 100)
	hostsIn := [2]netip.Addr{netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2")}
	var queues [2]*tun.Memory
	var lanes [2]*lane
	for i := range 2 {
		queues[i] = tun.NewMemory()
		table, err := NewTable(network, 24)
		check(t, err)
		check(t, table.Set(subnets[1-i], hostsIn[1-i]))
		l := &memoryLink{peer: addrToUint(hostsIn[1-i]), ours: ba, theirs: ab, quit: make(chan struct{})}
		if i == 1 {
			l.ours, l.theirs = ab, ba
		}
		c := Config{Own: subnets[i], MTU: 1472, SourceCheck: true, Offload: true, Log: func(s string) { t.Error(s) }}
		lanes[i] = newLane(c, newLive(c.MTU, c.SourceCheck), table, queues[i], l, tun.Features{Header: true, TSO: true, USO: true}, abilities{true, true})
		lanes[i].errorsOut, lanes[i].errorsIn, lanes[i].hints = &answerer{}, &answerer{}, &hints{table: table, say: c.Log}
	}
	var wg sync.WaitGroup
	for _, l := range lanes {
		wg.Go(func() { check(t, l.runOut()) })
		wg.Go(func() { check(t, l.runIn()) })
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
	for i, l := range lanes {
		queues[i].Interrupt()
		l.link.Interrupt()
	}
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
}

func (f *failing) Recv(*inbox) error {
	err := f.errs[0]
	f.errs = f.errs[1:]
	return err
}

// TestReceiveErrors goes on after errors that are about a message, and ends with
// one that is about the socket.
func TestReceiveErrors(t *testing.T) {
	for _, test := range []struct {
		last error
		want string
	}{{os.ErrDeadlineExceeded, ""}, {unix.EBADF, "receiving datagrams: bad file descriptor"}} {
		link := &failing{errs: []error{unix.ECONNREFUSED, unix.EHOSTUNREACH, test.last}}
		table, err := NewTable(network, 24)
		check(t, err)
		c := Config{Own: subnets[0], MTU: 1472, Log: func(string) {}}
		l := newLane(c, newLive(1472, true), table, tun.NewMemory(), link, tun.Features{}, abilities{})
		err = l.runIn()
		if got := fmt.Sprint(err); test.want == "" && err != nil || test.want != "" && got != test.want {
			t.Errorf("it ended with %v, want %q", err, test.want)
		}
		if n := l.inTally.now[InErrors]; n != 2 {
			t.Errorf("%d errors were counted", n)
		}
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
	})
	if allocs != 0 {
		t.Errorf("%v allocations", allocs)
	}
	if c.tally.now[InPackets] == 0 || c.tally.now[OutMalformed] > 0 {
		t.Errorf("%s", c.tally.now)
	}
}
