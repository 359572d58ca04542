package network

import (
	"context"
	"errors"

	"flanneld/pkg/state"
)

// errUnmet is why a step is not taken. The step that it waits for has a failure
// of its own, and is what there is to tell.
var errUnmet = errors.New("what it depends on could not be had")

// unmet says which steps must wait for others that failed.
type unmet struct {
	wanted map[state.Key]bool // not as wanted: nothing may come to refer to them
	used   map[state.Key]bool // referred to still: they may not be taken away
}

func newUnmet() unmet {
	return unmet{make(map[state.Key]bool), make(map[state.Key]bool)}
}

// add notes a step that is not taken, or failed.
func (u unmet) add(op state.Op) {
	if op.Want != nil {
		u.wanted[op.Key()] = true
	}
	if k, ok := state.Needs(op.Have); ok {
		u.used[k] = true
	}
}

// holdsUp reports whether a step must wait.
func (u unmet) holdsUp(op state.Op) bool {
	if op.Verb == state.Delete {
		return u.used[op.Key()]
	}
	k, ok := state.Needs(op.Want)
	return ok && u.wanted[k]
}

// applyStages takes the steps, as state.Diff orders them, kind by kind, so that
// none is taken which depends on one that failed.
func (r *Reconciler) applyStages(ctx context.Context, ops []state.Op, missing unmet) []error {
	errs := make([]error, len(ops))
	for start, end := 0, 0; start < len(ops); start = end {
		var stage []state.Op
		var at []int // of each in ops
		for ; end < len(ops) && sameStage(ops[start], ops[end]); end++ {
			if missing.holdsUp(ops[end]) {
				errs[end] = errUnmet
				continue
			}
			stage = append(stage, ops[end])
			at = append(at, end)
		}
		if len(stage) == 0 {
			continue
		}
		for i, err := range r.target.Apply(ctx, stage) {
			errs[at[i]] = err
		}
		for i, op := range ops[start:end] {
			if errs[start+i] != nil {
				missing.add(op)
			}
		}
	}
	return errs
}

func sameStage(a, b state.Op) bool {
	return a.Key().Kind == b.Key().Kind && (a.Verb == state.Delete) == (b.Verb == state.Delete)
}
