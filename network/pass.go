package network

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"flanneld/pkg/dataplane"
	"flanneld/pkg/notice"
	"flanneld/pkg/once"
	"flanneld/pkg/state"
)

// fullPass makes everything as wanted, after a look at everything there is. An
// error means that nothing could be learned, and that nothing was done.
func (r *loop) fullPass(ctx context.Context) error {
	have, err := r.dataplane.Dump(ctx, r.desired.want)
	if err != nil {
		return err
	}
	before := r.seen
	r.seen = newSeen(r.desired.want)
	r.restored = false
	r.desired.markForeign(have, before, r.left)
	r.desired.predictFlush(have)
	keys := make([]state.Key, 0, len(r.desired.want))
	newer := r.desired.newer(have, before)
	for k := range r.desired.want {
		if !newer[k] {
			keys = append(keys, k)
		}
	}
	var passing []state.Key // what is there, and not both wanted and ours
	for k, e := range have {
		_, wanted := r.desired.want[k]
		if !wanted && e.Owner == state.Ours {
			keys = append(keys, k)
		}
		if !wanted || e.Owner != state.Ours {
			passing = append(passing, k)
		}
		r.seen.put(k, e)
	}
	r.keep = r.desired.retained(have)
	ops, blocked := state.Diff(r.desired.want, have, keys, r.keep)
	ops = dropImplied(ops)
	if r.desired.spec.Partial {
		ops = slices.DeleteFunc(ops, func(op state.Op) bool { return op.Verb == state.Delete })
	}

	// What failed before and is neither to be done nor blocked any more has
	// come right by itself.
	t := tally{limiter: &r.logs.limiter, before: r.failures, now: make(map[state.Key]*failure), pace: r.pace, jitter: rand.Float64() / 4}
	due := ops[:0]
	missing := r.newUnmet()
	r.missing = missing
	for _, op := range ops {
		var f *failure
		if len(r.failures) > 0 {
			f = r.failures[op.Key()]
		}
		if f == nil || f.blocked || !f.next.After(time.Now()) {
			due = append(due, op)
		} else {
			t.now[op.Key()] = f
			missing.add(op)
		}
	}
	for _, b := range blocked {
		t.fail(b.Want, b.Want, b)
		missing.wanted[b.Want.Key()] = true
	}
	r.left = make(state.Set)
	errs := r.apply(ctx, due, missing, before)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	for i, op := range due {
		if errs[i] != nil {
			t.fail(op.Object(), op, errs[i])
		}
	}
	// Events do not follow what is not both wanted and ours: forget it. A quick
	// pass that is about it fails, and so finds it again.
	// But whose an object is that bears no mark may not be seen again.
	for _, k := range passing {
		e, there := r.seen.at(k)
		_, wanted := r.desired.want[k]
		if there && !wanted && e.Owner == state.Ours && state.Unmarked(e.Object) {
			r.left[k] = e.Object
		}
		if !wanted || e.Owner != state.Ours {
			r.seen.drop(k)
		}
	}
	var recovered summary
	for k, f := range r.failures {
		if o, wanted := r.desired.want[k]; wanted && t.now[k] == nil && len(f.logged) > 0 {
			recovered.add("in place now", o)
		}
	}
	r.failures = t.now
	r.noteFailures()
	t.warnings.log(&r.logs.warnings)
	recovered.log(&r.logs.infos)
	return nil
}

// noteFailures notes until when routes that failed may need others' routes, and which
// devices could not be had.
func (r *loop) noteFailures() {
	var until time.Time
	broken := make(map[state.Key]bool)
	for k, f := range r.failures {
		if state.IsDevice(r.desired.want[k]) && !f.blocked { // by another's device: with that gone, it is tried at once
			broken[k] = true
		}
		if f.routed && !f.blocked && f.since.Add(awaitRoutesMost).After(until) {
			until = f.since.Add(awaitRoutesMost)
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.awaitRoutes, r.broken = until, broken
}

// connected reports whether this host's own end of the overlay is in place, as
// far as the last pass knows.
func (r *loop) connected() bool {
	if !r.desired.spec.Host.Up() {
		return false
	}
	for k, f := range r.failures {
		if f.noLink || f.pending || state.Essential(r.desired.want[k]) {
			return false
		}
	}
	return true
}

// tally counts the failures of a pass.
type tally struct {
	before, now map[state.Key]*failure
	pace        Pace
	// jitter is one for the pass: what fails together is tried again together.
	jitter   float64
	limiter  *notice.Log
	warnings summary
}

// fail notes that an object could not be had, for the reason err.
func (t *tally) fail(o state.Object, what fmt.Stringer, err error) {
	k := o.Key()
	f := &failure{
		reason: err.Error(), since: time.Now(), routed: state.DependsOnRoutes(o),
		backoff: once.Backoff{First: t.pace.RetryFirst, Most: t.pace.RetryMost},
	}
	f.settling = errors.Is(err, dataplane.ErrSettling)
	var later dataplane.Later
	errors.As(err, &later)
	f.pending = later.Pending
	untried := later.Untried || later.Pending
	f.blocked = errors.As(err, new(state.Blocked)) || errors.Is(err, errUnmet) || f.settling || untried
	f.noLink = errors.Is(err, dataplane.ErrNoLink)
	if was := t.before[k]; was != nil {
		f.since, f.logged, f.backoff = was.since, was.logged, was.backoff
		if !f.settling && was.next.After(time.Now()) { // looked at before its time
			f.next = was.next
		}
	}
	if f.next.IsZero() {
		pause := settlingPause // the dataplane tells when it is time
		if !f.settling {
			pause = f.backoff.Double()
		}
		f.next = time.Now().Add(time.Duration(float64(pause) * (1 - t.jitter)))
	}
	if at := time.Now().Add(later.After); later.After > 0 && (untried || at.After(f.next)) {
		f.next = at
	}
	lasts := max(time.Since(f.since), later.After) >= failureDebounce
	if lasts && !slices.Contains(f.logged, f.reason) && len(f.logged) < reasonsMost && !errors.Is(err, errUnmet) && !f.settling &&
		t.limiter.Event(what.String()+": "+f.reason) { // else the next time that is asked: a failure that stays is logged
		t.warnings.add(f.reason, what)
		f.logged = append(f.logged, f.reason)
	}
	t.now[k] = f
}

// dropImplied drops the steps that take away what goes with a device that is
// deleted: its addresses tell that it is ours, for as long as it is there.
func dropImplied(ops []state.Op) []state.Op {
	var devices []state.Op
	for _, op := range ops {
		if op.Verb == state.Delete && state.IsDevice(op.Have) {
			devices = append(devices, op)
		}
	}
	if len(devices) == 0 {
		return ops
	}
	return slices.DeleteFunc(ops, func(op state.Op) bool {
		return op.Verb == state.Delete && slices.ContainsFunc(devices, func(d state.Op) bool { return state.FlushedBy(op.Have, d) })
	})
}

// quickPass brings the objects under keys from what the last pass left to what
// is wanted; if more may not be as that left it, only where all are new, and so
// depend on nothing that was there. It reports false where a full pass has to find out more.
func (r *loop) quickPass(ctx context.Context, changed []state.Key, onlyNew bool) bool {
	ops, blocked := state.Diff(r.desired.want, r.seen.among(changed), changed, r.keep)
	if onlyNew && (len(ops) != len(changed) || slices.ContainsFunc(ops, func(op state.Op) bool { return op.Verb != state.Create })) {
		return false
	}
	for _, err := range r.apply(ctx, ops, r.missing, nil) {
		if err != nil {
			return false
		}
	}
	return len(blocked) == 0
}

// replacement is what took the place of something that was not ours.
type replacement struct {
	state.Object
	was string
}

func (r replacement) String() string { return fmt.Sprintf("%s in the place of %s", r.Object, r.was) }

// apply takes the steps, notes what the dataplane then has, and logs what was
// done. What was there before, as it is wanted, is restored by it.
func (r *loop) apply(ctx context.Context, ops []state.Op, missing *unmet, before *seen) []error {
	errs := r.applyStages(ctx, ops, missing)
	var done summary
	for i, op := range ops {
		k := op.Key()
		if errs[i] != nil {
			if op.Want != nil && state.Unmarked(op.Want) {
				r.left[k] = op.Want // it may have been made all the same
			}
			continue
		}
		if op.Verb == state.Delete {
			r.seen.drop(k)
			done.add("deleted", op.Have)
			continue
		}
		var replaced state.Entry
		if op.Verb == state.Replace {
			replaced, _ = r.seen.at(k)
		}
		r.seen.put(k, state.Entry{Object: op.Want, Owner: state.Ours})
		switch was, there := before.at(k); {
		case replaced.Owner == state.Adoptable && !state.Same(op.Want, replaced.Object):
			done.add("replaced an unmarked route, such as an older flannel leaves", replacement{op.Want, replaced.Text})
		case there && was.Object == op.Want:
			r.restored, r.undone[k] = true, op.Want
			r.countRepair(k.Kind)
			if r.conflicts < conflictAfter { // from then on, it is not logged each time
				done.add("restored", op.Want)
			}
		case r.conflicts >= conflictAfter && r.undone[k] == op.Want: // a pass in between saw that it was gone
		case op.Verb == state.Create:
			done.add("added", op.Want)
		default:
			done.add("changed", op.Want)
		}
	}
	done.log(&r.logs.infos)
	return errs
}
