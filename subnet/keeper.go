package subnet

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"time"

	"k8s.io/klog/v2"

	"flanneld/pkg/ip"
	"flanneld/pkg/notice"
	"flanneld/pkg/printable"
)

// Holding is what a Keeper has got: the configuration, this host's lease, and
// everything else in the store as of the latest snapshot.
type Holding struct {
	Config   *Config
	Own      *Lease
	Snapshot Snapshot
	// Holder says, in a few words, who has Own's subnet now, as long as no other
	// one can be had in its place. It is empty while the subnet is ours.
	Holder string
	// Unfollowed says why the configuration in the store is not Config; empty if it is.
	Unfollowed string
	// Partial is set while Snapshot is what was saved once, and nothing has been heard
	// from the store since: it may hold other leases.
	Partial bool
}

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
	// configuration or this host, and tried again.
	Prepare func(context.Context, *Config, Snapshot) (Attrs, []netip.Prefix, error)
	// Refresh asks for a look at whether Prepare has changed its mind.
	Refresh <-chan struct{}
	// Changed is called with each new holding, from one goroutine.
	Changed func(Holding)
	// Trouble is called with why the store cannot be used, when that changes, and with
	// nil when it can again. May be nil.
	Trouble func(error)
	// ConfigKey names the configuration's key in messages.
	ConfigKey string
	// Waiting is called with what is being waited for, in a few words, while
	// there is no lease.
	Waiting func(string)
	// Boottime returns the time since the host was started, with the time that
	// it was suspended. Nil is the kernel's clock.
	Boottime func() time.Duration
	// Saved returns what this host held when it last ran. It is asked if the store
	// can't be reached for a few seconds at the start. May be nil.
	Saved func() (Saved, error)
	// Random is what subnets and pauses are drawn from. Nil is chance.
	Random *rand.Rand

	patience  time.Duration // with a store that is asked for the configuration or the leases
	offline   bool          // the holding was saved; the store has yet to be reached
	attrs     Attrs
	avoid     []netip.Prefix
	outdated  bool        // attrs and avoid may be
	again     *time.Timer // for when Prepare is asked again that could not tell
	holding   Holding
	stored    *StoredConfig // the configuration as it was last heard of
	wiped     bool          // it went together with our lease, which is yet to be claimed again
	told      notice.Log
	twin      twin   // another machine with our public address
	former    string // a machine of our ID that may be another one: see twin.go
	overwrote string // the machine whose lease we last wrote over, or nothing
	trouble   trouble
	retry     backoff
	corrected time.Time     // when we last undid someone else's change of our lease
	wrote     time.Time     // when we last renewed our lease
	written   uint64        // its revision then
	rest      time.Duration // how long it is left alone after that
	learned   time.Time     // when we learned of the last write of our lease
	latest    uint64        // its revision then
	seen      uint64        // the latest revision of the store in which it was there
	asleep    sleepClock
	due       *time.Timer
	spread    time.Duration // how long before the margin our lease is renewed

	copied      ip.Subnet // of a lease by which a copy of this machine lives: see moved.go
	readdressed bool      // what was saved is of another public address than ours
}

const (
	// configPoll is how soon a configuration that is missing or bad, or a range
	// that is full, is looked at again.
	configPoll = time.Second
	// callTimeout bounds a single call to the store.
	callTimeout = 10 * time.Second
	// retryMost is the longest pause between two tries to reach the store:
	// short enough to be back soon after it, long enough for 10,000 hosts.
	retryMost = 3 * time.Second
	// renewLeast is the shortest time between two renewals of a lease that
	// nobody else wrote. If a store says each time that it ends again at once,
	// its clock is wrong, and the time doubles up to restMost: were it right,
	// the key would be gone by then, and claimed again.
	renewLeast = time.Minute
	restMost   = time.Hour
)

// Run keeps the lease until ctx ends, and returns ctx.Err().
func (k *Keeper) Run(ctx context.Context) error {
	if k.Random == nil {
		k.Random = newRandom(rand.Uint64(), rand.Uint64())
	}
	k.retry.random = k.Random
	k.patience = callTimeout
	k.trouble.tell = k.Trouble
	defer k.trouble.stop()
	k.asleep.start(k.Boottime)
	if err := k.acquire(ctx); err != nil {
		return err
	}
	k.Changed(k.holding)
	if k.offline {
		if err := k.online(ctx); err != nil {
			return err
		}
		k.Changed(k.holding)
	}

	ctx, cancel := context.WithCancel(ctx)
	snapshots := make(chan Snapshot, 1) // the latest one
	wait := backoff{random: newRandom(k.Random.Uint64(), k.Random.Uint64())}
	watching := make(chan struct{})
	defer func() { cancel(); <-watching }()
	go func() {
		defer close(watching)
		k.watch(ctx, snapshots, &wait)
	}()

	// Hosts that started together should not renew together. This is drawn once:
	// were it drawn with each snapshot, one host's renewal would set off others.
	k.spread = draw(k.Random, min(k.Margin/10, (LeaseTTL-k.Margin)/2)+1)
	k.due = time.NewTimer(0)
	defer k.due.Stop()
	k.again = time.NewTimer(LeaseTTL)
	defer k.again.Stop()
	k.again.Stop()
	k.schedule()
	suspended := time.NewTicker(sleepCheck)
	defer suspended.Stop()
	retrying := false
	var refused error // what the server says of our watch; nil while it serves it
	for {
		var err error
		select {
		case <-ctx.Done():
			return ctx.Err()
		case s := <-snapshots:
			refused = s.Refused
			stale := s.Revision < k.holding.Own.Revision
			changed, write := k.hear(ctx, s)
			if retrying && (stale || !k.renewedIn(s)) {
				// However often others change theirs, ours is dealt with when
				// the retry is due.
				if !stale {
					k.follow(s)
				}
				if !stale || changed {
					k.Changed(k.holding)
				}
				continue
			}
			if write {
				if !stale {
					k.follow(s)
				}
				err = k.refresh(ctx)
				break
			}
			if stale {
				// From before our last write, or of a new store in the place of
				// the old one.
				s, err = k.list(ctx)
			}
			if err == nil {
				err = k.take(ctx, s)
			}
		case <-k.due.C:
			err = k.refresh(ctx)
		case <-k.Refresh:
			k.outdated = true
			if !k.mustRefresh(ctx, retrying) {
				continue
			}
			err = k.refresh(ctx)
		case <-k.again.C:
			if !k.mustRefresh(ctx, retrying) {
				continue
			}
			err = k.refresh(ctx)
		case <-suspended.C:
			slept := k.asleep.slept()
			if slept < sleepLeast {
				if refused != nil {
					k.trouble.note(refused) // nothing else asks whether it lasts
				}
				continue
			}
			err = k.woke(ctx, slept)
		}
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case err != nil:
			k.report(err)
			retrying = true
			k.due.Reset(k.retry.next())
		default:
			retrying = false
			if refused != nil {
				k.trouble.note(refused) // long before a renewal fails
			} else {
				k.trouble.over()
			}
			k.retry.reset()
			k.schedule()
		}
	}
}

// schedule sets the timer for the next renewal.
func (k *Keeper) schedule() {
	if k.holding.Own.Reserved() {
		k.due.Stop()
		return
	}
	if k.latest != k.holding.Own.Revision {
		k.latest, k.learned = k.holding.Own.Revision, time.Now()
	}
	// However late a store with a strange clock says that it ends.
	left := min(k.left(), time.Until(k.learned.Add(LeaseTTL)))
	due := left - k.Margin - k.spread
	if k.holding.Own.Revision == k.written {
		// However soon a store with a strange clock says that it ends.
		due = max(due, time.Until(k.wrote.Add(k.rest)))
	}
	k.due.Reset(max(0, due))
}

// watch passes on the latest snapshot of the store until ctx ends.
func (k *Keeper) watch(ctx context.Context, snapshots chan Snapshot, wait *backoff) {
	for {
		begin := time.Now()
		err := k.Store.Watch(ctx, func(s Snapshot) {
			select {
			case <-snapshots: // was not taken; this one is newer
			default:
			}
			snapshots <- s
		})
		if ctx.Err() != nil {
			return
		}
		k.trouble.note(err)
		if time.Since(begin) > 2*retryMost {
			wait.reset()
		}
		if sleep(ctx, wait.next()) != nil {
			return
		}
	}
}

// take makes s the latest snapshot, and puts our own lease in it right.
func (k *Keeper) take(ctx context.Context, s Snapshot) error {
	k.follow(s)
	err := k.check(ctx, s)
	k.Changed(k.holding)
	return err
}

// renewedIn reports whether our lease was written after all: the store did what
// it was asked, and only its answer got lost.
func (k *Keeper) renewedIn(s Snapshot) bool {
	l := s.Find(k.holding.Own.Subnet)
	return l != nil && l.Attrs == k.attrs && l.Revision != k.holding.Own.Revision
}

// check looks at our own lease as a snapshot has it.
func (k *Keeper) check(ctx context.Context, s Snapshot) error {
	own := k.holding.Own
	if k.holding.Holder != "" {
		return k.move(ctx)
	}
	for _, p := range s.Problems {
		switch {
		case p.Subnet != own.Subnet:
		case !own.Reserved() && k.left() < 0:
			return k.lost(ctx, unreadable)
		default:
			return k.correct(ctx, "", p.Revision, own.Reserved() && p.Expires.IsZero())
		}
	}
	found := s.Find(own.Subnet)
	k.lookBack(found)
	switch {
	case found == nil && k.usurper(s) != "":
		return k.lost(ctx, k.usurper(s))
	case found == nil:
		return k.reclaim(ctx)
	case k.holder(found) != "":
		return k.lost(ctx, k.holder(found))
	case found.Attrs != k.attrs:
		switch {
		case found.Challenger == "":
		case SameMachine(found.Challenger, k.attrs.Machine):
			k.notify("the machine %s asks whether we are alive: it has our machine ID, too", printable.Name(found.Challenger))
		default:
			k.notify("the machine %s asks whether we are alive: it has our public address %s, too", printable.Name(found.Challenger), found.PublicIP)
		}
		return k.correct(ctx, found.Machine, found.Revision, found.Reserved())
	}
	if found.Revision != own.Revision && found.Reserved() == own.Reserved() && k.retry.pause == 0 {
		k.notify("someone else wrote our lease %s, in our own words: if no person did, another host uses the public address %s, too", own.Subnet, own.PublicIP)
	}
	if found.Reserved() != own.Reserved() {
		klog.Infof("our lease %s %s", own.Subnet, reservedText(found.Reserved()))
	}
	k.holding.Own, k.seen = found, s.Revision
	return nil
}

// correct writes our lease again after someone else wrote something else there, as
// the machine.
func (k *Keeper) correct(ctx context.Context, machine string, revision uint64, reserved bool) error {
	own := k.holding.Own
	if !k.corrected.IsZero() && time.Since(k.corrected) < retryMost {
		return waitingFor{fmt.Errorf("our lease %s is being changed again and again: does another host use the public address %s, too?",
			own.Subnet, own.PublicIP)}
	}
	k.notify("someone changed our lease %s; writing it again", own.Subnet)
	k.corrected, k.overwrote = time.Now(), machine
	return k.write(ctx, own.Subnet, revision, reserved)
}

func reservedText(reserved bool) string {
	if reserved {
		return "is now a reservation: it does not expire"
	}
	return "is no longer a reservation: it is renewed from now on"
}

// renew makes our lease last, whatever has become of it.
func (k *Keeper) renew(ctx context.Context) error {
	if k.outdated {
		k.ask(ctx)
	}
	if k.holding.Holder != "" {
		err := k.move(ctx)
		k.Changed(k.holding)
		return err
	}
	own := k.holding.Own
	err := k.write(ctx, own.Subnet, own.Revision, own.Reserved())
	if !errors.Is(err, ErrChanged) {
		return err
	}
	// Someone wrote it, or it is gone: see what is there now.
	s, err := k.list(ctx)
	if err != nil {
		return err
	}
	if err := k.take(ctx, s); err != nil {
		return err
	}
	if k.holding.Own.Revision == own.Revision { // trying again at once would go on for ever
		return fmt.Errorf("renewing our lease %s: the store says that it was changed, and lists it as it was", own.Subnet)
	}
	return nil
}

// reclaim takes our subnet again after its key vanished.
func (k *Keeper) reclaim(ctx context.Context) error {
	own := k.holding.Own
	cctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	l, err := k.Store.Create(cctx, own.Subnet, k.attrs, k.ttl(own.Reserved()))
	if errors.Is(err, ErrExists) {
		return fmt.Errorf("claiming our lease %s again: %w", own.Subnet, err) // the next snapshot tells whose it is
	}
	if err != nil {
		return err
	}
	if k.wiped {
		k.wiped = false
		klog.Warningf("our lease %s had vanished from the store; claimed it again; the network configuration is not there any more, and stays in force", own.Subnet)
	} else {
		klog.Warningf("our lease %s had vanished from the store; claimed it again", own.Subnet)
	}
	k.holding.Own = l
	return nil
}

func (k *Keeper) write(ctx context.Context, s ip.Subnet, revision uint64, reserved bool) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	l, err := k.Store.Update(ctx, s, revision, k.attrs, k.ttl(reserved))
	if err != nil {
		return fmt.Errorf("renewing our lease %s: %w", s, err)
	}
	k.holding.Own = l
	if time.Since(k.wrote) <= 2*k.rest {
		k.rest = min(2*k.rest, restMost, max(renewLeast, (LeaseTTL-k.Margin)/2))
	} else {
		k.rest = renewLeast
	}
	k.wrote, k.written = time.Now(), l.Revision
	return nil
}

func (k *Keeper) ttl(reserved bool) time.Duration {
	if reserved {
		return 0
	}
	return LeaseTTL
}

func (k *Keeper) list(ctx context.Context) (Snapshot, error) {
	ctx, cancel := context.WithTimeout(ctx, k.patience)
	defer cancel()
	return k.Store.List(ctx)
}
