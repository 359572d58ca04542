package subnet

import (
	"context"
	"math/rand/v2"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/sys/unix"
	"k8s.io/klog/v2"

	"flanneld/pkg/ip"
	"flanneld/pkg/notice"
	"flanneld/pkg/once"
)

// Keeper holds a lease for this host for as long as it runs: it acquires one,
// renews it, and claims it again if it gets lost. It gives up nothing when the
// store can't be asked, and leaves the lease behind when it stops.
type Keeper struct {
	Store Store
	// Previous is the subnet that this host had when it last ran, if known.
	Previous ip.Subnet
	// PreviousIP is the public address that it had then, if known.
	PreviousIP ip.Addrs
	// Margin is how long before its end a lease is renewed.
	Margin time.Duration
	// Prepare returns, for a configuration and what else is in the store, what
	// the lease must say, and which networks it must not overlap. It may wait
	// for what it needs. Any error of its own is taken to be about the
	// configuration or this host, and tried again. With a Lacking the host starts without an
	// address family.
	Prepare func(context.Context, *Config, Snapshot) (Attrs, []netip.Prefix, error)
	// Refresh asks for a look at whether Prepare has changed its mind.
	Refresh <-chan struct{}
	// Changed is called with each new holding, from one goroutine.
	Changed func(Holding)
	// StoreDown is called with why the store cannot be used, when that changes, and with
	// nil when it can again. May be nil.
	StoreDown func(error)
	// ConfigKey names the configuration's key in messages.
	ConfigKey string
	// Waiting is called with what is being waited for, in a few words, while
	// there is no lease.
	Waiting func(string)
	// Boottime returns the time since the host was started, with the time that
	// it was suspended. Nil is the kernel's clock.
	Boottime func() time.Duration
	// Saved returns what this host held when it last ran. It is asked if the store
	// can't be reached for a few seconds at the start, and again later if the error is
	// ErrUnread. May be nil.
	Saved func() (Saved, error)
	// Random is what subnets and pauses are drawn from. Nil is chance.
	Random *rand.Rand

	outage    outage
	log       notice.Log // of what lasts
	snapshots once.Slot[Snapshot]
	configs   once.Slot[StoredConfig]
}

// Run keeps the lease until ctx ends, and returns ctx.Err(). All that is to be decided
// decide does; here it is carried out.
func (k *Keeper) Run(ctx context.Context) error {
	if k.Random == nil {
		k.Random = rand.New(rand.NewPCG(rand.Uint64(), rand.Uint64()))
	}
	k.outage.notify = k.StoreDown
	k.snapshots, k.configs = once.NewSlot[Snapshot](), once.NewSlot[StoredConfig]()
	var watching sync.WaitGroup
	ctx, cancel := context.WithCancel(ctx)
	defer func() { cancel(); watching.Wait(); k.outage.stop() }()

	s := state{
		margin: k.Margin, configKey: k.ConfigKey,
		random:   *rand.NewPCG(k.Random.Uint64(), k.Random.Uint64()),
		retry:    once.Backoff{First: retryFirst, Most: retryMost},
		identity: identity{previous: k.Previous, previousIP: k.PreviousIP},
		saved:    recollection{exists: k.Saved != nil},
	}
	k.outage.store = "etcd"
	if a, is := k.Store.(Assigner); is {
		s.assigned, k.outage.store = true, a.Name()
	}
	for e := event(started{}); ; {
		var a action
		var reports []report
		followed, held := s.follows(), s.mode != starting
		s, a, reports = decide(s, e, k.now())
		for _, n := range reports {
			k.pass(n)
		}
		if s.follows() && !followed {
			watching.Go(func() { k.watch(ctx) })
		}
		if a, is := k.Store.(Assigner); is && s.mode != starting && !held {
			watching.Go(func() { _ = a.WatchConfig(ctx, k.configs.Put) }) // it ends with ctx
		}
		e = k.carryOut(ctx, a)
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
}

func (k *Keeper) now() moment {
	if k.Boottime != nil {
		return moment{time.Now(), k.Boottime()}
	}
	return moment{time.Now(), kernelBoottime()}
}

func kernelBoottime() time.Duration {
	var t unix.Timespec
	if unix.ClockGettime(unix.CLOCK_BOOTTIME, &t) != nil {
		return 0 // no kernel that we run on; it means never suspended
	}
	return time.Duration(t.Nano())
}

// watch passes on the latest snapshot of the store until ctx ends.
func (k *Keeper) watch(ctx context.Context) {
	random := rand.New(rand.NewPCG(k.Random.Uint64(), k.Random.Uint64()))
	retry := once.Backoff{First: retryFirst, Most: retryMost}
	for {
		begin := time.Now()
		err := k.Store.Watch(ctx, k.snapshots.Put)
		if ctx.Err() != nil {
			return
		}
		k.outage.note(err)
		if time.Since(begin) > 2*retryMost {
			retry.Reset()
		}
		if once.Sleep(ctx, retry.Next(random)) != nil {
			return
		}
	}
}

// pass passes on a report.
func (k *Keeper) pass(n report) {
	switch n := n.(type) {
	case changed:
		k.Changed(n.Holding)
	case waiting:
		k.Waiting(n.text)
	case ended:
		if n.topic == "" {
			k.log.AllOver()
		} else {
			k.log.Over(n.topic)
		}
	case storeFailed:
		k.outage.note(n.err)
	case storeWorks:
		k.outage.over()
	case logLine:
		switch {
		case n.level == verbose:
			klog.V(1).Info(n.text)
		case n.level == info:
			klog.Info(n.text)
		case n.level == severe:
			klog.Error(n.text)
		case n.level == warning, n.level == warningEvent && k.log.Event(n.text), n.level == warningState && k.log.State(n.topic, n.text):
			klog.Warning(n.text)
		}
	}
}

// carryOut does what was decided. When ctx ends it returns soon, and what it returns is
// of no use.
func (k *Keeper) carryOut(ctx context.Context, a action) event {
	within := func(timeout time.Duration, call func(context.Context)) {
		ctx, cancel := context.WithTimeout(ctx, timeout)
		defer cancel()
		call(ctx)
	}
	var r answer
	switch a := a.(type) {
	case readConfig:
		within(a.timeout, func(ctx context.Context) { r.config, r.err = k.Store.Config(ctx) })
	case listLeases:
		within(a.timeout, func(ctx context.Context) { r.snapshot, r.err = k.Store.List(ctx) })
	case createLease:
		within(callTimeout, func(ctx context.Context) { r.lease, r.err = k.Store.Create(ctx, a.subnet, a.attrs, a.ttl) })
	case updateLease:
		within(callTimeout, func(ctx context.Context) { r.lease, r.err = k.Store.Update(ctx, a.subnet, a.revision, a.attrs, a.ttl) })
	case moveLease:
		within(callTimeout, func(ctx context.Context) {
			r.lease, r.err = k.Store.Move(ctx, a.from, a.revision, a.to, a.attrs, a.ttl)
		})
	case deleteLease:
		within(callTimeout, func(ctx context.Context) { r.err = k.Store.Delete(ctx, a.subnet, a.revision) })
	case prepare:
		r.attrs, r.avoid, r.err = k.Prepare(ctx, a.config, a.snapshot)
	case loadSaved:
		r.saved, r.err = k.Saved()
	case sleep:
		r.err = once.Sleep(ctx, a.d)
	case listen:
		return k.listen(ctx, a.d)
	}
	return r
}

// listen waits until something happens, or for d.
func (k *Keeper) listen(ctx context.Context, d time.Duration) event {
	if d <= 0 {
		return timeUp{}
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return nil
	case s := <-k.snapshots:
		return newSnapshot{s}
	case c := <-k.configs:
		return newConfig{c}
	case <-k.Refresh:
		return refreshAsked{}
	case <-t.C:
		return timeUp{}
	}
}
