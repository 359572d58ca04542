package targettest

import (
	"context"
	"fmt"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"

	"flanneld/pkg/state"
)

// Apply takes the steps one by one.
func (f *Fake) Apply(ctx context.Context, ops []state.Op) []error {
	defer f.alone()()
	errs := make([]error, len(ops))
	err := f.pause(ctx)
	for i, op := range ops {
		if err == nil {
			errs[i] = f.step(op)
		} else {
			errs[i] = err
		}
	}
	_ = f.pause(ctx) // the answer takes its time, too
	return errs
}

func (f *Fake) step(op state.Op) error {
	validate(op)
	f.mu.Lock()
	defer f.mu.Unlock()
	dst := op.Key().Dst
	if err := f.refused[dst]; err != nil {
		return err
	}
	if f.faults.hit(f.faults.Refuse) {
		return unix.ENOMEM
	}
	if err := f.do(op, dst); err != nil {
		return err
	}
	f.applied = append(f.applied, op)
	if f.faults.hit(f.faults.LoseAnswer) {
		return errAnswerLost
	}
	return nil
}

func (f *Fake) do(op state.Op, dst netip.Prefix) error {
	if op.Verb == state.Delete {
		r := routeOf(op.Have)
		_ = f.remove(dst, func(a alias) bool {
			return a.protocol == ProtoOurs && a.via == r.Via && a.dev == r.Dev
		}) // it may be gone
		return nil
	}
	r := routeOf(op.Want)
	// The interface is the one of that name as of the last dump.
	seen, ok := f.seen[r.Dev]
	switch now := f.links[r.Dev]; {
	case !ok:
		return fmt.Errorf("there is no interface %s", r.Dev)
	case !seen.up:
		return fmt.Errorf("interface %s is down", r.Dev)
	case now == nil || now.index != seen.index:
		return unix.ENODEV
	}
	how := first
	if op.Verb == state.Replace {
		how = inPlace
	}
	was, err := f.insert(dst, alias{via: r.Via, dev: r.Dev, protocol: ProtoOurs}, how)
	if was != nil && was.protocol != ProtoOurs {
		adopted := was.protocol == ProtoBoot && was.via == r.Via && was.dev == r.Dev
		if !adopted && time.Since(f.since[was.route(dst)]) > 4*f.faults.Pause {
			f.violations = append(f.violations, fmt.Sprintf("%s: took the place of %+v", op, was.route(dst)))
		}
	}
	return err
}

// validate panics if op is none that a target may be asked for.
func validate(op state.Op) {
	var ok bool
	switch op.Verb {
	case state.Create:
		ok = op.Want != nil && op.Have == nil
	case state.Replace:
		ok = op.Want != nil && op.Have != nil && op.Want.Key() == op.Have.Key()
	case state.Delete:
		ok = op.Want == nil && op.Have != nil
	}
	if !ok {
		panic(fmt.Sprintf("no target can do this: %#v", op))
	}
	if op.Key().Kind != state.KindRoute || !op.Key().Dst.IsValid() {
		panic(fmt.Sprintf("no target can do this: %#v", op))
	}
	if op.Want != nil {
		if _, ok := op.Want.(state.Route); !ok {
			panic(fmt.Sprintf("%T is nothing to wish for", op.Want))
		}
	}
}

func routeOf(o state.Object) state.Route {
	if other, ok := o.(other); ok {
		return other.Route
	}
	return o.(state.Route)
}
