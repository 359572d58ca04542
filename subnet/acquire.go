package subnet

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"k8s.io/klog/v2"

	"flanneld/pkg/ip"
)

// acquire gets a lease, however long it takes: it returns ctx.Err() or nil.
func (k *Keeper) acquire(ctx context.Context) error {
	var waitsFor string // as was told last
	unreachable, contended := backoff{random: k.Random}, backoff{random: k.Random}
	begun := time.Now()
	seen := k.holding.Snapshot.Revision
	for {
		// A store that swallows what it is asked must not keep us longer than one
		// that is not there.
		k.patience = callTimeout
		if left := offlineAfter - time.Since(begun); k.Saved != nil && left > 0 {
			k.patience = left
		}
		err := k.tryAcquire(ctx)
		k.patience = callTimeout
		if r := k.holding.Snapshot.Revision; err != nil && k.offline && r != seen {
			seen = r
			k.Changed(k.holding) // the other hosts are followed until we have a lease
		}
		var pause time.Duration
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case err == nil:
			k.told.AllOver() // what kept us waiting
			return nil
		case errors.Is(err, ErrExists), errors.Is(err, ErrChanged):
			// Another host was faster. It can't have been faster with all
			// of the others, too.
			k.trouble.over()
			klog.V(1).Infof("acquiring a lease: %v", err)
			pause = contended.next()
		case errors.As(err, new(waitingFor)):
			k.trouble.over()
			text := err.Error() + k.configRemedy(err)
			k.waiting(text)
			waitsFor = ""
			k.tell("waiting: %s", text)
			pause = configPoll
		default:
			if why := steady(err); why != waitsFor { // which subnet was asked for is no news
				waitsFor = why
				k.waiting("waiting for the store: " + err.Error())
			}
			k.trouble.note(err)
			if k.Saved != nil && time.Since(begun) >= offlineAfter && k.goOffline(ctx) {
				return nil
			}
			pause = min(unreachable.next(), configPoll)
		}
		if err := sleep(ctx, pause); err != nil {
			return err
		}
	}
}

// waiting tells what is being waited for, unless there is a lease.
func (k *Keeper) waiting(text string) {
	if k.holding.Own == nil {
		k.Waiting(text)
	}
}

// tell logs what lasts.
func (k *Keeper) tell(format string, a ...any) {
	if text := fmt.Sprintf(format, a...); k.told.State(format, text) {
		klog.Warning(text)
	}
}

// notify logs what happened.
func (k *Keeper) notify(format string, a ...any) {
	if text := fmt.Sprintf(format, a...); k.told.Event(text) {
		klog.Warning(text)
	}
}

// report logs why what we want can't be had for now, and takes it for trouble
// if the store is to blame.
func (k *Keeper) report(err error) {
	switch {
	case errors.As(err, new(waitingFor)):
		k.trouble.over()
		k.tell("%v; trying again", err)
	case errors.Is(err, ErrExists), errors.Is(err, ErrChanged):
		k.trouble.over()
		klog.V(1).Infof("%v; trying again", err) // someone was faster
	default:
		k.trouble.note(err)
	}
}

// waitingFor is an error that someone's change of the configuration, of the
// leases or of this host will mend; the store itself is well.
type waitingFor struct{ error }

func (w waitingFor) Unwrap() error { return w.error }

// configRemedy says where the configuration is that an error is about, if it is about one.
func (k *Keeper) configRemedy(err error) string {
	if !errors.As(err, new(*ConfigError)) || k.ConfigKey == "" {
		return ""
	}
	return "; correct the key " + k.ConfigKey + ", nothing has to be restarted"
}

// tryAcquire goes through the ways to a lease once: the one that we have
// already, the subnet that we had before, any free one.
func (k *Keeper) tryAcquire(ctx context.Context) error {
	c, err := k.config(ctx)
	if err != nil {
		return err
	}
	s, err := k.list(ctx)
	if err != nil {
		return err
	}
	attrs, avoid, err := k.Prepare(ctx, c, s)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err != nil {
		return waitingFor{err}
	}
	k.attrs, k.avoid, k.outdated = attrs, avoid, false
	k.follow(s)
	l, err := k.reuse(ctx, c, s)
	if l == nil && err == nil {
		l, err = k.create(ctx, c, s)
	}
	if err != nil {
		return err
	}
	k.trouble.over()
	k.holding = Holding{Config: c, Own: l, Snapshot: k.holding.Snapshot, Unfollowed: k.holding.Unfollowed} // maybe a later one than s
	if k.stored != nil && k.stored.Text == c.raw {
		k.holding.Unfollowed = ""
	}
	return nil
}

// config reads the configuration. While we run on one already, a new one that
// is missing or bad changes nothing.
func (k *Keeper) config(ctx context.Context) (*Config, error) {
	cctx, cancel := context.WithTimeout(ctx, k.patience)
	defer cancel()
	raw, err := k.Store.Config(cctx)
	var c *Config
	if err == nil {
		c, err = ParseConfig(raw)
	}
	var bad *ConfigError
	switch {
	case err == nil && k.holding.Config != nil && k.holding.Config.raw == c.raw:
		return k.holding.Config, nil
	case err == nil && k.holding.Config != nil && !k.offline && k.restartFor(c) != nil:
		return k.holding.Config, nil
	case err == nil:
		return c, nil
	case !errors.Is(err, ErrNoConfig) && !errors.As(err, &bad):
		return nil, err
	case k.holding.Config != nil:
		k.tell("keeping the configuration that we have: %v", err)
		return k.holding.Config, nil
	}
	return nil, waitingFor{err}
}

// reuse takes over a lease that this machine wrote, or that bears our public address. It
// returns nil if there is none that fits.
func (k *Keeper) reuse(ctx context.Context, c *Config, s Snapshot) (*Lease, error) {
	var best *Lease
	lost := c.losers(s.Leases)
	for _, l := range s.Leases {
		switch moved := k.moved(l); {
		case l.PublicIP != k.attrs.PublicIP && !k.kept(l) && !moved:
		case lost[l] != nil && l.Subnet != k.Previous && !k.kept(l): // no other host uses it, nor did we
			k.tell("the lease %s of our public address overlaps %s, which is in force in its place; not using it", l.Subnet, lost[l].Subnet)
		case moved && !k.kept(l) && !c.Keeps(l.Subnet):
			k.tell("the lease %s that this machine wrote does not fit the configuration; not using it", l.Subnet)
		case !c.Keeps(l.Subnet):
			if err := k.discard(ctx, l); err != nil {
				return nil, err
			}
		case best == nil || k.preferred(c, l, best):
			best = l
		}
	}
	if best == nil {
		return nil, nil
	}
	if best.PublicIP != k.attrs.PublicIP {
		// This machine's own lease. But another machine may live at our new address.
		for _, l := range s.Leases {
			if l.PublicIP != k.attrs.PublicIP {
				continue
			}
			if _, err := k.outlived(ctx, l, ofOther); err != nil {
				return nil, err
			}
		}
	}
	found := best
	best, err := k.outlived(ctx, found, toBeOurs)
	if errors.Is(err, errCopy) {
		return nil, k.disown(found)
	}
	if err != nil {
		return nil, err
	}
	cctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	l, err := k.Store.Update(cctx, best.Subnet, best.Revision, k.attrs, k.ttl(best.Reserved()))
	if err != nil {
		return nil, fmt.Errorf("taking over our lease %s: %w", best.Subnet, err)
	}
	k.former = ""
	if best == found { // it was not asked, and may be alive
		k.former = found.Machine
	}
	if l.Reserved() {
		klog.Infof("using the subnet %s that is reserved for this host", l.Subnet)
	} else {
		klog.Infof("using the subnet %s that this host has a lease of", l.Subnet)
	}
	return l, nil
}

// kept reports whether a lease is the one that we started with without the store. Our
// public address may have changed since.
func (k *Keeper) kept(l *Lease) bool {
	return l.Subnet != k.copied && k.offline && k.holding.Holder == "" && l.Subnet == k.holding.Own.Subnet && k.holder(l) == ""
}

// discard deletes a lease of ours that no longer fits the configuration. A
// reservation was made by a person and is left to one.
func (k *Keeper) discard(ctx context.Context, l *Lease) error {
	if l.Reserved() {
		k.tell("the subnet %s, reserved for this host, does not fit the configuration; not using it", l.Subnet)
		return nil
	}
	found := l
	l, err := k.outlived(ctx, found, toBeOurs)
	if errors.Is(err, errCopy) {
		return k.disown(found)
	}
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	if err := k.Store.Delete(ctx, l.Subnet, l.Revision); err != nil && !errors.Is(err, ErrChanged) {
		return fmt.Errorf("deleting our old lease %s: %w", l.Subnet, err)
	}
	klog.Infof("deleted this host's lease %s, which does not fit the configuration", l.Subnet)
	return nil
}

// create takes the subnet that we had before, if it is free, or any other.
func (k *Keeper) create(ctx context.Context, c *Config, s Snapshot) (*Lease, error) {
	var want ip.Subnet
	switch {
	case !k.Previous.IsValid():
	case !c.Keeps(k.Previous):
		k.tell("the subnet %s that this host had before does not fit the configuration; not asking for it", k.Previous)
	case !c.Free(s, k.Previous):
		k.tell("the subnet %s that this host had before is taken; not asking for it", k.Previous)
	case slices.ContainsFunc(k.avoid, func(p netip.Prefix) bool { return k.Previous.Overlaps(ip.SubnetOf(p)) }):
		k.tell("the subnet %s that this host had before overlaps a network that this host is in; not asking for it", k.Previous)
	default:
		want = k.Previous
	}
	if !want.IsValid() {
		var err error
		want, err = Choose(c, s, k.avoid, k.Random)
		if err != nil {
			return nil, waitingFor{err}
		}
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	l, err := k.Store.Create(ctx, want, k.attrs, LeaseTTL)
	if err != nil {
		return nil, fmt.Errorf("acquiring the subnet %s: %w", want, err)
	}
	klog.Infof("acquired the subnet %s", l.Subnet)
	return l, nil
}
