// Package dataplane defines what can be brought into a desired state: something
// that can be dumped, changed in batches, and watched.
package dataplane

import (
	"context"
	"errors"
	"time"

	"flanneld/pkg/state"
)

// ErrIncomplete is returned, wrapped, by a Dump that did not see everything.
// Nothing may be concluded from it.
var ErrIncomplete = errors.New("the dump was interrupted by changes")

// ErrNoLink is in the errors of steps whose interface is not there, or down.
var ErrNoLink = errors.New("no link")

// Later is the error of a step that is to be tried again at a time which the dataplane
// knows.
type Later struct {
	Err error
	// After is the least pause before that.
	After time.Duration
	// Untried is set if the step was not tried: so each pass may try it again, and one does
	// after that time.
	Untried bool
	// Pending is set if the step was not tried for a reason that will pass. Until then
	// nobody can tell whether the dataplane is as wanted.
	Pending bool
}

func (l Later) Error() string { return l.Err.Error() }

func (l Later) Unwrap() error { return l.Err }

// ErrSettling is in the errors of steps that wait until others have stopped changing
// what the step is about, or until that is seen anew. A pass follows when that is so.
var ErrSettling = errors.New("waiting until others have stopped changing it")

// Dataplane holds objects. A Dataplane is safe for concurrent use of Watch with the
// other methods; those are called by one goroutine.
type Dataplane interface {
	// Dump returns everything of the kinds that the dataplane holds: all that is
	// ours, and of the rest at least what occupies a key that objects of ours
	// could have. want is what is wanted of these kinds, for dataplanes that look for
	// that alone, and beside it. It is not changed during the call, nor kept after it.
	Dump(ctx context.Context, want state.Set) (state.Observed, error)

	// Apply takes the steps in order and returns an error or nil for each. A
	// failed step does not stop the others. Deleting what is gone already is
	// no failure.
	Apply(ctx context.Context, ops []state.Op) []error

	// Watch calls emit for what happens to the dataplane, whoever caused it, until
	// ctx ends, and calls ready once from when on nothing escapes it. Events may
	// come late, doubled, or without cause. Watch returns an error if it can't go on.
	Watch(ctx context.Context, ready func(), emit func(Event)) error
}

// Trier is a Dataplane that can tell beforehand what could not be had.
type Trier interface {
	// Try returns why what is to be wanted could not be had, for what others have on this
	// host. What is wanted before goes first, so it would be missed then. One goroutine calls
	// Try, at the same time as others call the methods of Dataplane.
	Try(ctx context.Context, before, after []state.Object) error
}

// Polled is a Dataplane that reports no changes.
type Polled interface {
	Dataplane
	// Due returns when the dataplane is to be dumped again, as of the last Dump and Apply;
	// zero if that is no matter.
	Due() time.Time
}

// Event says that a dataplane changed.
type Event struct {
	// Key of the object that was added or changed to Entry, or is Gone. The
	// zero Key means that the event is not about one object.
	Key   state.Key
	Entry state.Entry
	Gone  bool
	// Iface is the name of the interface whose link or addresses changed; its
	// old name, if that is what changed.
	Iface string
	// Defaults is set if a default route changed.
	Defaults bool
	// Forwarding is set if it changed whether an interface, or the host, forwards
	// packets that come in.
	Forwarding bool
	// Paths is set if a routing rule changed, or a route that does not bear our mark, or from
	// where packets are taken: they may take another way, or none.
	Paths bool
	// Lost is set if events were lost: anything may have changed.
	Lost bool
}
