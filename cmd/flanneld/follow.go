package main

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"k8s.io/klog/v2"

	"flanneld/backend"
	"flanneld/network"
	"flanneld/pkg/dataplane"
	"flanneld/pkg/ip"
	"flanneld/pkg/once"
	"flanneld/subnet"
)

// findInterface waits for the external interface and its address.
func (d *daemon) findInterface(ctx context.Context, store subnet.Store) error {
	var said string
	var asked time.Time
	for {
		host, err := d.options.iface.Choose(ctx, d.machine)
		if err != nil && time.Since(asked) > knownPause {
			var answered bool
			host, answered, err = chooseKnown(ctx, d.options, d.machine, store, d.previous, err)
			if answered { // it may be a large answer
				asked = time.Now()
			}
		}
		if err == nil {
			klog.Infof("using interface %s with address %s and MTU %d; other hosts reach this one at %s", host.Iface, host.Addr, host.MTU, host.PublicIP)
			d.host = host
			return nil
		}
		if d.notices.State("waiting for the external interface", err.Error()) {
			klog.Warningf("waiting for the external interface: %s", err)
		}
		if err.Error() != said {
			said = err.Error()
			d.systemd.status("waiting for the external interface: " + said)
		}
		if err := once.Sleep(ctx, retryPause); err != nil {
			return err
		}
	}
}

const (
	// knownPause is how soon the store is asked again which lease is this host's, while
	// the external interface is waited for.
	knownPause = 5 * time.Second
	// knownPatience is how long it has to answer.
	knownPatience = 2 * time.Second
)

// chooseKnown chooses the interface by the address that the state file or this host's
// lease names, when nothing else leads to it for the reason why, which is the error if
// they do not either. It reports whether the store answered.
func chooseKnown(ctx context.Context, o *options, machine host, store subnet.Store, previous ip.Subnet, why error) (h backend.Host, answered bool, err error) {
	if o.iface.Explicit() {
		return backend.Host{}, false, why
	}
	known := make(map[netip.Addr]string) // where each is from
	use := func(addrs ...netip.Addr) bool {
		if h, err = o.iface.Choose(ctx, machine, addrs...); err == nil {
			klog.Infof("%s: using %s, for its address %s is that of %s", strings.ReplaceAll(why.Error(), "\n", "; "), h.Iface, h.Addr, known[h.Addr.V4])
		}
		return err == nil
	}
	if s, err := o.saved(); err == nil {
		known[s.Own.PublicIP.V4] = "this host in " + o.savedFile()
		if use(s.Own.PublicIP.V4) {
			return h, false, nil
		}
	}
	ctx, cancel := context.WithTimeout(ctx, knownPatience)
	defer cancel()
	s, err := store.List(ctx)
	if err != nil {
		return backend.Host{}, false, why
	}
	var addrs []netip.Addr
	for _, l := range s.Leases {
		if l.Subnet == previous || subnet.SameMachine(l.Machine, machineName(o.iface.MachineID)) {
			known[l.PublicIP.V4] = "this host's lease " + l.Subnet.String()
			addrs = append(addrs, l.PublicIP.V4)
		}
	}
	if !use(addrs...) {
		return backend.Host{}, true, why
	}
	return h, true, nil
}

// event takes an event of the kernel, which the reconciler takes after it. What happens to
// other interfaces may make one of them the better choice.
func (d *daemon) event(e dataplane.Event) {
	d.mu.Lock()
	external := e.Lost || e.Defaults || e.Iface != "" && (e.Iface == d.host.Iface || e.Iface == d.nextIface)
	ours := d.backend != nil && e.Iface == d.backend.Device(d.host)
	if e.Lost || e.Iface != "" && (d.podsIface == "" || e.Iface == d.podsIface) {
		once.Wake(d.filters)
	}
	d.mu.Unlock()
	switch {
	case external:
		once.Wake(d.look)
	case e.Iface != "" && !ours, e.Paths && d.options.iface.CanReach.IsValid():
		once.Wake(d.lookAround)
	}
	if e.Lost || e.Iface != "" {
		once.Wake(d.readdressed)
	}
	if e.Lost || e.Forwarding || e.Iface != "" {
		once.Wake(d.passages)
	}
	if d.paths != nil && (e.Paths || e.Lost || e.Iface != "") {
		d.paths.Rerouted()
	}
}

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
)

// follow keeps what is known of the external interface right.
func (d *daemon) follow(ctx context.Context) error {
	var f follower
	timer := time.NewTimer(time.Hour) // the only one, however many events there are
	timer.Stop()
	defer timer.Stop()
	var due time.Time      // when it fires; zero if it was stopped
	var took time.Duration // to look: default routes are found among all
	lookIn := func(pause time.Duration) {
		if at := time.Now().Add(pause); due.IsZero() || at.Before(due) {
			due = at
			timer.Reset(pause)
		}
	}
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-d.lookAround:
			lookIn(max(lookAroundPause, 20*took))
			continue
		case <-d.look:
		case <-timer.C:
		}
		if err := once.Sleep(ctx, followPause); err != nil {
			return err
		}
		timer.Stop()
		due = time.Time{}
		d.mu.Lock()
		before := d.host
		d.mu.Unlock()
		d.reconnect()
		begin := time.Now()
		sight, err := d.options.iface.Follow(ctx, d.machine, before)
		took = time.Since(begin)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil {
			d.mu.Lock()
			d.sawInterface(err)
			d.mu.Unlock()
			lookIn(retryPause)
			continue
		}
		now, pause := f.follow(time.Now(), sight)
		if pause > 0 {
			lookIn(pause)
		}
		d.mu.Lock()
		d.sawInterface(f.problem)
		if pause := d.sawUp(now); pause > 0 {
			lookIn(pause)
		}
		d.nextIface = f.next.Iface
		now.Nexthops, now.Prepared, now.Links = d.host.Nexthops, d.host.Prepared, d.host.Links
		if now != d.host {
			d.logInterface(d.host, now)
			d.host = now
			d.updateDesired()
			once.Wake(d.passages)
			once.Wake(d.refresh)
		}
		d.mu.Unlock()
		once.Wake(d.publish)
	}
}

// logInterface logs how the external interface changed.
func (d *daemon) logInterface(was, now backend.Host) {
	say := func(format string, a ...any) { d.changes.Add(fmt.Sprintf(format, a...)) }
	if now.Iface != was.Iface || now.Addr != was.Addr || now.MTU != was.MTU {
		say("the external interface is %s now, with address %s and MTU %d", now.Iface, now.Addr, now.MTU)
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
	next    backend.Host // the better choice
	since   time.Time    // it is that
	lost    time.Time    // the interface or its address is, since
	problem error        // there is no choice
}

// follow returns which interface counts at a time, and how soon to look again; 0 if only
// after an event.
func (f *follower) follow(now time.Time, s network.Sight) (backend.Host, time.Duration) {
	if s.Lost == nil {
		f.lost, f.problem = time.Time{}, nil
	} else if f.lost.IsZero() {
		f.lost = now
	}
	if s.Next.Iface != s.Now.Iface || s.Next.Addr != s.Now.Addr {
		if f.next.Iface != s.Next.Iface || f.next.Addr != s.Next.Addr {
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
	return s.Now, retryPause
}

const externalInterface = "the external interface"

// sawInterface takes why the external interface cannot be seen as it was, or
// nil. The caller holds d.mu.
func (d *daemon) sawInterface(err error) {
	var why string
	if err != nil {
		why = err.Error()
	}
	switch {
	case why != "":
		if d.notices.State(externalInterface, why) {
			klog.Errorf("%s: %v", externalInterface, err)
		}
	case d.notices.Over(externalInterface):
		klog.Info("the external interface is there again")
	}
	d.lostSight = why
}

const externalDown = "the external interface is down"

// sawUp logs that the external interface is down, once that lasts, and its end. It returns
// how soon to look again; 0 if only after an event. The caller holds d.mu.
func (d *daemon) sawUp(now backend.Host) time.Duration {
	if now.Up {
		d.downSince = time.Time{}
		if d.notices.Over(externalDown) {
			klog.Infof("the external interface %s is up", now.Iface)
		}
		return 0
	}
	if d.downSince.IsZero() {
		d.downSince = time.Now()
	}
	if left := lostReport - time.Since(d.downSince); left > 0 {
		return left
	}
	if text := fmt.Sprintf("the external interface %s is down", now.Iface); d.notices.State(externalDown, text) {
		klog.Warning(text)
	}
	return unsaidPause
}
