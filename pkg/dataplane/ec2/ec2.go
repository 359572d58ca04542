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
	"maps"
	"math/rand/v2"
	"net/netip"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/config"

	"flanneld/pkg/dataplane"
	"flanneld/pkg/ip"
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

	hosts ip.Addrs // what this host's routes of each family lead to
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

	// tables are as the last look has shown them, by name.
	tables map[string]*table
	lacks  map[string]error // why the last look did not show a table, by its name
	full   map[room]*full   // where there was none
	// passes is whether the network interfaces with these addresses pass packets of others;
	// nil where that is not known.
	passes  map[netip.Addr]*bool
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
		full:    make(map[room]*full),
		passes:  make(map[netip.Addr]*bool),
		written: make(map[state.Key]write),
		backoff: once.Backoff{First: pauseFirst, Most: period},
	}
}

// Dump implements dataplane.Dataplane. It does not fail: what cannot be seen is not there,
// and so is not taken away, and the steps that would make it report why.
func (t *Dataplane) Dump(ctx context.Context, want state.Set) (state.Observed, error) {
	t.expect(want)
	if t.isWanted() && !time.Now().Before(t.due) {
		t.look(ctx)
	}
	return t.have(), ctx.Err()
}

// Due implements dataplane.Polled.
func (t *Dataplane) Due() time.Time {
	if !t.isWanted() {
		return time.Time{}
	}
	return t.due
}

// isWanted reports whether anything is.
func (t *Dataplane) isWanted() bool { return t.hosts != ip.Addrs{} }

// Watch implements dataplane.Dataplane: EC2 reports nothing.
func (t *Dataplane) Watch(ctx context.Context, ready func(), _ func(dataplane.Event)) error {
	ready()
	<-ctx.Done()
	return ctx.Err()
}

// expect takes all that is wanted. What is new in one family is no matter to the other, but
// that both are looked at.
func (t *Dataplane) expect(want state.Set) {
	var hosts ip.Addrs
	before, own, peers, passes := t.names(), make(map[state.Key]*ownRoute), make(map[state.Key]time.Time, len(t.peers)), make(map[netip.Addr]*bool)
	for k, o := range want {
		switch o := o.(type) {
		case state.CloudInterface:
			hosts = hosts.With(ip.FamilyOf(o.Host), o.Host)
			passes[o.Host] = t.passes[o.Host]
		case state.CloudRoute:
			if !o.Host.IsValid() {
				peers[k] = t.peers[k]
				continue
			}
			hosts = hosts.With(ip.FamilyOf(o.Host), o.Host)
			if own[k] = t.own[k]; own[k] == nil {
				own[k] = new(ownRoute)
			}
		}
	}
	changed := false
	for _, f := range ip.Families {
		if hosts.Of(f) == t.hosts.Of(f) {
			continue
		}
		changed = changed || hosts.Of(f).IsValid()
		maps.DeleteFunc(t.full, func(r room, _ *full) bool { return r.family == f })
		for k := range own {
			if familyOf(k) == f {
				own[k] = new(ownRoute)
			}
		}
	}
	t.hosts, t.own, t.peers, t.passes = hosts, own, peers, passes
	now := t.names()
	for name := range t.tables {
		if !now[name] {
			delete(t.tables, name)
			maps.DeleteFunc(t.full, func(r room, _ *full) bool { return r.table == name })
		}
	}
	for name := range now {
		changed = changed || !before[name]
	}
	if changed {
		t.since, t.first, t.looked = time.Now(), time.Time{}, false
		t.due = t.since.Add(t.jitter(drainTime(t.reads()-readBurst, readRate)))
	}
}

func familyOf(k state.Key) ip.Family { return ip.FamilyOf(k.Prefix.Addr()) }

// host is the address that this host's routes of a family lead to: that of the other one, if
// there are to be none.
func (t *Dataplane) host(f ip.Family) netip.Addr {
	if a := t.hosts.Of(f); a.IsValid() {
		return a
	}
	return t.hosts.Of(f.Other())
}

// nic is the network interface with this host's address of a family; zero if there is none.
func (t *Dataplane) nic(f ip.Family) nic {
	if t.self == nil {
		return nic{}
	}
	return t.self.interfaces[t.host(f)]
}

// name is what the table of a route is called here: by its ID or, if it is the one that the
// host's own packets of the family go by, by their subnet, as soon as that is known.
func (t *Dataplane) name(k state.Key) string {
	if k.Scope != "" {
		return k.Scope
	}
	return t.nic(familyOf(k)).subnet
}

// isOwn reports whether a name is none of an ID.
func isOwn(name string) bool { return !strings.HasPrefix(name, "rtb-") }

// table is that of a route, as it was seen; nil if it was not.
func (t *Dataplane) table(k state.Key) *table { return t.tables[t.name(k)] }

// key is that of a route in the table of a name, and whether routes of its family could be
// wanted there.
func (t *Dataplane) key(name string, dst netip.Prefix) (k state.Key, ok bool) {
	r := state.CloudRoute{Dst: dst}
	if !isOwn(name) {
		r.Table = name
	}
	k = r.Key()
	return k, t.name(k) == name
}

// names are those of the tables that this host's routes are wanted in.
func (t *Dataplane) names() map[string]bool {
	names := make(map[string]bool)
	for k := range t.own {
		names[t.name(k)] = true
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
	for addr := range t.passes {
		if t.mayPass(addr) {
			i := state.CloudInterface{Host: addr}
			have[i.Key()] = state.Entry{Object: i, Owner: state.Ours}
		}
	}
	for name, tab := range t.tables {
		for dst, r := range tab.routes {
			k, ok := t.key(name, dst)
			if _, peer := t.peers[k]; peer || !ok {
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
	tab := t.table(k)
	if tab == nil {
		t.peers[k] = time.Time{}
		return false
	}
	if r, there := tab.routes[k.Prefix]; there && !r.blackhole && !r.leadsTo(t.nic(familyOf(k))) {
		t.peers[k] = time.Time{}
		return false
	}
	if t.peers[k].IsZero() {
		t.peers[k] = tab.seen
	}
	return tab.seen.Sub(t.peers[k]) >= absentFor
}

// mayPass reports whether the network interface with an address passes packets of others. It
// will if this host has all its routes to it, as long as nobody could look: what can't be seen is
// set.
func (t *Dataplane) mayPass(addr netip.Addr) bool {
	if passes := t.passes[addr]; passes != nil || t.hidden {
		return passes != nil && *passes
	}
	routes := 0
	for k, r := range t.own {
		if familyOf(k) == ip.FamilyOf(addr) {
			if !r.settled {
				return false
			}
			routes++
		}
	}
	return routes > 0
}

// leadsTo reports whether packets that follow the route come to a network interface.
func (r route) leadsTo(n nic) bool { return n.id != "" && r.nic == n.id }

// entry is a route as an object. What this host wants at its place, and what leads
// here, is ours, and so is in the end what leads nowhere; the rest is of others.
func (t *Dataplane) entry(k state.Key, r route) state.Entry {
	e := state.Entry{Object: unmanagedRoute{k, r}}
	here := r.leadsTo(t.nic(familyOf(k)))
	if here {
		e.Object = state.CloudRoute{Table: k.Scope, Dst: k.Prefix, Host: t.host(familyOf(k))}
	}
	if r.fixed {
		e.Text = e.Object.String()
	} else if here || t.own[k] != nil || t.table(k).hasExpired(k.Prefix) {
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
