package network

import "flanneld/pkg/state"

// seen is what a dataplane has under the keys of what is wanted, as the last pass left it. Nearly
// all of that is as it is wanted, and is kept once. The zero *seen knows of nothing.
type seen struct {
	want  state.Set          // what of this is in none of the others is there, as it is here
	other state.Observed     // what is there, and not so
	none  map[state.Key]bool // there is nothing
}

func newSeen(want state.Set) *seen {
	return &seen{want: want, other: make(state.Observed), none: make(map[state.Key]bool)}
}

// at returns what there is under a key.
func (s *seen) at(k state.Key) (e state.Entry, there bool) {
	if s == nil || s.none[k] {
		return state.Entry{}, false
	}
	if e, there = s.other[k]; there {
		return e, true
	}
	o, there := s.want[k]
	if there {
		e = state.Entry{Object: o, Owner: state.Ours}
	}
	return e, there
}

// put notes what there is under a key.
func (s *seen) put(k state.Key, e state.Entry) {
	delete(s.none, k)
	if o, wanted := s.want[k]; wanted && e.Owner == state.Ours && e.Front == nil && state.Same(o, e.Object) {
		delete(s.other, k)
	} else {
		s.other[k] = e
	}
}

// drop notes that there is nothing under a key.
func (s *seen) drop(k state.Key) {
	delete(s.other, k)
	if _, wanted := s.want[k]; wanted {
		s.none[k] = true
	} else {
		delete(s.none, k)
	}
}

// settle is for when what is wanted under a key is about to change: what there is does not.
func (s *seen) settle(k state.Key) {
	if s == nil {
		return
	}
	if e, there := s.at(k); there {
		s.other[k] = e
	} else {
		s.none[k] = true
	}
}

// among returns what there is under some keys.
func (s *seen) among(keys []state.Key) state.Observed {
	have := make(state.Observed, len(keys))
	for _, k := range keys {
		if e, there := s.at(k); there {
			have[k] = e
		}
	}
	return have
}
