package subnet

import "time"

const (
	// sleepCheck is how often to look whether the host was suspended.
	sleepCheck = time.Minute
	// sleepLeast is the shortest time of suspension that matters to a lease.
	sleepLeast = 5 * time.Second
)

// decide takes what happened, and returns what is known from then on, what to do next,
// and what to pass on before that. It does nothing itself: it reads no clock, and all
// chance is drawn from the state.
func decide(s state, e event, now moment) (state, action, []report) {
	t := &turn{state: s, now: now}
	switch e := e.(type) {
	case started:
		t.asleep, t.looksNext = sleepClock{now}, now.at.Add(sleepCheck)
		t.begin()
	case answer:
		doing := t.doing
		t.doing = nil
		if err := doing.finish(t, e); err != nil {
			t.fail(err)
		}
	case newSnapshot:
		if t.mode == online {
			t.hear(e.Snapshot)
		} else if t.retrying && e.Own != t.listed.Own {
			t.todo = []goal{acquire{}, settle{}} // what was missing may be there
		}
	case newConfig:
		t.stored.StoredConfig = &e.StoredConfig
		t.todo = []goal{reconfigure{}, reconsidered{}}
	case refreshAsked:
		t.reconsider()
	case timeUp:
		t.wake()
	}
	for len(t.todo) > 0 {
		next := t.todo[0]
		t.todo = t.todo[1:]
		a, err := next.start(t)
		switch {
		case err != nil:
			t.fail(err)
		case a != nil:
			t.doing = next.(request)
			return t.state, a, t.reports
		}
	}
	return t.state, listen{t.quiet()}, t.reports
}

// hear takes a snapshot of the watch.
func (t *turn) hear(s Snapshot) {
	t.refused = s.Refused
	if c := s.Config; c != nil && (t.stored.StoredConfig == nil || *t.stored.StoredConfig != *c) {
		t.stored.StoredConfig = c
		// That of a store which lost everything is logged with the lease.
		t.stored.wiped = c.Missing && s.Find(t.holding.Own.Subnet) == nil
		t.first(reconfigure{})
	}
	if a := s.Own; a != nil && a.asksElse(t.asked) {
		t.follow(s)
		if t.outdated = true; !t.retrying {
			t.last(askAgain{})
		}
	}
	t.last(judge{s})
}

// judge takes the leases of a snapshot.
type judge struct{ Snapshot }

func (g judge) start(t *turn) (action, error) {
	// From before our last write, or of a new store in the place of the old one.
	stale := g.Revision < t.holding.Own.Revision
	retrying := t.retrying && (stale || !t.renewedIn(g.Snapshot))
	if !stale && (retrying || t.misstated()) {
		t.follow(g.Snapshot)
	}
	switch {
	case retrying:
		// However often others change theirs, ours is dealt with when the retry is due.
		t.publish()
	case t.misstated():
		t.first(renew{}, settle{})
	case stale:
		t.first(listLeases{callTimeout}, check{}, settle{})
	default:
		t.listed = g.Snapshot
		t.first(check{}, settle{})
	}
	return nil, nil
}

// reconsider asks anew what our lease must say, also under a configuration that could
// not be followed: what was wrong may have been this host.
func (t *turn) reconsider() {
	t.outdated = true
	if t.stored.StoredConfig != nil && (t.holding.Unfollowed != "" || t.stored.unfinished) {
		t.last(reconfigure{})
	}
	if t.mode == online && !t.retrying { // else each attempt to get a lease asks
		t.last(askAgain{})
	}
	t.last(reconsidered{})
}

type reconsidered struct{}

func (reconsidered) start(t *turn) (action, error) {
	if t.mode == online && (t.retrying || t.misstated()) {
		t.first(renew{}, settle{})
	} else {
		t.publish()
	}
	return nil, nil
}

// wake does what is due.
func (t *turn) wake() {
	isDue := func(at *time.Time) bool {
		if at.IsZero() || t.now.at.Before(*at) {
			return false
		}
		*at = time.Time{}
		return true
	}
	switch {
	case isDue(&t.due):
		t.todo = []goal{renew{}, settle{}}
		if t.mode != online {
			t.todo[0] = acquire{}
		}
	case isDue(&t.again):
		t.reconsider()
	case isDue(&t.looksNext):
		t.looksNext = t.now.at.Add(sleepCheck)
		if t.mode != online {
			return
		}
		if slept := t.asleep.slept(t.now); slept >= sleepLeast {
			t.resume(slept)
		} else if t.refused != nil {
			t.notify(storeFailed{t.refused}) // nothing else asks whether it lasts
		}
	}
}

// resume learns all anew after the host was suspended: our lease may have expired
// and be another's, and what the watch says of its end may be from before.
// So it is written, too, unless that was just done.
func (t *turn) resume(slept time.Duration) {
	t.logf(warning, "this host was suspended for %s; looking after our lease %s", slept.Round(time.Second), t.holding.Own.Subnet)
	if !t.holding.Own.Reserved() {
		own := *t.holding.Own
		own.Expires = own.Expires.Add(-slept)
		t.holding.Own = &own
	}
	t.asleep = sleepClock{t.now}
	t.todo = []goal{listLeases{callTimeout}, check{}, renewUnwritten{}, settle{}}
}

// quiet returns how long nothing is due.
func (t *turn) quiet() time.Duration {
	first := t.looksNext
	for _, at := range []time.Time{t.due, t.again} {
		if !at.IsZero() && at.Before(first) {
			first = at
		}
	}
	return max(0, first.Sub(t.now.at))
}
