package ec2

import (
	"context"
	"errors"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
	"k8s.io/klog/v2"

	"flanneld/pkg/ip"
)

const (
	// period is the least time between two looks where nothing happens, and
	// spread how much longer it is at most: hosts that were started together do
	// not look together for long.
	period = time.Minute
	spread = 15 * time.Second
	// again is how soon a look follows a change, and settled how long EC2 may
	// show what was before it.
	again   = 2 * time.Second
	settled = 30 * time.Second
	// pauseFirst is the first pause after looks that failed.
	pauseFirst = time.Second
	// Every so many looks include what does not change without a reason: who this
	// host is, which table its packets go by, and whether its interface passes
	// those of others.
	recheck = 10
)

// write is what this process made of a route: nil is a route that was deleted.
type write struct {
	route *route
	until time.Time // when EC2 shows it, at the latest
}

const aboutVPC = "VPC"

// look asks EC2 how things are. What can't be seen stays as it was seen last.
func (t *Dataplane) look(ctx context.Context) {
	err := t.tryLook(ctx)
	if ctx.Err() != nil {
		return
	}
	now := time.Now()
	switch {
	case err != nil:
		if text := strings.ReplaceAll(err.Error(), "\n", "; "); t.reports.State(aboutVPC, text) {
			klog.Warningf("looking at the VPC: %s; trying again", text)
		}
		pause := t.backoff.Next(t.random)
		if pause > period/2 {
			pause = period + rand.N(spread)
		}
		t.due = now.Add(pause)
		if isThrottled(err) { // so were others, at most all of them
			t.due = t.due.Add(rand.N(1 + min(8*pause, drainTime(t.reads(), readRate))))
		}
	default:
		if t.reports.Over(aboutVPC) {
			klog.Info("looking at the VPC succeeds again")
		}
		t.backoff.Reset()
		t.due = now.Add(period + rand.N(spread))
		if t.looks == 1 {
			t.due = now.Add(spread + rand.N(period)) // others may have begun at the same time
		}
	}
	if t.anew && !isThrottled(err) {
		t.due = now.Add(again)
	}
	t.why, t.looked = err, true
}

func (t *Dataplane) tryLook(ctx context.Context) error {
	anew := t.session == nil || t.anew || t.looks%recheck == 0
	t.anew = false
	t.looks++
	if anew || t.self.lacks(t.hosts.V4) != nil || t.self.lacks(t.hosts.V6) != nil {
		if err := t.meet(ctx); err != nil && t.session == nil {
			return err
		}
	}
	var lacking []error // of one family, they are left to what needs the address
	subnets := make(map[string]nic)
	for _, f := range t.families() {
		if err := t.self.lacks(t.hosts.Of(f)); err != nil {
			lacking = append(lacking, err)
			continue
		}
		subnets[t.nic(f).subnet] = t.nic(f)
	}
	if len(subnets) == 0 {
		t.session = nil // it may be a new one
		return errors.Join(lacking...)
	}
	var found map[string]*table
	var calls errgroup.Group // READY waits for the answers of all
	calls.Go(func() error {
		names := slices.DeleteFunc(slices.Sorted(maps.Keys(t.names())), func(name string) bool { return name == "" })
		found, t.lacks = t.session.tables(ctx, names, subnets, anew)
		return nil
	})
	type check struct {
		addr   netip.Addr
		passes bool
		err    error
	}
	var checks []*check
	for _, f := range t.families() {
		addr := t.hosts.Of(f)
		n, there := t.self.interfaces[addr]
		passes, wanted := t.passes[addr]
		// With many hosts, this waits until there is something to write, or the next look.
		due := anew && t.looks > 1 || passes == nil && (2*t.reads() <= readBurst || t.looks > 1)
		if !there || !wanted || !due || isThrottled(t.why) { // one call is enough to see whether that has changed
			continue
		}
		c := &check{addr: addr}
		checks = append(checks, c)
		calls.Go(func() error {
			c.passes, c.err = t.session.passes(ctx, n.id)
			return nil
		})
	}
	_ = calls.Wait()
	for name, tab := range found {
		t.saw(name, tab)
	}
	errs := []error{joined(t.lacks)}
	for _, c := range checks {
		t.sawPass(c.addr, c.passes, c.err)
		errs = append(errs, c.err)
	}
	t.anew = !anew && t.isReplaced()
	return errors.Join(errs...)
}

// families are those in which this host has routes, IPv4 first.
func (t *Dataplane) families() []ip.Family {
	return slices.DeleteFunc(slices.Clone(ip.Families[:]), func(f ip.Family) bool { return !t.hosts.Of(f).IsValid() })
}

// joined is all of some errors in one, each once.
func joined(byName map[string]error) error {
	var errs []error
	for _, name := range slices.Sorted(maps.Keys(byName)) {
		if err := byName[name]; !slices.Contains(errs, err) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// meet finds out who this host is.
func (t *Dataplane) meet(ctx context.Context) error {
	ctx, stop := context.WithTimeout(ctx, period)
	defer stop()
	s, self, err := connect(ctx, t.options)
	if err != nil {
		return err
	}
	was := t.self
	if was == nil || was.instance != self.instance {
		klog.Infof("this is the instance %s in %s", self.instance, self.region)
	}
	if t.session == nil || was.region != self.region {
		t.session = s
	}
	for addr := range t.passes {
		if was != nil && was.interfaces[addr].id != self.interfaces[addr].id {
			t.passes[addr] = nil
		}
	}
	t.self = self
	return nil
}

// saw takes what a look shows of a table, unless it can't show yet what was written.
// It is nil if there is no such table.
func (t *Dataplane) saw(name string, tab *table) {
	if tab == nil {
		delete(t.tables, name)
		return
	}
	tab.seen = time.Now()
	for k, w := range t.written {
		switch {
		case t.name(k) != name:
		case time.Until(w.until) <= 0:
			delete(t.written, k)
		case w.route == nil:
			delete(tab.routes, k.Prefix)
		default:
			tab.routes[k.Prefix] = *w.route
		}
	}
	maps.DeleteFunc(t.full, func(r room, f *full) bool {
		return r.table == name && tab.size[r.family] < f.size // there is room again
	})
	for k, r := range t.own {
		if t.name(k) == name && tab.routes[k.Prefix].leadsTo(t.nic(familyOf(k))) {
			r.settled = true
		}
	}
	t.expire(name, tab)
	t.tables[name] = tab
}

// isReplaced reports whether a route to this host's network interface leads nowhere: then
// another one has its address by now.
func (t *Dataplane) isReplaced() bool {
	for k := range t.own {
		if tab := t.table(k); tab != nil && tab.routes[k.Prefix].blackhole && tab.routes[k.Prefix].leadsTo(t.nic(familyOf(k))) {
			return true
		}
	}
	return false
}

// sawPass takes the answer to whether the network interface with an address passes packets of
// others.
func (t *Dataplane) sawPass(addr netip.Addr, passes bool, err error) {
	switch {
	case err == nil:
		t.passes[addr] = &passes
	case codeOf(err) != "" && !isThrottled(err):
		t.hidden = true
	}
}
