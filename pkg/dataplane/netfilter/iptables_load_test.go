package netfilter

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"flanneld/pkg/ip"
	"flanneld/pkg/state"
)

// busyKernel has rules that change all the time, and takes a while to tell what they are.
type busyKernel struct {
	takes, spent time.Duration
}

func (k *busyKernel) digest() (iptDigest, error) {
	time.Sleep(k.takes)
	k.spent += k.takes
	return iptDigest{all: time.Now().String()}, nil
}

func (k *busyKernel) watch(ctx context.Context, ready, changed func()) error {
	ready()
	for ctx.Err() == nil {
		changed()
		time.Sleep(time.Millisecond)
	}
	time.Sleep(time.Second) // until nobody is at it any more: a lock stops the clock
	return ctx.Err()
}

// However often others change rules, what there is is not read all the time; but often
// enough that their changes make one row.
func TestIPTablesLoad(t *testing.T) {
	for takes, share := range map[time.Duration]float64{time.Millisecond: 0.06, 10 * time.Millisecond: 0.06, 50 * time.Millisecond: 0.12} {
		t.Run(takes.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				k := &busyKernel{takes: takes}
				w := newIPTables(state.IPTablesNFT, families[ip.V4], true, k, nil)
				ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
				defer cancel()
				_ = w.watch(ctx, func() {}, func() {})
				if got := k.spent.Seconds() / 60; got > share {
					t.Errorf("with %s for a look, %.0f %% of the time are spent on that", takes, 100*got)
				}
				if row := w.content.changed.Sub(w.content.since); row < 50*time.Second {
					t.Errorf("with %s for a look, a row of changes is over after %s", takes, row)
				}
			})
		})
	}
}
