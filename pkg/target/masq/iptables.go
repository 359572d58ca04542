package masq

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"time"

	"flanneld/pkg/state"
)

// iptables writes rules by the host's own programs: what is in the kernel is for
// them, and for them alone, to understand. They are started only to change
// something, or if something has changed: that is found out without them.
type iptables struct {
	way     state.Way
	forward bool // that of New
	kernel  iptKernel
	// without is the way where the programs are not there, or do not understand
	// what there is; it can take rules away, and no more. nil if there is none.
	without way

	mu    sync.Mutex
	tools iptTools
	// tables are what there was when the kernel's sum was that.
	sum    string
	tables iptTables
	// unreadable is why there are none, as of readAt.
	unreadable error
	readAt     time.Time
	// locked is why a program waited in vain, at which time.
	locked   error
	lockedAt time.Time
	// plain has the networks that were to have random ports, and have not because
	// the program does not know how to.
	plain map[netip.Prefix]bool
}

// unreadablePause is how long tables that iptables cannot read are taken to be so, unless
// the sum changes: it leaves out most of what may be the reason.
const unreadablePause = time.Minute

// iptKernel is the side of the kernel on which the rules are.
type iptKernel interface {
	// sum returns what differs whenever a chain that our rules are in, or come
	// from, is not as it was, but for its counters. It is empty if the kernel has
	// neither of the tables.
	sum() (string, error)
	// watch is that of a way.
	watch(ctx context.Context, ready, changed func()) error
}

func newIPTables(name state.Way, forward bool, kernel iptKernel, without way) *iptables {
	return &iptables{way: name, forward: forward, kernel: kernel, without: without, plain: make(map[netip.Prefix]bool)}
}

// read returns what there is.
func (w *iptables) read(ctx context.Context) (iptTables, error) {
	sum, err := w.kernel.sum()
	switch {
	case err != nil:
		return nil, err
	case sum == "":
		return iptTables{}, nil
	case sum == w.sum && (w.unreadable == nil || time.Since(w.readAt) < unreadablePause):
		return w.tables, w.unreadable
	}
	tool, err := w.tools.find(ctx, w.way)
	if err != nil {
		return nil, err
	}
	tables, err := tool.tables(ctx)
	if err != nil && !errors.Is(err, errAbsent) {
		return nil, err
	}
	// What changed since the sum was taken makes for another one.
	w.sum, w.tables, w.unreadable, w.readAt = sum, tables, err, time.Now()
	return tables, err
}

// dump implements way.
func (w *iptables) dump(ctx context.Context) (state.Have, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	tables, err := w.read(ctx)
	if errors.Is(err, errAbsent) && w.without != nil {
		return w.without.dump(ctx)
	}
	if errors.Is(err, errAbsent) && traces() {
		return nil, fmt.Errorf("%w: %w", errLeft, err)
	}
	if err != nil {
		return nil, err
	}
	have := make(state.Have)
	for _, p := range places {
		f := p.find(tables, w.way, w.forward)
		for _, o := range f.objects {
			if m, ok := o.(state.Masquerade); ok && w.plain[m.Network] {
				m.RandomFully = true
				o = m
			}
			have[o.Key()] = state.Entry{Object: o, Owner: state.Ours}
		}
		add := func(k state.Key, what string) {
			have[k] = state.Entry{Object: odd{k, what}, Owner: state.Ours}
		}
		for network := range f.old {
			add(state.Key{Kind: p.kind, Dev: string(w.way), Dst: network}, "rules of an older flannel")
		}
		if what := f.wrong(); what != "" {
			add(restKey(p.kind, w.way, anywhere4), what)
		}
	}
	return have, nil
}

// available returns what is missing where rules can't be written.
func (w *iptables) available(ctx context.Context) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	_, _, err := w.ready(ctx)
	return err
}

// ready returns what it takes to write rules.
func (w *iptables) ready(ctx context.Context) (*iptTool, iptTables, error) {
	tool, err := w.tools.find(ctx, w.way)
	if err != nil {
		return nil, nil, err
	}
	tables, err := w.read(ctx)
	return tool, tables, err
}

// apply implements way.
func (w *iptables) apply(ctx context.Context, op state.Op) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.locked != nil && time.Since(w.lockedAt) < lockPause {
		return w.locked // all steps of a pass wait once
	}
	tool, tables, err := w.ready(ctx)
	if errors.Is(err, errAbsent) && w.without != nil && op.Verb == state.Delete {
		return w.without.apply(ctx, op)
	}
	if err != nil {
		return err
	}
	m, _ := op.Want.(state.Masquerade)
	plain := m.RandomFully && !tool.knowsRandomFully()
	f := placeOf(op.Key().Kind).find(tables, w.way, w.forward)
	if lines := f.edit(op, plain); len(lines) > 0 {
		w.sum, w.tables = "", nil // whether it succeeds or not
		err := tool.change(ctx, f.table, lines)
		if w.locked = nil; errors.Is(err, errLocked) {
			w.locked, w.lockedAt = err, time.Now()
		}
		if err != nil {
			return err
		}
	}
	w.plain[op.Key().Dst] = plain
	return nil
}

// watch implements way.
func (w *iptables) watch(ctx context.Context, ready, changed func()) error {
	return w.kernel.watch(ctx, ready, changed)
}

// others implements way.
func (w *iptables) others(ctx context.Context) (string, error) {
	if w.without != nil {
		return w.without.others(ctx) // that starts no process
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	tables, err := w.read(ctx)
	if err != nil {
		return "", err
	}
	for _, p := range places {
		if chain := p.find(tables, w.way, w.forward).foreign(); chain != "" {
			return "chain " + chain + " of table " + p.table, nil
		}
	}
	return "", nil
}
