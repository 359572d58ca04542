// Package dataplanetest has what tests of targets, and of what stands on them,
// need: a fake with the manners of the Linux kernel, and a suite of tests that
// both the fake and the real one pass.
package dataplanetest

import (
	"context"
	"fmt"
	"net/netip"
	"sync"
	"time"

	"flanneld/pkg/dataplane"
	"flanneld/pkg/state"
)

// Fake is a dataplane.Dataplane in memory. It keeps routes as the main tables of both
// families do, nexthop objects, and links with what is theirs. Beside those it holds
// tunnels and rules for packets, as targets of their own do. It panics if it is used as no target may
// be. It is a Host, too.
type Fake struct {
	busy sync.Mutex // held by Dump and Apply, which one goroutine calls

	mu         sync.Mutex
	links      map[string]*link
	lastIndex  int
	routes     map[netip.Prefix][]alias   // in the order in which they are used
	seen       map[string]sighting        // as of the last dump, and the steps since
	since      map[netip.Prefix]time.Time // since when the first is the first
	nexthops   map[uint32]hop
	tunnels    map[string]*tunnel      // by device
	rules      state.Set               // for packets
	lost       map[state.Key]time.Time // when what is on a device went without a step
	failed     map[state.Key]bool      // the last step about it
	watch      *watch
	faults     Faults
	interrupts int
	deaf       bool
	refused    map[state.Key]error
	applied    []state.Op
	dumps      int
	violations []string
}

// NewFake returns a host without links.
func NewFake() *Fake {
	return &Fake{
		links:    make(map[string]*link),
		routes:   make(map[netip.Prefix][]alias),
		since:    make(map[netip.Prefix]time.Time),
		nexthops: make(map[uint32]hop),
		tunnels:  make(map[string]*tunnel),
		rules:    make(state.Set),
		seen:     make(map[string]sighting),
		lost:     make(map[state.Key]time.Time),
		failed:   make(map[state.Key]bool),
		refused:  make(map[state.Key]error),
	}
}

// unmanaged is something that the program under test would not make itself.
type unmanaged[T state.Object] struct {
	object T
	text   string
}

func (o unmanaged[T]) Key() state.Key   { return o.object.Key() }
func (o unmanaged[T]) String() string   { return o.text }
func (o unmanaged[T]) Is() state.Object { return o.object }

// Dump is as of the moment it is called.
func (f *Fake) Dump(ctx context.Context, _ state.Set) (state.Observed, error) {
	defer f.alone()()
	have, err := f.dump()
	if e := f.pause(ctx); e != nil {
		return nil, e
	}
	return have, err
}

func (f *Fake) dump() (state.Observed, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.dumps++
	clear(f.seen)
	for name, l := range f.links {
		f.seen[name] = l.sighting(name)
	}
	if f.interrupts > 0 || f.faults.hit(f.faults.Interrupt) {
		f.interrupts = max(f.interrupts-1, 0)
		return nil, fmt.Errorf("listing routes: %w", dataplane.ErrIncomplete)
	}
	have := make(state.Observed, len(f.routes)+len(f.nexthops))
	for id, h := range f.nexthops {
		e := h.entry(id)
		have[e.Object.Key()] = e
	}
	f.dumpDevices(have)
	f.dumpTunnels(have)
	f.dumpRules(have)
	for dst, aliases := range f.routes {
		for _, a := range aliases {
			if a.metric > state.YieldingMetric || f.siblings(dst, a)[0] != a {
				continue
			}
			key := state.Key{Kind: state.KindRoute, Prefix: dst, ID: a.metric}
			e, there := have[key]
			switch n := f.entry(dst, a); {
			case !there:
				have[key] = n
			case e.Owner == state.Ours && n.Owner == state.Ours:
				n.Object = unmanaged[state.Route]{f.route(dst, a).Route, "a second " + n.Object.String()}
				n.Front = &e
				have[key] = n
			case n.Owner == state.Ours && e.Owner != state.Ours:
				n.Front = &e
				have[key] = n
			}
		}
	}
	return have, nil
}

// alone panics where two use the target at a time.
func (f *Fake) alone() func() {
	if !f.busy.TryLock() {
		panic("Dump or Apply was called during another Dump or Apply")
	}
	return f.busy.Unlock
}

// Applied returns the steps that took effect so far, in their order.
func (f *Fake) Applied() []state.Op {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.applied[:len(f.applied):len(f.applied)]
}

// Dumps returns how many dumps were asked for so far.
func (f *Fake) Dumps() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.dumps
}

// Violations returns what no careful program does: what was done to what belongs
// to someone else, and in which wrong order things were done. It has to be about
// what was there, or not, long enough for the program under test to know: within
// Lag times Faults.Pause after a change the news may be under way, or a dump
// from before with the batches that follow it.
func (f *Fake) Violations() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.violations[:len(f.violations):len(f.violations)]
}

// Routes returns all routes to dst, first the one that is used.
func (f *Fake) Routes(dst netip.Prefix) []Route {
	f.mu.Lock()
	defer f.mu.Unlock()
	var routes []Route
	for _, a := range f.routes[dst] {
		routes = append(routes, f.route(dst, a))
	}
	return routes
}
