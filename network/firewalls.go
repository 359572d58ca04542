package network

import (
	"context"
	"errors"
	"runtime"
	"slices"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
	"k8s.io/klog/v2"

	"flanneld/pkg/dataplane"
	"flanneld/pkg/firewall"
	"flanneld/pkg/notice"
)

const (
	// firewallQuiet is how long packet filters must not change before they are examined:
	// whoever changes them comes to an end first, and then our own rules are put right.
	firewallQuiet = 2 * time.Second
	// firewallAgain is the same once something was found: when that is mended, it is said
	// soon.
	firewallAgain = 200 * time.Millisecond
	// firewallLongest is how long filters that change all the time are not examined.
	firewallLongest = 4 * time.Second
	// firewallRest is how long they are left alone after they were, at least.
	firewallRest = 500 * time.Millisecond
	// firewallRetry is how soon they are examined again after that failed.
	firewallRetry = 30 * time.Second
	// firewallShare is how many times as long as it took of a processor they are left alone.
	firewallShare = 20
)

// Firewalls report what others' packet filters keep from its way, whenever they change, or
// what has to pass them.
type Firewalls struct {
	lookout
	view    View
	report  func([]Obstacle)
	desired atomic.Pointer[Desired]
	pods    atomic.Pointer[[]string] // the interfaces that this host's pods are behind; "" where that is not known
}

// NewFirewalls returns Firewalls that call report from Run.
func NewFirewalls(view View, report func([]Obstacle)) *Firewalls {
	return &Firewalls{view: view, report: report, lookout: lookout{
		woken: make(chan struct{}, 1), quiet: firewallQuiet, longest: firewallLongest, retry: firewallRetry,
		logf: klog.Warningf, failed: "it is not known whether a firewall on this host is in the way: %v",
	}}
}

// SetDesired replaces what is desired.
func (f *Firewalls) SetDesired(w Desired) {
	f.desired.Store(&w)
	f.Changed()
}

// Event takes an event of the kernel.
func (f *Firewalls) Event(e dataplane.Event) {
	pods := f.pods.Load()
	if e.Lost || e.Iface != "" && (pods == nil || slices.Contains(*pods, "") || slices.Contains(*pods, e.Iface)) {
		f.Changed()
	}
}

// Changed tells that packet filters changed.
func (f *Firewalls) Changed() { f.wake() }

// Run reports until ctx ends, and returns ctx.Err().
func (f *Firewalls) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { // it ends at once if there is nothing that could change
		var log notice.Log
		return log.Again(ctx, watchPause, klog.Errorf, "watching the packet filters", func() error { return firewall.Watch(ctx, f.Changed) })
	})
	g.Go(func() error { return f.run(ctx, f.examine) })
	return g.Wait()
}

// examine reports what the filters drop.
func (f *Firewalls) examine(ctx context.Context) (rest time.Duration, err error) {
	var found []Obstacle
	took := processorTime(func() { found, err = f.Look(ctx, f.desired.Load()) })
	switch {
	case ctx.Err() != nil:
	case errors.Is(err, firewall.ErrChanging):
		f.Changed() // what was found before stays
		err = nil
	case err == nil:
		f.quiet = firewallQuiet
		if len(found) > 0 {
			f.quiet = firewallAgain
		}
		f.report(found)
	}
	return max(firewallRest, firewallShare*took), err
}

// processorTime returns how long f has a processor: on a busy machine it takes longer.
func processorTime(f func()) time.Duration {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var before, after unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &before)
	f()
	_ = unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &after)
	return time.Duration(after.Nano() - before.Nano())
}

// Look returns what packet filters keep from its way now of what is desired.
func (f *Firewalls) Look(ctx context.Context, w *Desired) ([]Obstacle, error) {
	ifaces, err := f.view.Interfaces(ctx)
	if err != nil {
		return nil, err
	}
	all := trafficOf(w, ifaces)
	pods := []string{""}
	if len(all) > 0 {
		pods = nil
	}
	for _, t := range all {
		pods = append(pods, t.pods.Name)
	}
	f.pods.Store(&pods)
	var found, before []Obstacle
	looks := 0
	err = firewall.Read(ctx, func(rs *firewall.Ruleset) {
		before, found = found, nil
		for _, t := range all {
			found = append(found, t.examine(rs)...)
		}
		looks++
	})
	if errors.Is(err, firewall.ErrChanging) && looks > 1 && slices.Equal(before, found) {
		err = nil // what changes all the time has nothing to do with it
	}
	return found, err
}
