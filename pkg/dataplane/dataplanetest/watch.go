package dataplanetest

import (
	"context"

	"flanneld/pkg/dataplane"
)

// watchBuffer is how many events are kept for a watcher that does not read.
const watchBuffer = 4096

// watch is what a watcher is still to be told.
type watch struct {
	more  chan struct{} // one slot
	queue []dataplane.Event
	lost  bool
}

// tell queues an event for the watcher, if there is one.
func (f *Fake) tell(e dataplane.Event) {
	w := f.watch
	if w == nil || f.deaf {
		return
	}
	if len(w.queue) >= watchBuffer || f.faults.hit(f.faults.LoseEvent) {
		w.lost = true
		w.queue = nil
	} else if !w.lost {
		w.queue = append(w.queue, e)
	}
	select {
	case w.more <- struct{}{}:
	default:
	}
}

// Watch tells what happens to the fake, in order. Once events are lost, so are
// all until the watcher is told.
func (f *Fake) Watch(ctx context.Context, ready func(), emit func(dataplane.Event)) error {
	w := &watch{more: make(chan struct{}, 1)}
	f.setWatch(w)
	defer f.setWatch(nil)
	ready()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-w.more:
		}
		if err := f.pause(ctx); err != nil {
			return err
		}
		for {
			e, ok := f.next(w)
			if !ok {
				break
			}
			emit(e)
		}
	}
}

func (f *Fake) setWatch(w *watch) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if w != nil && f.watch != nil {
		panic("there is a second watcher")
	}
	f.watch = w
}

func (f *Fake) next(w *watch) (dataplane.Event, bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	switch {
	case w.lost:
		w.lost = false
		return dataplane.Event{Lost: true}, true
	case len(w.queue) == 0:
		return dataplane.Event{}, false
	}
	e := w.queue[0]
	w.queue = w.queue[1:]
	return e, true
}
