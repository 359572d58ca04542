package ec2

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"time"

	"flanneld/pkg/state"
)

// EC2 counts the calls of an account in a region together. It documents, for actions
// that only read, 100 at once and 20 a second from then on; for others 50 and 5. All
// hosts share that, and others in the account may need some, so not all of it is used.
//
// Hosts that are started together do not talk to each other, but each knows from the
// leases how many they are, and sees in the table how many have still to write. So each
// draws a lot: its place in a row, which takes as long as EC2 needs to let all of them
// pass. There is one to look, for nobody can tell beforehand whether others begin at the
// same time; a hundred hosts are through in two seconds. And there is one to write. It
// is short where few have to, so neither a lone new host waits in it nor one that was
// only started again, for that finds its routes in place. Later on each host looks at a
// time of its own.
const (
	readRate   = 16 // calls a second
	writeRate  = 4
	readBurst  = 80 // calls at once
	writeBurst = 40

	// So many hosts may come to delete the same route at the same time.
	doomAtOnce = 10

	// A route that is lost again and again is put back that often without a pause;
	// after that, with pauses that double. It counts from the start again when
	// nothing was lost for some time.
	lossesEasy = 5
	lossPause  = time.Minute
	lossMost   = 30 * time.Minute
	lossCalm   = time.Hour
)

// row is how long it takes until so many calls have been made.
func row(calls int, rate float64) time.Duration {
	return time.Duration(max(0, float64(calls)/rate) * float64(time.Second))
}

// place is when this host's turn comes in a row.
func (t *Dataplane) place(row time.Duration) time.Duration {
	return time.Duration(t.lot * float64(row))
}

// hosts is how many hosts there are. The caller holds t.mu.
func (t *Dataplane) hosts() int { return 1 + len(t.peers)/max(1, len(t.names())) }

// reads is how many calls the first looks of all hosts take. The caller holds t.mu.
func (t *Dataplane) reads() int {
	if slices.Contains(t.names(), "") {
		return 2 * t.hosts() // it is to be found, too
	}
	return t.hosts()
}

// crowded reports whether refused calls have to wait for longer than the SDK has them
// wait.
func (t *Dataplane) crowded() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return row(t.reads(), readRate) > mostBackoff
}

// lookTurn is when this host may look for the first time. The caller holds t.mu.
func (t *Dataplane) lookTurn() time.Time {
	return t.since.Add(t.place(row(t.reads()-readBurst, readRate)))
}

// queue is the row of the hosts that have to write their routes for the first time.
type queue struct {
	joined time.Time // when this host saw who is in it; zero before
	turn   time.Time // when this host is to be woken; zero if not
}

// errTurn is why a step is not taken yet.
var errTurn = pending{errors.New("there are many hosts, and EC2 lets few calls pass in a second: waiting for this one's turn")}

// inQueue reports whether others come before this host. The caller holds t.mu.
func (t *Dataplane) inQueue() bool {
	if t.unseen() && isThrottled(t.why) { // how many they are cannot be seen either
		return time.Since(t.since) < absentFor+row(t.reads(), readRate)
	}
	calls, most := 0, 0
	for k := range t.want {
		if t.kept[k] != nil || t.tables[k.Scope] == nil {
			continue
		}
		missing := 0
		for p := range t.peers {
			// Whose route leads nowhere has had its turn, and is gone now.
			if _, there := t.tables[k.Scope].routes[p.Prefix]; p.Scope == k.Scope && !there {
				missing++
			}
		}
		calls += missing
		most = max(most, missing)
	}
	if t.passes == nil || !*t.passes {
		calls += most // as for this host, so for the others
	}
	if calls == 0 {
		return false
	}
	// In it are the hosts that have written since it began, and those that are to write.
	if t.queue.joined.IsZero() {
		t.queue.joined = time.Now()
	}
	turn := t.since.Add(t.place(t.queue.joined.Sub(t.since) + row(calls-writeBurst, writeRate)))
	if time.Until(turn) <= 0 {
		return false
	}
	if turn != t.queue.turn {
		t.queue.turn = turn
		if after := turn.Add(again); t.due.Before(after) {
			t.due = after // there is nothing to be seen before
		}
		t.wake()
	}
	return true
}

// doom says when the routes of a table that lead nowhere, and that nobody is to keep,
// are ours to delete: at a time that each host draws for each of them, so that the first
// to do so is seen by the next, and all that have to go can within it. The caller holds
// t.mu.
func (t *Dataplane) doom(name string, tab, before *table) {
	tab.doomed = make(map[netip.Prefix]time.Time)
	for dst, r := range tab.routes {
		if _, live := t.peers[state.CloudPeerKey(name, dst)]; !live && r.blackhole && r.nic != "" {
			tab.doomed[dst] = time.Time{}
		}
	}
	within := row((t.hosts()-doomAtOnce)*max(len(tab.doomed), writeRate), writeRate)
	for dst := range tab.doomed {
		tab.doomed[dst] = tab.seen.Add(rand.N(1 + within))
		if before != nil && !before.doomed[dst].IsZero() {
			tab.doomed[dst] = before.doomed[dst]
		}
	}
}

// isDoomed reports whether the table was seen, with the route in it, when the route's
// time had come.
func (tab *table) isDoomed(dst netip.Prefix) bool {
	at, doomed := tab.doomed[dst]
	return doomed && !tab.seen.Before(at)
}

// keep is a wanted route that was right.
type keep struct {
	losses int
	last   time.Time // when it was put back
}

// contested returns why a route is not put back now; nil if it may be. Others undo it
// as soon as it is done, and the API is for all hosts. The caller holds t.mu.
func (k *keep) contested(is string) error {
	if k == nil || k.losses < lossesEasy {
		return nil
	}
	pause := min(lossPause<<min(k.losses-lossesEasy, 10), lossMost)
	if since := time.Since(k.last); since >= pause {
		return nil
	}
	by := "deleted by others"
	if is != "" {
		by = "led to " + is + " by others"
	}
	return fmt.Errorf("it was put back at least %d times and is %s again; does another host keep this subnet? The pauses get longer, up to %s", lossesEasy, by, lossMost)
}

// regained counts a route that is right, after it was lost. The caller holds t.mu.
func (t *Dataplane) regained(k state.Key) {
	is := t.kept[k]
	if is == nil {
		t.kept[k] = new(keep)
		return
	}
	now := time.Now()
	if now.Sub(is.last) > lossCalm {
		is.losses = 0
	}
	is.losses++
	is.last = now
}

// The pauses before a step that EC2 refused is tried again: until then the answer is
// taken to be the same.
const (
	holdFirst = 2 * time.Second
	holdMost  = time.Minute
	// holdFull is for a table that is full: only people make room.
	holdFull = 5 * time.Minute
)

// step tells apart which answers there are: to make a route, and to delete it. Without a
// destination it is about all routes of a table.
type step struct {
	state.Key
	remove bool
}

func holdKey(op state.Op) step { return step{op.Key(), op.Verb == state.Delete} }

func (s step) all() step {
	s.Prefix = netip.Prefix{}
	return s
}

// lastHold is the last answer to a step, or to one that stood for it; nil if it did not
// fail. The caller holds t.mu.
func (t *Dataplane) lastHold(op state.Op) *hold {
	k := holdKey(op)
	one, all := t.holds[k], t.holds[k.all()]
	if one == nil || all != nil && all.until.After(one.until) {
		return all
	}
	return one
}

// held returns the answer that a step has for now; nil if it is to be taken. The caller
// holds t.mu.
func (t *Dataplane) held(op state.Op) *hold {
	if h := t.lastHold(op); h != nil && time.Now().Before(h.until) {
		return h
	}
	return nil
}

// hold is the last answer to a step that failed.
type hold struct {
	err   error
	until time.Time
	pause time.Duration
	size  int // of the table when it was full; 0 if that is not why
}

// note remembers the answer to a step. The caller holds t.mu.
func (t *Dataplane) note(op state.Op, err error) {
	k := holdKey(op)
	if k.remove && (isThrottled(err) || codeOf(err) == denied) {
		k = k.all() // so would the others be, and no traffic waits for them
	}
	before := t.holds[k]
	delete(t.holds, k)
	if err == nil {
		delete(t.holds, k.all())
	}
	r := (*refusal)(nil)
	if !errors.As(err, &r) {
		return // EC2 was not asked
	}
	h := &hold{err: err, pause: holdFirst}
	if before != nil {
		// What all hosts may not do, all hosts try.
		h.pause = min(2*before.pause, max(holdMost, row(t.hosts()*len(t.names()), writeRate)))
	}
	if f := (*full)(nil); errors.As(err, &f) {
		h.pause, h.size = holdFull, f.size
	}
	pause := jitter(h.pause)
	if isThrottled(err) { // so were others, at most all of them
		pause += rand.N(1 + min(8*h.pause, row(t.hosts()*(1+len(t.names())), writeRate)))
	}
	h.until = time.Now().Add(pause)
	t.holds[k] = h
}

// jitter is a time between three quarters of d and d.
func jitter(d time.Duration) time.Duration { return d - rand.N(d/4+1) }
