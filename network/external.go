package network

import (
	"context"
	"fmt"
	"net/netip"
	"sync/atomic"
	"time"

	"k8s.io/klog/v2"

	"flanneld/backend"
	"flanneld/pkg/dataplane"
	"flanneld/pkg/notice"
)

const (
	// followPause lets the events of one change come in before it is looked at.
	followPause = 10 * time.Millisecond
	// lookAroundPause is how long after events of other interfaces, which may come by
	// the hundreds, there is one look for all of them. It is longer where a look takes
	// long, so that looks keep a processor busy for a twentieth of the time at most.
	lookAroundPause = 300 * time.Millisecond
	// lostPause is how long the address must be away before the peers are told
	// another one: many changes take it away and bring it back.
	lostPause = 500 * time.Millisecond
	// betterPause is how long there must be a better choice than one that works, so
	// that an interface whose link comes and goes does not take the peers to and fro.
	betterPause = 3 * time.Second
	// lostReport is how long there must be no choice, or the interface be down, before
	// that is an error.
	lostReport = time.Second
	// lostRetry is how soon an interface is looked for again that is lost or cannot be seen.
	lostRetry = time.Second
	// downReminder is how soon it is tried again to log that it is down.
	downReminder = time.Minute
)

// External follows the external interface.
type External struct {
	lookout
	selection Selection
	view      View
	looks     func()
	report    func(backend.Host, error)

	host      backend.Host
	log       notice.Log
	changes   notice.Gather
	downSince time.Time // since when it is down; zero if it is not
	requested atomic.Pointer[netip.Addr]
	names     atomic.Pointer[externalNames]
	device    atomic.Pointer[string] // the backend's own, which never is a choice
	took      atomic.Int64           // nanoseconds to look: default routes are found among all
}

// externalNames are interfaces: the external one, and that which may become it.
type externalNames struct{ now, next string }

// NewExternal returns what follows h, which was chosen by s. From Run, it calls looks before
// each look, and then report with what Selection says of the interface that counts from then
// on, and with why it cannot be seen as it was; nil if it can.
func NewExternal(s Selection, v View, h backend.Host, looks func(), report func(backend.Host, error)) *External {
	x := &External{
		selection: s, view: v, looks: looks, report: report, host: h,
		lookout: lookout{woken: make(chan struct{}, 1), quiet: followPause, longest: followPause},
		changes: notice.Gather{Logf: klog.Infof},
	}
	x.names.Store(&externalNames{now: h.V4.Iface})
	return x
}

// Request has another address advertised than the selection says, or that again if it is not
// valid.
func (x *External) Request(publicIP netip.Addr) {
	if was := x.requested.Swap(&publicIP); was == nil && publicIP.IsValid() || was != nil && *was != publicIP {
		x.wake()
	}
}

// SetDesired replaces what is desired.
func (x *External) SetDesired(w Desired) {
	device := w.Backend.Device(w.Host)
	x.device.Store(&device)
}

// Event takes an event of the kernel. What happens to other interfaces may make one of them
// the better choice.
func (x *External) Event(e dataplane.Event) {
	names, device := x.names.Load(), x.device.Load()
	ours := device != nil && *device == e.Iface
	switch {
	case e.Lost || e.Defaults || e.Iface != "" && (e.Iface == names.now || e.Iface == names.next):
		x.wake()
	case e.Iface != "" && !ours, e.Paths && x.selection.CanReach.IsValid():
		x.wakeIn(max(lookAroundPause, 20*time.Duration(x.took.Load())))
	}
}

// Run follows the interface until ctx ends, and returns ctx.Err().
func (x *External) Run(ctx context.Context) error {
	defer x.changes.Stop()
	var f follower
	return x.run(ctx, func(ctx context.Context) (rest time.Duration, err error) {
		x.looks()
		begin := time.Now()
		selection := x.selection
		if addr := x.requested.Load(); addr != nil && addr.IsValid() {
			selection.PublicIP = *addr
		}
		sight, err := selection.Follow(ctx, x.view, x.host)
		x.took.Store(int64(time.Since(begin)))
		switch {
		case ctx.Err() != nil:
			return 0, ctx.Err()
		case err != nil:
			x.logProblem(err)
			x.report(x.host, err)
			x.wakeIn(lostRetry)
			return 0, nil
		}
		now, again := f.follow(time.Now(), sight)
		x.wakeIn(again)
		x.logProblem(f.problem)
		x.wakeIn(x.logDown(now))
		x.names.Store(&externalNames{now.V4.Iface, f.next.V4.Iface})
		x.logChange(x.host, now)
		x.host = now
		x.report(now, f.problem)
		return 0, nil
	})
}

// logChange logs how the external interface changed.
func (x *External) logChange(was, now backend.Host) {
	say := func(format string, a ...any) { x.changes.Add(fmt.Sprintf(format, a...)) }
	if now.V4.Iface != was.V4.Iface || now.V4.Addr != was.V4.Addr || now.V4.MTU != was.V4.MTU {
		say("the external interface is %s now, with address %s and MTU %d", now.V4.Iface, now.V4.Addr, now.V4.MTU)
	}
	switch {
	case now.V4.OwnsPublicIP && !was.V4.OwnsPublicIP:
		say("the public address %s is one of this host now", now.V4.PublicIP)
	case !now.V4.OwnsPublicIP && was.V4.OwnsPublicIP:
		say("the public address %s is none of this host any more", now.V4.PublicIP)
	}
}

// follower decides when a change of the external interface is there to stay.
type follower struct {
	next    backend.Host // the better choice
	since   time.Time    // it is that
	lost    time.Time    // the interface or its address is, since
	problem error        // there is no choice
}

// follow returns which interface counts at a time, and how soon to look again; 0 if only
// after an event.
func (f *follower) follow(now time.Time, s Sight) (backend.Host, time.Duration) {
	if s.Lost == nil {
		f.lost, f.problem = time.Time{}, nil
	} else if f.lost.IsZero() {
		f.lost = now
	}
	if s.Next.V4.Iface != s.Now.V4.Iface || s.Next.V4.Addr != s.Now.V4.Addr {
		if f.next.V4.Iface != s.Next.V4.Iface || f.next.V4.Addr != s.Next.V4.Addr {
			f.next, f.since = s.Next, now
		}
		pause := lostPause
		if s.Works {
			pause = betterPause
		}
		if left := pause - now.Sub(f.since); left > 0 {
			return s.Now, left
		}
		*f = follower{}
		return s.Next, 0
	}
	f.next = backend.Host{}
	switch {
	case s.Lost == nil:
		return s.Now, 0
	case now.Sub(f.lost) < lostReport:
		return s.Now, lostReport - now.Sub(f.lost)
	}
	f.problem = s.Lost
	return s.Now, lostRetry
}

const externalInterface = "the external interface"

// logProblem logs why the external interface cannot be seen as it was, or that it can again.
func (x *External) logProblem(err error) {
	switch {
	case err != nil:
		if x.log.State(externalInterface, err.Error()) {
			klog.Errorf("%s: %v", externalInterface, err)
		}
	case x.log.Over(externalInterface):
		klog.Info("the external interface is there again")
	}
}

const externalDown = "the external interface is down"

// logDown logs that the external interface is down, once that lasts, and its end. It returns
// how soon to look again; 0 if only after an event.
func (x *External) logDown(now backend.Host) time.Duration {
	if now.V4.Up {
		x.downSince = time.Time{}
		if x.log.Over(externalDown) {
			klog.Infof("the external interface %s is up", now.V4.Iface)
		}
		return 0
	}
	if x.downSince.IsZero() {
		x.downSince = time.Now()
	}
	if left := lostReport - time.Since(x.downSince); left > 0 {
		return left
	}
	if text := fmt.Sprintf("the external interface %s is down", now.V4.Iface); x.log.State(externalDown, text) {
		klog.Warning(text)
	}
	return downReminder
}
