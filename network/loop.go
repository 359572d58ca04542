package network

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"k8s.io/klog/v2"

	"flanneld/backend"
	"flanneld/pkg/dataplane"
	"flanneld/pkg/once"
	"flanneld/pkg/state"
	"flanneld/subnet"
)

// loop makes one dataplane look as desired, and keeps it so.
//
// A pass compares what is wanted with what is there and applies the difference.
// A full pass asks the dataplane for everything there is; it follows each event
// which says that something is not as wanted, each failure, and the passing of time. A
// quick pass looks at the few objects that a new desired state changes, and takes the dataplane to
// be as the last passes left it: were it not, there would have been an event.
type loop struct {
	name      string
	dataplane dataplane.Dataplane
	polled    dataplane.Polled // the same; nil if it reports changes
	pace      Pace
	report    func(loopStatus)
	logs      *logs
	wake      chan struct{} // one slot: something below is to be looked at

	mu           sync.Mutex
	change       *change      // what was not taken yet
	full         bool         // a full pass is due
	resetBackoff bool         // ... in which what failed is tried before its time
	desired      planeDesired // changed by run alone
	// awaitRoutes is until when another's route may be what routes of ours wait for, such as
	// the one to the network of a new address.
	awaitRoutes time.Time
	// broken are the devices that could not be had. That they come and go is what comes of
	// trying.
	broken  map[state.Key]bool
	counted counters // as of the last pass

	// Of run alone:
	seen      *seen                   // as of the last pass; nil before the first
	left      state.Set               // objects of ours without a mark that may be there, too, wanted or not
	keep      func(state.Object) bool // what must stay, as of the last full pass
	missing   *unmet                  // what it could not do
	failures  map[state.Key]*failure
	restored  bool      // by the last full pass: something was not as an earlier one left it
	undone    state.Set // what was restored since the first of conflicts
	conflicts int       // passes in close succession that restored something
	conflict  time.Time // when the last of them began
	status    loopStatus
	// unreadSince is since when it is not known what there is; zero if it is.
	unreadSince time.Time
}

// loopStatus is how well a dataplane matches what is desired.
type loopStatus struct {
	wanted, missing int
	// host and config are what the dataplane was last made for, with all that is essential
	// in place; zero before that.
	host   backend.Host
	config *subnet.Config
	// connected is whether all that is essential is in place now.
	connected bool
	// unread is why it is not known what there is; empty if it is.
	unread string
}

// failure is an object that could not be had.
type failure struct {
	reason  string
	next    time.Time // when to try again
	backoff once.Backoff
	// blocked is set if it was by what is not ours, or by the failure of what
	// it depends on; with that out of the way, there is no reason to wait.
	// Nor is there if it cost nothing, since it was not tried.
	blocked bool
	noLink  bool // for want of the interface
	pending bool // it could not be tried yet
	routed  bool // it may be for want of others' routes
	// settling is set while others change what it is about: the dataplane sends an event when
	// they have stopped, and there is nothing to report.
	settling bool
	since    time.Time
	logged   []string // the reasons that were
}

const (
	// retryFirst, retryMost and resync are the usual Pace.
	retryFirst = 100 * time.Millisecond
	retryMost  = 30 * time.Second
	resync     = 5 * time.Minute
	// settlingPause is after which time a step that waits for others is tried again,
	// should there be no event.
	settlingPause = 5 * time.Second
	// failureDebounce is how long a failure must last before it is logged: a network that
	// is configured anew has no address for a moment.
	failureDebounce = time.Second
	// reasonsMost is how many reasons of one failure are logged, each once.
	reasonsMost = 5
	// awaitRoutesMost is for how long after its first failure a route is tried again at once
	// when others make routes.
	awaitRoutesMost = 5 * time.Second
	// debounce is the shortest time between two full passes that events cause.
	debounce = 10 * time.Millisecond
	// After conflictAfter passes, each within conflictPause of the one before, that had
	// to restore something, someone else must be at work on the same objects;
	// from then on there is a pass every conflictPause.
	conflictAfter = 20
	conflictPause = time.Second
)

func newLoop(p Plane, to *logs, report func(loopStatus)) *loop {
	p.Pace = Pace{
		Resync:     cmp.Or(p.Pace.Resync, resync),
		RetryFirst: cmp.Or(p.Pace.RetryFirst, retryFirst),
		RetryMost:  cmp.Or(p.Pace.RetryMost, retryMost),
	}
	polled, _ := p.Dataplane.(dataplane.Polled)
	return &loop{
		name: p.Name, dataplane: p.Dataplane, polled: polled, pace: p.Pace, report: report, logs: to,
		wake: make(chan struct{}, 1), failures: make(map[state.Key]*failure), undone: make(state.Set),
	}
}

// set has the loop follow a change of what is desired.
func (r *loop) set(c change) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if was := r.change; was != nil && !c.all {
		for k, o := range c.want {
			if was.all && o == nil {
				delete(was.want, k)
			} else {
				was.want[k] = o
			}
		}
		c.want, c.all, c.needFullPass = was.want, was.all, c.needFullPass || was.needFullPass
	}
	if c.want == nil {
		c.want = make(state.Set)
	}
	r.change = &c
	once.Wake(r.wake)
}

// notice takes an event: the dataplane changed. If that is not as wanted, a full pass will
// look.
func (r *loop) notice(e dataplane.Event) {
	r.mu.Lock()
	defer r.mu.Unlock()
	want, wanted := r.desired.want[e.Key]
	switch {
	case e.Lost:
		klog.V(1).Info("notifications were lost; looking at everything")
		r.resetBackoff = true
	case r.desired.spec.Host.IsExternal(e.Iface):
		r.resetBackoff = true
	case e.Paths && !e.Gone && time.Now().Before(r.awaitRoutes):
		r.resetBackoff = true
	case wanted && (e.Gone || !state.Same(want, e.Entry.Object) || e.Entry.Owner != state.Ours):
		// With the device comes what failed for want of it.
		r.resetBackoff = r.resetBackoff || state.IsDevice(want) && !r.broken[e.Key]
	case !wanted && !e.Gone && e.Entry.Owner == state.Ours && r.desired.mine(e.Entry.Object):
	default:
		return
	}
	r.full = true
	once.Wake(r.wake)
}

// watch takes the dataplane's events until ctx ends.
func (r *loop) watch(ctx context.Context, observe func(dataplane.Event)) error {
	emit := func(e dataplane.Event) {
		if observe != nil {
			observe(e)
		}
		r.notice(e)
	}
	return r.logs.limiter.Again(ctx, watchPause, klog.Errorf, "watching "+r.name, func() error {
		// Whatever passed before the watch was there is to be looked at.
		return r.dataplane.Watch(ctx, func() { emit(dataplane.Event{Lost: true}) }, emit)
	})
}

// run reconciles until ctx ends, and returns ctx.Err().
func (r *loop) run(ctx context.Context) error {
	timer := time.NewTimer(r.pace.Resync)
	defer timer.Stop()
	var rest time.Time // no full pass before
	listing := "listing what there is of " + r.name
	for {
		var full bool
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-r.wake:
		case <-timer.C:
			full = true
		}
		changed, needFullPass, noticed, resetBackoff := r.take()
		if r.desired.want == nil {
			continue // no desired state yet: nothing is known, so nothing is done
		}
		for _, k := range changed {
			if r.failures[k] != nil {
				full = true // what is there is not sure
				delete(r.failures, k)
			}
		}
		begun := time.Now()
		switch {
		case full || needFullPass || r.seen == nil || r.desired.spec.Partial:
			full = true
		case !noticed:
			full = !r.quickPass(ctx, changed, false)
		default:
			// What is new does not wait for a full pass that has to.
			if time.Now().Before(rest) {
				r.quickPass(ctx, changed, true)
			}
			full = true
		}
		switch {
		case !full:
		case time.Now().Before(rest):
			r.putOff(resetBackoff)
			timer.Reset(time.Until(rest))
			continue
		default:
			if resetBackoff {
				for _, f := range r.failures {
					f.next = time.Time{}
					f.backoff.Reset()
				}
			}
			start := time.Now()
			err := r.fullPass(ctx)
			if ctx.Err() != nil {
				return ctx.Err() // what the pass did not get to is not known to be in place
			}
			if err != nil {
				if r.logs.limiter.State(listing, err.Error()) {
					klog.Errorf("%v; trying again, nothing changes meanwhile", err)
				}
				if r.unreadSince.IsZero() {
					r.unreadSince = start
				} else if r.status.unread != err.Error() && time.Since(r.unreadSince) >= failureDebounce {
					r.status.unread = err.Error()
					r.report(r.status)
				}
				r.putOff(resetBackoff)
				rest = time.Now().Add(time.Second)
				timer.Reset(time.Second)
				continue
			}
			r.logs.limiter.Over(listing)
			klog.V(1).Infof("looked at everything there is of %s: %s for %d objects", r.name, time.Since(start).Round(time.Millisecond), len(r.desired.want))
			rest = time.Now().Add(debounce)
			switch {
			case r.inConflict(start):
				rest = start.Add(conflictPause)
			case r.polled == nil: // others' changes may keep it busy
				rest = time.Now().Add(max(debounce, 2*time.Since(start)))
			}
		}
		r.countPass(full, time.Since(begun))
		r.reportStatus(full)
		timer.Reset(r.untilRetry())
	}
}

// inConflict reports whether someone keeps undoing what a pass that began at start
// has done.
func (r *loop) inConflict(start time.Time) bool {
	switch {
	case start.Sub(r.conflict) > 2*conflictPause:
		r.conflicts = 0
		clear(r.undone)
	case !r.restored:
		return r.conflicts > conflictAfter
	}
	if r.restored {
		r.conflict = start
		if r.conflicts++; r.conflicts == conflictAfter {
			if text := fmt.Sprintf("something on this host keeps changing what is ours; putting it right once in %s", conflictPause); r.logs.limiter.Event(text) {
				r.logs.warnings.Add(text)
			}
		}
	}
	return r.conflicts > conflictAfter
}

// take empties the mailbox. It returns the keys of the objects that a new desired state
// changes, whether it can only be granted by a full pass, and whether events call
// for one, and for one that tries what failed before its time.
func (r *loop) take() (changed []state.Key, needFullPass, noticed, resetBackoff bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	noticed, resetBackoff = r.full, r.resetBackoff
	if c := r.change; c != nil {
		if !c.all {
			for k := range c.want {
				r.seen.settle(k)
			}
		}
		changed = slices.Collect(r.desired.take(*c))
		needFullPass, resetBackoff = c.needFullPass, resetBackoff || c.all
	}
	r.change, r.full, r.resetBackoff = nil, false, false
	return changed, needFullPass, noticed, resetBackoff
}

// putOff puts off a full pass.
func (r *loop) putOff(resetBackoff bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.full, r.resetBackoff = true, r.resetBackoff || resetBackoff
}

// reportStatus reports the status after a pass, if it changed.
func (r *loop) reportStatus(full bool) {
	s := r.status
	s.wanted, s.missing = len(r.desired.want), len(r.failures)
	if full {
		s.unread, r.unreadSince = "", time.Time{}
	}
	if s.connected = r.connected(); s.connected {
		s.host, s.config = r.desired.spec.Host, r.desired.spec.Config
	}
	if s != r.status {
		r.status = s
		r.report(s)
	}
}

// untilRetry returns when the next failed object is due, or a look for no reason.
func (r *loop) untilRetry() time.Duration {
	next := time.Now().Add(r.pace.Resync)
	if r.polled != nil && !r.polled.Due().IsZero() {
		next = r.polled.Due()
	}
	for _, f := range r.failures {
		if f.next.Before(next) {
			next = f.next
		}
	}
	return time.Until(next)
}
