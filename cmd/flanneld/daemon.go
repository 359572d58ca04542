package main

import (
	"context"
	"fmt"
	"net/netip"
	"path"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	"k8s.io/klog/v2"

	"flanneld/backend"
	"flanneld/backend/alloc"
	"flanneld/backend/awsvpc"
	"flanneld/backend/hostgw"
	"flanneld/backend/udp"
	"flanneld/backend/vxlan"
	"flanneld/network"
	"flanneld/pkg/dataplane"
	"flanneld/pkg/dataplane/ec2"
	"flanneld/pkg/dataplane/netfilter"
	"flanneld/pkg/dataplane/tunnels"
	"flanneld/pkg/ip"
	"flanneld/pkg/notice"
	"flanneld/pkg/once"
	"flanneld/pkg/printable"
	"flanneld/subnet"
)

// backends are those that a configuration may name.
var backends = backend.NewTable(alloc.Type, awsvpc.Type, hostgw.Type, udp.Type, vxlan.Type)

// run is the daemon: it returns when ctx ends, or when it can never work.
func run(ctx context.Context, o *options, machine host) error {
	klog.Infof("flanneld %s", version)
	for _, name := range o.unknown {
		klog.Warningf("ignoring the environment variable %s: there is no such option", printable.Name(name))
	}
	if len(o.logFiles) > 0 {
		klog.Warningf("the log goes to stderr alone, for the service manager to keep: without effect are %s", printable.Line(strings.Join(o.logFiles, ", ")))
	}
	release, err := awaitClaim(ctx, o.subnetFile, new(systemd).status)
	if err != nil {
		return err
	}
	defer release()
	store, err := openStore(o)
	if err != nil {
		return err
	}
	defer store.Close()
	return serve(ctx, o, store, machine)
}

// host is this host, as the daemon sees and changes it.
type host interface {
	dataplane.Dataplane
	network.View
	HasNexthops() bool
	Forwards() bool
}

// serve is the daemon on a given store and host.
func serve(ctx context.Context, o *options, store subnet.Store, machine host) error {
	previous := o.previous()
	o.iface.MachineID = machineID()
	d := &daemon{begun: time.Now(), sockets: make(sockets), options: o, machine: machine, reconnect: store.Reconnect, previous: previous.Subnet, networks: previous.Network.Prefixes(), look: make(chan struct{}, 1), lookAround: make(chan struct{}, 1), refresh: make(chan struct{}, 1), readdressed: make(chan struct{}, 1), publish: make(chan struct{}, 1), unsaved: make(chan struct{}, 1), filters: make(chan struct{}, 1)}
	tunnelPlane := tunnels.New()
	defer tunnelPlane.Close()
	d.passages = make(chan struct{}, 1)
	d.warnings = notice.Gather{Logf: klog.Warningf, All: true}
	d.changes = notice.Gather{Logf: klog.Infof}
	d.obstacles.changed = func() { once.Wake(d.publish) }
	d.reconciler = network.NewReconciler(d.reconciled, d.planes(tunnelPlane)...)
	d.paths = newPaths(d, machine)
	if err := d.findInterface(ctx, store); err != nil {
		return err
	}
	keeper := &subnet.Keeper{
		Refresh:    d.refresh,
		Store:      store,
		Previous:   previous.Subnet,
		PreviousIP: previousIP(ctx, machine, previous.Subnet),
		Margin:     o.renewMargin,
		Prepare:    d.prepare,
		Changed:    func(h subnet.Holding) { d.learnPaths(ctx, h); d.holds(h) },
		Waiting:    d.systemd.status,
		StoreDown:  d.trouble,
		ConfigKey:  printable.Name(path.Join(o.etcd.FlatRoot(), "config")),
		Boottime:   o.boottime,
	}
	if o.stateDir != "" {
		keeper.Saved = o.saved
		load := sync.OnceValues(o.saved)
		d.saved = load
		go func() { _, _ = load() }() // it takes a while in a large network
	}
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return keeper.Run(ctx) })
	g.Go(func() error { return d.reconciler.Run(ctx) })
	g.Go(func() error { return d.follow(ctx) })
	g.Go(func() error { return d.followAddresses(ctx) })
	g.Go(func() error { return d.followRules(ctx) })
	g.Go(func() error { return d.followFirewalls(ctx) })
	g.Go(func() error { return d.followPassages(ctx) })
	g.Go(func() error { return d.checkPaths(ctx) })
	g.Go(func() error { return d.publishEnv(ctx) })
	g.Go(func() error { return d.save(ctx) })
	g.Go(func() error { return d.watchdog(ctx) })
	g.Go(func() error { return logCounters(ctx, tunnelPlane, o.askedCounters) })
	defer d.stop()
	return g.Wait()
}

// planes are the dataplanes of this host, each with a pace of its own: the kernel answers in
// microseconds, iptables behind a lock, and EC2 in seconds, behind a quota.
func (d *daemon) planes(tunnelPlane *tunnels.Dataplane) []network.Plane {
	planes := []network.Plane{
		{Name: "the kernel", Dataplane: tunnelPlane.Above(d.machine), Observe: d.event},
		{Name: "EC2", Dataplane: ec2.New(), Kinds: ec2.Kinds(), Pace: network.Pace{RetryFirst: ec2.RetryFirst, RetryMost: ec2.RetryMost}},
	}
	if d.options.rules != nil { // on a real host
		planes = append(planes, network.Plane{Name: "the rules for packets", Dataplane: d.options.rules, Kinds: netfilter.Kinds()})
	}
	return planes
}

// daemon ties the parts together: what the keeper holds and what the kernel
// says of the host go in, the desired state and subnet.env come out.
type daemon struct {
	begun      time.Time
	options    *options
	machine    host
	reconciler *network.Reconciler
	paths      *network.Paths // nil if the machine has none to be seen
	reconnect  func()         // with the store
	systemd    systemd
	warnings   notice.Gather
	changes    notice.Gather // of the external interface
	notices    notice.Log
	obstacles  obstacles
	look       chan struct{} // one slot: the external interface may have changed
	lookAround chan struct{} // one slot: another interface may be the better choice
	refresh    chan struct{} // one slot: our lease may have to say something else
	// readdressed has one slot: an interface of this host may have other addresses.
	readdressed chan struct{}
	publish     chan struct{}                // one slot: subnet.env or the status may have changed
	unsaved     chan struct{}                // one slot: what is held may not be saved
	passages    chan struct{}                // one slot: interfaces, or what is needed of them, may have changed
	filters     chan struct{}                // one slot: packet filters, or what has to pass them, may have changed
	previous    ip.Subnet                    // that this host had when it last ran
	saved       func() (subnet.Saved, error) // what was saved then, before the first holding; nil for nothing

	mu       sync.Mutex
	host     backend.Host
	addrs    []netip.Prefix // of all interfaces of this host
	prepared prepared       // for what the keeper is about to hold
	backend  backend.Backend
	rules    network.Rules
	saidWay  string // by which way rules are written, and why, as it was logged
	holding  subnet.Holding
	inFile   subnet.Holding            // at the first holding, until that is known where the file is written
	problems map[string]subnet.Problem // of leases, by key
	unsaid   map[string]bool           // which of them are to be logged, if they stay
	inside   string                    // what was logged of hosts inside Network
	others   subnet.Peers
	// networks are those of the configurations that this host has had.
	networks     []netip.Prefix
	claims       map[netip.Prefix]func()  // of networks that this host is in
	sockets      sockets                  // of other daemons
	verdicts     map[netip.Prefix]verdict // of former networks
	lingerTimer  *time.Timer              // for when a lease has lingered long enough
	stopped      bool                     // ... and nothing more is to happen
	peers        int
	desiredPeers []*subnet.Lease // of the peers in the last desired state
	podsIface    string          // this host's pods are behind it; empty if that is not known
	status       network.Status
	nextIface    string    // that may become the external interface
	lostSight    string    // why the external interface cannot be followed
	downSince    time.Time // since when it is down; zero if it is not
	storeDown    time.Time // since when the store cannot be used; zero if it can
	storeFails   string    // why it cannot
}

// unsaidPause is how soon it is tried again to log what came and went too often: it is
// logged if it stays.
const unsaidPause = time.Minute

// retryPause is how long to wait before trying again what this host must mend.
const retryPause = time.Second

// holds takes what the keeper has got.
func (d *daemon) holds(h subnet.Holding) {
	var saved subnet.Saved
	if d.saved != nil {
		saved, _ = d.saved()
		d.saved = nil // it may be large
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if saved.Own != nil {
		d.inFile = saved.Holding
	}
	if h.Config == d.prepared.config {
		d.backend, d.rules = d.prepared.backend, d.prepared.rules
	}
	if h.Config != d.holding.Config {
		d.warn("network configuration: ", backends.Remarks(h.Config, d.host))
		if d.holding.Config == nil && saved.Own != nil {
			d.resume(saved, h)
		}
		current := h.Config.Network().Prefixes()
		if d.options.rules != nil { // on a real host
			d.claimNetworks(current)
		}
		for _, n := range current {
			if !slices.Contains(d.networks, n) {
				d.networks = append(slices.Clone(d.networks), n)
			}
		}
	}
	if was := d.holding.Own; h.Config != d.holding.Config || was == nil || h.Own == nil || h.Own.Subnet != was.Subnet {
		once.Wake(d.passages)
	}
	d.holding = h
	once.Wake(d.unsaved)
	d.updateDesired()
}

// self returns what is known of this host's addresses. The caller holds d.mu.
func (d *daemon) self() subnet.Self {
	return subnet.Self{Addr: d.host.Addr, Link: d.host.Net, All: d.addrs}
}

// warn logs texts, those of a kind in one line.
func (d *daemon) warn(what string, texts []string) {
	for _, text := range notice.Sum(texts) {
		klog.Warning(what + text)
	}
}

// updateDesired tells the reconciler how the host should look by what is known now. The
// caller holds d.mu.
func (d *daemon) updateDesired() {
	h := d.holding
	if h.Own == nil {
		return
	}
	peers, problems, next := d.others.Update(h, d.self(), time.Now())
	d.peers = len(peers) - len(d.others.Gone())
	var unreadable []ip.Subnet
	now := make(map[string]subnet.Problem, len(problems))
	var news []string
	unsaid := make(map[string]bool)
	for _, p := range problems {
		now[p.Key] = p
		before, known := d.problems[p.Key]
		// Beside which others a lease cannot be used changes with these.
		same := known && before.Withdraw && p.Withdraw && before.Revision == p.Revision
		if before.Reason != p.Reason && !same || d.unsaid[p.Key] {
			text := fmt.Sprintf("lease %s cannot be used and is left alone: %s", printable.Name(p.Key), p.Reason)
			if d.notices.Event(text) {
				news = append(news, text)
			} else {
				unsaid[p.Key] = true
			}
		}
		if !p.Withdraw && p.Subnet.IsValid() {
			unreadable = append(unreadable, p.Subnet)
		}
	}
	d.problems, d.unsaid = now, unsaid
	d.warnings.Add(news...)
	retell := len(unsaid) > 0
	switch inside := d.hostsInside(h.Config); {
	case inside == d.inside:
	case inside == "":
		d.inside = ""
	case d.notices.Event(inside):
		d.inside = inside
		d.warnings.Add(inside)
	default:
		retell = true
	}
	d.chooseNexthops(d.peers)
	if again := time.Now().Add(unsaidPause); retell && (next.IsZero() || again.Before(next)) {
		next = again
	}
	if d.lingerTimer != nil {
		d.lingerTimer.Stop()
	}
	if !next.IsZero() {
		d.lingerTimer = time.AfterFunc(time.Until(next), func() {
			d.mu.Lock()
			defer d.mu.Unlock()
			if !d.stopped {
				d.updateDesired()
			}
		})
	}
	d.desiredPeers = peers
	once.Wake(d.filters)
	if d.paths != nil {
		d.host.Links = d.paths.Links(d.backend)
	}
	w := network.Desired{
		Backend:    d.backend,
		Config:     h.Config,
		Host:       d.host,
		Own:        h.Own,
		Rules:      d.rules,
		Networks:   d.formerly(h.Config.Network().Prefixes()),
		Peers:      peers,
		Unreadable: unreadable,
		Partial:    h.Partial,
	}
	d.reconciler.SetDesired(w)
	if d.paths != nil {
		d.paths.SetDesired(w)
	}
	once.Wake(d.publish)
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

// reconciled takes the reconciler's status.
func (d *daemon) reconciled(s network.Status) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.status = s
	once.Wake(d.publish)
}

// stop takes back what would still happen after the daemon's end.
func (d *daemon) stop() {
	d.obstacles.stop()
	d.warnings.Stop()
	d.changes.Stop()
	d.mu.Lock()
	defer d.mu.Unlock()
	d.stopped = true
	d.claimNetworks(nil)
	if d.lingerTimer != nil {
		d.lingerTimer.Stop()
	}
}
