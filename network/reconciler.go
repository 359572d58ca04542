package network

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"k8s.io/klog/v2"

	"flanneld/backend"
	"flanneld/pkg/ip"
	"flanneld/pkg/notice"
	"flanneld/pkg/state"
	"flanneld/pkg/target"
)

// Reconciler makes a target look as wished, and keeps it so.
//
// A pass compares what is wanted with what is there and applies the difference.
// A full pass asks the target for everything there is; it follows each hint
// that something changed, each failure, and the passing of time. A quick pass
// looks at the few objects that a new wish changes, and takes the target to be
// as the last passes left it: were it not, a hint would have said so.
type Reconciler struct {
	target target.Target
	wake   chan struct{} // one slot: something below is to be looked at

	report func(Status)
	ready  chan struct{} // closed after the first full pass

	readyOnce sync.Once

	mu    sync.Mutex
	wish  *Wish // the latest, if not taken yet
	full  bool  // a full pass is due
	fresh bool  // ... in which what failed is tried before its time
	plan  plan  // changed by Run alone
	// unsettled is until when another's route may be what routes of ours wait for, such as
	// the one to the network of a new address.
	unsettled time.Time
	// broken are the devices that could not be had. That they come and go is what comes of
	// trying.
	broken map[state.Key]bool

	warnings, infos notice.Gather
	said            notice.Log // decides about the warnings

	// Of Run alone:
	have     state.Have              // as of the last pass; nil before the first
	left     state.Set               // objects of ours without a mark that may be there, too, wanted or not
	keep     func(state.Object) bool // what must stay, as of the last full pass
	missing  *unmet                  // what it could not do
	failures map[state.Key]*failure
	useless  map[ip.Subnet]string // the plan's problems, as they were logged
	restored bool                 // by the last full pass: something was not as an earlier one left it
	fights   int                  // passes in close succession that restored something
	fought   time.Time            // when the last of them began
	status   Status
}

// Status is how well the target matches the wish.
type Status struct {
	Wanted  int // objects that there should be
	Missing int // objects that are not there, or are and should not be
	Useless int // leases of which the backend can make nothing
	// Host is what this host's own end of the overlay was last made for: its
	// device has the MTU that goes with it. Zero before that is in place.
	Host backend.Host
}

// failure is an object that could not be had.
type failure struct {
	reason string
	next   time.Time     // when to try again
	pause  time.Duration // before that
	// blocked is set if it was by what is not ours, or by the failure of what
	// it depends on; with that out of the way, there is no reason to wait.
	blocked bool
	noLink  bool // for want of the interface
	routed  bool // it may be for want of others' routes
	// settling is set while others change what it is about: the target tells when
	// they have stopped, and there is nothing to report.
	settling bool
	since    time.Time
	logged   []string // the reasons that were
}

const (
	// retryFirst and retryMost bound the pauses after which a failed object is
	// tried again.
	retryFirst = 100 * time.Millisecond
	retryMost  = 30 * time.Second
	// settlingPause is after which time a step that waits for others is tried again,
	// should the target not tell.
	settlingPause = 5 * time.Second
	// failureDebounce is how long a failure must last before it is logged: a network that
	// is configured anew has no address for a moment.
	failureDebounce = time.Second
	// reasonsMost is how many reasons of one failure are logged, each once.
	reasonsMost = 5
	// unsettledMost is for how long after its first failure a route is tried again at once
	// when others make routes.
	unsettledMost = 5 * time.Second
	// resync is how often a full pass runs for no reason at all.
	resync = 5 * time.Minute
	// settle is the shortest time between two full passes that hints cause.
	settle = 10 * time.Millisecond
	// After fightAfter passes, each within fightPause of the one before, that had
	// to restore something, someone else must be at work on the same objects;
	// from then on there is a pass every fightPause.
	fightAfter = 20
	fightPause = time.Second
)

// NewReconciler returns a Reconciler that does nothing before its first wish.
// It calls report, from Run, whenever the status changes.
func NewReconciler(t target.Target, report func(Status)) *Reconciler {
	return &Reconciler{
		target:   t,
		wake:     make(chan struct{}, 1),
		report:   report,
		ready:    make(chan struct{}),
		failures: make(map[state.Key]*failure),
		useless:  make(map[ip.Subnet]string),
		warnings: notice.Gather{Logf: klog.Warningf, All: true},
		infos:    notice.Gather{Logf: klog.Infof},
	}
}

// Wish replaces the wish.
func (r *Reconciler) Wish(w Wish) {
	r.mu.Lock()
	r.wish = &w
	r.mu.Unlock()
	r.poke()
}

// Ready is closed once every object of a first wish has been tried, the device
// and addresses of the host itself are in place, and nothing waits for an
// interface that is down.
func (r *Reconciler) Ready() <-chan struct{} { return r.ready }

func (r *Reconciler) poke() {
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

// Hint tells that the target changed. If that is not as wished, a full pass
// will look.
func (r *Reconciler) Hint(e target.Event) {
	r.mu.Lock()
	defer r.mu.Unlock()
	want, wanted := r.plan.want[e.Key]
	switch {
	case e.Lost:
		klog.V(1).Info("notifications were lost; looking at everything")
		r.fresh = true
	case e.Iface != "" && e.Iface == r.plan.wish.Host.Iface:
		r.fresh = true
	case e.Paths && !e.Gone && time.Now().Before(r.unsettled):
		r.fresh = true
	case wanted && (e.Gone || !state.Same(want, e.Entry.Object) || e.Entry.Owner != state.Ours):
		// With the device comes what failed for want of it.
		r.fresh = r.fresh || state.IsDevice(want) && !r.broken[e.Key]
	case !wanted && !e.Gone && e.Entry.Owner == state.Ours && r.plan.mine(e.Entry.Object):
	default:
		return
	}
	r.full = true
	r.poke()
}

const aboutDump = "what there is"

// Run reconciles until ctx ends, and returns ctx.Err().
func (r *Reconciler) Run(ctx context.Context) error {
	timer := time.NewTimer(resync)
	defer timer.Stop()
	defer r.infos.Stop()
	defer r.warnings.Stop()
	var rest time.Time // no full pass before
	for {
		var full bool
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-r.wake:
		case <-timer.C:
			full = true
		}
		changed, whole, hinted, fresh := r.take()
		if r.plan.want == nil {
			continue // no wish yet: nothing is known, so nothing is done
		}
		for k := range changed {
			if r.failures[k] != nil {
				full = true // what is there is not sure
				delete(r.failures, k)
			}
		}
		r.tellUseless()
		switch {
		case full || whole || r.have == nil || r.plan.wish.Partial:
			full = true
		case !hinted:
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
			r.again(fresh)
			timer.Reset(time.Until(rest))
			continue
		default:
			if fresh {
				for _, f := range r.failures {
					f.next, f.pause = time.Time{}, 0
				}
			}
			start := time.Now()
			if err := r.fullPass(ctx); err != nil && ctx.Err() == nil {
				if r.said.State(aboutDump, err.Error()) {
					klog.Errorf("%v; trying again, nothing changes meanwhile", err)
				}
				r.again(fresh)
				rest = time.Now().Add(time.Second)
				timer.Reset(time.Second)
				continue
			}
			r.said.Over(aboutDump)
			klog.V(1).Infof("looked at everything there is: %s for %d objects", time.Since(start).Round(time.Millisecond), len(r.plan.want))
			rest = time.Now().Add(max(settle, 2*time.Since(start)))
			if r.fight(start) {
				rest = start.Add(fightPause)
			}
		}
		r.tell()
		if r.status.Host != (backend.Host{}) {
			r.readyOnce.Do(func() { close(r.ready) })
		}
		timer.Reset(r.untilRetry())
	}
}

// fight reports whether someone keeps undoing what a pass that began at start
// has done.
func (r *Reconciler) fight(start time.Time) bool {
	switch {
	case start.Sub(r.fought) > 2*fightPause:
		r.fights = 0
	case !r.restored:
		return r.fights > fightAfter
	}
	if r.restored {
		r.fought = start
		if r.fights++; r.fights == fightAfter {
			if text := fmt.Sprintf("something on this host keeps changing what is ours; putting it right once in %s", fightPause); r.said.Event(text) {
				r.warnings.Add(text)
			}
		}
	}
	return r.fights > fightAfter
}

// take empties the mailbox. It returns the keys of the objects that a new wish
// changes, whether it can only be granted by a full pass, and whether hints call
// for one, and for a fresh one.
func (r *Reconciler) take() (changed keys, whole, hinted, fresh bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	hinted, fresh = r.full, r.fresh
	if r.wish != nil {
		// What is there for an unreadable lease is seen by a full pass alone.
		whole = r.plan.wish.Partial != r.wish.Partial || !slices.Equal(r.plan.wish.Unreadable, r.wish.Unreadable) || !slices.Equal(r.plan.wish.Networks, r.wish.Networks)
		var all bool
		changed, all = r.plan.set(*r.wish)
		whole, fresh = whole || all, fresh || all
	}
	r.wish, r.full, r.fresh = nil, false, false
	return changed, whole, hinted, fresh
}

// again puts off a full pass.
func (r *Reconciler) again(fresh bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.full, r.fresh = true, r.fresh || fresh
}

// tellUseless logs, once, of which leases the backend can make nothing.
func (r *Reconciler) tellUseless() {
	var news summary
	for s := range r.plan.news {
		switch why := r.plan.problems[s]; why {
		case r.useless[s]:
		case "":
			delete(r.useless, s)
		default:
			if !r.said.Event(s.String() + ": " + why) {
				continue // next time, if it stays
			}
			news.add(why, s)
			r.useless[s] = why
		}
		delete(r.plan.news, s)
	}
	news.log(&r.warnings)
}

// tell reports the status if it changed.
func (r *Reconciler) tell() {
	s := Status{Wanted: len(r.plan.want), Missing: len(r.failures), Useless: len(r.plan.problems), Host: r.status.Host}
	if r.connected() {
		s.Host = r.plan.wish.Host
	}
	if s != r.status {
		r.status = s
		r.report(s)
	}
}

// untilRetry returns when the next failed object is due, or a resync.
func (r *Reconciler) untilRetry() time.Duration {
	next := time.Now().Add(resync)
	for _, f := range r.failures {
		if f.next.Before(next) {
			next = f.next
		}
	}
	return time.Until(next)
}
