// Package once has what every loop of the daemon needs: a sleep that ends with its
// context, pauses between retries, and a channel with one slot.
package once

import (
	"context"
	"math/rand/v2"
	"time"
)

// Sleep waits for d, or until ctx ends; then it returns ctx.Err().
func Sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}

// Backoff is the pauses between retries. They double from First to Most; each is cut
// short by up to half at random, so that many hosts do not retry in step. A copy goes on
// from where the original was.
type Backoff struct {
	First, Most time.Duration
	pause       time.Duration
}

// Double returns the pause before the next retry as it is for one host alone, without
// chance.
func (b *Backoff) Double() time.Duration {
	b.pause = min(max(2*b.pause, b.First), b.Most)
	return b.pause
}

// Next returns the pause before the next retry.
func (b *Backoff) Next(r *rand.Rand) time.Duration {
	b.Double()
	return b.pause - time.Duration(r.Int64N(int64(max(b.pause/2, 1))))
}

// Reset has the next pause be the first one again.
func (b *Backoff) Reset() { b.pause = 0 }

// Fresh reports whether there was no pause since the last Reset.
func (b *Backoff) Fresh() bool { return b.pause == 0 }

// Wake fills a slot for signals, unless it is full: a receiver that is late gets one signal.
func Wake(slot chan<- struct{}) {
	select {
	case slot <- struct{}{}:
	default:
	}
}

// Slot is a channel with one slot: a receiver that is late gets the latest value alone.
type Slot[T any] chan T

// NewSlot returns an empty slot.
func NewSlot[T any]() Slot[T] { return make(Slot[T], 1) }

// Put replaces what is in the slot. It never waits, however many put at the same time.
func (s Slot[T]) Put(value T) {
	for {
		select {
		case s <- value:
			return
		default:
		}
		select {
		case <-s:
		default:
		}
	}
}
