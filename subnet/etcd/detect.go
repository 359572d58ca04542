package etcd

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"sync"

	"flanneld/subnet"
)

// answer is what one of etcd's APIs says when it is asked for the configuration.
type answer struct {
	version int
	store   Store
	config  []byte
	err     error
	// guarded: only users of etcd can write what the API holds.
	guarded bool
}

func (a *answer) has() bool     { return a.err == nil }
func (a *answer) empty() bool   { return errors.Is(a.err, subnet.ErrNoConfig) }
func (a *answer) noAPI() bool   { return errors.Is(a.err, ErrNoAPI) }
func (a *answer) refused() bool { return errors.Is(a.err, ErrRefused) }

func (a *answer) ask(ctx context.Context) {
	a.config, a.err = a.store.Config(ctx)
	a.guarded = a.refused()
}

// askGuard finds out about guarded, where the API answered.
func (a *answer) askGuard(ctx context.Context) {
	if !a.has() && !a.empty() {
		return
	}
	guarded, err := a.store.Guarded(ctx)
	if err != nil {
		a.err = fmt.Errorf("asking whether it has users: %w", err)
	}
	a.guarded = guarded
}

// detectAPI returns the store of the API that the network is in, and how that is
// known. used is the version that this host used last, or 0.
//
// The network is where its configuration is; the APIs do not see each other's keys,
// and each has users of its own. Three rules keep an intruder, and a moment's
// failure, from moving a host:
//   - What anyone can write counts for less than what only users of etcd can write.
//   - A refusal says nothing about what is there.
//   - Between equals, the version that this host used last stays in use.
//
// The error says why the network's API can't be known yet, and is to be followed by
// another try; it wraps subnet.ErrNoConfig if a configuration has to be written or
// corrected first.
func detectAPI(ctx context.Context, v2, v3 Store, used int) (chosen *answer, why string, err error) {
	a2, a3 := &answer{version: 2, store: v2}, &answer{version: 3, store: v3}
	both := func(ask func(*answer)) {
		var g sync.WaitGroup
		g.Go(func() { ask(a2) })
		ask(a3)
		g.Wait()
	}
	both(func(a *answer) { a.ask(ctx) })
	if (a2.has() || a3.has()) && !a2.noAPI() && !a3.noAPI() {
		both(func(a *answer) { a.askGuard(ctx) })
	}
	switch {
	case a2.has() && a3.has():
		return preferred(ctx, a2, a3, used)
	case a2.has() && alone(a2, a3, used):
		return a2, whyAlone(a2, a3), nil
	case a3.has() && alone(a3, a2, used):
		return a3, whyAlone(a3, a2), nil
	case errors.Is(ctx.Err(), context.Canceled):
		return nil, "", ctx.Err()
	}
	return nil, "", undecided(a2, a3)
}

// alone reports whether the configuration that the API a has is the network's, where
// the API other shows none.
func alone(a, other *answer, used int) bool {
	switch {
	case other.noAPI():
		// Version 3 does not go away, but what is between us and etcd may hide it.
		return a.version == 3 || used != 3
	case used == a.version:
		return true
	case other.empty():
		return a.guarded || !other.guarded
	case other.refused():
		// Networks move to version 3, and leave their keys in version 2.
		return a.guarded && a.version == 3
	}
	// A server without an API may have a neighbour that has it, and is down.
	return false
}

const onlyConfig = "the network's configuration is there"

func whyAlone(a, other *answer) string {
	switch {
	case other.refused(), other.empty() && other.guarded && !a.guarded:
		if a.guarded {
			return fmt.Sprintf("%s; version %d refuses: %v", onlyConfig, other.version, other.err)
		}
		return fmt.Sprintf("%s, and this host used it before; anyone can write it, and version %d asks for a user", onlyConfig, other.version)
	case !other.empty() && !other.noAPI():
		return fmt.Sprintf("%s, and this host used it before; version %d cannot be asked: %v", onlyConfig, other.version, other.err)
	}
	return onlyConfig
}

// preferred is the one to use where both APIs have a configuration.
func preferred(ctx context.Context, a2, a3 *answer, used int) (*answer, string, error) {
	guarded, open := a3, a2
	if a2.guarded {
		guarded, open = a2, a3
	}
	last := a2
	if used == 3 {
		last = a3
	}
	switch same := SameConfig(a2.config, a3.config); {
	case a2.guarded != a3.guarded:
		return guarded, fmt.Sprintf("%s, and only users of etcd can write it; version %d has one, too, that anyone can write: it is not used", onlyConfig, open.version), nil
	case same:
		return inUse(ctx, a2, a3, used)
	case used != 0:
		return last, fmt.Sprintf("this host used it before, though the network's configuration is %.200q in version 2 and %.200q in version 3", a2.config, a3.config), nil
	}
	return nil, "", &twoConfigsError{string(a2.config), string(a3.config)}
}

func inUse(ctx context.Context, a2, a3 *answer, used int) (*answer, string, error) {
	const both = "the same network configuration is in version 2 and 3, and "
	s3, err := a3.store.List(ctx)
	if err != nil {
		return nil, "", err
	}
	s2, err := a2.store.List(ctx)
	if err != nil {
		return nil, "", err
	}
	switch {
	case len(s3.Leases) > 0:
		return a3, both + "there are leases in version 3", nil
	case used == 3:
		return a3, both + "this host used version 3 before", nil
	case len(s2.Leases) > 0:
		return a2, both + "there are leases in version 2 alone", nil
	}
	return a3, both + "there are no leases in either", nil
}

// undecided says why neither API is known to have the network.
func undecided(a2, a3 *answer) error {
	const doing = "finding out which of etcd's APIs the network is in"
	for _, o := range [...]struct{ a, other *answer }{{a3, a2}, {a2, a3}} {
		switch a, other := o.a, o.other; {
		case a.has() && other.empty():
			return fmt.Errorf("%w in version %d of etcd's API, which asks for a user; version %d has one that anyone can write: if that is the network's, say -etcd-api=%d",
				briefly(other.err), other.version, a.version, a.version)
		case a.has() && other.refused():
			return fmt.Errorf("%s: in version %d: %w; version %d has a network configuration, but the right one may be there: if version %d is right, say -etcd-api=%d",
				doing, other.version, other.err, a.version, a.version, a.version)
		case a.has() && other.noAPI():
			return fmt.Errorf("%s: this host used version %d before: %w; if the network is in version %d now, say -etcd-api=%d",
				doing, other.version, other.err, a.version, a.version)
		case a.has():
			return fmt.Errorf("%s: in version %d: %w; version %d has a network configuration: if that is the network's, say -etcd-api=%d",
				doing, other.version, other.err, a.version, a.version)
		case a.empty() && other.empty():
			return nowhere(a2.err, a3.err)
		case a.empty() && other.noAPI():
			return a.err
		}
	}
	switch {
	case a2.empty(), !a3.empty() && a2.err.Error() == a3.err.Error(): // the usual one: no server answers
		return fmt.Errorf("%s: %w", doing, a3.err)
	case a3.empty():
		return fmt.Errorf("%s: %w", doing, a2.err)
	}
	return fmt.Errorf("%s: in version 3: %w; in version 2: %w", doing, a3.err, a2.err)
}

// SameConfig reports whether two configurations say the same, however they are
// written.
func SameConfig(a, b []byte) bool {
	var x, y any
	if json.Unmarshal(a, &x) != nil || json.Unmarshal(b, &y) != nil {
		return string(a) == string(b)
	}
	return reflect.DeepEqual(x, y)
}

// twoConfigsError is that the APIs have configurations that differ. Like one
// that is missing, it takes a person to mend that.
type twoConfigsError struct{ v2, v3 string }

func (e *twoConfigsError) Error() string {
	return fmt.Sprintf("etcd has two network configurations that differ, %.200q in version 2 of its API and %.200q in version 3: "+
		"say with -etcd-api=2 or -etcd-api=3 which one holds, or delete the other", e.v2, e.v3)
}

func (e *twoConfigsError) Unwrap() error { return subnet.ErrNoConfig }

// briefly is the error that there is no configuration, without what to do about it.
func briefly(err error) error {
	if e := (*NoConfigError)(nil); errors.As(err, &e) {
		return &NoConfigError{brief: e.brief, cause: e.cause}
	}
	return err
}

// nowhere is the error that there is no configuration, in neither version.
func nowhere(v2, v3 error) error {
	var in2, in3 *NoConfigError
	switch {
	case errors.As(v2, &in2) && in2.dir:
		return v2
	case !errors.As(v3, &in3): // it is elsewhere
		return v3
	}
	both := *in3
	both.where = strings.Replace(in3.where, "in version 3 of", "in either version of", 1)
	return &both
}
