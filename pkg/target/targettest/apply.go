package targettest

import (
	"context"
	"fmt"
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
	if err := f.refused[op.Key()]; err != nil {
		return err
	}
	if f.faults.hit(f.faults.Refuse) {
		return unix.ENOMEM
	}
	if err := f.do(op); err != nil {
		return err
	}
	f.applied = append(f.applied, op)
	if f.faults.hit(f.faults.LoseAnswer) {
		return errAnswerLost
	}
	return nil
}

func (f *Fake) do(op state.Op) error {
	if op.Key().Kind == state.KindNexthop {
		return f.doNexthop(op)
	}
	return f.doRoute(op)
}

func (f *Fake) doNexthop(op state.Op) error {
	id := op.Key().ID
	was, there := f.nexthops[id]
	if op.Verb != state.Create && there && was.protocol != ProtoOurs && f.known(was.since) {
		f.violate(op, was.entry(id))
	}
	if op.Verb == state.Delete {
		_ = f.removeNexthop(id) // it may be gone
		return nil
	}
	n := op.Want.(state.Nexthop)
	if err := f.usable(n.Dev); err != nil {
		return err
	}
	return f.putNexthop(Nexthop{n, ProtoOurs}, op.Verb == state.Replace)
}

func (f *Fake) doRoute(op state.Op) error {
	dst := op.Key().Dst
	if op.Verb == state.Delete {
		is := aliasOf(Route{Route: objectOf[state.Route](op.Have), Protocol: ProtoOurs})
		_ = f.remove(dst, func(a alias) bool {
			a.metric = 0
			return a == is
		}) // it may be gone
		return nil
	}
	r := op.Want.(state.Route)
	if err := f.usable(r.Dev); err != nil {
		return err
	}
	how := first
	if op.Verb == state.Replace {
		how = inPlace
	}
	since := f.since[dst]
	was, err := f.insert(dst, aliasOf(Route{Route: r, Protocol: ProtoOurs}), how)
	if was != nil && was.protocol != ProtoOurs {
		there := f.route(dst, *was)
		adopted := was.protocol == ProtoBoot && there.Via == r.Via && there.Dev == r.Dev
		if !adopted && f.known(since) && f.known(f.nexthops[was.nexthop].since) {
			f.violate(op, f.entry(dst, *was))
		}
	}
	return err
}

// usable returns why nothing can go out of dev; nil if it can. Dev is the
// interface of that name as of the last dump.
func (f *Fake) usable(dev string) error {
	seen, ok := f.seen[dev]
	switch now := f.links[dev]; {
	case !ok:
		return fmt.Errorf("there is no interface %s", dev)
	case !seen.up:
		return fmt.Errorf("interface %s is down", dev)
	case now == nil || now.index != seen.index:
		return unix.ENODEV
	}
	return nil
}

// known reports whether the program under test had the time to learn of a
// change.
func (f *Fake) known(since time.Time) bool { return time.Since(since) > 10*f.faults.Pause }

func (f *Fake) violate(op state.Op, there state.Entry) {
	f.violations = append(f.violations, fmt.Sprintf("%s: took the place of %s", op, there.Text))
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
	switch k := op.Key(); k.Kind {
	case state.KindRoute:
		ok = k.Dst.IsValid()
	case state.KindNexthop:
		ok = k.ID != 0
	default:
		ok = false
	}
	if !ok {
		panic(fmt.Sprintf("no target can do this: %#v", op))
	}
	switch op.Want.(type) {
	case nil, state.Route, state.Nexthop:
	default:
		panic(fmt.Sprintf("%T is nothing to wish for", op.Want))
	}
}

func objectOf[T state.Object](o state.Object) T {
	if other, ok := o.(other[T]); ok {
		return other.object
	}
	return o.(T)
}
