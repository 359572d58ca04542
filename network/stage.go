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
	want   state.Set
	have   state.Have
	wanted map[state.Key]bool // not as wanted: nothing may come to refer to them
	used   map[state.Key]bool // referred to still: they may not be taken away
	left   map[state.Key]bool // FDB entries that should have been taken away
}

func (r *Reconciler) newUnmet() *unmet {
	return &unmet{
		want: r.plan.want, have: r.have,
		wanted: make(map[state.Key]bool), used: make(map[state.Key]bool), left: make(map[state.Key]bool),
	}
}

// add notes a step that is not taken, or failed.
func (u *unmet) add(op state.Op) {
	k := op.Key()
	if op.Want != nil && !inUse(op) {
		u.wanted[k] = true
	}
	if op.Have == nil {
		return
	}
	if k.Kind == state.KindFDB && op.Verb == state.Delete {
		u.left[k] = true
	}
	if is, ok := op.Have.(state.Neigh); ok && op.Verb != state.Delete {
		u.used[state.FDBKey(is.Dev, is.MAC)] = true // it leads there still
	}
	if needs, ok := state.Needs(op.Have); ok {
		u.used[needs] = true
	}
	if n, ok := neighOf(op.Have); ok {
		u.used[n] = true
		if is, ok := u.have[n].Object.(state.Neigh); ok {
			u.used[state.FDBKey(is.Dev, is.MAC)] = true
		}
	}
}

// inUse reports whether what the step was to alter serves as it is: a device
// that has another MTU carries packets.
func inUse(op state.Op) bool {
	have, ok := op.Have.(state.VXLAN)
	want, wanted := op.Want.(state.VXLAN)
	return ok && wanted && have.SameTunnel(want)
}

// neighOf returns the key of the neighbour entry that an object's packets are
// sent by, if they are sent by one.
func neighOf(o state.Object) (state.Key, bool) {
	switch o := o.(type) {
	case state.Route:
		return state.NeighKey(o.Dev, o.Via), o.Onlink
	case state.Nexthop:
		return state.NeighKey(o.Dev, o.Via), o.Onlink
	}
	return state.Key{}, false
}

// holdsUp reports whether a step must wait.
func (u *unmet) holdsUp(op state.Op) bool {
	k := op.Key()
	if op.Verb != state.Delete {
		if needs, ok := state.Needs(op.Want); ok && u.wanted[needs] {
			return true
		}
		n, ok := neighOf(op.Want)
		if !ok {
			return false
		}
		is, _ := u.want[n].(state.Neigh)
		return u.wanted[n] || u.wanted[state.FDBKey(is.Dev, is.MAC)]
	}
	switch k.Kind {
	case state.KindLink:
		// An old device leads nowhere, whatever refers to it still; and it may be
		// just what a new one is in want of.
		return false
	case state.KindMasquerade, state.KindForward:
		// Rules that are written in one way stay until they are in another.
		for w := range u.wanted {
			if w.Kind == k.Kind && w.Dst == k.Dst && w.Dev != k.Dev {
				return true
			}
		}
	case state.KindNeigh:
		// It tells whose its FDB entry is.
		if is, ok := op.Have.(state.Neigh); ok && u.left[state.FDBKey(is.Dev, is.MAC)] {
			return true
		}
	default:
	}
	return u.used[k]
}

// applyStages takes the steps, as state.Diff orders them, kind by kind, so that
// none is taken which depends on one that failed.
func (r *Reconciler) applyStages(ctx context.Context, ops []state.Op, missing *unmet) []error {
	errs := make([]error, len(ops))
	for start, end := 0, 0; start < len(ops); start = end {
		var held bool
		for ; end < len(ops) && sameStage(ops[start], ops[end]); end++ {
			if missing.holdsUp(ops[end]) {
				errs[end] = errUnmet
				held = true
			}
		}
		if !held {
			copy(errs[start:end], r.target.Apply(ctx, ops[start:end]))
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
func (r *Reconciler) applyRest(ctx context.Context, ops []state.Op, errs []error) {
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
	for i, err := range r.target.Apply(ctx, rest) {
		errs[at[i]] = err
	}
}

func sameStage(a, b state.Op) bool {
	return a.Key().Kind == b.Key().Kind && (a.Verb == state.Delete) == (b.Verb == state.Delete)
}
