package udptunnel

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"flanneld/pkg/tun"
)

// lane carries packets between one queue of the device and one socket. Its two
// directions share nothing.
type lane struct {
	queue tun.Queue
	link  link
	reads bool // this lane and no other reads from the queue
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
)

func newLane(c Config, set *live, table *Table, queue tun.Queue, to link, f tun.Features, able abilities) *lane {
	l := &lane{queue: queue, link: to, batch: 1, room: make([]byte, readRoom)}
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

// runOut carries packets from the device to the network.
func (l *lane) runOut() error {
	for {
		n, err := l.queue.Read(l.room)
		if err != nil {
			return ending("reading from the TUN device", err)
		}
		at := 0
		for packets := 1; ; packets++ {
			l.encap.packet(l.room[at : at+n : at+n])
			at += (n + 63) &^ 63
			if packets >= l.batch || at >= enough || l.out.n == 0 {
				break
			}
			// What is on its way already goes along; nothing is waited for.
			if n, err = l.queue.TryRead(l.room[at:]); n <= 0 || err != nil {
				break
			}
		}
		l.encap.finish()
		l.outTally.publish()
		if err != nil {
			return ending("reading from the TUN device", err)
		}
	}
}

// runIn carries packets from the network to the device.
func (l *lane) runIn() error {
	for {
		if err := l.link.Recv(l.in); err != nil {
			if passing(err) {
				l.inTally.add(InErrors, 1)
				l.inTally.publish()
				continue
			}
			return ending("receiving datagrams", err)
		}
		for i := range l.in.n {
			from, b, size, truncated := l.in.message(i)
			if truncated {
				l.inTally.add(InTruncated, 1)
				continue
			}
			l.decap.train(from, b, size)
		}
		l.decap.finish()
		l.inTally.publish()
	}
}

// passing tells whether an error of a socket is about one message, or the kernel's
// state of a moment. Each is reported once, so nothing spins.
func passing(err error) bool {
	var errno unix.Errno
	return errors.As(err, &errno) && errno != unix.EBADF && errno != unix.ENOTSOCK && errno != unix.EFAULT
}

// ending is the error of a lane that ends: none if it was told to.
func ending(activity string, err error) error {
	if errInterrupted(err) {
		return nil
	}
	return fmt.Errorf("%s: %w", activity, err)
}
