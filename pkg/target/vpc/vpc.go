// Package vpc keeps routes in the route tables of a VPC of Amazon, and lets this
// instance's network interface pass packets of others: a target beside the kernel.
//
// Asking EC2 takes long and costs, for all the hosts of an account share its limits.
// So a dump is what the last look has shown, and there is one look a minute.
package vpc

import (
	"context"
	"fmt"
	"net/netip"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/config"

	"flanneld/pkg/state"
	"flanneld/pkg/target"
)

// Kinds are the kinds of objects that are held here.
func Kinds() []state.Kind {
	return []state.Kind{state.KindCloudInterface, state.KindCloudRoute, state.KindCloudPeer}
}

const (
	// absentFor is how long a route that another host keeps may be missing before
	// that is a failure.
	absentFor = 5 * time.Minute
	// firstLook is how long the rest of the host waits for the first look.
	firstLook = 5 * time.Second
)

// Target is what EC2 has for this instance. It asks nothing before something of
// its kinds is expected.
type Target struct {
	options []func(*config.LoadOptions) error
	poke    chan struct{} // one slot: a look may be due at another time

	looking chan struct{} // full during a look, and during changes: who fills it has
	session *session      // nil before the first, or if it is of no use any more
	looks   int           // since the session began

	mu     sync.Mutex
	self   *identity
	why    error                   // the last look showed nothing; nil if it did
	due    time.Time               // of the next look
	pause  time.Duration           // after the last one, if it failed
	host   netip.Addr              // what this host's routes lead to
	want   map[state.Key]bool      // routes of this host
	peers  map[state.Key]time.Time // routes of others: since when each is missing, or zero
	tables map[string]*table       // as far as they have been seen, by the name in objects
	// passes is whether the network interface passes packets of others; nil if
	// that is not known.
	passes  *bool
	written map[state.Key]write // lately, by this process
	holds   map[state.Key]*hold
}

var (
	_ target.Target   = (*Target)(nil)
	_ target.Expecter = (*Target)(nil)
)

// New returns a Target for the instance that this process runs on. The options are
// for the SDK, after those of its environment and files.
func New(options ...func(*config.LoadOptions) error) *Target {
	return &Target{
		options: options,
		poke:    make(chan struct{}, 1),
		looking: make(chan struct{}, 1),
		want:    make(map[state.Key]bool),
		peers:   make(map[state.Key]time.Time),
		tables:  make(map[string]*table),
		written: make(map[state.Key]write),
		holds:   make(map[state.Key]*hold),
	}
}

// Expect implements target.Expecter.
func (t *Target) Expect(want state.Set) {
	t.mu.Lock()
	defer t.mu.Unlock()
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
	if host != t.host {
		t.host, t.passes = host, nil
		clear(t.holds)
		t.soon(0)
	}
	for name := range t.tables {
		if !t.expects(name) {
			delete(t.tables, name)
		}
	}
}

func (t *Target) expects(table string) bool {
	for k := range t.want {
		if k.Dev == table {
			return true
		}
	}
	return false
}

// soon has the next look after d, if it is not earlier. The caller holds t.mu.
func (t *Target) soon(d time.Duration) {
	if at := time.Now().Add(d); at.Before(t.due) || d == 0 {
		t.due = at
		select { // a wait that is too long goes on
		case t.poke <- struct{}{}:
		default:
		}
	}
}

// unseen reports whether a look would show more than was ever seen. The caller
// holds t.mu.
func (t *Target) unseen() bool {
	if t.host.IsValid() && t.self == nil {
		return true
	}
	for k := range t.want {
		if t.tables[k.Dev] == nil {
			return true
		}
	}
	return false
}

// Dump implements target.Target. It does not fail: what cannot be seen is not there,
// and so is not taken away, and the steps that would make it tell why.
func (t *Target) Dump(ctx context.Context) (state.Have, error) {
	t.mu.Lock()
	first := t.unseen() && !time.Now().Before(t.due)
	t.mu.Unlock()
	if first {
		looking, stop := context.WithTimeout(ctx, firstLook)
		t.look(looking)
		stop()
	}
	return t.have(), ctx.Err()
}

// have is what the last look has shown.
func (t *Target) have() state.Have {
	t.mu.Lock()
	defer t.mu.Unlock()
	have := make(state.Have)
	if t.passes != nil && *t.passes {
		i := state.CloudInterface{Host: t.host}
		have[i.Key()] = state.Entry{Object: i, Owner: state.Foreign, Text: i.String()}
	}
	for name, tab := range t.tables {
		for dst, r := range tab.routes {
			e := t.entry(name, dst, r)
			have[e.Object.Key()] = e
		}
	}
	now := time.Now()
	for k, since := range t.peers {
		p := state.CloudPeer{Table: k.Dev, Dst: k.Dst}
		if t.missing(k) {
			if since.IsZero() {
				since = now
				t.peers[k] = since
			}
			if now.Sub(since) >= absentFor {
				continue
			}
		} else {
			t.peers[k] = time.Time{}
		}
		have[k] = state.Entry{Object: p, Owner: state.Foreign, Text: p.String()}
	}
	return have
}

// missing reports whether the table of a peer is known, and its route leads nowhere.
// The caller holds t.mu.
func (t *Target) missing(peer state.Key) bool {
	tab := t.tables[peer.Dev]
	if tab == nil {
		return false
	}
	r, there := tab.routes[peer.Dst]
	return !there || r.blackhole
}

// entry is a route as an object. What this host wants at its place, and what leads
// nowhere or here, may be ours; the rest is of others. The caller holds t.mu.
func (t *Target) entry(name string, dst netip.Prefix, r route) state.Entry {
	here := t.self != nil && r.nic != "" && t.self.interfaces[t.host].id == r.nic
	e := state.Entry{Object: stray{state.CloudRoute{Table: name, Dst: dst}, r}}
	if here && !r.blackhole {
		e.Object = state.CloudRoute{Table: name, Dst: dst, Host: t.host}
	}
	if !r.fixed && (t.want[e.Object.Key()] || here || r.blackhole && r.nic != "") {
		e.Owner = state.Ours
	}
	e.Text = e.Object.String()
	return e
}

// stray is a route that does not lead to this host.
type stray struct {
	is state.CloudRoute
	to route
}

func (s stray) Key() state.Key { return s.is.Key() }

func (s stray) String() string {
	return fmt.Sprintf("route %s to %s in %s", s.is.Dst, s.to, state.CloudTableName(s.is.Table))
}

// Watch implements target.Target: it looks once a minute, and tells what is not as
// it was.
func (t *Target) Watch(ctx context.Context, ready func(), emit func(target.Event)) error {
	ready()
	before := t.have()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		t.mu.Lock()
		wait := time.Until(t.due)
		if !t.host.IsValid() {
			wait = period // nothing is expected
		}
		t.mu.Unlock()
		timer.Reset(max(0, wait))
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-t.poke:
			continue
		case <-timer.C:
		}
		t.mu.Lock()
		blind, idle := t.unseen(), !t.host.IsValid()
		t.mu.Unlock()
		if idle {
			continue
		}
		t.look(ctx)
		t.mu.Lock()
		blind = blind && !t.unseen()
		t.mu.Unlock()
		now := t.have()
		if blind {
			emit(target.Event{Lost: true})
		}
		for k, e := range now {
			if before[k] != e {
				emit(target.Event{Key: k, Entry: e})
			}
		}
		for k := range before {
			if _, still := now[k]; !still {
				emit(target.Event{Key: k, Gone: true})
			}
		}
		before = now
	}
}
