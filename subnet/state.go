package subnet

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"time"

	"flanneld/pkg/ip"
	"flanneld/pkg/once"
)

const (
	// configPoll is how soon a configuration that is missing or bad, or a range
	// that is full, is looked at again.
	configPoll = time.Second
	// callTimeout bounds a single call to the store.
	callTimeout = 10 * time.Second
	// retryFirst and retryMost are the pauses between two tries to reach the store:
	// short enough to be back soon after it, long enough for 10,000 hosts.
	retryFirst = 50 * time.Millisecond
	retryMost  = 3 * time.Second
	// offlineAfter is how long the store is tried at the start before what was saved
	// has to do.
	offlineAfter = 5 * time.Second
)

// mode is how far a Keeper has got.
type mode int

const (
	starting mode = iota // there is no lease
	offline              // the holding was saved; the store has yet to be reached
	online               // there is a lease of the store
)

// state is all that a Keeper knows. It is a value: decide returns another one and
// leaves its argument as it was.
type state struct {
	margin    time.Duration // how long before its end our lease is renewed
	configKey string        // of the configuration, for messages
	assigned  bool          // the store chooses our subnet: see assigned.go
	random    rand.PCG

	mode    mode
	holding Holding
	todo    []goal  // one after the other
	doing   request // whose action is carried out

	// What Prepare said last.
	attrs    Attrs
	avoid    []netip.Prefix
	asked    *Assignment // what it knew, where the store chooses our subnet, of what is asked for there
	outdated bool        // it may say something else by now

	// What the attempt to get a lease has learned.
	begun    time.Time // when the store was first tried since it last worked
	waitsFor string    // the failure of the store in the last report; empty for something else
	attempt  attempt
	listed   Snapshot // the latest answer of listLeases

	identity identity
	saved    recollection
	stored   configuration
	renewal  renewal
	refused  error // what the store says of our watch; nil while it serves it

	// retrying: what our lease needs could not be done, and is due later.
	retrying bool
	retry    once.Backoff
	due      time.Time // when our lease is acquired or written next; zero for never
	again    time.Time // when Prepare is asked again that could not answer; zero for never

	asleep    sleepClock
	looksNext time.Time // when it is checked next whether the host was suspended
	published Holding   // in the last report
}

// attempt is one attempt to get a lease.
type attempt struct {
	timeout time.Duration // of reading the configuration and listing leases
	config  *Config
	probed  *Lease    // the latest lease that nobody else lives by, as it is now
	wanted  ip.Subnet // that is being acquired
}

// identity tells which leases are those of this host.
type identity struct {
	previous   ip.Subnet // that this host had before
	previousIP ip.Addrs  // that it had when it last ran
	// copied is the subnet of a lease by which a copy of this machine lives.
	copied ip.Subnet
	// readdressed: what was saved is of another public address than ours.
	readdressed bool
	// previousMachine wrote the lease that we took over. It was not asked whether it
	// is alive, as it has our ID, and may be another machine all the same.
	previousMachine string
	overwritten     string    // the machine whose lease we last wrote over, or nothing
	corrected       time.Time // when that was
	// rest is how long what others change then is left alone, where the store chooses our
	// subnet.
	rest     time.Duration
	conflict addressConflict
}

// addressConflict is what is known of another machine with our public address.
type addressConflict struct {
	machine string
	seen    time.Time // when it last answered
}

// recollection is what this host held when it last ran.
type recollection struct {
	exists bool // there may be something to be loaded
	loaded bool
	Saved
	err error
}

// configuration is what became of the configuration in the store.
type configuration struct {
	*StoredConfig         // as it was last heard of
	next          *Config // the same, while Prepare is asked about it
	wiped         bool    // it went together with our lease, which is yet to be claimed again
	// moving is what our lease is to be of under next, once that was asked for; the answer may
	// have got lost.
	moving ip.Subnet
	// unfinished: it could not be followed so far, and may be later.
	unfinished bool
}

// renewal is what bounds how often our lease is renewed.
type renewal struct {
	spread   time.Duration // how long before the margin it is renewed
	wrote    time.Time     // when we last wrote it
	written  uint64        // its revision then
	rest     time.Duration // how long it is left alone after that
	learned  time.Time     // when we learned of its last write
	revision uint64        // its revision then
	seen     uint64        // the latest revision of the store in which it was there
}

// goal is a part of what there is to do. start returns the action that it takes; or
// none, after it changed the state and maybe added goals.
type goal interface {
	start(t *turn) (action, error)
}

// request is a goal that takes an action. finish takes the answer.
type request interface {
	goal
	finish(t *turn, a answer) error
}

// turn is one call of decide: the state that it changes, and what it passes on.
type turn struct {
	state
	now     moment
	reports []report
}

// first puts goals before all others, last behind them. Both make a new list, as other
// states may share the old one.
func (t *turn) first(goals ...goal) { t.todo = slices.Concat(goals, t.todo) }
func (t *turn) last(goals ...goal)  { t.todo = slices.Concat(t.todo, goals) }

func (t *turn) notify(n report) { t.reports = append(t.reports, n) }

func (t *turn) logf(l level, format string, a ...any) {
	t.notify(logLine{l, format, fmt.Sprintf(format, a...)})
}

// parse reads a configuration.
func (s *state) parse(raw []byte) (*Config, error) { return parseConfig(raw, s.assigned) }

// follows reports whether there is something to be heard from the store's watch: where it
// chooses our subnet, also while there is none.
func (s *state) follows() bool { return s.mode == online || s.listed.Own != nil }

// configPlace names where the configuration is.
func (s *state) configPlace() string {
	if s.assigned {
		return "file " + s.configKey
	}
	return "key " + s.configKey
}

// publish passes on what we hold, if that is something else than last.
func (t *turn) publish() {
	if is := t.holding; is.Own != nil && !is.same(t.published) {
		t.published = is
		t.notify(changed{is})
	}
}

// waitFor passes on what we wait for, unless there is a lease.
func (t *turn) waitFor(text string) {
	if t.holding.Own == nil {
		t.notify(waiting{text})
	}
}

// since returns how long ago something was.
func (t *turn) since(at time.Time) time.Duration { return t.now.at.Sub(at) }

// resumeLater sees to it that what was left undone for a configuration is gone on with.
func (t *turn) resumeLater() {
	if t.stored.unfinished && t.again.IsZero() {
		t.again = t.now.at.Add(retryMost)
	}
}

// misstated reports whether our lease has to say something else.
func (t *turn) misstated() bool { return t.holding.Own.Attrs != t.attrs }

// left returns how long our lease lasts.
func (t *turn) left() time.Duration {
	return t.holding.Own.Expires.Sub(t.now.at) - t.asleep.slept(t.now)
}

// source returns what chance is drawn from.
func (t *turn) source() *rand.Rand { return rand.New(&t.random) }

// ttl returns for how long a lease is written.
func ttl(reserved bool) time.Duration {
	if reserved {
		return 0
	}
	return LeaseTTL
}

// waitingFor is an error that someone's change of the configuration, of the
// leases or of this host will mend; the store itself is well.
type waitingFor struct{ error }

func (w waitingFor) Unwrap() error { return w.error }

// To list all leases, to let time pass and to load what was saved, once, are goals and
// actions in one.

func (a listLeases) start(*turn) (action, error) { return a, nil }

func (listLeases) finish(t *turn, a answer) error {
	if a.err == nil {
		t.listed = a.snapshot
		if t.assigned {
			t.refused = a.snapshot.Refused
		}
	}
	return a.err
}

func (a sleep) start(*turn) (action, error) { return a, nil }
func (sleep) finish(*turn, answer) error    { return nil }

func (a loadSaved) start(t *turn) (action, error) {
	if t.saved.loaded {
		return nil, nil
	}
	return a, nil
}

func (loadSaved) finish(t *turn, a answer) error {
	t.saved.loaded, t.saved.Saved, t.saved.err = !errors.Is(a.err, ErrUnread), a.saved, a.err
	return nil
}

// sleepClock measures how long the host was suspended. Meanwhile the monotonic clock
// stood still, and with it all timers and what we believe of leases.
type sleepClock struct{ from moment }

// slept returns how long the host was suspended since the clock was started.
func (c sleepClock) slept(now moment) time.Duration {
	return max(0, now.boot-c.from.boot-now.at.Sub(c.from.at))
}
