package ec2

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"time"

	"flanneld/pkg/dataplane"
	"flanneld/pkg/ip"
)

// EC2 counts the calls of an account in a region together. It documents, for actions
// that only read, 100 at once and 20 a second from then on; for others 50 and 5. All
// hosts share that, and others in the account may need some, so not all of it is used.
//
// Hosts that are started together do not talk to each other, but each knows from the
// leases how many they are, and sees in the table how many have still to write. So each
// puts off its first look, and its first writes, by full jitter: a random part of the time
// that EC2 needs to let the calls of all of them pass. That is nothing where few have to
// write, so neither a lone new host waits nor one that was only started again, for that
// finds its routes in place. Later on each host looks at a time of its own.
const (
	readRate   = 16 // calls a second
	writeRate  = 4
	readBurst  = 80 // calls at once
	writeBurst = 40

	// So many hosts may come to delete the same route at the same time.
	expireAtOnce = 10

	// A route that is lost again and again is put back that often without a pause;
	// after that, with pauses that double. It counts from the start again when
	// nothing was lost for some time.
	conflictAfter = 5
	conflictPause = time.Minute
	conflictMost  = 30 * time.Minute
	conflictCalm  = time.Hour
)

// drainTime is how long it takes until so many calls have been made.
func drainTime(calls int, rate float64) time.Duration {
	return time.Duration(max(0, float64(calls)/rate) * float64(time.Second))
}

// jitter is this host's part of a time.
func (t *Dataplane) jitter(d time.Duration) time.Duration {
	return time.Duration(t.fraction * float64(d))
}

// fleet is how many hosts there are: each has a route of one family or both in each table.
func (t *Dataplane) fleet() int {
	tables, peers := make(map[string]bool), make(map[ip.Family]int)
	for k := range t.own {
		tables[k.Scope] = true
	}
	for k := range t.peers {
		peers[familyOf(k)]++
	}
	return 1 + max(peers[ip.V4], peers[ip.V6])/max(1, len(tables))
}

// reads is how many calls the first looks of all hosts take.
func (t *Dataplane) reads() int {
	calls := 0
	for name := range t.names() {
		if isOwn(name) {
			calls += 2 // it is to be found, too
		}
	}
	return t.fleet() * max(1, calls)
}

var errCrowd = errors.New("there are many hosts, and EC2 lets few calls pass in a second: waiting for this one's turn")

// putOff returns the error of a step that this host must not take yet, for the sake of
// others; nil if it may.
func (t *Dataplane) putOff() error {
	later := func(d time.Duration) error {
		return dataplane.Later{Err: errCrowd, After: d, Pending: true}
	}
	switch {
	case !t.looked:
		return later(time.Until(t.due))
	case t.isRefused(): // how many hosts have to write cannot be seen either
		return later(0)
	}
	calls, most := 0, 0
	for k, own := range t.own {
		tab := t.table(k)
		if own.settled || tab == nil || t.nic(familyOf(k)).id == "" {
			continue
		}
		missing := 0
		for p := range t.peers {
			// Whose route leads nowhere was here before, and is gone now.
			if _, there := tab.routes[p.Prefix]; p.Scope == k.Scope && familyOf(p) == familyOf(k) && !there {
				missing++
			}
		}
		calls += missing
		most = max(most, missing)
	}
	for _, passes := range t.passes {
		if passes == nil || !*passes {
			calls += most // as for this host, so for the others
		}
	}
	if calls == 0 {
		return nil
	}
	if t.first.IsZero() {
		t.first = time.Now()
	}
	// Since it began, some hosts have written, and the rest is to write.
	wait := time.Until(t.since.Add(t.jitter(t.first.Sub(t.since) + drainTime(calls-writeBurst, writeRate))))
	if wait <= 0 {
		return nil
	}
	if after := time.Now().Add(wait + again); t.due.Before(after) {
		t.due = after // there is nothing to be seen before
	}
	return later(wait)
}

// isRefused reports whether looks have been refused as too many since something was wanted
// that was never seen, and not for so long that this host goes on without.
func (t *Dataplane) isRefused() bool {
	unseen := t.session == nil
	for name := range t.names() {
		unseen = unseen || t.tables[name] == nil
	}
	return unseen && isThrottled(t.why) && time.Since(t.since) < absentFor+drainTime(t.reads(), readRate)
}

// expire says when the routes of a table that lead nowhere, and that nobody is to keep,
// are ours to delete: at a time that each host draws for each of them, so that the first
// to do so is seen by the next, and all that have to go can within it.
func (t *Dataplane) expire(name string, tab *table) {
	tab.expireAt = make(map[netip.Prefix]time.Time)
	for dst, r := range tab.routes {
		k, ok := t.key(name, dst)
		if _, live := t.peers[k]; ok && !live && r.blackhole && r.nic != "" {
			tab.expireAt[dst] = time.Time{}
		}
	}
	within := drainTime((t.fleet()-expireAtOnce)*max(len(tab.expireAt), writeRate), writeRate)
	for dst := range tab.expireAt {
		tab.expireAt[dst] = tab.seen.Add(rand.N(1 + within))
		if before := t.tables[name]; before != nil && !before.expireAt[dst].IsZero() {
			tab.expireAt[dst] = before.expireAt[dst]
		}
	}
}

// hasExpired reports whether the table was seen, with the route in it, when the route's
// time had come.
func (tab *table) hasExpired(dst netip.Prefix) bool {
	at, dead := tab.expireAt[dst]
	return dead && !tab.seen.Before(at)
}

// ownRoute is a route that this host is to keep.
type ownRoute struct {
	settled bool      // it was right once
	losses  int       // since then
	last    time.Time // when it was put back
}

// conflict returns why a route is not put back now; nil if it may be. Others undo it
// as soon as it is done, and the API is for all hosts.
func (r *ownRoute) conflict(is string) error {
	if r.losses < conflictAfter {
		return nil
	}
	pause := min(conflictPause<<min(r.losses-conflictAfter, 10), conflictMost)
	left := pause - time.Since(r.last)
	if left <= 0 {
		return nil
	}
	by := "deleted by others"
	if is != "" {
		by = "led to " + is + " by others"
	}
	return dataplane.Later{After: left, Untried: true, Err: fmt.Errorf(
		"it was put back at least %d times and is %s again; does another host keep this subnet? The pauses get longer, up to %s", conflictAfter, by, conflictMost)}
}

// put counts that the route was put in place, or back.
func (r *ownRoute) put() {
	if !r.settled {
		r.settled = true
		return
	}
	now := time.Now()
	if now.Sub(r.last) > conflictCalm {
		r.losses = 0
	}
	r.losses++
	r.last = now
}

// spaced has what EC2 refused tried again at a time of this host's own, and by all hosts
// together no more often than it lets calls pass.
func (t *Dataplane) spaced(err error) error {
	if codeOf(err) == "" {
		return err
	}
	calls := len(t.own)
	if isThrottled(err) {
		calls++ // the other ones are tried again, too
	}
	all := drainTime(t.fleet()*calls, writeRate)
	return dataplane.Later{Err: err, After: all/2 + rand.N(1+all/2)}
}
