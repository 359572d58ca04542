package dataplanetest

import (
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"flanneld/pkg/dataplane"
	"flanneld/pkg/ip"
	"flanneld/pkg/state"
)

// RulesHost is the hand of someone else on the packet rules of a host.
type RulesHost struct {
	Backend state.RuleBackend
	Family  ip.Family
	// Rules lists all rules that are written in that way, with their tables and
	// chains, without what counts packets or numbers rules.
	Rules func(testing.TB) string
	// Others adds rules of others, in the same tables and chains where those are
	// shared.
	Others func(testing.TB)
	// Spoils are what anyone may do to our rules while all of RulesWish is there.
	Spoils map[string]func(testing.TB)
	// Old adds the rules that older versions of flannel leave in that way for
	// RulesWish, by version.
	Old map[string]func(testing.TB)
	// Settle is for how long after a change by others what was there before may count.
	Settle time.Duration
	// Quiet reports whether what others do to their rules causes no event.
	Quiet bool
	// Generation counts the changes of rules, each of which takes effect at once. It is nil
	// where nobody counts them; Rules is never wrong there.
	Generation func(testing.TB) uint32
}

// What RulesHost's functions are about, in IPv4.
const (
	rulesNetwork = "10.1.0.0/16"
	rulesOwn     = "10.1.5.0/24"
	otherNetwork = "10.64.0.0/12"
)

// RulesWish is packet rules, of both kinds, for one network of a family.
func RulesWish(way state.RuleBackend, f ip.Family) state.Set {
	network := prefixIn(f, rulesNetwork)
	return setOf(
		state.Masquerade{Backend: way, Network: network, Own: prefixIn(f, rulesOwn), RandomFully: true, Exclude: In(f, "192.0.2.0/24 198.51.100.7/32")},
		state.Forward{Backend: way, Network: network},
	)
}

// OtherWish is RulesWish for another network.
func OtherWish(way state.RuleBackend, f ip.Family) state.Set {
	network := prefixIn(f, otherNetwork)
	return setOf(
		state.Masquerade{Backend: way, Network: network, Own: prefixIn(f, "10.66.0.0/24"), Exclude: In(f, rulesNetwork)},
		state.Forward{Backend: way, Network: network},
	)
}

// wish is RulesWish for the host.
func (r *rulesFixture) wish() state.Set { return RulesWish(r.Backend, r.Family) }

func setOf(objects ...state.Object) state.Set {
	s := make(state.Set)
	for _, o := range objects {
		s[o.Key()] = o
	}
	return s
}

// RulesSuite tests that a target keeps packet rules as its interface promises.
// fresh returns one, and a hand on its host, which has no rules.
func RulesSuite(t *testing.T, fresh func(*testing.T) (dataplane.Dataplane, RulesHost)) {
	for _, c := range []struct {
		name string
		test func(*rulesFixture)
	}{
		{"Create", testRulesCreate},
		{"Change", testRulesChange},
		{"Atomic", testRulesAtomic},
		{"Spoiled", testRulesSpoiled},
		{"Others", testRulesOthers},
		{"TwoNetworks", testRulesTwoNetworks},
		{"DeleteTwice", testRulesDeleteTwice},
		{"Old", testRulesOld},
		{"OldUnwanted", testRulesOldUnwanted},
		{"Events", testRulesEvents},
		{"QuietEvents", testRulesQuietEvents},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := &rulesFixture{fixture: &fixture{T: t}}
			r.target, r.RulesHost = fresh(t)
			r.fresh = func(t *testing.T) *rulesFixture {
				r := &rulesFixture{fixture: &fixture{T: t}}
				r.target, r.RulesHost = fresh(t)
				return r
			}
			c.test(r)
		})
	}
}

type rulesFixture struct {
	*fixture
	RulesHost
	fresh func(*testing.T) *rulesFixture
}

// reconcile makes the rules of the way as wanted, as the reconciler does, and
// returns the steps that it took.
func (r *rulesFixture) reconcile(want state.Set) []state.Op {
	r.Helper()
	for {
		ops, blocked := Steps(want, r.dump())
		if len(blocked) > 0 {
			r.Fatalf("blocked: %v", blocked)
		}
		settling := false
		for i, err := range r.target.Apply(r.Context(), ops) {
			if settling = settling || errors.Is(err, dataplane.ErrSettling); err != nil && !settling {
				r.Fatalf("%s: %v", ops[i], err)
			}
		}
		if !settling {
			return ops
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// Steps returns the steps to what is wanted from what there is, none of which is kept.
func Steps(want state.Set, have state.Observed) ([]state.Op, []state.Blocked) {
	var keys []state.Key
	for k := range want {
		keys = append(keys, k)
	}
	for k := range have {
		if want[k] == nil {
			keys = append(keys, k)
		}
	}
	return state.Diff(want, have, keys, func(state.Object) bool { return false })
}

// settled makes the rules as wanted and checks that nothing is left to do.
func (r *rulesFixture) settled(want state.Set) string {
	r.Helper()
	r.dump() // sees that there was a change
	time.Sleep(r.Settle)
	r.reconcile(want)
	before := r.Rules(r)
	if ops := r.reconcile(want); len(ops) > 0 {
		r.Errorf("there is still to do: %v", ops)
	}
	have := r.dump()
	for k, o := range want {
		if have[k].Object != o || have[k].Owner != state.Ours {
			r.Errorf("there is %+v, want %s", have[k], o)
		}
	}
	if len(have) != len(want) {
		r.Errorf("there is %v, want %v", have, want)
	}
	if now := r.Rules(r); now != before {
		r.Errorf("the rules have changed from\n%s\nto\n%s", before, now)
	}
	return before
}

func testRulesCreate(r *rulesFixture) {
	none := r.Rules(r)
	if ops := r.reconcile(nil); len(ops) > 0 {
		r.Fatalf("of nothing there is to do: %v", ops)
	}
	text := r.settled(r.wish())
	for _, want := range in(r.Family, rulesNetwork, rulesOwn, "192.0.2.0/24", "198.51.100.7", "224.0.0.0/4", "4000", "random") {
		if !strings.Contains(text, want) {
			r.Errorf("there is no %s in\n%s", want, text)
		}
	}
	r.settled(nil)
	if now := r.Rules(r); now != none {
		r.Errorf("there is left\n%s", now)
	}
}

func testRulesChange(r *rulesFixture) {
	want := r.wish()
	first := r.settled(want)
	var m state.Masquerade
	for _, o := range want {
		if is, ok := o.(state.Masquerade); ok {
			m = is
		}
	}
	seen := map[string]bool{first: true}
	for _, change := range []func(*state.Masquerade){
		func(m *state.Masquerade) { m.Own = prefixIn(r.Family, "10.1.6.0/24") },
		func(m *state.Masquerade) { m.RandomFully = false },
		func(m *state.Masquerade) { m.Exclude = In(r.Family, "192.0.2.0/24") },
		func(m *state.Masquerade) { m.Exclude = In(r.Family, "203.0.113.128/25") },
		func(m *state.Masquerade) { m.Exclude = "" },
	} {
		changed := m
		change(&changed)
		want[m.Key()] = changed
		text := r.settled(want)
		if seen[text] {
			r.Errorf("%s looks as something else before", changed)
		}
		seen[text] = true
	}
	want[m.Key()] = m
	if now := r.settled(want); now != first {
		r.Errorf("it was\n%s\nand is\n%s", first, now)
	}
	delete(want, m.Key())
	if text := r.settled(want); strings.Contains(text, In(r.Family, "224.0.0.0/4")) {
		r.Errorf("there is masquerading in\n%s", text)
	}
}

func (r *rulesFixture) generation() uint32 {
	if r.Generation == nil {
		return 0
	}
	return r.Generation(r)
}

// Whoever looks finds the rules of one desired state or the other, and those of the
// network that does not change.
func testRulesAtomic(r *rulesFixture) {
	want := r.wish()
	var both [2]state.Set
	for i, own := range []string{"10.1.5.0/24", "10.1.6.0/24"} {
		both[i] = make(state.Set)
		for k, o := range want {
			if m, ok := o.(state.Masquerade); ok {
				m.Own = prefixIn(r.Family, own)
				o = m
			}
			both[i][k] = o
		}
	}
	texts := map[string]bool{r.settled(both[1]): true, r.settled(both[0]): true}
	stop, looked := make(chan struct{}), make(chan struct{})
	var looks atomic.Int32
	go func() {
		defer close(looked)
		for {
			select {
			case <-stop:
				return
			default:
			}
			// The kernel counts a change just before it makes it: who lists rules between the
			// two may be given both those of before and those of after.
			if text := r.Rules(r); !texts[text] && (r.Generation == nil || r.Rules(r) == text) {
				r.Errorf("there was, for a moment,\n%s", text)
				return
			}
			looks.Add(1)
		}
	}()
	began, changes := time.Now(), 0
	for ; !r.Failed() && (changes < 5 || looks.Load() < 5 || time.Since(began) < time.Second); changes++ {
		before := r.generation()
		r.reconcile(both[(changes+1)%2])
		if after := r.generation(); r.Generation != nil && after != before+1 {
			r.Errorf("a change took %d steps", after-before)
		}
	}
	close(stop)
	<-looked
}

func testRulesSpoiled(r *rulesFixture) {
	for name, spoil := range r.Spoils {
		r.Run(name, func(t *testing.T) {
			r := r.fresh(t)
			want := r.wish()
			right := r.settled(want)
			spoil(r)
			if r.Rules(r) == right {
				r.Fatal("nothing was spoiled")
			}
			if now := r.settled(want); now != right {
				r.Errorf("it is\n%s\nwant\n%s", now, right)
			}
			spoil(r)
			r.settled(nil)
		})
	}
}

func testRulesOthers(r *rulesFixture) {
	r.Others(r)
	theirs := r.Rules(r)
	if ops := r.reconcile(nil); len(ops) > 0 {
		r.Errorf("what others have is ours: %v", ops)
	}
	right := r.settled(r.wish())
	for line := range strings.Lines(theirs) {
		if !strings.Contains(right, line) {
			r.Errorf("gone is %q; left is\n%s", line, right)
		}
	}
	r.settled(nil)
	if now := r.Rules(r); now != theirs {
		r.Errorf("it was\n%s\nand is\n%s", theirs, now)
	}
}

func testRulesTwoNetworks(r *rulesFixture) {
	none := r.Rules(r)
	one, two := r.wish(), OtherWish(r.Backend, r.Family)
	all := make(state.Set)
	for _, s := range []state.Set{one, two} {
		for k, o := range s {
			all[k] = o
		}
	}
	r.settled(one)
	r.settled(all)
	r.settled(two)
	r.settled(all)
	for name, spoil := range r.Spoils {
		r.Run(name, func(t *testing.T) {
			r := r.fresh(t)
			r.settled(all)
			spoil(r)
			r.settled(all)
		})
	}
	r.settled(nil)
	if now := r.Rules(r); now != none {
		r.Errorf("there is left\n%s", now)
	}
}

func testRulesDeleteTwice(r *rulesFixture) {
	want := r.wish()
	r.settled(want)
	for range 2 {
		for _, o := range want {
			r.apply(state.Op{Verb: state.Delete, Have: o})
		}
	}
	r.settled(nil)
}

func testRulesOld(r *rulesFixture) {
	for version, old := range r.Old {
		r.Run(version, func(t *testing.T) {
			right := r.fresh(t).settled(r.wish())
			r := r.fresh(t)
			old(r)
			if now := r.settled(r.wish()); now != right {
				r.Errorf("it is\n%s\nwant\n%s", now, right)
			}
		})
	}
}

func testRulesOldUnwanted(r *rulesFixture) {
	for version, old := range r.Old {
		r.Run(version, func(t *testing.T) {
			r := r.fresh(t)
			r.Others(r)
			none := r.Rules(r)
			old(r)
			r.settled(nil)
			if now := r.Rules(r); now != none {
				r.Errorf("it was\n%s\nand is\n%s", none, now)
			}
		})
	}
}
