// Package netfilter keeps the rules by which a kernel masquerades and forwards pods'
// packets: a target beside the kernel's tables of links and routes.
package netfilter

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"time"

	"k8s.io/klog/v2"

	"flanneld/pkg/dataplane"
	"flanneld/pkg/notice"
	"flanneld/pkg/once"
	"flanneld/pkg/state"
)

// Kinds are the kinds of objects that are held here.
func Kinds() []state.Kind { return []state.Kind{state.KindMasquerade, state.KindForward} }

// errAbsent is in the errors of a way that this host does not have: it lacks the
// program, or the kernel does. The error says what to do.
var errAbsent = errors.New("not available on this host")

// errLeft is in the errors of a way that this host does not have, and in which it has
// rules of flannel all the same.
var errLeft = errors.New("rules of flannel are there that cannot be read nor removed")

// silent reports whether an error only says that this host does not have a way.
func silent(err error) bool { return errors.Is(err, errAbsent) && !errors.Is(err, errLeft) }

// way is one way to write the rules of a family. Its methods may be called by several goroutines
// at once.
type way interface {
	// dump returns what there is of ours in this way, whoever wrote it:
	//
	//   - for each network whose rules are all there, in our chain, as they
	//     should be: the state.Masquerade or state.Forward that parse finds;
	//   - an unmanaged, under the key of the network, for rules that an older flannel
	//     left for it outside of a chain of ours;
	//   - an unmanaged, under restKey, for whatever else is in our chains or wrong with
	//     them.
	//
	// All of it is state.Ours: whose networks they are is found out elsewhere. A
	// dump is often called. It starts a process only if something may have
	// changed since the last one.
	dump(ctx context.Context) (state.Observed, error)

	// apply takes one step. Create and Replace leave the rules of op.Want in our
	// chain, once and as a whole; and take away, in the same atomic change or
	// after it, whatever dump calls unmanaged under the same key or under restKey. The
	// rules of other networks in our chain stay. Delete takes away what is there
	// under the key, and the chains with the last rules in them; that nothing
	// is, is no failure. Rules and chains of others are not touched.
	apply(ctx context.Context, op state.Op) error

	// watch calls ready once from when on nothing escapes it, and then changed
	// after each change that may be one of our rules, whoever did it, until ctx
	// ends. It returns nil at once, without a call of ready, if there is nothing
	// to watch.
	watch(ctx context.Context, ready, changed func()) error

	// others says what on this host that is not flannel's is written in this
	// way, for example `chain DOCKER of table nat`; empty if nothing is. That
	// tables and chains are there which have no rules and let all pass does not
	// count.
	others(ctx context.Context) (string, error)
}

// ways are all that this program knows. forward is that of New.
func ways(forward bool) map[wayKey]way {
	all := make(map[wayKey]way)
	for of, f := range families {
		all[wayKey{state.NFTables, of}] = nftables{f}
		all[wayKey{state.IPTablesLegacy, of}] = newIPTables(state.IPTablesLegacy, f, forward, newIPTablesKernel(f), nil)
		all[wayKey{state.IPTablesNFT, of}] = newIPTables(state.IPTablesNFT, f, forward, newNFIPTables(f), xtLeft{f})
	}
	return all
}

// unmanaged is what this program would not leave so.
type unmanaged struct {
	key  state.Key
	what string // such as "rules of an older flannel"
}

func (o unmanaged) Key() state.Key { return o.key }

// Is implements state.Unmanaged.
func (o unmanaged) Is() state.Object { return state.RulesOf(o.key) }

func (o unmanaged) String() string {
	if o.key.Prefix.Bits() == 0 {
		return fmt.Sprintf("%s by %s: %s", o.key.Kind, o.key.Scope, o.what)
	}
	return fmt.Sprintf("%s for %s by %s: %s", o.key.Kind, o.key.Prefix, o.key.Scope, o.what)
}

// restKey is that of what is in our chains and not the whole of any network's
// rules.
func restKey(k state.Kind, w state.RuleBackend, anywhere netip.Prefix) state.Key {
	return state.Key{Kind: k, Scope: string(w), Prefix: anywhere}
}

// Dataplane holds the rules of all ways.
type Dataplane struct {
	ways map[wayKey]way
	// variant returns which way is that of this host's own iptables for a family; nil if
	// none is known.
	variant  func(context.Context, *family) (state.RuleBackend, error)
	choosing sync.Mutex
	// touched has one slot: see Touched.
	touched chan struct{}

	mu     sync.Mutex
	broken map[wayKey]error   // why the last dump did not see a way
	seen   map[state.Key]bool // that were ever there
	said   notice.Log
}

var _ dataplane.Dataplane = (*Dataplane)(nil)

// New returns the rules of the network namespace of the calling process. forward says
// whether there are to be some that let packets through: what lets a network's through
// by rules without a comment is only then taken for an old flannel's. A flannel that was
// told to write none has left none.
func New(forward bool) *Dataplane { return of(ways(forward), new(iptTools).host) }

func of(ways map[wayKey]way, variant func(context.Context, *family) (state.RuleBackend, error)) *Dataplane {
	return &Dataplane{ways: ways, variant: variant, touched: make(chan struct{}, 1), broken: make(map[wayKey]error), seen: make(map[state.Key]bool)}
}

// Dump implements dataplane.Dataplane. A way that cannot be seen has nothing, and takes
// no steps: the host's routes do not wait for it.
func (t *Dataplane) Dump(ctx context.Context, _ state.Set) (state.Observed, error) {
	all := make(state.Observed)
	for name := range t.ways {
		maps.Copy(all, t.look(ctx, name))
	}
	return all, ctx.Err()
}

// look dumps a way.
func (t *Dataplane) look(ctx context.Context, name wayKey) state.Observed {
	have, err := t.ways[name].dump(ctx)
	t.mu.Lock()
	defer t.mu.Unlock()
	if err != nil {
		have = nil
		if !silent(err) && ctx.Err() == nil && t.said.State(name.String(), err.Error()) {
			klog.Warningf("what there is of rules by %s is not known: %v", name, err)
		}
	} else {
		t.said.Over(name.String())
	}
	t.broken[name] = err
	for k := range have {
		t.seen[k] = true
	}
	return have
}

// Unseen says of which ways the last Dump did not tell what there is, and why; nil if it
// told all, or there can be nothing.
func (t *Dataplane) Unseen() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	var errs []error
	for _, name := range slices.SortedFunc(maps.Keys(t.broken), wayKey.compare) {
		if err := t.broken[name]; err != nil && !silent(err) {
			errs = append(errs, fmt.Errorf("what there is of rules by %s is not known: %w", name, err))
		}
	}
	return errors.Join(errs...)
}

// events tells what there is of a way, and what there was.
func (t *Dataplane) events(have state.Observed, name wayKey) []dataplane.Event {
	var events []dataplane.Event
	for k, e := range have {
		events = append(events, dataplane.Event{Key: k, Entry: e})
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	for k := range t.seen {
		if _, there := have[k]; !there && wayOf(k) == name {
			events = append(events, dataplane.Event{Key: k, Gone: true})
		}
	}
	return events
}

// Apply implements dataplane.Dataplane.
func (t *Dataplane) Apply(ctx context.Context, ops []state.Op) []error {
	errs := make([]error, len(ops))
	for i, op := range ops {
		errs[i] = t.step(ctx, op)
	}
	return errs
}

func (t *Dataplane) step(ctx context.Context, op state.Op) error {
	k := op.Key()
	name := wayOf(k)
	w := t.ways[name]
	if !slices.Contains(Kinds(), k.Kind) || w == nil {
		return fmt.Errorf("there are no rules for %s by %q", k.Kind, k.Scope)
	}
	t.mu.Lock()
	err := t.broken[name]
	t.seen[k] = true
	t.mu.Unlock()
	if err != nil {
		return err
	}
	return w.apply(ctx, op)
}

// Touched receives after someone may have changed rules of iptables on this host, as
// far as a watch sees it, and once when that begins: Choose may say something else
// now.
func (t *Dataplane) Touched() <-chan struct{} { return t.touched }

func (t *Dataplane) touch(name wayKey) {
	if name.RuleBackend != state.NFTables {
		once.Wake(t.touched)
	}
}

// watchPause is how long it rests before a way is watched again that could not be.
const watchPause = time.Second

// Watch implements dataplane.Dataplane. That one way cannot be watched is no reason to give
// up the others.
func (t *Dataplane) Watch(ctx context.Context, ready func(), emit func(dataplane.Event)) error {
	var begun, ended sync.WaitGroup
	var one sync.Mutex // emit is not called by two at once
	for name := range t.ways {
		begun.Add(1)
		begin := sync.OnceFunc(begun.Done)
		ended.Go(func() {
			defer begin()
			t.watchWay(ctx, name, begin, func() {
				t.touch(name)
				events := t.events(t.look(ctx, name), name)
				one.Lock()
				defer one.Unlock()
				for _, e := range events {
					emit(e)
				}
			})
		})
	}
	begun.Wait()
	if ctx.Err() == nil {
		ready()
	}
	<-ctx.Done() // there may be nothing to watch
	ended.Wait()
	return ctx.Err()
}

func (t *Dataplane) watchWay(ctx context.Context, name wayKey, begin, changed func()) {
	first := true
	_ = t.said.Again(ctx, watchPause, klog.Errorf, fmt.Sprintf("watching the rules by %s", name), func() error {
		err := t.ways[name].watch(ctx, func() {
			if first {
				t.touch(name)
				begin()
			} else {
				changed() // unseen
			}
		}, changed)
		begin()
		first = false
		return err
	})
}
