// Package udptunnel carries IPv4 packets between a TUN device and other hosts, each
// as it is in a UDP datagram.
//
// The kernel hands over up to 64 KiB of one flow at once, and takes as much, on
// the side of the device as on that of the network. So the packets of a flow
// travel through this package together. On the wire they are apart: to a peer all
// looks as if each had been sent by itself.
package udptunnel

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"flanneld/pkg/tun"
)

// Config is what a tunnel has to know.
type Config struct {
	// Device is the name of a TUN device that exists.
	Device string
	// Local is where datagrams come in, and from where they are sent. The peers
	// have the same port.
	Local netip.AddrPort
	// Own is this host's subnet, and Network that in which all are.
	Own, Network netip.Prefix
	// Addr is the device's own address: error messages come from it.
	Addr netip.Addr
	// MTU is that of the device.
	MTU int
	// SourceCheck drops what comes from a host that has no lease, or not that of its
	// source, if the source is in Network.
	SourceCheck bool
	// Offload lets packets travel together where the kernel can do that.
	Offload bool
	// Queues is how many processors may work on the packets in each direction;
	// 0 is half of all, as the other half has the other direction, up to four.
	Queues int
	// Log is told, in one line, what is worth knowing. It may be nil.
	Log func(string)
}

// Tunnel is open from Open to the end of Run, or to Close.
type Tunnel struct {
	table  *Table
	device *tun.Device
	lanes  []*lane
	stop   *bell
	files  []io.Closer
	live   *live
	errors struct{ in, out answerer } // each direction has a limit of its own
	raw    descriptor                 // socket for error messages
	hints  hints

	mu   sync.Mutex
	done bool // run, or closed
}

// Open attaches to the device and opens the sockets. It must be called in the
// network namespace of the device.
func Open(c Config) (*Tunnel, error) {
	t, err := open(c)
	if err != nil {
		return nil, fmt.Errorf("opening the tunnel: %w", err)
	}
	return t, nil
}

func open(c Config) (_ *Tunnel, err error) {
	if c, err = c.checked(); err != nil {
		return nil, err
	}
	t := &Tunnel{done: true, live: newLive(c.MTU, c.SourceCheck)}
	if t.table, err = NewTable(c.Network, c.Own.Bits()); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			t.release()
		}
	}()
	if t.device, err = tun.Open(c.Device, tun.Options{Queues: c.Queues, Offload: c.Offload}); err != nil {
		return nil, err
	}
	t.files = append(t.files, t.device)
	sockets, err := listen(c.Local, c.Queues, c.Offload, c.Log)
	if err != nil {
		return nil, err
	}
	for _, s := range sockets {
		t.files = append(t.files, s)
	}
	raw, err := unix.Socket(unix.AF_INET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.IPPROTO_RAW)
	if err != nil {
		return nil, fmt.Errorf("opening a socket for ICMP errors: %w", err)
	}
	t.raw = descriptor(raw)
	t.files = append(t.files, t.raw)
	if t.stop, err = t.newBell(); err != nil {
		return nil, err
	}
	t.hints = hints{table: t.table, say: c.Log}
	c.Log = onceEach(c.Log)
	for _, a := range []*answerer{&t.errors.in, &t.errors.out} {
		a.from, a.send = addrToUint(c.Addr), t.sendError
	}
	for i, s := range sockets {
		queue := t.device.Queues[i%len(t.device.Queues)]
		l := newLane(c, t.live, t.table, queue, s, t.device.Features, s.able)
		l.reads = i < len(t.device.Queues)
		l.stop = t.stop
		if l.back, err = t.newBell(); err != nil {
			return nil, err
		}
		l.errorsOut, l.errorsIn, l.hints = &t.errors.out, &t.errors.in, &t.hints
		t.lanes = append(t.lanes, l)
	}
	c.Log(t.describe(sockets[0].able))
	t.done = false
	return t, nil
}

func (c Config) checked() (Config, error) {
	switch {
	case !c.Local.Addr().Is4() || c.Local.Port() == 0:
		return c, fmt.Errorf("%s is not an IPv4 address with a port", c.Local)
	case !c.Addr.Is4():
		return c, fmt.Errorf("%s is not the IPv4 address of a device", c.Addr)
	case !c.Own.IsValid() || c.Own != c.Own.Masked() || !c.Network.Contains(c.Own.Addr()):
		return c, fmt.Errorf("%s is not a subnet of %s", c.Own, c.Network)
	case c.MTU < 68 || c.MTU > maxDatagram:
		return c, fmt.Errorf("an MTU of %d is not from 68 to %d", c.MTU, maxDatagram)
	}
	if c.Queues <= 0 {
		c.Queues = max(1, min(runtime.GOMAXPROCS(0)/2, 4))
	}
	if c.Log == nil {
		c.Log = func(string) {}
	}
	return c, nil
}

// describe tells which of the kernel's abilities are in use.
func (t *Tunnel) describe(able abilities) string {
	yes := func(b bool) string {
		if b {
			return "yes"
		}
		return "no"
	}
	f := t.device.Features
	return fmt.Sprintf("%s: %d queues, %d sockets; packets joined by the kernel: TCP %s, UDP %s; datagrams joined: sending %s, receiving %s",
		t.device.Name, len(t.device.Queues), len(t.lanes), yes(f.TSO), yes(f.USO), yes(able.segment), yes(able.join))
}

// sendError sends an ICMP message about a packet. It leaves through a socket, for
// were it written to the device, the kernel would discard it: it has an address of
// this host as its source.
func (t *Tunnel) sendError(b []byte) error {
	return unix.Sendto(int(t.raw), b, unix.MSG_DONTWAIT, &unix.SockaddrInet4{Addr: [4]byte(b[16:20])})
}

// live are the settings that may change while the tunnel is open.
type live struct {
	mtu         atomic.Int32
	sourceCheck atomic.Bool
}

func newLive(mtu int, sourceCheck bool) *live {
	l := &live{}
	l.mtu.Store(int32(mtu))
	l.sourceCheck.Store(sourceCheck)
	return l
}

// Set changes what Config has of these.
func (t *Tunnel) Set(mtu int, sourceCheck bool) {
	t.live.mtu.Store(int32(mtu))
	t.live.sourceCheck.Store(sourceCheck)
}

// onceEach passes each text on once: what happens to one lane happens to all.
func onceEach(log func(string)) func(string) {
	var said sync.Map
	return func(text string) {
		if _, again := said.LoadOrStore(text, true); !again {
			log(text)
		}
	}
}

// Table is where each subnet is. It may be changed at any time.
func (t *Tunnel) Table() *Table { return t.table }

// Counters are what has been counted so far.
func (t *Tunnel) Counters() Counters {
	var c Counters
	for _, l := range t.lanes {
		l.outTally.addTo(&c)
		l.inTally.addTo(&c)
	}
	return c
}

// Run carries packets until the context ends, which is no error, or the device is
// gone, which is tun.ErrGone. After it the tunnel is closed.
func (t *Tunnel) Run(ctx context.Context) error {
	t.mu.Lock()
	done := t.done
	t.done = true
	t.mu.Unlock()
	if done {
		return errors.New("the tunnel is closed")
	}
	group, ctx := errgroup.WithContext(ctx)
	stopped := make(chan struct{})
	context.AfterFunc(ctx, func() {
		defer close(stopped)
		t.stop.ring()
	})
	for _, l := range t.lanes {
		group.Go(l.carry)
		if l.reads {
			group.Go(func() error { return l.help(ctx) })
		}
	}
	err := group.Wait() // the context has ended then, of itself or by this
	<-stopped
	t.release()
	return err
}

// Close is for a tunnel that Run is not called for.
func (t *Tunnel) Close() {
	t.mu.Lock()
	done := t.done
	t.done = true
	t.mu.Unlock()
	if !done {
		t.release()
	}
}

// release closes all files, the last first. Nobody uses them.
func (t *Tunnel) release() {
	for _, f := range slices.Backward(t.files) {
		_ = f.Close()
	}
}

func (t *Tunnel) newBell() (*bell, error) {
	b, err := newBell()
	if err == nil {
		t.files = append(t.files, b)
	}
	return b, err
}

// descriptor is a file that is nothing but that.
type descriptor int

// Close closes it.
func (fd descriptor) Close() error { return unix.Close(int(fd)) }
