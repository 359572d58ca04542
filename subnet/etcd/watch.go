package etcd

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"flanneld/pkg/once"
	"flanneld/subnet"
)

// Pace is the least time between two listings. A stream of events that ends sooner than
// that is the end of the watch.
const Pace = time.Second

// ErrHistory is that what passed meanwhile can't be had as events any more, or is
// of another history.
var ErrHistory = errors.New("the history is lost")

// Watch is how a store watches leases. What it knows is kept: the next Run goes on from
// there without listing all leases again, unless the server's history does not reach back
// to it or is another one.
type Watch struct {
	// List brings a view to what is there now.
	List func(context.Context, *View) error
	// Verify finds out whether the server still has the history that a view follows, and
	// how far it has gone on: it sets Listed and Target. A server that was set back, to
	// nothing or to a backup, would have us wait for a revision that it has yet to reach,
	// or bring only what came after that if it has passed it by now. It is called before
	// List, too, for what that leaves out.
	Verify func(context.Context, *View) error
	// Follow brings a view up to date with what happens, until that fails. It calls
	// deliver, with whether anything changed.
	Follow func(ctx context.Context, v *View, deliver func(changed bool)) error

	mu      sync.Mutex
	watched bool // now or before
	saved   *View
}

// Snapshot lists what is there now. The first Run begins with that, and so does another listing
// before it.
func (w *Watch) Snapshot(ctx context.Context) (subnet.Snapshot, error) {
	v := new(View)
	w.mu.Lock()
	if !w.watched && w.saved != nil {
		v, w.saved = w.saved, nil
	}
	w.mu.Unlock()
	if err := w.List(ctx, v); err != nil {
		return subnet.Snapshot{}, err
	}
	snapshot := v.Snapshot()
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.watched {
		w.saved = v
	}
	return snapshot, nil
}

// Run calls yield with what is known whenever that changes, until ctx ends, when it returns
// ctx.Err(), no endpoint answers, or one endpoint breaks off one stream after the other. A
// second Run beside this one starts from nothing.
func (w *Watch) Run(ctx context.Context, yield func(subnet.Snapshot)) error {
	w.mu.Lock()
	v := w.saved
	w.saved, w.watched = nil, true
	w.mu.Unlock()
	if v == nil {
		v = new(View)
	}
	defer func() {
		w.mu.Lock()
		w.saved = v
		w.mu.Unlock()
	}()
	err := w.run(ctx, v, yield)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return fmt.Errorf("watching leases: %w", err)
}

func (w *Watch) run(ctx context.Context, v *View, yield func(subnet.Snapshot)) error {
	if err := w.Verify(ctx, v); err != nil {
		return err
	}
	v.owed = true // this caller has seen none
	deliver := func(changed bool) {
		v.owed = v.owed || changed
		if v.owed && v.Revision >= v.Target {
			v.owed = false
			yield(v.Snapshot())
		}
	}
	var listed time.Time
	for {
		if !v.Listed {
			if err := once.Sleep(ctx, Pace-time.Since(listed)); err != nil {
				return err
			}
			if err := w.List(ctx, v); err != nil {
				return err
			}
			listed = time.Now()
		}
		deliver(false)
		started := time.Now()
		err := w.Follow(ctx, v, deliver)
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case errors.Is(err, ErrHistory):
			v.Listed = false
		case !Unanswered(err) || time.Since(started) < Pace:
			return err
		}
		if err := w.Verify(ctx, v); err != nil {
			return err
		}
	}
}
