package network

import (
	"cmp"
	"context"
	"maps"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	"k8s.io/klog/v2"

	"flanneld/backend"
	"flanneld/pkg/dataplane"
	"flanneld/pkg/ip"
	"flanneld/pkg/notice"
	"flanneld/pkg/once"
	"flanneld/pkg/state"
	"flanneld/pkg/status"
	"flanneld/subnet"
)

// Plane is a dataplane and how it is kept as desired.
type Plane struct {
	Name string // for the log
	dataplane.Dataplane
	// Kinds of objects that are there; the first dataplane has all that no other one has.
	Kinds []state.Kind
	Pace  Pace // what is zero is as usual
	// Observe, if set, gets all events first.
	Observe func(dataplane.Event)
}

// Pace is how often a dataplane is looked at, and tried again.
type Pace struct {
	// Resync is how often a full pass runs for no reason at all. A dataplane.Polled says
	// so itself.
	Resync time.Duration
	// RetryFirst and RetryMost bound the pauses after which a failed object is tried
	// again.
	RetryFirst, RetryMost time.Duration
}

// watchPause is how long to wait before a dataplane is watched again that could not be.
const watchPause = time.Second

// logs are what all loops log to: what they say in one moment is one line.
type logs struct {
	warnings, infos notice.Gather
	limiter         notice.Log // decides about the warnings, and what lasts
}

func newLogs() *logs {
	const about = string(status.ComponentDataplane)
	return &logs{warnings: notice.Gather{Logf: klog.Warningf, Component: about, All: true}, infos: notice.Gather{Logf: klog.Infof, Component: about}}
}

// Reconciler makes the dataplanes of a host look as desired, and keeps them so. There is one
// plan, and for each dataplane a loop of its own: what one of them waits for does not hold
// up the others.
type Reconciler struct {
	report func(Status)
	planes []Plane
	loops  []*loop
	latest once.Slot[Desired] // what is desired, if not taken yet
	ready  chan struct{}      // closed once all loops have converged

	// Of Run's planning alone:
	plan   *plan
	logged map[ip.Subnet]string // the plan's problems, as they were logged

	logs *logs

	statusMu  sync.Mutex     // held while it is reported
	config    *subnet.Config // of what is desired
	ofLoops   []loopStatus
	status    Status
	unusable  map[ip.Subnet]string // never changed in place
	converged bool                 // as far as Ready asks for it, now
	once      sync.Once            // closes ready
}

// Status is how well the host matches what is desired.
type Status struct {
	Wanted   int // objects that there should be
	Missing  int // objects that are not there, or are and should not be
	Unusable int // leases of which the backend can make nothing in some family
	// Unread is why it is not known what a dataplane has; empty if it is.
	Unread string
	// Host is what this host's own end of the overlay was last made for: its
	// device has the MTU that goes with it. Zero before that is in place.
	Host backend.Host
}

// NewReconciler returns a Reconciler that does nothing before its first desired state.
// It calls report, from Run, whenever the status changes. This host's own end of the overlay
// is in the first dataplane.
func NewReconciler(report func(Status), planes ...Plane) *Reconciler {
	r := &Reconciler{
		report: report, planes: planes,
		latest: once.NewSlot[Desired](), ready: make(chan struct{}),
		plan: newPlan(planes), logged: make(map[ip.Subnet]string),
		ofLoops: make([]loopStatus, len(planes)), logs: newLogs(),
	}
	for i, p := range planes {
		r.loops = append(r.loops, newLoop(p, r.logs, func(s loopStatus) { r.update(func() { r.ofLoops[i] = s }) }))
	}
	return r
}

// SetDesired replaces what is desired.
func (r *Reconciler) SetDesired(w Desired) { r.latest.Put(w) }

// Try returns why a dataplane could not have what is to be wanted in the place of what is.
func (r *Reconciler) Try(ctx context.Context, before, after []state.Object) error {
	for _, p := range r.planes {
		if t, ok := p.Dataplane.(dataplane.Trier); ok {
			if err := t.Try(ctx, before, after); err != nil {
				return err
			}
		}
	}
	return nil
}

// Ready is closed once every dataplane has converged with the configuration in force: each
// object of a desired state has been tried, the device and addresses of the host itself are in
// place, and nothing waits for an interface that is down, or could not be tried yet.
func (r *Reconciler) Ready() <-chan struct{} { return r.ready }

// Converged reports whether that is so now.
func (r *Reconciler) Converged() bool {
	r.statusMu.Lock()
	defer r.statusMu.Unlock()
	return r.converged
}

// Run reconciles until ctx ends, and returns ctx.Err().
func (r *Reconciler) Run(ctx context.Context) error {
	defer r.logs.infos.Stop()
	defer r.logs.warnings.Stop()
	g, ctx := errgroup.WithContext(ctx)
	for i, l := range r.loops {
		g.Go(func() error { return l.run(ctx) })
		g.Go(func() error { return l.watch(ctx, r.planes[i].Observe) })
	}
	g.Go(func() error {
		unsaid := time.NewTicker(resync) // what was not logged because it came and went
		defer unsaid.Stop()
		for {
			select {
			case <-ctx.Done():
				return ctx.Err()
			case w := <-r.latest:
				r.replan(w)
			case <-unsaid.C:
				r.logProblems()
			}
		}
	})
	return g.Wait()
}

// replan hands on what a desired state changes.
func (r *Reconciler) replan(w Desired) {
	changes := r.plan.set(w)
	r.update(func() {
		r.config, r.status.Unusable = w.Config, len(r.plan.troubled)
		if len(r.plan.changedProblems) > 0 {
			r.unusable = maps.Clone(r.plan.problems)
		}
	})
	for i, c := range changes {
		if c.needFullPass || len(c.want) > 0 {
			r.loops[i].set(c)
		}
	}
	r.logProblems()
}

// logProblems logs, once, of which leases the backend can make nothing.
func (r *Reconciler) logProblems() {
	var warnings summary
	for s := range r.plan.changedProblems {
		switch why := r.plan.problems[s]; why {
		case r.logged[s]:
		case "":
			delete(r.logged, s)
		default:
			if !r.logs.limiter.Event(s.String() + ": " + why) {
				continue // next time, if it stays
			}
			warnings.add(why, s)
			r.logged[s] = why
		}
		delete(r.plan.changedProblems, s)
	}
	warnings.log(&r.logs.warnings)
}

// update makes a change of what the status is made of, and reports it if it is another one.
func (r *Reconciler) update(change func()) {
	r.statusMu.Lock()
	defer r.statusMu.Unlock()
	before := r.status
	change()
	s := Status{Unusable: r.status.Unusable, Host: r.ofLoops[0].host}
	r.converged = r.config != nil
	for _, l := range r.ofLoops {
		s.Wanted += l.wanted
		s.Missing += l.missing
		s.Unread = cmp.Or(s.Unread, l.unread)
		r.converged = r.converged && l.config == r.config && l.connected
	}
	if r.status = s; s != before {
		r.report(s)
	}
	if r.converged {
		r.once.Do(func() { close(r.ready) })
	}
}
