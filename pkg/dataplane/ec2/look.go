package ec2

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"k8s.io/klog/v2"
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
	t.mu.Lock()
	first := t.first
	t.mu.Unlock()
	err := t.tryLook(ctx)
	if ctx.Err() != nil {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	now := time.Now()
	switch {
	case err != nil:
		if text := strings.ReplaceAll(err.Error(), "\n", "; "); t.said.State(aboutVPC, text) {
			klog.Warningf("looking at the VPC: %s; trying again", text)
		}
		t.pause = min(max(2*t.pause, pauseFirst), period)
		t.due = now.Add(jitter(t.pause))
		if t.pause == period {
			t.due = now.Add(period + rand.N(spread))
		}
		if isThrottled(err) { // so were others, at most all of them
			t.due = t.due.Add(rand.N(1 + min(8*t.pause, row(t.reads(), readRate))))
		}
	default:
		if t.said.Over(aboutVPC) {
			klog.Info("looking at the VPC succeeds again")
		}
		t.pause = 0
		t.due = now.Add(period + rand.N(spread))
		if t.looks == 1 {
			t.due = now.Add(spread + rand.N(period)) // others may have begun at the same time
		}
	}
	if t.anew && !isThrottled(err) {
		t.due = now.Add(again)
	}
	t.why = err
	if first != nil {
		close(first.seen)
	}
	if t.first == first {
		t.first = nil
	} else {
		t.due = now // what is wanted changed meanwhile
	}
}

func (t *Dataplane) tryLook(ctx context.Context) error {
	t.mu.Lock()
	anew := t.session == nil || t.anew || t.looks%recheck == 0
	t.anew = false
	t.mu.Unlock()
	t.looks++
	if anew {
		if err := t.meet(ctx); err != nil && t.session == nil {
			return err
		}
	}
	t.mu.Lock()
	self, host, names := t.self, t.host, t.names()
	// With many hosts, this waits until there is something to write, or the next look.
	check := anew && t.looks > 1 || t.passes == nil && (2*t.reads() <= readBurst || t.looks > 1)
	t.mu.Unlock()
	n, ok := self.interfaces[host]
	if !ok {
		t.session = nil // it may be a new one
		return fmt.Errorf("none of the network interfaces of %s has the address %s", self.instance, host)
	}
	found, errs := t.session.tables(ctx, names, n, anew)
	for name, tab := range found {
		t.saw(name, tab)
	}
	t.mu.Lock()
	t.lacks = errs
	t.anew = !anew && t.isReplaced()
	t.mu.Unlock()
	err := joined(errs)
	if !check || isThrottled(err) {
		return err
	}
	_, checkErr := t.checkPasses(ctx, n.id)
	return errors.Join(err, checkErr)
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
	s, self, err := connect(ctx, t.options, t.crowded)
	if err != nil {
		return err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	was := t.self
	if was == nil || was.instance != self.instance {
		klog.Infof("this is the instance %s in %s", self.instance, self.region)
	}
	if t.session == nil || was.region != self.region {
		t.session = s
	}
	if was != nil && was.interfaces[t.host].id != self.interfaces[t.host].id {
		t.passes = nil
	}
	t.self = self
	return nil
}

// saw takes what a look shows of a table, unless it can't show yet what was written.
// It is nil if there is no such table.
func (t *Dataplane) saw(name string, tab *table) {
	t.mu.Lock()
	defer t.mu.Unlock()
	before := t.tables[name]
	if tab == nil {
		delete(t.tables, name)
		return
	}
	tab.seen = time.Now()
	for k, w := range t.written {
		switch {
		case k.Scope != name:
		case time.Until(w.until) <= 0:
			delete(t.written, k)
		case w.route == nil:
			delete(tab.routes, k.Prefix)
		default:
			tab.routes[k.Prefix] = *w.route
		}
	}
	for k, h := range t.holds {
		if k.Scope == name && h.size > tab.size {
			delete(t.holds, k) // there is room again
		}
	}
	for k := range t.want {
		if k.Scope == name && t.kept[k] == nil && tab.routes[k.Prefix].leadsTo(t.nic()) {
			t.kept[k] = new(keep)
		}
	}
	t.doom(name, tab, before)
	t.tables[name] = tab
}

// isReplaced reports whether a route to this host's network interface leads nowhere: then
// another one has its address by now. The caller holds t.mu.
func (t *Dataplane) isReplaced() bool {
	for k := range t.want {
		if tab := t.tables[k.Scope]; tab != nil && tab.routes[k.Prefix].blackhole && tab.routes[k.Prefix].leadsTo(t.nic()) {
			return true
		}
	}
	return false
}

// checkPasses finds out whether a network interface passes packets of others.
func (t *Dataplane) checkPasses(ctx context.Context, id string) (bool, error) {
	passes, err := t.session.passes(ctx, id)
	switch {
	case err == nil:
		t.sawPass(id, passes)
	case codeOf(err) != "" && !isThrottled(err):
		t.mu.Lock()
		t.hidden = true
		t.mu.Unlock()
	}
	return passes, err
}

// sawPass takes whether a network interface passes packets of others, if it is still
// the one of this host.
func (t *Dataplane) sawPass(id string, passes bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if id == t.nic() {
		t.passes = &passes
	}
}
