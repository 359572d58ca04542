package network

import (
	"context"
	"errors"
	"slices"

	"flanneld/pkg/dataplane"
	"flanneld/pkg/state"
)

// errUnmet is why a step is not taken. The step that it waits for has a failure
// of its own, and is what there is to report.
var errUnmet = errors.New("what it depends on could not be had")

// errOutdated is why a step is not taken that is about what is desired otherwise by now. The
// next pass knows better; until then nothing was tried.
var errOutdated = dataplane.Later{Err: errUnmet, Pending: true}

// unmet says which steps must wait for others that failed.
type unmet struct {
	want   state.Set
	have   *seen
	wanted map[state.Key]bool // not as wanted: nothing may come to refer to them
	used   map[state.Key]bool // referred to still: they may not be taken away
	left   map[state.Key]bool // they should have been taken away
}

func (r *loop) newUnmet() *unmet {
	return &unmet{
		want: r.desired.want, have: r.seen,
		wanted: make(map[state.Key]bool), used: make(map[state.Key]bool), left: make(map[state.Key]bool),
	}
}

// add notes a step that is not taken, or failed.
func (u *unmet) add(op state.Op) {
	k := op.Key()
	if op.Want != nil && !state.InUse(op) {
		u.wanted[k] = true
	}
	if op.Have == nil {
		u.have.drop(k)
		return
	}
	if op.Verb == state.Delete {
		u.left[k] = true
	} else if to, ok := state.LeadsTo(op.Have); ok {
		u.used[to] = true // it leads there still
	}
	for _, needed := range state.Needs(op.Have) {
		u.used[needed] = true
		by, _ := u.have.at(needed)
		if to, ok := state.LeadsTo(by.Object); ok {
			u.used[to] = true
		}
	}
}

// blocked reports whether a step must wait.
func (u *unmet) blocked(op state.Op) bool {
	if op.Verb != state.Delete {
		return len(u.wanted) > 0 && slices.ContainsFunc(state.Needs(op.Want), func(needed state.Key) bool {
			to, leads := state.LeadsTo(u.want[needed])
			return u.wanted[needed] || leads && u.wanted[to]
		})
	}
	if state.IsDevice(op.Have) {
		// An old device leads nowhere, whatever refers to it still; and it may be
		// just what a new one is in want of.
		return false
	}
	if by, ok := state.SupersededBy(op.Have); ok {
		for k := range u.wanted {
			if by(k) {
				return true
			}
		}
	}
	to, leads := state.LeadsTo(op.Have) // it tells whose that is
	return u.used[op.Key()] || leads && u.left[to]
}

// applyStages takes the steps, as state.Diff orders them, kind by kind, so that
// none is taken which depends on one that failed.
func (r *loop) applyStages(ctx context.Context, ops []state.Op, missing *unmet) []error {
	errs := make([]error, len(ops))
	for start, end := 0, 0; start < len(ops); start = end {
		var held bool
		for ; end < len(ops) && sameStage(ops[start], ops[end]); end++ {
			switch {
			case r.outdated(ops[end]):
				errs[end], held = errOutdated, true
			case missing.blocked(ops[end]):
				errs[end], held = errUnmet, true
			}
		}
		if !held {
			copy(errs[start:end], r.dataplane.Apply(ctx, ops[start:end]))
		} else {
			r.applyRest(ctx, ops[start:end], errs[start:end])
		}
		for i, op := range ops[start:end] {
			if errs[start+i] != nil {
				missing.add(op)
			}
		}
	}
	return errs
}

// applyRest takes the steps that have no error yet.
func (r *loop) applyRest(ctx context.Context, ops []state.Op, errs []error) {
	var rest []state.Op
	var at []int // of each in ops
	for i, op := range ops {
		if errs[i] == nil {
			rest, at = append(rest, op), append(at, i)
		}
	}
	if len(rest) == 0 {
		return
	}
	for i, err := range r.dataplane.Apply(ctx, rest) {
		errs[at[i]] = err
	}
}

// sameStage reports whether a step can be taken together with those before it: what is made
// and needs nothing waits for none of them.
func sameStage(first, op state.Op) bool {
	if (first.Verb == state.Delete) != (op.Verb == state.Delete) {
		return false
	}
	return first.Kind() == op.Kind() || op.Verb != state.Delete && len(state.Needs(op.Want)) == 0
}

// outdated reports whether a step is about what is by now desired otherwise than when it
// was decided on, as happens while a dataplane is slow.
func (r *loop) outdated(op state.Op) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.change == nil {
		return false
	}
	want, changed := r.change.want[op.Key()]
	return (changed || r.change.all) && want != op.Want
}
