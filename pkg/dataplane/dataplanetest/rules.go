package dataplanetest

import (
	"fmt"
	"maps"

	"flanneld/pkg/dataplane"
	"flanneld/pkg/state"
)

func (f *Fake) dumpRules(have state.Observed) {
	for k, o := range f.rules {
		have[k] = state.Entry{Object: o, Owner: state.Ours}
	}
}

// doRules writes a network's rules for packets, as a whole.
func (f *Fake) doRules(op state.Op) error {
	k := op.Key()
	if op.Verb == state.Delete {
		delete(f.rules, k)
		return nil
	}
	f.rules[k] = op.Want
	f.tell(dataplane.Event{Key: k, Entry: state.Entry{Object: op.Want, Owner: state.Ours}})
	return nil
}

// SpoilRules has someone else change what there is under a key of packet rules to
// what nobody wants, or take it away.
func (f *Fake) SpoilRules(k state.Key, away bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if away {
		delete(f.rules, k)
		f.tell(dataplane.Event{Key: k, Gone: true})
		return
	}
	o := spoiled{k}
	f.rules[k] = o
	f.tell(dataplane.Event{Key: k, Entry: state.Entry{Object: o, Owner: state.Ours}})
}

// spoiled is rules that are not as they should be.
type spoiled struct{ key state.Key }

func (s spoiled) Key() state.Key { return s.key }
func (s spoiled) String() string { return fmt.Sprintf("%s that is spoiled", s.key.Kind) }

func (s spoiled) Is() state.Object { return state.RulesOf(s.key) }

// Rules returns what there is of packet rules, by key.
func (f *Fake) Rules() state.Set {
	f.mu.Lock()
	defer f.mu.Unlock()
	return maps.Clone(f.rules)
}
