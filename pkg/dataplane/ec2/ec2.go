// Package ec2 keeps routes in the route tables of a VPC of Amazon, and lets this
// instance's network interface pass packets of others: a target beside the kernel.
//
// Asking EC2 takes long and costs, for all the hosts of an account share its limits.
// So a dump is what the last look has shown, and there is one look a minute. Only the
// watch talks to EC2: it looks, and takes the steps that are handed to it.
package ec2

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/config"

	"flanneld/pkg/dataplane"
	"flanneld/pkg/notice"
	"flanneld/pkg/state"
)

// Kinds are the kinds of objects that are held here.
func Kinds() []state.Kind {
	return []state.Kind{state.KindCloudInterface, state.KindCloudRoute, state.KindCloudPeer}
}

const (
	// absentFor is how long a route that another host keeps may be missing before
	// that is a failure.
	absentFor = 5 * time.Minute
	// patience is how long the rest of the host waits for EC2: for the first look,
	// and for the steps of a pass.
	patience = 5 * time.Second
)

// Dataplane is what EC2 has for this instance. It asks nothing before something of
// its kinds is expected.
type Dataplane struct {
	options []func(*config.LoadOptions) error
	lot     float64       // of this host, from 0 to 1: its place in a row of hosts
	poke    chan struct{} // one slot: something may be due at another time
	jobs    chan job

	// Of the watch alone:
	session *session // nil before the first, or if it is of no use any more
	looks   int
	anew    bool // the next look includes who this host is

	mu    sync.Mutex
	first *firstLook // of what was not looked for before; nil if there has been one
	self  *identity
	why   error         // the last look did not show all; nil if it did
	said  notice.Log    // decides what of that is logged
	due   time.Time     // of the next look
	pause time.Duration // after the last one, if it failed
	since time.Time     // when something was wanted that was not before
	host  netip.Addr    // what this host's routes lead to
	want  map[state.Key]bool
	peers map[state.Key]time.Time // routes of others: since when each is missing, or zero
	// tables are as the last look has shown them, by the name in objects.
	tables map[string]*table
	lacks  map[string]error // why the last look did not show a table, by its name
	// passes is whether the network interface passes packets of others; nil if
	// that is not known.
	passes  *bool
	hidden  bool                // EC2 refuses to tell that
	written map[state.Key]write // lately, by this process
	kept    map[state.Key]*keep // wanted routes that were once right
	holds   map[step]*hold
	queue   queue
}

// firstLook is one that is due at once, and that the rest of the host waits for.
type firstLook struct {
	seen    chan struct{} // closed after it
	awaited bool          // there is no second wait
}

var _ dataplane.Dataplane = (*Dataplane)(nil)

// New returns a Dataplane for the instance that this process runs on. The options are
// for the SDK, after those of its environment and files.
func New(options ...func(*config.LoadOptions) error) *Dataplane {
	return &Dataplane{
		options: options,
		lot:     rand.Float64(),
		poke:    make(chan struct{}, 1),
		jobs:    make(chan job),
		want:    make(map[state.Key]bool),
		peers:   make(map[state.Key]time.Time),
		tables:  make(map[string]*table),
		written: make(map[state.Key]write),
		kept:    make(map[state.Key]*keep),
		holds:   make(map[step]*hold),
	}
}

// expect takes all that is wanted.
func (t *Dataplane) expect(want state.Set) {
	t.mu.Lock()
	defer t.mu.Unlock()
	names := t.names()
	clear(t.want)
	before := t.peers
	t.peers = make(map[state.Key]time.Time, len(before))
	host := netip.Addr{}
	for k, o := range want {
		switch o := o.(type) {
		case state.CloudInterface:
			host = o.Host
		case state.CloudRoute:
			t.want[k] = true
		case state.CloudPeer:
			t.peers[k] = before[k]
		}
	}
	news := host != t.host
	if news {
		t.host, t.passes = host, nil
		clear(t.holds)
		clear(t.kept)
	}
	for k := range t.kept {
		if !t.want[k] {
			delete(t.kept, k)
		}
	}
	now := t.names()
	for name := range t.tables {
		if !slices.Contains(now, name) {
			delete(t.tables, name)
		}
	}
	for _, name := range now {
		news = news || !slices.Contains(names, name)
	}
	if news && host.IsValid() {
		t.first, t.since, t.queue = &firstLook{seen: make(chan struct{})}, time.Now(), queue{}
		t.due = t.lookTurn()
		t.wake()
	}
}

// names are those of the tables that routes are wanted in. The caller holds t.mu.
func (t *Dataplane) names() []string {
	var names []string
	for k := range t.want {
		if !slices.Contains(names, k.Scope) {
			names = append(names, k.Scope)
		}
	}
	slices.Sort(names)
	return names
}

// soon has the next look after d, if it is not earlier. The caller holds t.mu.
func (t *Dataplane) soon(d time.Duration) {
	if at := time.Now().Add(d); at.Before(t.due) {
		t.due = at
	}
	t.wake()
}

// wake has the watch see what is due.
func (t *Dataplane) wake() {
	select { // a wait that is too long goes on
	case t.poke <- struct{}{}:
	default:
	}
}

// unseen reports whether a look would show more than was ever seen. The caller
// holds t.mu.
func (t *Dataplane) unseen() bool {
	if t.host.IsValid() && t.self == nil {
		return true
	}
	for k := range t.want {
		if t.tables[k.Scope] == nil {
			return true
		}
	}
	return false
}

// Dump implements dataplane.Dataplane. It does not fail: what cannot be seen is not there,
// and so is not taken away, and the steps that would make it tell why.
func (t *Dataplane) Dump(ctx context.Context, want state.Set) (state.Observed, error) {
	t.expect(want)
	t.mu.Lock()
	first := t.first
	wait := first != nil && !first.awaited && time.Until(t.due) < patience
	if wait {
		first.awaited = true
	}
	t.mu.Unlock()
	if wait {
		timer := time.NewTimer(patience)
		defer timer.Stop()
		select {
		case <-first.seen:
		case <-timer.C:
		case <-ctx.Done():
		}
	}
	return t.have(), ctx.Err()
}

// have is what the last look has shown.
func (t *Dataplane) have() state.Observed {
	t.mu.Lock()
	defer t.mu.Unlock()
	have := make(state.Observed)
	if t.mayPass() {
		i := state.CloudInterface{Host: t.host}
		have[i.Key()] = state.Entry{Object: i, Owner: state.Foreign, Text: i.String()}
	}
	for name, tab := range t.tables {
		for dst, r := range tab.routes {
			k := state.CloudRoute{Table: name, Dst: dst}.Key()
			if e := t.entry(k, r); e.Owner == state.Ours || t.want[k] {
				have[k] = e
			}
		}
	}
	for k, since := range t.peers {
		p := state.CloudPeer{Table: k.Scope, Dst: k.Prefix}
		if t.missing(k) {
			seen := t.tables[k.Scope].seen // while nobody can look it may come
			if since.IsZero() {
				since = seen
				t.peers[k] = since
			}
			if seen.Sub(since) >= absentFor {
				continue
			}
		} else {
			t.peers[k] = time.Time{}
		}
		have[k] = state.Entry{Object: p, Owner: state.Ours}
	}
	return have
}

// mayPass reports whether the network interface passes packets of others. It will if
// this host has all its routes, as long as nobody could look: what can't be seen is set.
// The caller holds t.mu.
func (t *Dataplane) mayPass() bool {
	if t.passes != nil || t.hidden {
		return t.passes != nil && *t.passes
	}
	for k := range t.want {
		if t.kept[k] == nil {
			return false
		}
	}
	return len(t.want) > 0
}

// missing reports whether the table of a peer is known, and its route leads nowhere, or
// here. The caller holds t.mu.
func (t *Dataplane) missing(peer state.Key) bool {
	tab := t.tables[peer.Scope]
	if tab == nil {
		return false
	}
	r, there := tab.routes[peer.Prefix]
	return !there || r.blackhole || r.leadsTo(t.nic())
}

// nic is the ID of the network interface with this host's address; empty if there is
// none. The caller holds t.mu.
func (t *Dataplane) nic() string {
	if t.self == nil {
		return ""
	}
	return t.self.interfaces[t.host].id
}

// leadsTo reports whether packets that follow the route come to a network interface.
func (r route) leadsTo(nic string) bool { return nic != "" && r.nic == nic }

// entry is a route as an object. What this host wants at its place, and what leads
// here, is ours, and so is in the end what leads nowhere; the rest is of others. The
// caller holds t.mu.
func (t *Dataplane) entry(k state.Key, r route) state.Entry {
	e := state.Entry{Object: unmanagedRoute{k, r}}
	here := r.leadsTo(t.nic())
	if here {
		e.Object = state.CloudRoute{Table: k.Scope, Dst: k.Prefix, Host: t.host}
	}
	if r.fixed {
		e.Text = e.Object.String()
	} else if here || t.want[k] || t.tables[k.Scope].isDoomed(k.Prefix) {
		e.Owner = state.Ours
	}
	return e
}

// unmanagedRoute is a route that does not lead to this host.
type unmanagedRoute struct {
	key state.Key
	to  route
}

func (s unmanagedRoute) Key() state.Key { return s.key }

// Is implements state.Unmanaged.
func (s unmanagedRoute) Is() state.Object {
	return state.CloudRoute{Table: s.key.Scope, Dst: s.key.Prefix}
}

func (s unmanagedRoute) String() string {
	return fmt.Sprintf("route %s to %s in %s", s.key.Prefix, s.to, state.CloudTableName(s.key.Scope))
}

// Watch implements dataplane.Dataplane: it looks once a minute, and tells what is not as
// it was.
func (t *Dataplane) Watch(ctx context.Context, ready func(), emit func(dataplane.Event)) error {
	ready()
	before := t.have()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		timer.Reset(t.untilDue())
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-t.poke:
			continue
		case j := <-t.jobs:
			if j.run(ctx, t) {
				emit(dataplane.Event{Lost: true})
			}
			continue
		case <-timer.C:
		}
		turn, look, blind := t.whatIsDue()
		if look {
			t.look(ctx)
		}
		t.mu.Lock()
		blind = blind && !t.unseen()
		t.mu.Unlock()
		if turn || blind {
			emit(dataplane.Event{Lost: true})
		}
		now := t.have()
		for k, e := range now {
			if before[k] != e {
				emit(dataplane.Event{Key: k, Entry: e})
			}
		}
		for k := range before {
			if _, still := now[k]; !still {
				emit(dataplane.Event{Key: k, Gone: true})
			}
		}
		before = now
	}
}

// untilDue is how long there is nothing to do.
func (t *Dataplane) untilDue() time.Duration {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.host.IsValid() {
		return period // nothing is expected
	}
	at := t.due
	if turn := t.queue.turn; !turn.IsZero() && turn.Before(at) {
		at = turn
	}
	return max(0, time.Until(at))
}

// whatIsDue returns whether this host's turn to write has come, whether a look is due,
// and whether it may show what was never seen.
func (t *Dataplane) whatIsDue() (turn, look, blind bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	now := time.Now()
	if at := t.queue.turn; !at.IsZero() && !at.After(now) {
		t.queue.turn, turn = time.Time{}, true
	}
	return turn, t.host.IsValid() && !t.due.After(now), t.unseen()
}
