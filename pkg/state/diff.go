package state

import (
	"fmt"
	"math"
)

// Verb is what to do about an object.
type Verb uint8

// The verbs.
const (
	Create  Verb = iota + 1 // there is nothing under the key
	Replace                 // there is something under the key that may be replaced
	Delete                  // the object is no longer wanted
)

func (v Verb) String() string {
	switch v {
	case Create:
		return "adding"
	case Replace:
		return "replacing"
	case Delete:
		return "deleting"
	}
	return fmt.Sprintf("verb %d", uint8(v))
}

// Op is one step that changes a host.
type Op struct {
	Verb Verb
	Want Object // what to create, or to replace Have with
	Have Object // what to replace or delete
}

// Object that the step is about: as it is wanted, or else as it is.
func (o Op) Object() Object {
	if o.Want != nil {
		return o.Want
	}
	return o.Have
}

// Key of the object that the step is about.
func (o Op) Key() Key { return o.Object().Key() }

// Kind of the object that the step is about.
func (o Op) Kind() Kind { return WhichKind(o.Object()) }

func (o Op) String() string { return o.Verb.String() + " " + o.Object().String() }

// Blocked is a wanted object that can't be had because of something that is not
// ours to remove.
type Blocked struct {
	Want Object
	By   string
}

func (b Blocked) Error() string {
	return "in its place is something that is not ours, to be removed by hand: " + b.By
}

// Diff returns the steps that turn have into want, in an order that respects
// dependencies: everything that is added, lower kinds first, then everything
// that is deleted, higher kinds first.
//
// It looks at the given keys only. keep tells which of our objects must stay
// even if they are not wanted.
func Diff(want Set, have Observed, keys []Key, keep func(Object) bool) (ops []Op, blocked []Blocked) {
	if missing := len(keys) - len(have); missing > 1000 { // they would grow step by step
		ops = make([]Op, 0, missing)
	}
	for _, k := range keys {
		w, wanted := want[k]
		h, there := have[k]
		switch {
		case wanted && !there:
			ops = append(ops, Op{Verb: Create, Want: w})
		case wanted && h.Owner == Ours && Same(w, h.Object):
			switch f := h.Front; {
			case f == nil:
			case f.Owner == Adoptable:
				// What is in front is replaced once it is alone.
				ops = append(ops, Op{Verb: Delete, Have: h.Object})
			case !serves(w, f.Object):
				blocked = append(blocked, Blocked{w, f.Text})
			}
		case wanted && h.Owner == Ours && h.Front == nil:
			ops = append(ops, Op{Verb: Replace, Want: w, Have: h.Object})
		case wanted && h.Owner == Ours:
			// A kernel replaces the first of several under one key, which is
			// not this one: take it away, exactly.
			ops = append(ops, Op{Verb: Delete, Have: h.Object})
		case wanted && h.Owner == Adoptable:
			ops = append(ops, Op{Verb: Replace, Want: w, Have: h.Object})
		case wanted && serves(w, h.Object):
			// Someone else's, and just what is wanted: it serves.
		case wanted:
			blocked = append(blocked, Blocked{w, h.Text})
		case there && h.Owner == Ours && !keep(h.Object):
			ops = append(ops, Op{Verb: Delete, Have: h.Object})
		}
	}
	return ordered(ops), blocked
}

// ordered returns the steps in their order: there are few kinds, and many steps.
func ordered(ops []Op) []Op {
	if len(ops) < 2 {
		return ops
	}
	const kinds = math.MaxUint8 + 1
	var sizes, next [2 * kinds]int
	stage := func(op Op) int {
		if op.Verb == Delete {
			return 2*kinds - 1 - int(op.Kind())
		}
		return int(op.Kind())
	}
	stages := make([]uint16, len(ops))
	for i, op := range ops {
		s := stage(op)
		stages[i] = uint16(s)
		sizes[s]++
	}
	for i := 1; i < len(next); i++ {
		next[i] = next[i-1] + sizes[i-1]
	}
	all := make([]Op, len(ops))
	for i, op := range ops {
		all[next[stages[i]]] = op
		next[stages[i]]++
	}
	return all
}
