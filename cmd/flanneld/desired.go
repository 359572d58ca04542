package main

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"time"

	"k8s.io/klog/v2"

	"flanneld/backend"
	"flanneld/backend/udp"
	"flanneld/network"
	"flanneld/pkg/dataplane"
	"flanneld/pkg/dataplane/tunnels"
	"flanneld/pkg/ip"
	"flanneld/pkg/notice"
	"flanneld/pkg/once"
	"flanneld/subnet"
)

// daemon makes the state that is desired, of what the keeper holds and what is known of this
// host, and passes it on to all parts that go by it.
type daemon struct {
	begun    time.Time
	options  *options
	machine  host
	previous ip.Subnet                    // that this host had when it last ran
	saved    func() (subnet.Saved, error) // what was saved then; nil for nothing
	refresh  chan struct{}                // our lease may have to say something else
	due      once.Slot[time.Time]         // when time alone changes what is desired
	warnings notice.Gather
	log      notice.Log

	reconciler *network.Reconciler
	tunnels    *tunnels.Dataplane
	external   *network.External
	available  *availability
	addresses  *network.Addresses
	paths      *network.Paths  // nil if the machine has none to be seen
	prober     *network.Prober // nil if peers are not to be probed
	followers  []follower
	rules      *rules
	publisher  *publisher
	saver      *saver

	mu       sync.Mutex
	host     backend.Host
	sought   ip.Subnet // a network whose families are to be looked for
	wanted   ip.Subnet // networks whose families are
	prepared setup     // for what the keeper is about to hold
	current  setup     // for what it holds
	holding  subnet.Holding
	peers    subnet.Peers
	networks networks
	inside   string // what was logged of hosts inside Network
}

// follower goes by what is desired, and by events of the kernel.
type follower interface {
	SetDesired(w network.Desired)
	Event(e dataplane.Event)
	Run(ctx context.Context) error
}

// setup is what goes with a configuration.
type setup struct {
	config  *subnet.Config
	backend backend.Backend
	rules   network.Rules
}

// event takes an event of the kernel, which the reconciler takes after it.
func (d *daemon) event(e dataplane.Event) {
	d.addresses.Event(e)
	for _, f := range d.followers {
		f.Event(e)
	}
}

// rulesSettled takes that others changed rules for packets a moment ago, or that what the
// choice of their ways goes by is another one.
func (d *daemon) rulesSettled(ctx context.Context, keep bool) {
	d.mu.Lock()
	s := d.current
	d.mu.Unlock()
	if s.config == nil {
		return
	}
	now := d.rules.choose(ctx, s.config, s.rules, keep)
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.prepared.config == s.config && !now.Equal(s.rules) && ctx.Err() == nil {
		d.prepared.rules, d.current.rules = now, now
		d.updateDesired()
	}
}

// holds takes what the keeper has got.
func (d *daemon) holds(ctx context.Context, h subnet.Holding) {
	var saved subnet.Saved
	if d.saved != nil {
		saved, _ = d.saved()
		d.saved = nil // it may be large
	}
	if saved.Own != nil {
		d.saver.found(saved.Holding)
	}
	if d.paths != nil { // before the backend has to know
		d.mu.Lock()
		b, host := d.setupFor(h.Config).backend, d.host.For(h.Config.Network())
		d.mu.Unlock()
		d.paths.Learn(ctx, b, host, h.Snapshot.Leases)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.current = d.setupFor(h.Config)
	if h.Config != d.holding.Config {
		d.warn("network configuration: ", backends.Remarks(h.Config, d.host.For(h.Config.Network())))
		if d.holding.Config == nil && saved.Own != nil {
			d.resume(saved, h)
		}
		d.networks.enter(h.Config.Network().Prefixes())
		if d.holding.Config != nil { // else they were chosen for this one
			once.Wake(d.rules.again)
		}
	}
	d.holding = h
	if h.Unfollowed == "" {
		d.sought = ip.Subnet{}
	}
	d.want()
	d.updateDesired()
	d.saver.set(h, d.peers.Gone())
	d.available.holds(h)
}

// want has the external interfaces followed of those families that a configuration has which
// is in force, or is to be. The caller holds d.mu.
func (d *daemon) want() {
	for _, f := range ip.Families {
		d.wanted = d.wanted.With(f, d.sought.Of(f))
		if c := d.holding.Config; c != nil && c.Of(f).Network.IsValid() {
			d.wanted = d.wanted.With(f, c.Of(f).Network)
		}
	}
	d.host = d.host.For(d.wanted)
	d.machine.Follow(d.wanted.Families())
	d.external.Want(d.wanted, d.host)
}

// setupFor returns what goes with a configuration that the keeper holds. The caller holds
// d.mu.
func (d *daemon) setupFor(c *subnet.Config) setup {
	if c == d.prepared.config {
		return d.prepared
	}
	return d.current
}

// resume goes on by what this host had when it last ran. The caller holds d.mu.
func (d *daemon) resume(s subnet.Saved, h subnet.Holding) {
	// A daemon that runs writes the file now and then. Whatever is older may be of long ago.
	if age := d.begun.Sub(s.At); age >= 0 && age <= 2*perLease(s.Holding, saveAgain, saveAgainLease) {
		d.peers.Resume(s, h, d.self(), time.Now())
	}
}

// self returns what is known of this host's addresses. The caller holds d.mu.
func (d *daemon) self() subnet.Self {
	return subnet.Self{Addr: d.host.Addrs(), Link: d.host.Net(), All: d.addresses.All()}
}

// warn logs texts, those of a kind in one line.
func (d *daemon) warn(what string, texts []string) {
	for _, text := range notice.Sum(texts) {
		klog.Warning(what + text)
	}
}

// awaitLock waits for what all parts of the daemon need now and then.
func (d *daemon) awaitLock() {
	d.mu.Lock()
	defer d.mu.Unlock()
}

// tryLock reports, before ctx ends, that no part of the daemon keeps that for itself.
func (d *daemon) tryLock(ctx context.Context) error {
	for !d.mu.TryLock() {
		if err := once.Sleep(ctx, time.Millisecond); err != nil {
			return err
		}
	}
	d.mu.Unlock()
	return nil
}

// update passes on what is desired by what is known now.
func (d *daemon) update() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.updateDesired()
}

// Run updates what is desired whenever time alone changes it.
func (d *daemon) Run(ctx context.Context) error {
	timer := time.NewTimer(time.Hour)
	timer.Stop()
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case at := <-d.due:
			if timer.Stop(); !at.IsZero() {
				timer.Reset(time.Until(at))
			}
		case <-timer.C:
			d.update()
		}
	}
}

// updateDesired passes on what is desired. The caller holds d.mu.
func (d *daemon) updateDesired() {
	h := d.holding
	if h.Own == nil {
		return
	}
	now := d.peers.Update(h, d.self(), time.Now())
	d.warnings.Add(now.News...)
	next := now.Next
	if again := time.Now().Add(subnet.LogRetry); !d.logInside(h.Config) && (next.IsZero() || again.Before(next)) {
		next = again
	}
	d.due.Put(next)
	d.chooseNexthops(now.InStore)
	if d.paths != nil {
		d.host.Links = d.paths.Links(d.current.backend)
	}
	w := network.Desired{
		Backend:    d.current.backend,
		Config:     h.Config,
		Host:       d.host.For(h.Config.Network()),
		Own:        h.Own,
		Rules:      d.current.rules,
		Networks:   d.networks.own(h.Config.Network().Prefixes()),
		Peers:      now.Peers,
		Unreadable: now.Unreadable,
		Partial:    h.Partial,
	}
	d.publisher.update(func(f *facts) {
		if f.holding.Config != h.Config {
			f.configurations++
		}
		if f.storeSince.IsZero() && !h.Partial {
			f.storeSince = time.Now()
		}
		f.holding, f.backend, f.host, f.peers, f.leases, f.problematic, f.unfit, f.leaving = h, w.Backend, w.Host, now.InStore, now.Peers, now.Problems, now.Unfit, d.peers.Gone()
	})
	for _, f := range d.followers {
		f.SetDesired(w)
	}
	d.reconciler.SetDesired(w) // the last: with it the host may be ready, which the others wait for
}

// logInside logs what does not work on this host because Network holds its own network, or
// a part of that. It reports whether all is logged that is to be; the caller holds d.mu.
func (d *daemon) logInside(c *subnet.Config) bool {
	text := hostsInside(c, d.host)
	switch {
	case text == d.inside:
	case text == "":
		d.inside = ""
	case d.log.Event(text):
		d.inside = text
		d.warnings.Add(text)
	default:
		return false
	}
	return true
}

func hostsInside(c *subnet.Config, h backend.Host) string {
	var texts []string
	for _, f := range ip.Families {
		network, link, prefix := c.Of(f).Network, h.Of(f).Net, ""
		if !network.Overlaps(link) {
			continue
		}
		if f == ip.V6 {
			prefix = "IPv6"
		}
		text := fmt.Sprintf("%sNetwork %s overlaps %s, the network of %s: what pods send there keeps its source, also with -ip-masq, so machines there that run no flanneld cannot answer; and no subnet of a host should hold the address of such a machine, which %sSubnetMin and %sSubnetMax can prevent",
			prefix, network, link, h.Of(f).Iface, prefix, prefix)
		if c.BackendType == udp.Type.Name {
			text += fmt.Sprintf("; whatever else is in %s cannot be reached but through the tunnel", network)
		}
		texts = append(texts, text)
	}
	return strings.Join(texts, "; ")
}

// Routes by way of nexthop objects are for networks where plain ones get slow:
// each plain route costs the kernel a comparison with every other one. In small
// networks plain routes are easier to read. The changes are far enough apart
// that a network does not go to and fro.
const (
	nexthopsFrom = 2000 // peers
	plainBelow   = 1000
)

// chooseNexthops decides between plain routes and nexthop objects for so many
// peers. The caller holds d.mu.
func (d *daemon) chooseNexthops(peers int) {
	switch was := d.host.Nexthops; {
	case !was && peers >= nexthopsFrom && d.machine.HasNexthops():
		d.host.Nexthops = true
	case was && peers < plainBelow:
		d.host.Nexthops = false
	}
}
