package main

import (
	"context"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	"k8s.io/klog/v2"

	"flanneld/network"
	"flanneld/pkg/cni"
	"flanneld/pkg/dataplane/ec2"
	"flanneld/pkg/dataplane/netfilter"
	"flanneld/pkg/dataplane/tunnels"
	"flanneld/pkg/file"
	"flanneld/pkg/notice"
	"flanneld/pkg/once"
	"flanneld/pkg/printable"
	"flanneld/pkg/status"
	"flanneld/subnet"
	"flanneld/subnet/kube"
)

// run is the daemon: it returns when ctx ends, or when it can never work.
func run(ctx context.Context, o *options, machine host) error {
	klog.Infof("flanneld %s", version)
	for _, name := range o.unknown {
		klog.Warningf("ignoring the environment variable %s: there is no such option", printable.Name(name))
	}
	if len(o.logFiles) > 0 {
		klog.Warningf("the log goes to stderr alone, for the service manager to keep: without effect are %s", printable.Line(strings.Join(o.logFiles, ", ")))
	}
	c := newCollector(o)
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return c.answer(ctx) })
	g.Go(func() error {
		release, err := awaitClaim(ctx, o.subnetFile, c.systemd.status)
		if err != nil {
			return err
		}
		defer release()
		g, ctx := errgroup.WithContext(ctx)
		g.Go(func() error { return c.answerHere(ctx) })
		g.Go(func() error { return work(ctx, o, machine, c) })
		return g.Wait()
	})
	return g.Wait()
}

// work is the daemon on this host, where no other one works for its subnet file.
func work(ctx context.Context, o *options, machine host, c *collector) error {
	if o.cniFile != "" {
		putAsideCNI(o.cniFile)
	}
	store, err := o.source().open(ctx, o, c.systemd.status)
	if err != nil {
		return err
	}
	defer store.Close()
	c.store.Store(&store)
	leave, err := o.source().alone(ctx, o, c.systemd.status)
	if err != nil {
		return err
	}
	defer leave()
	return serve(ctx, o, store, machine, c)
}

// serve is the daemon on a given store and host.
func serve(ctx context.Context, o *options, store subnet.Store, machine host, c *collector) error {
	o.recall = new(file.Patient[subnet.Saved])
	previous := o.previous()
	o.iface.MachineID = machineID()
	systemd := c.systemd
	external, err := awaitInterface(ctx, o, machine, store, previous, systemd)
	if err != nil {
		return err
	}
	tunnelPlane := tunnels.New()
	defer tunnelPlane.Close()
	d := &daemon{
		begun: time.Now(), options: o, tunnels: tunnelPlane, machine: machine, previous: previous.Subnet,
		refresh: make(chan struct{}, 1), due: once.NewSlot[time.Time](),
		warnings: notice.Gather{Logf: klog.Warningf, Component: string(status.ComponentPeers), All: true},
		saver:    newSaver(o), host: external,
		networks: networks{all: previous.Network.Prefixes(), shared: o.rules != nil, sockets: make(sockets)},
	}
	d.addresses = network.NewAddresses(machine, d.update)
	d.reconciler = network.NewReconciler(func(s network.Status) {
		d.publisher.update(func(f *facts) { f.reconciled = s })
	}, d.planes(tunnelPlane)...)
	ready := d.reconciler.Ready()
	obstacles := &network.Obstacles{}
	d.publisher = newPublisher(o, ready, systemd, obstacles)
	d.saver.started = d.publisher.published
	report := func(source string) func([]network.Obstacle) {
		return func(now []network.Obstacle) { obstacles.Report(source, now) }
	}
	passages := network.NewPassages(machine, report("passages"))
	passages.OwnBridge = o.cniFile != ""
	if o.kube == nil && o.cniFile == "" {
		passages.Docker = func() bool { return !cni.Configured() }
	}
	d.external = network.NewExternal(o.iface, machine, external, store.Reconnect, d.sawExternal)
	machine.Follow(external.Net().Families()) // until a configuration says more
	d.followers = []follower{
		d.external,
		passages,
	}
	if view, ok := machine.(network.PathView); ok {
		d.paths = network.NewPaths(view, report("paths"), d.update)
		d.followers = append(d.followers, later{d.paths, ready})
	}
	if o.probe > 0 {
		d.prober = network.NewProber(o.probe, func(problem *status.Problem) {
			d.publisher.update(func(f *facts) { f.unreached = problem })
		})
		d.followers = append(d.followers, later{d.prober, ready})
	}
	var said notice.Log
	o.etcd.Lag.Tell(func(took time.Duration) {
		d.publisher.update(func(f *facts) { f.storeTakes = took })
		name := o.source().name
		switch {
		case took > 0 && said.State(name, "slow"):
			klog.Warningf("%s takes %s to answer: %s", name, took.Round(time.Second/10), subnet.SlowRemedy)
		case took == 0 && said.Over(name):
			klog.Infof("%s answers in time again", name)
		}
	})
	d.rules = newRules(o)
	if o.rules != nil {
		firewalls := network.NewFirewalls(machine, report("firewall"))
		d.followers = append(d.followers, later{firewalls, ready})
		d.rules.touched = firewalls.Changed
	}
	d.available = &availability{ready: d.publisher.published, own: once.NewSlot[*subnet.Assignment]()}
	if k, ok := store.(*kube.Store); ok && o.kube.setAvailable {
		d.available.set = k.SetNetworkAvailable
	}
	keeper := &subnet.Keeper{
		Refresh:    d.refresh,
		Store:      store,
		Previous:   previous.Subnet,
		PreviousIP: previousIP(ctx, machine, previous.Subnet),
		Margin:     o.renewMargin,
		Prepare:    d.prepare,
		Changed:    func(h subnet.Holding) { d.holds(ctx, h) },
		Waiting:    systemd.status,
		StoreDown:  func(why error) { d.publisher.update(func(f *facts) { f.noteStore(why) }) },
		ConfigKey:  o.source().configKey(o),
		Boottime:   o.boottime,
	}
	if o.stateDir != "" {
		keeper.Saved = o.saved
		load := sync.OnceValues(o.saved)
		d.saved = load
		go func() { _, _ = load() }() // it takes a while in a large network
	}
	c.daemon.Store(d)
	defer d.networks.claim(nil)
	defer d.warnings.Stop()
	defer obstacles.Stop()
	g, ctx := errgroup.WithContext(ctx)
	for _, t := range []task{keeper, d, d.reconciler, d.addresses, d.publisher, d.saver} {
		g.Go(func() error { return t.Run(ctx) })
	}
	for _, f := range d.followers {
		g.Go(func() error { return f.Run(ctx) })
	}
	if o.rules != nil {
		g.Go(func() error { return d.rules.follow(ctx, ready, d.rulesSettled) })
	}
	g.Go(func() error { return d.available.Run(ctx) })
	g.Go(func() error { return systemd.watchdog(ctx, d.awaitLock) })
	g.Go(func() error { return logCounters(ctx, tunnelPlane, o.askedCounters) })
	return g.Wait()
}

// task is a part of the daemon that runs until ctx ends.
type task interface {
	Run(ctx context.Context) error
}

// later is a follower that runs once ready is closed.
type later struct {
	follower
	ready <-chan struct{}
}

// Run implements task.
func (l later) Run(ctx context.Context) error {
	if err := await(ctx, l.ready); err != nil {
		return err
	}
	return l.follower.Run(ctx)
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
