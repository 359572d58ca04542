package network

import (
	"context"
	"sync"
	"time"

	"flanneld/pkg/notice"
	"flanneld/pkg/once"
)

// lookout has something looked at whenever it may have changed. Many changes are followed by
// one look, when they have come to an end.
type lookout struct {
	woken chan struct{} // has one slot
	// quiet is how long there must be no further change before a look. It follows after
	// longest, however many there are.
	quiet, longest time.Duration
	// retry is how soon there is another look after one that failed, unless something changes.
	retry time.Duration
	// logf logs the failures of looks in this format.
	logf   func(format string, a ...any)
	failed string

	timing sync.Mutex
	timer  *time.Timer
	due    time.Time // when it fires; zero if it does not
}

// wake says that something may have changed.
func (l *lookout) wake() { once.Wake(l.woken) }

// wakeIn has a look taken after a while, unless there is one before. 0 is never.
func (l *lookout) wakeIn(d time.Duration) {
	l.timing.Lock()
	defer l.timing.Unlock()
	if at := time.Now().Add(d); d > 0 && (l.due.IsZero() || at.Before(l.due)) {
		l.stop()
		l.due, l.timer = at, time.AfterFunc(d, l.wake) // the only one, however many events there are
	}
}

// stop makes wakeIn undone. The caller holds l.timing.
func (l *lookout) stop() {
	if l.timer != nil {
		l.timer.Stop()
	}
	l.due = time.Time{}
}

// run has looks taken until ctx ends, and returns ctx.Err(). After each it rests for as long as
// look says.
func (l *lookout) run(ctx context.Context, look func(context.Context) (rest time.Duration, err error)) error {
	var log notice.Log
	for {
		err := l.await(ctx)
		l.timing.Lock()
		l.stop()
		l.timing.Unlock()
		if err != nil {
			return err
		}
		rest, err := look(ctx)
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case err == nil:
			log.Over(l.failed)
		default:
			if log.State(l.failed, err.Error()) {
				l.logf(l.failed, err)
			}
			l.wakeIn(l.retry)
		}
		if err := once.Sleep(ctx, rest); err != nil {
			return err
		}
	}
}

// await waits for a change, and for the end of those that follow it.
func (l *lookout) await(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-l.woken:
	}
	quiet, longest := time.NewTimer(l.quiet), time.NewTimer(l.longest)
	defer quiet.Stop()
	defer longest.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-l.woken:
			quiet.Reset(l.quiet)
		case <-quiet.C:
			return nil
		case <-longest.C:
			return nil
		}
	}
}
