package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"iter"
	"maps"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sync/semaphore"

	"flanneld/network"
	"flanneld/pkg/file"
	"flanneld/pkg/once"
	"flanneld/pkg/status"
	"flanneld/subnet"
)

// collector makes the status of what the parts of the daemon know.
type collector struct {
	options *options
	systemd *systemd
	started time.Time
	daemon  atomic.Pointer[daemon] // nil while it waits to begin its work
	store   atomic.Pointer[store]  // nil before it is open
	asked   *semaphore.Weighted    // by those who want to know of all peers
	file    file.Patient[struct{}]
}

func newCollector(o *options) *collector {
	return &collector{options: o, systemd: new(systemd), started: time.Now(), asked: semaphore.NewWeighted(1)}
}

// status returns how the daemon is now.
func (c *collector) status() status.Status {
	name, _ := os.Hostname()
	s := status.Status{Version: version, Host: name, At: time.Now(), Started: byWallClock(c.started, time.Now()), Health: status.Degraded, Problems: []status.Problem{}, Recent: recent.all()}
	s.Store = status.Store{Name: c.options.source().name}
	if is := c.store.Load(); is != nil {
		s.Store.Endpoints = c.options.source().endpoints(c.options, *is)
	}
	d := c.daemon.Load()
	if d == nil {
		s.Waiting = c.waiting()
		return s
	}
	f := d.publisher.now()
	f.describeStore(&s.Store, s.At)
	if f.holding.Own == nil {
		s.Waiting = c.waiting()
		return s
	}
	detail := d.reconciler.Detail()
	s.Ready = c.ready() == nil
	f.describeHost(&s)
	s.Lease.RenewMargin = c.options.renewMargin.Seconds()
	for _, k := range detail.Kinds {
		s.Objects = append(s.Objects, status.Kind{Name: k.Kind.String(), Wanted: k.Wanted, Missing: k.Missing, Repairs: k.Repairs})
	}
	s.Problems = append(s.Problems, f.problems(d.publisher.obstacles.Reported())...)
	s.Peers = status.Peers{Count: f.peers, Unusable: f.unusable()}
	for _, p := range detail.Passes {
		s.Passes = append(s.Passes, status.Passes{Dataplane: p.Plane, Full: p.Full, Quick: p.Quick, Seconds: p.Took.Seconds(), Conflict: p.Conflict})
	}
	for dev, c := range d.tunnels.Counters() {
		s.Tunnels = append(s.Tunnels, status.Tunnel{Device: dev, Counters: c.Map()})
	}
	s.Configurations = f.configurations
	states := make(map[status.PeerState]int)
	reached, reachable := d.reached(false)
	s.Peers.Reachable = reachable
	for p := range f.peerStates(detail, reached, false) {
		if s.Peers.TroubledCount++; len(s.Peers.Troubled) < status.NamedMost {
			s.Peers.Troubled = append(s.Peers.Troubled, p)
		}
		states[p.State]++
	}
	s.Peers.States = states
	if s.Ready && len(s.Problems) == 0 {
		s.Health = status.Healthy
	}
	return s
}

// peers returns how each of the other hosts is, by subnet.
func (c *collector) peers() []status.Peer {
	d := c.daemon.Load()
	if d == nil {
		return nil
	}
	f := d.publisher.now()
	reached, _ := d.reached(true)
	return slices.Collect(f.peerStates(d.reconciler.Detail(), reached, true))
}

// reached returns whether packets get to the peers that are probed, by subnet, and to how many
// they do. Those are left out if they are not asked for.
func (d *daemon) reached(all bool) ([]network.PeerReach, int) {
	if d.prober == nil {
		return nil, 0
	}
	return d.prober.Peers(all)
}

// describeStore says how the store is.
func (f *facts) describeStore(s *status.Store, now time.Time) {
	s.Since, s.Outages = byWallClock(f.storeSince, now), f.outages
	if !f.storeDown.IsZero() {
		s.Down, s.Since = true, byWallClock(f.storeDown, now)
		if f.storeFailed != nil {
			s.Reason = f.storeFailed.Error()
		}
	}
}

// byWallClock returns a moment as the wall clock has it that shows now: it may have been set
// since.
func byWallClock(t, now time.Time) time.Time {
	if t.IsZero() {
		return t
	}
	return now.Add(t.Sub(now))
}

// describeHost says how this host is in its network.
func (f *facts) describeHost(s *status.Status) {
	own := f.holding.Own
	s.Backend = f.holding.Config.BackendType
	s.Lease = &status.Lease{Subnet: own.Subnet.String(), Expires: byWallClock(own.Expires, s.At)}
	if f.reconciled.Host.Ifaces() != nil {
		s.MTU = f.backend.MTU(f.reconciled.Host)
	}
	for _, family := range own.Subnet.Families() {
		u := f.host.Of(family)
		s.Network = append(s.Network, status.Family{
			Name: family.String(), Network: f.holding.Config.Of(family).Network, Subnet: own.Subnet.Of(family),
			Iface: u.Iface, Addr: u.Addr, PublicIP: own.PublicIP.Of(family), IfaceMTU: u.MTU, Device: f.backend.Device(f.host, family),
		})
	}
}

// trouble is what is wrong with others, by subnet: all of a lease, or its part of a family.
type trouble struct {
	unusable map[string]status.Peer
	missing  map[netip.Addr]network.Failure // by the base address of a subnet
	leaving  map[*subnet.Lease]bool
}

func (f *facts) trouble(d network.Detail) trouble {
	t := trouble{unusable: make(map[string]status.Peer), missing: make(map[netip.Addr]network.Failure), leaving: make(map[*subnet.Lease]bool)}
	for _, v := range f.leaving {
		t.leaving[v.Lease] = true
	}
	for _, p := range f.unfit {
		t.unusable[p.Name()] = status.Peer{Subnet: p.Name(), State: status.PeerUnusable, Reason: p.Reason}
	}
	for s, why := range d.Unusable {
		t.unusable[s.String()] = status.Peer{Subnet: s.String(), State: status.PeerUnusable, Reason: why}
	}
	for _, is := range slices.Backward(d.Failures) { // that which lasts longest counts
		if is.Lease.Addr().IsValid() {
			t.missing[is.Lease.Addr()] = is
		}
	}
	return t
}

// of says how a peer is; it is not complete for one without trouble.
func (t trouble) of(l *subnet.Lease, r network.PeerReach) (p status.Peer) {
	if p.State = status.PeerUsed; r.Subnet == l.Subnet {
		p.State, p.Reason, p.Remedy, p.Since, p.RTT = r.State, r.Reason, r.Remedy, r.Since, r.RTT.Seconds()
	}
	if t.leaving[l] {
		p = status.Peer{State: status.PeerLeaving}
	}
	for _, part := range l.Subnet.Prefixes() {
		if is, ok := t.missing[part.Addr()]; ok {
			p.State, p.Reason, p.Remedy, p.Since = status.PeerMissing, is.Object.String()+": "+is.Reason, "", is.Since
		}
		if len(t.unusable) == 0 {
			continue
		}
		if is, ok := t.unusable[part.String()]; ok {
			p.State, p.Reason, p.Remedy, p.Since = is.State, is.Reason, "", time.Time{}
			delete(t.unusable, part.String())
		}
	}
	return p
}

// peerStates yields how each of the other hosts is, by subnet, and then what is wrong with
// leases that are not used. Those without trouble are left out if they are not asked for.
func (f *facts) peerStates(d network.Detail, reached []network.PeerReach, all bool) iter.Seq[status.Peer] {
	return func(yield func(status.Peer) bool) {
		t, now := f.trouble(d), time.Now()
		if !all && len(t.unusable) == 0 && len(t.missing) == 0 && len(reached) == 0 {
			return
		}
		for _, l := range f.leases {
			for len(reached) > 0 && reached[0].Subnet.Compare(l.Subnet) < 0 {
				reached = reached[1:]
			}
			var probed network.PeerReach
			if len(reached) > 0 {
				probed = reached[0]
			}
			p := t.of(l, probed)
			if !all && !p.State.Troubled() {
				continue
			}
			p.Since = byWallClock(p.Since, now)
			if p.Subnet, p.PublicIP = l.Subnet.String(), l.PublicIP.String(); !yield(p) {
				return
			}
		}
		for _, name := range slices.Sorted(maps.Keys(t.unusable)) {
			if !yield(t.unusable[name]) {
				return
			}
		}
	}
}

// live returns why this process should be started again, if so. That it waits for
// something outside is no reason.
func (c *collector) live(ctx context.Context) error {
	d := c.daemon.Load()
	if d == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, askTime)
	defer cancel()
	if err := d.tryLock(ctx); err != nil {
		return errors.New("stuck: a part of the daemon does not go on")
	}
	return nil
}

// ready returns why this host has no network, if so.
func (c *collector) ready() error {
	d := c.daemon.Load()
	if d == nil || !d.reconciler.Converged() || !d.publisher.written() {
		return errors.New(notReady + c.waiting())
	}
	if _, err := c.file.Do(context.Background(), func() (struct{}, error) {
		_, err := os.Stat(d.publisher.file)
		return struct{}{}, err
	}); err != nil {
		once.Wake(d.publisher.changed)
		return fmt.Errorf("%s%s: %w", notReady, d.publisher.file, err)
	}
	if h := d.publisher.now().holding; h.Holder != "" {
		return fmt.Errorf("%sthe subnet %s belongs to %s: other hosts send no packets for it here", notReady, h.Own.Subnet, h.Holder)
	}
	return nil
}

// waiting says what there is to wait for before the host has a network.
func (c *collector) waiting() string {
	return strings.TrimPrefix(cmp.Or(c.systemd.latest(), "starting"), notReady)
}
