// Package ec2 keeps routes in the route tables of a VPC of Amazon, and lets this
// instance's network interface pass packets of others: a dataplane beside the kernel.
//
// EC2 reports no changes, each call takes long, and all hosts of an account share what
// may be asked. So a dump is what the last look has shown, and there is one look a minute.
// Only the loop of this dataplane waits for EC2: a dump looks if that is due, and a step is
// a call.
package ec2

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"time"

	"github.com/aws/aws-sdk-go-v2/config"

	"flanneld/pkg/dataplane"
	"flanneld/pkg/notice"
	"flanneld/pkg/once"
	"flanneld/pkg/state"
)

// Kinds are the kinds of objects that are held here.
func Kinds() []state.Kind { return []state.Kind{state.KindCloudInterface, state.KindCloudRoute} }

const (
	// RetryFirst is the first pause after which what failed is to be tried again.
	RetryFirst = 2 * time.Second
	// RetryMost is the longest of them.
	RetryMost = time.Minute
	// absentFor is how long a route that another host keeps may be missing before
	// that is a failure.
	absentFor = 5 * time.Minute
)

// Dataplane is what EC2 has for this instance. It asks nothing before something of
// its kinds is wanted. Its methods, but for Watch, are called by one goroutine.
type Dataplane struct {
	options []func(*config.LoadOptions) error
	// fraction is this host's jitter, from 0 to 1: where in the time that all hosts need its
	// calls are.
	fraction float64
	random   *rand.Rand

	session *session // nil before the first, or if it is of no use any more
	self    *identity

	host  netip.Addr // what this host's routes lead to
	own   map[state.Key]*ownRoute
	peers map[state.Key]time.Time // routes of others: since when each is missing, or zero
	since time.Time               // when something was wanted that was not before

	looks   int
	looked  bool         // since then
	anew    bool         // the next look includes who this host is
	due     time.Time    // of the next look
	backoff once.Backoff // after looks that failed
	why     error        // the last look did not show all; nil if it did
	reports notice.Log   // decides what of that is logged
	first   time.Time    // when the first look showed who has to write; zero before

	// tables are as the last look has shown them, by the name in objects.
	tables map[string]*table
	lacks  map[string]error // why the last look did not show a table, by its name
	full   map[string]*full // tables in which there was no room, by their names
	// passes is whether the network interface passes packets of others; nil if
	// that is not known.
	passes  *bool
	hidden  bool                // EC2 refuses to say that
	written map[state.Key]write // lately, by this process
}

var (
	_ dataplane.Dataplane = (*Dataplane)(nil)
	_ dataplane.Polled    = (*Dataplane)(nil)
)

// New returns a Dataplane for the instance that this process runs on. The options are
// for the SDK, after those of its environment and files.
func New(options ...func(*config.LoadOptions) error) *Dataplane {
	random := rand.New(rand.NewPCG(rand.Uint64(), rand.Uint64()))
	return &Dataplane{
		options:  options,
		fraction: random.Float64(), random: random,
		own:     make(map[state.Key]*ownRoute),
		peers:   make(map[state.Key]time.Time),
		tables:  make(map[string]*table),
		full:    make(map[string]*full),
		written: make(map[state.Key]write),
		backoff: once.Backoff{First: pauseFirst, Most: period},
	}
}

// Dump implements dataplane.Dataplane. It does not fail: what cannot be seen is not there,
// and so is not taken away, and the steps that would make it report why.
func (t *Dataplane) Dump(ctx context.Context, want state.Set) (state.Observed, error) {
	t.expect(want)
	if t.host.IsValid() && !time.Now().Before(t.due) {
		t.look(ctx)
	}
	return t.have(), ctx.Err()
}

// Due implements dataplane.Polled.
func (t *Dataplane) Due() time.Time {
	if !t.host.IsValid() {
		return time.Time{} // nothing is wanted
	}
	return t.due
}

// Watch implements dataplane.Dataplane: EC2 reports nothing.
func (t *Dataplane) Watch(ctx context.Context, ready func(), _ func(dataplane.Event)) error {
	ready()
	<-ctx.Done()
	return ctx.Err()
}

// expect takes all that is wanted.
func (t *Dataplane) expect(want state.Set) {
	tables := t.names()
	host, own, peers := netip.Addr{}, make(map[state.Key]*ownRoute), make(map[state.Key]time.Time, len(t.peers))
	for k, o := range want {
		switch o := o.(type) {
		case state.CloudInterface:
			host = o.Host
		case state.CloudRoute:
			if !o.Host.IsValid() {
				peers[k] = t.peers[k]
				continue
			}
			if own[k] = t.own[k]; own[k] == nil {
				own[k] = new(ownRoute)
			}
		}
	}
	changed := host != t.host
	if changed {
		t.host, t.passes = host, nil
		clear(t.full)
		for k := range own {
			own[k] = new(ownRoute)
		}
	}
	t.own, t.peers = own, peers
	now := t.names()
	for name := range t.tables {
		if !now[name] {
			delete(t.tables, name)
			delete(t.full, name)
		}
	}
	for name := range now {
		changed = changed || !tables[name]
	}
	if changed && host.IsValid() {
		t.since, t.first, t.looked = time.Now(), time.Time{}, false
		t.due = t.since.Add(t.jitter(drainTime(t.reads()-readBurst, readRate)))
	}
}

// names are those of the tables that this host's routes are wanted in.
func (t *Dataplane) names() map[string]bool {
	names := make(map[string]bool)
	for k := range t.own {
		names[k.Scope] = true
	}
	return names
}

// lookIn has the next look after d, if it is not earlier.
func (t *Dataplane) lookIn(d time.Duration) {
	if at := time.Now().Add(d); at.Before(t.due) {
		t.due = at
	}
}

// have is what the last look has shown.
func (t *Dataplane) have() state.Observed {
	have := make(state.Observed)
	if t.mayPass() {
		i := state.CloudInterface{Host: t.host}
		have[i.Key()] = state.Entry{Object: i, Owner: state.Ours}
	}
	for name, tab := range t.tables {
		for dst, r := range tab.routes {
			k := state.CloudRoute{Table: name, Dst: dst}.Key()
			if _, peer := t.peers[k]; peer {
				continue
			}
			if e := t.entry(k, r); e.Owner == state.Ours || t.own[k] != nil {
				have[k] = e
			}
		}
	}
	for k := range t.peers {
		if !t.absent(k) {
			have[k] = state.Entry{Object: state.CloudRoute{Table: k.Scope, Dst: k.Prefix}, Owner: state.Ours}
		}
	}
	return have
}

// absent reports whether the route of another host has been missing, or has led nowhere or
// here, for too long. While nobody can look it may come.
func (t *Dataplane) absent(k state.Key) bool {
	tab := t.tables[k.Scope]
	if tab == nil {
		t.peers[k] = time.Time{}
		return false
	}
	if r, there := tab.routes[k.Prefix]; there && !r.blackhole && !r.leadsTo(t.nic()) {
		t.peers[k] = time.Time{}
		return false
	}
	if t.peers[k].IsZero() {
		t.peers[k] = tab.seen
	}
	return tab.seen.Sub(t.peers[k]) >= absentFor
}

// mayPass reports whether the network interface passes packets of others. It will if
// this host has all its routes, as long as nobody could look: what can't be seen is set.
func (t *Dataplane) mayPass() bool {
	if t.passes != nil || t.hidden {
		return t.passes != nil && *t.passes
	}
	for _, r := range t.own {
		if !r.settled {
			return false
		}
	}
	return len(t.own) > 0
}

// nic is the ID of the network interface with this host's address; empty if there is
// none.
func (t *Dataplane) nic() string {
	if t.self == nil {
		return ""
	}
	return t.self.interfaces[t.host].id
}

// leadsTo reports whether packets that follow the route come to a network interface.
func (r route) leadsTo(nic string) bool { return nic != "" && r.nic == nic }

// entry is a route as an object. What this host wants at its place, and what leads
// here, is ours, and so is in the end what leads nowhere; the rest is of others.
func (t *Dataplane) entry(k state.Key, r route) state.Entry {
	e := state.Entry{Object: unmanagedRoute{k, r}}
	here := r.leadsTo(t.nic())
	if here {
		e.Object = state.CloudRoute{Table: k.Scope, Dst: k.Prefix, Host: t.host}
	}
	if r.fixed {
		e.Text = e.Object.String()
	} else if here || t.own[k] != nil || t.tables[k.Scope].hasExpired(k.Prefix) {
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
