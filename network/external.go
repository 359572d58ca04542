package network

import (
	"context"
	"fmt"
	"slices"
	"sync/atomic"
	"time"

	"k8s.io/klog/v2"

	"flanneld/backend"
	"flanneld/pkg/dataplane"
	"flanneld/pkg/dataplane/kernel"
	"flanneld/pkg/ip"
	"flanneld/pkg/notice"
	"flanneld/pkg/status"
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

// External follows the external interface of each address family that this host is to have.
type External struct {
	lookout
	selection Selection
	view      View
	looks     func()
	report    func(ip.Family, backend.Underlay, error)

	host      backend.Host
	followers map[ip.Family]*follower
	log       notice.Log
	changes   notice.Gather
	wanted    atomic.Pointer[wanted]
	requested atomic.Pointer[ip.Addrs]
	names     atomic.Pointer[[]string] // of the external interfaces, and of those which may become so
	devices   atomic.Pointer[[]string] // the backend's own, which never are a choice
	took      atomic.Int64             // nanoseconds to look: default routes are found among all
}

// wanted are the families of a network, and what was chosen in them.
type wanted struct {
	network ip.Subnet
	host    backend.Host
}

// NewExternal returns what follows h, which was chosen by s. From Run, it calls looks before
// each look, and then report with what Selection says of the interface of each family that
// counts from then on, and with why it cannot be seen as it was; nil if it can.
func NewExternal(s Selection, v View, h backend.Host, looks func(), report func(ip.Family, backend.Underlay, error)) *External {
	x := &External{
		selection: s, view: v, looks: looks, report: report, host: h,
		followers: make(map[ip.Family]*follower),
		lookout:   lookout{woken: make(chan struct{}, 1), quiet: followPause, longest: followPause},
		changes:   notice.Gather{Logf: klog.Infof, Component: string(status.ComponentInterface)},
	}
	x.names.Store(&[]string{h.V4.Iface, h.V6.Iface})
	return x
}

// Want has the external interface followed in the families of a network, and in no other. In
// each it is what h has, or one that is to come.
func (x *External) Want(network ip.Subnet, h backend.Host) {
	was := x.wanted.Swap(&wanted{network, h})
	if was == nil || was.network != network || was.host != h {
		x.wake()
	}
}

// Request has other addresses advertised than the selection says, or those again if they are
// not valid.
func (x *External) Request(publicIP ip.Addrs) {
	if was := x.requested.Swap(&publicIP); was == nil && publicIP != (ip.Addrs{}) || was != nil && *was != publicIP {
		x.wake()
	}
}

// SetDesired replaces what is desired.
func (x *External) SetDesired(w Desired) {
	var devices []string
	for _, f := range ip.Families {
		devices = append(devices, w.Backend.Device(w.Host, f))
	}
	x.devices.Store(&devices)
}

// Event takes an event of the kernel. What happens to other interfaces may make one of them
// the better choice.
func (x *External) Event(e dataplane.Event) {
	devices := x.devices.Load()
	ours := devices != nil && slices.Contains(*devices, e.Iface)
	switch {
	case e.Lost || e.Defaults || e.Iface != "" && slices.Contains(*x.names.Load(), e.Iface):
		x.wake()
	case e.Iface != "" && !ours, e.Paths && x.selection.CanReach != (ip.Addrs{}):
		x.wakeIn(max(lookAroundPause, 20*time.Duration(x.took.Load())))
	}
}

// Run follows the interfaces until ctx ends, and returns ctx.Err().
func (x *External) Run(ctx context.Context) error {
	defer x.changes.Stop()
	return x.run(ctx, func(ctx context.Context) (rest time.Duration, err error) {
		x.looks()
		begin := time.Now()
		selection := x.selection
		if asked := x.requested.Load(); asked != nil {
			for _, f := range ip.Families {
				if a := asked.Of(f); a.IsValid() {
					selection.PublicIP = selection.PublicIP.With(f, a)
				}
			}
		}
		families := x.families()
		view := &glance{View: x.view} // one for both
		for _, f := range families {
			x.look(ctx, selection, view, f)
			if ctx.Err() != nil {
				return 0, ctx.Err()
			}
		}
		x.took.Store(int64(time.Since(begin)))
		names := []string{x.host.V4.Iface, x.host.V6.Iface}
		for _, f := range x.followers {
			names = append(names, f.next.Iface)
		}
		x.names.Store(&names)
		return 0, nil
	})
}

// families returns those that are wanted, and forgets the others.
func (x *External) families() []ip.Family {
	w := x.wanted.Load()
	var families []ip.Family
	for _, f := range ip.Families {
		switch {
		case w != nil && !w.network.Of(f).IsValid():
			x.host.Set(f, backend.Underlay{})
			delete(x.followers, f)
			continue
		case w != nil && x.host.Of(f).Iface == "":
			x.host.Set(f, w.host.Of(f))
		case x.host.Of(f).Iface == "":
			continue
		}
		families = append(families, f)
	}
	return families
}

// look looks what became of the interface of a family.
func (x *External) look(ctx context.Context, s Selection, v View, f ip.Family) {
	u := x.host.Of(f)
	if u.Iface == "" {
		if now, err := s.Choose(ctx, v, f, x.host); err == nil {
			x.host.Set(f, now)
			x.report(f, now, nil)
		} else {
			x.wakeIn(lostRetry)
		}
		return
	}
	state := x.followers[f]
	if state == nil {
		state = new(follower)
		x.followers[f] = state
	}
	sight, err := s.Follow(ctx, v, f, x.host)
	switch {
	case ctx.Err() != nil:
		return
	case err != nil:
		x.logProblem(f, err)
		x.report(f, u, err)
		x.wakeIn(lostRetry)
		return
	}
	now, again := state.follow(time.Now(), sight)
	x.wakeIn(again)
	x.logProblem(f, state.problem)
	if f == ip.V4 || now.Iface != x.host.V4.Iface { // else it is said already
		x.wakeIn(x.logDown(f, state, now))
	}
	x.logChange(f, u, now)
	x.host.Set(f, now)
	x.report(f, now, state.problem)
}

// glance is a View with the interfaces at one time.
type glance struct {
	View
	ifaces []kernel.Interface
}

// Interfaces implements View.
func (g *glance) Interfaces(ctx context.Context) ([]kernel.Interface, error) {
	var err error
	if g.ifaces == nil {
		g.ifaces, err = g.View.Interfaces(ctx)
	}
	return g.ifaces, err
}

// ExternalOf is what messages call the external interface of a family.
func ExternalOf(f ip.Family) string {
	if f == ip.V4 {
		return "the external interface"
	}
	return "the external interface of IPv6"
}

// logChange logs how the external interface changed.
func (x *External) logChange(f ip.Family, was, now backend.Underlay) {
	say := func(format string, a ...any) { x.changes.Add(fmt.Sprintf(format, a...)) }
	if !sameWay(now, was) || now.MTU != was.MTU {
		say("%s is %s now, with address %s and MTU %d", ExternalOf(f), now.Iface, now.Addr, now.MTU)
	}
	switch {
	case now.OwnsPublicIP && !was.OwnsPublicIP:
		say("the public address %s is one of this host now", now.PublicIP)
	case !now.OwnsPublicIP && was.OwnsPublicIP:
		say("the public address %s is none of this host any more", now.PublicIP)
	}
}

// follower decides when a change of the external interface is there to stay.
type follower struct {
	next      backend.Underlay // the better choice
	since     time.Time        // it is that
	lost      time.Time        // the interface or its address is, since
	problem   error            // there is no choice
	downSince time.Time        // the interface in use is; zero if it is not
}

// follow returns which interface counts at a time, and how soon to look again; 0 if only
// after an event.
func (f *follower) follow(now time.Time, s Sight) (backend.Underlay, time.Duration) {
	if s.Lost == nil {
		f.lost, f.problem = time.Time{}, nil
	} else if f.lost.IsZero() {
		f.lost = now
	}
	if !sameWay(s.Next, s.Now) {
		if !sameWay(f.next, s.Next) {
			f.next, f.since = s.Next, now
		}
		pause := lostPause
		if s.Works {
			pause = betterPause
		}
		if left := pause - now.Sub(f.since); left > 0 {
			return s.Now, left
		}
		*f = follower{downSince: f.downSince}
		return s.Next, 0
	}
	f.next = backend.Underlay{}
	switch {
	case s.Lost == nil:
		return s.Now, 0
	case now.Sub(f.lost) < lostReport:
		return s.Now, lostReport - now.Sub(f.lost)
	}
	f.problem = s.Lost
	return s.Now, lostRetry
}

// logProblem logs why the external interface cannot be seen as it was, or that it can again.
func (x *External) logProblem(f ip.Family, err error) {
	switch {
	case err != nil:
		if x.log.State(ExternalOf(f), err.Error()) {
			klog.Errorf("%s: %v", ExternalOf(f), err)
		}
	case x.log.Over(ExternalOf(f)):
		klog.Infof("%s is there again", ExternalOf(f))
	}
}

// logDown logs that the external interface is down, once that lasts, and its end. It returns
// how soon to look again; 0 if only after an event.
func (x *External) logDown(f ip.Family, s *follower, now backend.Underlay) time.Duration {
	topic := ExternalOf(f) + " is down"
	if now.Up {
		s.downSince = time.Time{}
		if x.log.Over(topic) {
			klog.Infof("%s %s is up", ExternalOf(f), now.Iface)
		}
		return 0
	}
	if s.downSince.IsZero() {
		s.downSince = time.Now()
	}
	if left := lostReport - time.Since(s.downSince); left > 0 {
		return left
	}
	if text := fmt.Sprintf("%s %s is down", ExternalOf(f), now.Iface); x.log.State(topic, text) {
		klog.Warning(text)
	}
	return downReminder
}
