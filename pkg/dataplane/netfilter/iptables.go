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
	"flanneld/pkg/state"
)

// iptables writes rules by the host's own programs: what is in the kernel is for
// them, and for them alone, to understand. They are started only to change
// something, or if something has changed: that is found out without them.
type iptables struct {
	way     state.RuleBackend
	family  *family
	forward bool // that of New
	kernel  iptKernel
	// without is what takes rules away, and no more, where the programs are not there, or
	// do not understand what there is; nil if nothing can.
	without tool

	mu    sync.Mutex
	tools iptTools
	// seen is what there was when the kernel's digest was that.
	digest string
	seen   tables
	readAt time.Time
	// locked is why a program waited in vain, at which time.
	locked   error
	lockedAt time.Time
	// plain has the networks that were to have random ports, and have not because
	// the program does not know how to.
	plain map[netip.Prefix]bool

	watching bool                  // others' changes are seen as they happen
	content  debounce              // of all that is read
	shared   [len(places)]debounce // of the chains that are ours or that packets come to by themselves
	quiet    time.Duration         // quietFor, but for tests
	view     state.Observed        // what was seen last
	viewAt   time.Time             // when that was
	moves    moves
	again    time.Time // when the jump is to be looked at again, if after now
	reported string    // which rule ours stand before
}

// unreadablePause is how long tables that iptables cannot read are taken to be so, unless
// the digest changes: it leaves out most of what may be the reason.
const unreadablePause = time.Minute

// tool reads and changes the tables of iptables.
type tool interface {
	tables(ctx context.Context) (iptTables, error)
	// change changes a table as iptables-restore would, all at once or not at all: nothing if
	// still, which is asked in the last moment, says that it is too late.
	change(ctx context.Context, table string, lines []string, still func() bool) error
	knowsRandomFully() bool
}

// tables are what there is, and who can change it.
type tables struct {
	iptTables
	tool tool
	// missing is why rules can only be taken away; nil if they can be written.
	missing error
	found   bool // the programs are there
}

// iptKernel is the side of the kernel on which the rules are.
type iptKernel interface {
	// digest returns what differs whenever something that matters is not as it was, but
	// for counters.
	digest() (iptDigest, error)
	// watch is that of a way.
	watch(ctx context.Context, ready, changed func()) error
}

// iptDigest tells whether something is as it was.
type iptDigest struct {
	// all is of what is understood here. It is empty if the kernel has neither of the
	// tables.
	all string
	// shared are, for each place, of the chains in its table that are ours or that packets
	// come to by themselves; empty without the table.
	shared [len(places)]string
	// bare is set, for each place, if none of these chains in its table has a rule.
	bare [len(places)]bool
}

func newIPTables(name state.RuleBackend, f *family, forward bool, kernel iptKernel, without tool) *iptables {
	w := &iptables{way: name, family: f, forward: forward, kernel: kernel, without: without, plain: make(map[netip.Prefix]bool)}
	w.await(quietFor)
	return w
}

// name is that of its programs.
func (w *iptables) name() string { return Program(w.way, w.family.Family) }

// await sets how long others must have come to rest.
func (w *iptables) await(quiet time.Duration) {
	w.quiet, w.content.quiet = quiet, quiet
	for i := range w.shared {
		w.shared[i].quiet = quiet
	}
}

// read returns what there is.
func (w *iptables) read(ctx context.Context) (tables, error) {
	digest, err := w.kernel.digest()
	if err != nil {
		return tables{}, err
	}
	w.take(digest)
	if digest.all == "" {
		return tables{}, nil
	}
	same := digest.all == w.digest
	if same && w.seen.missing == nil {
		return w.seen, nil
	}
	found, err := w.tools.find(ctx, w.way, w.family)
	if same && (err == nil) == w.seen.found && time.Since(w.readAt) < unreadablePause {
		return w.seen, nil
	}
	t := tables{tool: found, found: err == nil}
	if err == nil {
		t.iptTables, err = found.tables(ctx)
	}
	if errors.Is(err, errAbsent) {
		err = w.readWithout(ctx, &t, err)
	}
	if err == nil {
		// What changed since the digest was taken makes for another one.
		w.digest, w.seen, w.readAt = digest.all, t, time.Now()
	}
	return t, err
}

// readWithout reads what the programs cannot.
func (w *iptables) readWithout(ctx context.Context, t *tables, missing error) (err error) {
	switch {
	case w.without != nil:
		t.tool, t.missing = w.without, missing
		t.iptTables, err = w.without.tables(ctx)
		return err
	case w.family.traces():
		return fmt.Errorf("%w: %w", errLeft, missing)
	}
	return missing
}

// dump implements way. In the middle of a change by others what was there before counts.
func (w *iptables) dump(ctx context.Context) (state.Observed, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	t, err := w.read(ctx)
	if err != nil {
		w.view = nil
		return nil, err
	}
	if now := time.Now(); w.view == nil || w.rest(now) <= 0 {
		w.view, w.viewAt = w.see(t), now
	}
	return maps.Clone(w.view), nil
}

// see says what there is of ours in the tables.
func (w *iptables) see(t tables) state.Observed {
	have := make(state.Observed)
	add := func(k state.Key, what string) {
		have[k] = state.Entry{Object: unmanaged{k, what}, Owner: state.Ours}
	}
	for _, p := range places {
		f := w.find(p, t)
		for _, o := range f.objects {
			if t.missing != nil {
				add(o.Key(), "rules of a flannel that is no longer here")
				continue
			}
			if m, ok := o.(state.Masquerade); ok && w.plain[m.Network] {
				m.RandomFully = true
				o = m
			}
			have[o.Key()] = state.Entry{Object: o, Owner: state.Ours}
		}
		for network := range f.old {
			add(state.Key{Kind: p.kind, Scope: string(w.way), Prefix: network}, "rules of an older flannel")
		}
		if what := f.wrong(); what != "" {
			add(restKey(p.kind, w.way, w.family.anywhere), what)
		}
	}
	return have
}

// available returns what is missing where rules can't be written.
func (w *iptables) available(ctx context.Context) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	t, err := w.ready(ctx)
	return errors.Join(err, t.missing)
}

// ready returns what there is, for those who mean to change it.
func (w *iptables) ready(ctx context.Context) (tables, error) {
	t, err := w.read(ctx)
	if err != nil || t.missing != nil {
		return t, err
	}
	found, err := w.tools.find(ctx, w.way, w.family) // it may be another one by now
	if t.tool = found; errors.Is(err, errAbsent) {
		err = w.readWithout(ctx, &t, err)
	}
	return t, err
}

// apply implements way.
func (w *iptables) apply(ctx context.Context, op state.Op) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.locked != nil && time.Since(w.lockedAt) < lockPause {
		return w.locked // all steps of a pass wait once
	}
	t, err := w.ready(ctx)
	if err == nil && op.Verb != state.Delete {
		err = t.missing
	}
	if err != nil {
		return err
	}
	m, _ := op.Want.(state.Masquerade)
	plain := m.RandomFully && !t.tool.knowsRandomFully()
	place := placeOf(op.Key().Kind)
	f := w.find(place, t)
	if lines := f.edit(op, plain); len(lines) > 0 {
		i := slices.Index(places[:], place)
		if !w.shared[i].settled(time.Now(), guarded(lines)) {
			return fmt.Errorf("table %s of %s: %w", place.table, w.name(), dataplane.ErrSettling)
		}
		if err := w.write(ctx, t, i, lines, len(f.after(op))); err != nil {
			return err
		}
		if f.late != "" {
			w.moves.add(time.Now(), w.name(), f.late)
		}
	}
	w.plain[op.Key().Prefix] = plain
	if w.view == nil && w.digest != "" { // it is known what we left
		w.view, w.viewAt = w.see(w.seen), time.Now()
	}
	return nil
}

// write has the program change the table of a place, so that rules of so many networks are
// there after it.
func (w *iptables) write(ctx context.Context, t tables, i int, lines []string, after int) error {
	w.digest, w.view = "", nil // whether it succeeds or not
	before := w.shared[i].digest
	err := t.tool.change(ctx, places[i].table, lines, w.unchanged)
	if w.locked = nil; errors.Is(err, errLocked) {
		w.locked, w.lockedAt = err, time.Now()
	}
	if !w.watching {
		return err
	}
	if err != nil {
		if w.observeLocked(); w.shared[i].digest != before {
			return fmt.Errorf("%w: %w", dataplane.ErrSettling, err) // of what was there there is no more
		}
		return err
	}
	// Someone may have come right after us: only what we have left is of our making.
	digest, digestErr := w.kernel.digest()
	var readErr error
	t.iptTables, readErr = t.tool.tables(ctx)
	f := w.place(places[i], t)
	if digestErr == nil && readErr == nil && len(f.objects) == after && !f.strange && (f.right || after == 0) {
		w.content.expect(digest.all)
		w.shared[i].expect(digest.shared[i])
		w.shared[i].since, w.shared[i].began = time.Now(), time.Now()
		w.digest, w.seen, w.readAt = digest.all, t, time.Now()
	}
	return nil
}

// unchanged reports whether nobody else has changed shared chains since the last look.
func (w *iptables) unchanged() bool {
	if !w.watching {
		return true
	}
	before := w.shared
	w.observeLocked()
	for i := range w.shared {
		if differs(before[i].digest, w.shared[i].digest) {
			return false
		}
	}
	return true
}

// place tells what is at a place. What cannot be put right is not said to be wrong.
func (w *iptables) place(p place, t tables) found {
	f := p.find(t.iptTables, w.way, w.family, w.forward)
	f.fixed = t.missing != nil
	return f
}

// find is place, and says which rule ours stand before.
func (w *iptables) find(p place, t tables) found {
	f := w.place(p, t)
	if !p.last {
		return f
	}
	if now := time.Now(); f.late != "" && now.Before(w.moves.next) {
		f.late, w.again = "", w.moves.next
	}
	if f.right && f.overruled != w.reported {
		if w.reported = f.overruled; f.overruled != "" {
			klog.Infof("forwarding by %s: pods' packets are let through before the rule of %s that refuses all others: %s", w.name(), p.hook, f.overruled)
		}
	}
	return f
}

// refuses returns what in FORWARD refuses whatever no rule lets through; empty if nothing
// does.
func (w *iptables) refuses(ctx context.Context) (string, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	t, err := w.read(ctx)
	if err = errors.Join(err, t.missing); err != nil {
		return "", err
	}
	f := w.place(placeOf(state.KindForward), t)
	if c := f.chains[f.hook]; c != nil && c.policy != "ACCEPT" {
		return fmt.Sprintf("the policy of %s is %s", f.hook, c.policy), nil
	}
	if f.overruled != "" {
		return fmt.Sprintf("a rule of %s is %s", f.hook, f.overruled), nil
	}
	return "", nil
}

// others implements way.
func (w *iptables) others(ctx context.Context) (string, error) {
	if w.way == state.IPTablesNFT {
		return w.othersNF(ctx)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	t, err := w.read(ctx)
	if err != nil {
		return "", err
	}
	for _, p := range places {
		if what := w.place(p, t).foreign(); what != "" {
			return what, nil
		}
	}
	return "", nil
}
