package main

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	"k8s.io/klog/v2"

	"flanneld/backend"
	"flanneld/backend/alloc"
	"flanneld/backend/hostgw"
	"flanneld/network"
	"flanneld/pkg/ip"
	"flanneld/pkg/target"
	"flanneld/pkg/target/kernel"
	"flanneld/subnet"
	"flanneld/subnet/etcdv2"
)

// backends are those that a configuration may name.
var backends = backend.NewTable(alloc.Type, hostgw.Type)

// run is the daemon: it returns when ctx ends, or when it can never work.
func run(ctx context.Context, o *options) error {
	klog.Infof("flanneld %s", version)
	for _, name := range o.unknown {
		klog.Warningf("ignoring the environment variable %s: there is no such option", name)
	}
	store, err := etcdv2.New(o.etcd)
	if err != nil {
		return err
	}
	defer store.Close()
	return serve(ctx, o, store, kernel.New())
}

// host is this host, as the daemon sees and changes it.
type host interface {
	target.Target
	network.View
	HasNexthops() bool
}

// serve is the daemon on a given store and host.
func serve(ctx context.Context, o *options, store subnet.Store, machine host) error {
	previous, err := network.ReadSubnet(o.subnetFile)
	if err != nil {
		klog.Warning(err)
	}
	d := &daemon{options: o, machine: machine, publish: make(chan struct{}, 1)}
	d.reconciler = network.NewReconciler(machine, d.reconciled)
	if err := d.findInterface(ctx); err != nil {
		return err
	}
	keeper := &subnet.Keeper{
		Store:    store,
		Previous: previous,
		Margin:   o.renewMargin,
		Prepare:  d.prepare,
		Changed:  d.holds,
		Waiting:  d.systemd.status,
	}
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return keeper.Run(ctx) })
	g.Go(func() error { return d.reconciler.Run(ctx) })
	g.Go(func() error { return d.watchMachine(ctx) })
	g.Go(func() error { return d.publishEnv(ctx) })
	defer d.stop()
	return g.Wait()
}

// daemon ties the parts together: what the keeper holds and what the kernel
// says of the host go in, the reconciler's wish and subnet.env come out.
type daemon struct {
	options    *options
	machine    host
	reconciler *network.Reconciler
	systemd    systemd
	publish    chan struct{} // one slot: subnet.env may have changed

	mu       sync.Mutex
	host     backend.Host
	prepared prepared // for what the keeper is about to hold
	backend  backend.Backend
	holding  subnet.Holding
	problems map[string]string // of leases, by key, as they were logged
	vetter   subnet.Vetter
	linger   subnet.Linger
	rewish   *time.Timer // for when a lease has lingered long enough
	peers    int
	status   network.Status
}

// prepared is a backend and the configuration that it was made from.
type prepared struct {
	config  *subnet.Config
	backend backend.Backend
}

// retryPause is how long to wait before trying again what this host must mend.
const retryPause = time.Second

func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}

// findInterface waits for the external interface and its address.
func (d *daemon) findInterface(ctx context.Context) error {
	var said string
	for {
		host, err := d.options.iface.Choose(ctx, d.machine)
		if err == nil {
			klog.Infof("using interface %s with address %s and MTU %d; other hosts reach this one at %s", host.Iface, host.Addr, host.MTU, host.PublicIP)
			d.host = host
			return nil
		}
		if err.Error() != said {
			said = err.Error()
			text := strings.ReplaceAll(said, "\n", "; ")
			klog.Warningf("waiting for the external interface: %s", text)
			d.systemd.status("waiting for the external interface: " + text)
		}
		if err := sleep(ctx, retryPause); err != nil {
			return err
		}
	}
}

// prepare makes the backend that a configuration names, and what it wants our
// lease to say.
func (d *daemon) prepare(_ context.Context, c *subnet.Config) (subnet.Attrs, []netip.Prefix, error) {
	if c.V6.Network.IsValid() {
		return subnet.Attrs{}, nil, &subnet.ConfigError{Key: "EnableIPv6", Value: "true", Reason: "is not supported by this version"}
	}
	b, err := backends.New(c)
	if err != nil {
		return subnet.Attrs{}, nil, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	attrs, err := b.Attrs(d.host)
	if err != nil {
		return subnet.Attrs{}, nil, err
	}
	d.prepared = prepared{c, b}
	return attrs, c.Local(d.host.Addr, d.host.Net), nil
}

// holds takes what the keeper has got.
func (d *daemon) holds(h subnet.Holding) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if h.Config == d.prepared.config {
		d.backend = d.prepared.backend
	}
	if h.Config != d.holding.Config {
		d.linger = subnet.Linger{}
	}
	d.holding = h
	d.wish()
}

// wish tells the reconciler how the host should look by what is known now. The
// caller holds d.mu.
func (d *daemon) wish() {
	h := d.holding
	if h.Own == nil {
		return
	}
	peers, problems := d.vetter.Vet(h.Config, h.Own, h.Config.Local(d.host.Addr, d.host.Net), h.Snapshot)
	d.peers = len(peers)
	var unreadable []ip.Subnet
	now := make(map[string]string, len(problems))
	for _, p := range problems {
		now[p.Key] = p.Reason
		if d.problems[p.Key] != p.Reason {
			klog.Warningf("lease %s cannot be used and is left alone: %s", p.Key, p.Reason)
		}
		if p.Subnet.IsValid() {
			unreadable = append(unreadable, p.Subnet)
		}
	}
	d.problems = now
	d.chooseNexthops(len(peers))
	peers, next := d.linger.Apply(peers, h.Own.Subnet, time.Now())
	if d.rewish != nil {
		d.rewish.Stop()
	}
	if !next.IsZero() {
		d.rewish = time.AfterFunc(time.Until(next), func() {
			d.mu.Lock()
			defer d.mu.Unlock()
			d.wish()
		})
	}
	d.reconciler.Wish(network.Wish{
		Backend:    d.backend,
		Config:     h.Config,
		Host:       d.host,
		Own:        h.Own,
		Peers:      peers,
		Unreadable: unreadable,
	})
	d.poke()
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

func (d *daemon) poke() {
	select {
	case d.publish <- struct{}{}:
	default:
	}
}

// reconciled takes the reconciler's status.
func (d *daemon) reconciled(s network.Status) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.status = s
	d.poke()
}

// stop takes back what would still happen after the daemon's end.
func (d *daemon) stop() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.rewish != nil {
		d.rewish.Stop()
	}
}

// watchMachine passes the kernel's notifications on, for as long as ctx lasts.
func (d *daemon) watchMachine(ctx context.Context) error {
	for {
		// Whatever passed before the watch was there is to be looked at.
		ready := func() { d.event(ctx, target.Event{Lost: true}) }
		err := d.machine.Watch(ctx, ready, func(e target.Event) { d.event(ctx, e) })
		if ctx.Err() != nil {
			return ctx.Err()
		}
		klog.Errorf("watching the kernel, trying again: %v", err)
		if err := sleep(ctx, retryPause); err != nil {
			return err
		}
	}
}

// event takes a hint from the kernel, and looks at the external interface again
// if the hint may be about it.
func (d *daemon) event(ctx context.Context, e target.Event) {
	d.mu.Lock()
	if e.Lost || e.Iface == d.host.Iface {
		host, err := d.options.iface.Follow(ctx, d.machine, d.host)
		if err != nil {
			klog.Warningf("looking at the external interface: %v", err)
		}
		host.Nexthops = d.host.Nexthops
		if host != d.host {
			klog.Infof("interface %s has MTU %d now", host.Iface, host.MTU)
			d.host = host
			d.wish()
		}
	}
	d.mu.Unlock()
	d.reconciler.Hint(e)
}

// env is what subnet.env should say.
func (d *daemon) env() network.Env {
	return network.Env{
		Network: d.holding.Config.Network(),
		Subnet:  d.holding.Own.Subnet,
		MTU:     d.backend.MTU(d.host),
	}
}

// publishEnv writes subnet.env once the host is as it should be, tells systemd,
// and keeps both right from then on.
func (d *daemon) publishEnv(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-d.reconciler.Ready():
	}
	var written network.Env
	var said string
	d.poke()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-d.publish:
		}
		d.mu.Lock()
		env, status := d.env(), d.statusText()
		d.mu.Unlock()
		if env != written {
			if err := env.Write(d.options.subnetFile); err != nil {
				if err.Error() != said {
					said = err.Error()
					klog.Errorf("not ready, trying again: %v", err)
				}
				d.systemd.status(said)
				if err := sleep(ctx, retryPause); err != nil {
					return err
				}
				d.poke()
				continue
			}
			klog.Infof("wrote %s: %s", d.options.subnetFile, strings.Join(strings.Fields(env.String()), " "))
			written, said = env, ""
		}
		d.systemd.ready(status)
	}
}

// statusText says how things are, in one line. The caller holds d.mu.
func (d *daemon) statusText() string {
	text := fmt.Sprintf("subnet %s on %s (%s), backend %s, %d peers", d.holding.Own.Subnet, d.host.Iface, d.host.PublicIP, d.holding.Config.BackendType, d.peers)
	if d.status.Missing > 0 {
		text += fmt.Sprintf(", %d of %d objects not in place", d.status.Missing, d.status.Wanted)
	}
	if n := len(d.problems) + d.status.Useless; n > 0 {
		text += fmt.Sprintf(", %d leases unusable", n)
	}
	return text
}
