package udptunnel

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"flanneld/pkg/tun"
)

// lane carries packets between one queue of the device and one socket. Its two
// directions share nothing.
//
// A goroutine carries both while packets come alone: so it is the only thread that
// a packet wakes, and what a pod answers at once it finds without being woken again.
// While there is much, another one receives.
type lane struct {
	queue tun.Queue
	link  link
	reads bool          // this lane and no other reads from the queue
	stop  *bell         // is rung to end all lanes
	hand  chan struct{} // gives the receiving to the other goroutine
	back  *bell         // is rung when it has given it back
	// busy is when there was much last, in nanoseconds since the lane was made.
	busy  atomic.Int64
	since time.Time
	// errorsOut answer pods of this host, and errorsIn those of others.
	errorsOut, errorsIn *answerer

	hints *hints

	batch int // packets that are read before any is sent
	room  []byte
	out   outbox
	encap *encap
	in    *inbox
	decap *decap

	outTally, inTally tally
}

// A packet is read where it fits whole, whatever its length turns out to be.
const (
	biggest = tun.HeaderLen + maxPacket
	// enough is so much that no more is read before it is sent: the fewer
	// bytes are about, the more of them are still in the processor's cache. It
	// is more than one packet, for the largest is one datagram more than what
	// can be sent at once; that one travels with the next packet.
	enough   = 128 << 10
	readRoom = enough + biggest + 64

	outBatch = 64
	inBatch  = 8

	// So much without a pause is much: it is what a stream has, and no exchange of messages.
	muchBytes   = 16 << 10
	muchPackets = 16
	// calm is how long there has to be little until one goroutine does with it.
	calm = 5 * time.Millisecond
)

func newLane(c Config, set *live, table *Table, queue tun.Queue, to link, f tun.Features, able abilities) *lane {
	l := &lane{queue: queue, link: to, batch: 1, room: make([]byte, readRoom), since: time.Now(), hand: make(chan struct{}, 1)}
	inbox := 1
	if c.Offload {
		l.batch, inbox = outBatch, inBatch
	}
	l.in = newInbox(inbox)
	l.out.limit = 1
	if able.segment {
		l.out.limit = maxSegments
	}
	l.encap = newEncap()
	l.encap.table, l.encap.live, l.encap.headers = table, set, f.Header
	l.encap.out, l.encap.tally = &l.out, &l.outTally
	l.encap.flush = func() { l.link.Send(&l.out, &l.outTally) }
	l.encap.refuse = func(r refusal, ip []byte) { l.errorsOut.refuse(&l.outTally, r, ip) }
	l.decap = &decap{
		table: table, own: newOwnSubnet(c.Own), live: set,
		headers: f.Header, joinTCP: f.TSO, joinUDP: f.USO,
		write:   queue.Write,
		refuse:  func(r refusal, ip []byte) { l.errorsIn.refuse(&l.inTally, r, ip) },
		spoofed: func(outer, inner uint32) { l.hints.spoofed(outer, inner) },
		say:     c.Log,
		tally:   &l.inTally,
	}
	return l
}

// carry carries packets until the lane is told to stop.
func (l *lane) carry() error {
	files := [...]unix.PollFd{pollFor(l.queue.FD()), pollFor(l.link.FD()), pollFor(l.back.fd), pollFor(l.stop.fd)}
	device, network, back := &files[0], &files[1], &files[2]
	if !l.reads {
		device.Fd = -1
	}
	for {
		var done work
		if err := wait(files[:], forever); err != nil {
			return err
		}
		if back.Revents != 0 && l.back.silence() {
			network.Fd = int32(l.link.FD())
			continue
		}
		out, in := device.Revents != 0, network.Revents != 0
		// The first packet of each direction is passed on before there is a look for others.
		for batch := 1; out || in; batch = outBatch {
			if l.stop.rung.Load() {
				return nil
			}
			var err error
			if out {
				if out, err = l.send(batch, &done); err != nil {
					return fmt.Errorf("reading from the TUN device: %w", err)
				}
			}
			if in {
				if in, err = l.receive(batch, &done); err != nil {
					return fmt.Errorf("receiving datagrams: %w", err)
				}
				out = out || in && l.reads // there may be an answer
			}
			l.judge(done)
			if l.reads && network.Fd >= 0 && !l.calm() {
				network.Fd, in = -1, false
				l.hand <- struct{}{}
			}
		}
		if l.stop.rung.Load() {
			return nil
		}
	}
}

// help receives in the place of carry, while there is much to do.
func (l *lane) help(ctx context.Context) error {
	for {
		select {
		case <-l.hand:
		case <-ctx.Done():
			return nil
		}
		files := [...]unix.PollFd{pollFor(l.link.FD()), pollFor(l.stop.fd)}
		var done work
		for !l.calm() && !l.stop.rung.Load() {
			more, err := l.receive(inBatch, &done)
			if err != nil {
				return fmt.Errorf("receiving datagrams: %w", err)
			}
			l.judge(done)
			if more {
				continue
			}
			done = work{}
			if err := wait(files[:], calm); err != nil {
				return err
			}
		}
		l.back.ring()
	}
}

// work is what was passed on without a pause.
type work struct{ packets, bytes int }

// judge notes when there is much work.
func (l *lane) judge(done work) {
	if done.packets >= muchPackets || done.bytes >= muchBytes {
		l.busy.Store(int64(time.Since(l.since)))
	}
}

// calm tells whether it is a while ago that there was much.
func (l *lane) calm() bool {
	busy := l.busy.Load()
	return busy == 0 || int64(time.Since(l.since))-busy > int64(calm)
}

// send sends what the device has, but no more packets than a batch, and tells
// whether there may be more.
func (l *lane) send(batch int, done *work) (more bool, err error) {
	batch = min(batch, l.batch)
	at, packets := 0, 0
	for packets < batch && at < enough {
		var n int
		if n, err = l.queue.Read(l.room[at:]); n <= 0 || err != nil {
			break
		}
		l.encap.packet(l.room[at : at+n : at+n])
		at += (n + 63) &^ 63
		packets++
	}
	l.encap.finish()
	l.outTally.publish()
	done.packets += packets
	done.bytes += at
	return packets == batch || at >= enough, err
}

// receive writes to the device what the network has, but no more messages than a
// batch, and tells whether there may be more.
func (l *lane) receive(batch int, done *work) (more bool, err error) {
	if err := l.link.Recv(l.in, batch); err != nil {
		if !passing(err) {
			return false, err
		}
		l.inTally.add(InErrors, 1)
		l.inTally.publish()
		return true, nil
	}
	for i := range l.in.n {
		from, b, size, truncated := l.in.message(i)
		if truncated {
			l.inTally.add(InTruncated, 1)
			continue
		}
		done.bytes += len(b)
		l.decap.train(from, b, size)
	}
	l.decap.finish()
	l.inTally.publish()
	done.packets += l.in.n
	return l.in.n > 0, nil
}

// passing tells whether an error of a socket is about one message, or the kernel's
// state of a moment. Each is reported once, so nothing spins.
func passing(err error) bool {
	var errno unix.Errno
	return errors.As(err, &errno) && errno != unix.EBADF && errno != unix.ENOTSOCK && errno != unix.EFAULT
}
