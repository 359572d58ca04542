package udptunnel

import (
	"golang.org/x/sys/unix"
)

// maxSegments is how many datagrams may leave as one: older kernels take 64.
const maxSegments = 64

// train is a row of datagrams to one peer, which leave in one message: all are of
// one size, but the last may be shorter. Each is gathered from one or two pieces.
type train struct {
	peer   uint32
	size   int // of each datagram but the last
	bytes  int
	n      int // datagrams
	closed bool
	pieces int
	iov    [2 * maxSegments]unix.Iovec
	start  [maxSegments + 1]uint8 // where the pieces of each datagram begin
}

// outbox gathers datagrams until they are sent. It refers to their bytes, which
// have to stay as they are until then.
type outbox struct {
	trains [64]train
	n      int
	limit  int // datagrams in a train
}

// add puts a datagram behind all others to the same peer. It returns false where
// there is no room: then what is there must be sent first.
func (o *outbox) add(peer uint32, head, body []byte) bool {
	size := len(head) + len(body)
	t := o.openTrain(peer, size)
	if t == nil {
		if o.n == len(o.trains) {
			return false
		}
		t = &o.trains[o.n]
		o.n++
		t.peer, t.size, t.bytes, t.n, t.closed, t.pieces = peer, size, 0, 0, false, 0
	}
	for _, piece := range [...][]byte{head, body} {
		if len(piece) > 0 {
			t.iov[t.pieces].Base = &piece[0]
			t.iov[t.pieces].SetLen(len(piece))
			t.pieces++
		}
	}
	t.n++
	t.start[t.n] = uint8(t.pieces)
	t.bytes += size
	t.closed = size < t.size || t.n >= o.limit
	return true
}

// openTrain finds the train that a datagram can join without overtaking another
// to the same peer. It looks back a little only.
func (o *outbox) openTrain(peer uint32, size int) *train {
	for i := o.n - 1; i >= 0 && i >= o.n-8; i-- {
		t := &o.trains[i]
		if t.peer != peer {
			continue
		}
		if t.closed || size > t.size || t.bytes+size > maxDatagram {
			return nil
		}
		return t
	}
	return nil
}

// datagram are the pieces of datagram i.
func (t *train) datagram(i int) []unix.Iovec { return t.iov[t.start[i]:t.start[i+1]] }

// datagramLen is how long datagram i is.
func (t *train) datagramLen(i int) int { return min(t.size, t.bytes-i*t.size) }
