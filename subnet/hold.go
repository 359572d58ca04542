package subnet

import (
	"errors"
	"fmt"
	"time"

	"flanneld/pkg/printable"
)

const (
	// renewLeast is the shortest time between two renewals of a lease that
	// nobody else wrote. If a store says each time that it ends again at once,
	// its clock is wrong, and the time doubles up to restMost: were it right,
	// the key would be gone by then, and claimed again.
	renewLeast = time.Minute
	restMost   = time.Hour
)

// check puts our own lease right, as it is in the latest listing.
type check struct{}

func (check) start(t *turn) (action, error) {
	if t.assigned {
		return nil, t.checkAssigned()
	}
	s, own := t.listed, t.holding.Own
	t.follow(s)
	p, isProblem := s.problem(own.Subnet)
	switch {
	case t.holding.Holder != "":
		t.first(move{})
	case isProblem && !own.Reserved() && t.left() < 0:
		t.lose(unreadable)
	case isProblem:
		return nil, t.correct("", p.Revision, own.Reserved() && p.Expires.IsZero())
	default:
		return nil, t.compare(s.Find(own.Subnet))
	}
	return nil, nil
}

// compare puts our own lease right, as it was found, if it was.
func (t *turn) compare(found *Lease) error {
	own := t.holding.Own
	t.lookBack(found)
	if found == nil && !t.stored.moving.IsValid() && t.stored.StoredConfig != nil {
		t.stored.moving = t.movedLate(t.listed)
	}
	switch {
	case found == nil && t.movedIn(t.listed) != nil:
		if t.again.IsZero() { // else it is tried again in a moment
			t.first(reconfigure{})
		}
		return nil
	case found == nil && t.usurper(t.listed) != "":
		t.lose(t.usurper(t.listed))
		return nil
	case found == nil:
		t.first(reclaim{})
		return nil
	case t.holder(found) != "":
		t.lose(t.holder(found))
		return nil
	case t.rival(t.listed, found) != "":
		t.lose(t.rival(t.listed, found))
		return nil
	case found.Attrs == t.attrs:
	case found.Challenger == "":
		return t.correct(found.Machine, found.Revision, found.Reserved())
	default:
		has := "our machine ID"
		if !SameMachine(found.Challenger, t.attrs.Machine) {
			has = fmt.Sprintf("our public address %s", found.PublicIP)
		}
		t.logf(warningEvent, "the machine %s asks whether we are alive: it has %s, too", printable.Name(found.Challenger), has)
		return t.correct(found.Machine, found.Revision, found.Reserved())
	}
	switch {
	case found.Reserved() && !own.Reserved():
		t.logf(info, "our lease %s is now a reservation: it does not expire", own.Subnet)
	case own.Reserved() && !found.Reserved():
		t.logf(info, "our lease %s is no longer a reservation: it is renewed from now on", own.Subnet)
	case found.Revision != own.Revision && t.retry.Fresh():
		t.logf(warningEvent, "someone else wrote our lease %s, in our own words: if no person did, another host uses the public address %s, too", own.Subnet, own.PublicIP)
	}
	t.holding.Own, t.renewal.seen = found, t.listed.Revision
	return nil
}

const (
	unassigned = "%s; until there is one again, this host goes on with %s"
	reassigned = "the podCIDR of the Node %s is %s now, and was %s"
)

// checkAssigned puts our own lease right, as it is in the latest listing.
func (t *turn) checkAssigned() error {
	s, own, a := t.listed, t.holding.Own, t.listed.Own
	t.follow(s)
	l, host := s.Find(own.Subnet), printable.Name(a.Host)
	if a.Subnet.IsValid() {
		t.notify(ended{unassigned})
	}
	switch {
	case a.asksElse(t.asked): // this listing came before the watch had it
		t.first(askAgain{}, check{})
	case t.holder(l) != "" && t.holding.Holder == "":
		t.lose(t.holder(l))
	case t.holding.Holder != "":
		t.first(move{})
	case !a.Subnet.IsValid():
		t.logf(warningState, unassigned, a.Missing, own.Subnet)
	case t.given(t.holding.Config) != own.Subnet:
		t.logf(warningState, reassigned, host, a.Subnet, own.Subnet)
		t.first(move{})
	case t.outranked(s) != "":
		t.lose(t.outranked(s))
	case l != nil && l.Attrs == t.attrs:
		t.holding.Own, t.renewal.seen = l, s.Revision
	case t.misstated():
		t.first(restate{})
	case t.rests() > 0 && t.identity.rest <= correctSilent:
		return fmt.Errorf("%w: what the Node %s says of this host was changed a moment after it was written", ErrChanged, host)
	case t.rests() > 0:
		return waitingFor{fmt.Errorf("what the Node %s says of this host is changed again and again%s: another daemon works for it; if that is flannel's own, delete its DaemonSet, which kubectl get daemonsets --all-namespaces shows",
			host, a.now())}
	default:
		what := "what the Node %s says of this host was changed; writing it again"
		if l == nil {
			what = "the Node %s says nothing of this host any more; writing it again"
		}
		t.logf(warningEvent, what, host)
		t.identity.correct(t.now.at)
		t.first(restate{})
	}
	return nil
}

// What others change of what the store says of us is put right at once. It is left alone
// for a moment after that, and for ever longer while they go on, up to correctMost: two
// daemons that work for one host should not be what keeps the store busy. correctSilent is
// how long that is before anything is said of it: a person may make several changes.
const (
	correctFirst  = 500 * time.Millisecond
	correctSilent = time.Second
	correctMost   = 8 * time.Second
)

// correct notes that what others changed is put right.
func (i *identity) correct(now time.Time) {
	if peace := max(2*i.rest, retryMost); i.corrected.IsZero() || now.Sub(i.corrected) > peace {
		i.rest = 0
	}
	i.corrected, i.rest = now, min(max(2*i.rest, correctFirst), correctMost)
}

// rests returns for how much longer what others change is left alone.
func (t *turn) rests() time.Duration {
	if t.identity.corrected.IsZero() {
		return 0
	}
	return t.identity.rest - t.since(t.identity.corrected)
}

// restate publishes the lease that we hold.
type restate struct{}

func (restate) start(t *turn) (action, error) {
	own := t.holding.Own
	return updateLease{own.Subnet, own.Revision, t.attrs, 0}, nil
}

func (restate) finish(t *turn, a answer) error {
	if a.err != nil {
		return a.err
	}
	t.holding.Own = a.lease
	return nil
}

// lose takes a new subnet because someone else has ours.
func (t *turn) lose(holder string) {
	t.logf(severe, "our subnet %s now belongs to %s; taking another one", t.holding.Own.Subnet, holder)
	t.holding.Holder = holder
	t.follow(t.holding.Snapshot)
	t.first(move{})
}

// correct writes our lease again after someone else wrote something else there, as
// the machine.
func (t *turn) correct(machine string, revision uint64, reserved bool) error {
	own := t.holding.Own
	if at := t.identity.corrected; !at.IsZero() && t.since(at) < retryMost {
		return waitingFor{fmt.Errorf("our lease %s is being changed again and again: does another host use the public address %s, too?",
			own.Subnet, own.PublicIP)}
	}
	t.logf(warningEvent, "someone changed our lease %s; writing it again", own.Subnet)
	t.identity.corrected, t.identity.overwritten = t.now.at, machine
	t.first(write{revision: revision, reserved: reserved})
	return nil
}

// move tries to take a new subnet. Until that succeeds, the old one is what this
// host has, and the other hosts are followed as before.
type move struct{}

func (move) start(t *turn) (action, error) {
	t.identity.previous = t.holding.Own.Subnet // it may be free again
	t.first(acquire{})
	return nil, nil
}

// reclaim takes our subnet again after its key vanished.
type reclaim struct{}

func (reclaim) start(t *turn) (action, error) {
	own := t.holding.Own
	return createLease{own.Subnet, t.attrs, ttl(own.Reserved())}, nil
}

func (reclaim) finish(t *turn, a answer) error {
	own := t.holding.Own
	switch {
	case errors.Is(a.err, ErrExists):
		return fmt.Errorf("claiming our lease %s again: %w", own.Subnet, a.err) // the next snapshot tells whose it is
	case a.err != nil:
		return a.err
	}
	text := "our lease %s had vanished from the store; claimed it again"
	if t.stored.wiped {
		t.stored.wiped = false
		text += "; the network configuration is not there any more, and stays in force"
	}
	t.logf(warning, text, own.Subnet)
	if !own.Reserved() && t.left() < 0 { // someone may have a part of it by now
		t.first(listLeases{callTimeout}, check{})
	}
	t.holding.Own = a.lease
	return nil
}

// write writes our lease over that of a revision.
type write struct {
	revision uint64
	reserved bool
	// relists: if someone else wrote it, we look what is there now.
	relists bool
}

func (g write) start(t *turn) (action, error) {
	return updateLease{t.holding.Own.Subnet, g.revision, t.attrs, ttl(g.reserved)}, nil
}

func (g write) finish(t *turn, a answer) error {
	own := t.holding.Own
	switch {
	case g.relists && errors.Is(a.err, ErrChanged):
		t.first(listLeases{callTimeout}, check{}, wasWritten{own.Revision})
		return nil
	case a.err != nil:
		return fmt.Errorf("renewing our lease %s: %w", own.Subnet, a.err)
	}
	t.holding.Own = a.lease
	r := &t.renewal
	if t.since(r.wrote) <= 2*r.rest {
		r.rest = min(2*r.rest, restMost, max(renewLeast, (LeaseTTL-t.margin)/2))
	} else {
		r.rest = renewLeast
	}
	r.wrote, r.written = t.now.at, a.lease.Revision
	return nil
}

// wasWritten fails if our lease still is of a revision that the store refused to have
// written over: trying again at once would go on for ever.
type wasWritten struct{ since uint64 }

func (g wasWritten) start(t *turn) (action, error) {
	if own := t.holding.Own; own.Revision == g.since {
		return nil, fmt.Errorf("renewing our lease %s: the store says that it was changed, and lists it as it was", own.Subnet)
	}
	return nil, nil
}

// renew makes our lease last, and say what it has to, whatever has become of it.
type renew struct{}

func (renew) start(t *turn) (action, error) {
	switch own := t.holding.Own; {
	case t.outdated:
		t.first(askAgain{}, renew{})
	case t.assigned:
		t.first(listLeases{callTimeout}, check{})
	case t.holding.Holder != "":
		t.first(move{})
	default:
		t.first(write{own.Revision, own.Reserved(), true})
	}
	return nil, nil
}

// renewUnwritten renews our lease unless it was written after the latest listing.
type renewUnwritten struct{}

func (renewUnwritten) start(t *turn) (action, error) {
	if own := t.holding.Own; !own.Reserved() && own.Revision <= t.listed.Revision {
		t.first(renew{})
	}
	return nil, nil
}

const cannotSay = "our lease %s cannot say what it should: %v; trying again"

// askAgain asks anew what our lease must say. As long as Prepare can't tell, the lease
// is kept as it is: this host still lives by it.
type askAgain struct{}

func (askAgain) start(t *turn) (action, error) {
	return prepare{t.holding.Config, t.holding.Snapshot}, nil
}

func (askAgain) finish(t *turn, a answer) error {
	own := t.holding.Own.Subnet
	t.asked, t.outdated = t.holding.Snapshot.Own, false
	if a.err != nil {
		t.holding.Unsaid = a.err.Error()
		t.logf(warningState, cannotSay, own, a.err)
		t.again = t.now.at.Add(retryMost)
	} else {
		t.holding.Unsaid = ""
		t.notify(ended{cannotSay})
		if a.attrs != t.attrs {
			t.logf(info, "our lease %s is to say %s now", own, a.attrs)
		}
		t.attrs, t.avoid = a.attrs, a.avoid
		if t.holding.Unfollowed == "" { // else it is for that, too
			t.again = time.Time{}
		}
	}
	return nil
}

// renewedIn reports whether our lease was written after all: the store did what
// it was asked, and only its answer got lost.
func (t *turn) renewedIn(s Snapshot) bool {
	l := s.Find(t.holding.Own.Subnet)
	return l != nil && l.Attrs == t.attrs && l.Revision != t.holding.Own.Revision
}

// settle ends what was done for our lease: it is well until the next renewal.
type settle struct{}

func (settle) start(t *turn) (action, error) {
	t.publish()
	t.served()
	t.resumeLater()
	t.retrying = false
	t.retry.Reset()
	t.schedule()
	return nil, nil
}

// served reports that the store does what it is asked, unless it refuses to serve our
// watch: that is reported long before a renewal fails.
func (t *turn) served() {
	if t.refused != nil {
		t.notify(storeFailed{t.refused})
	} else {
		t.notify(storeWorks{})
	}
}

// schedule sets when our lease is renewed next.
func (t *turn) schedule() {
	own, r := t.holding.Own, &t.renewal
	if own.Reserved() {
		t.due = time.Time{}
		return
	}
	if r.revision != own.Revision {
		r.revision, r.learned = own.Revision, t.now.at
	}
	// However late a store with a strange clock says that it ends.
	left := min(t.left(), LeaseTTL-t.since(r.learned))
	due := left - t.margin - r.spread
	if own.Revision == r.written {
		// However soon a store with a strange clock says that it ends.
		due = max(due, r.rest-t.since(r.wrote))
	}
	t.due = t.now.at.Add(max(0, due))
}
