package subnet

import (
	"fmt"
	"time"

	"flanneld/pkg/ip"
	"flanneld/pkg/printable"
)

// Two machines with one public address cannot both be reached by it. Often all machines
// have that address, each behind a NAT of its own, and another one was meant. One address in
// common is enough, whatever they have in the other address family.
//
// A lease names the machine that wrote it. Another machine that finds its own address in
// the lease probes the holder: it writes its name into the lease, as Challenger. A holder
// that is alive writes its lease again, as it does after any change by others. If it does
// not, the address has passed on, and the lease with it.
//
// A machine that was renamed does not probe itself: it knows its lease by its ID. Where an
// image was copied with the ID, the holder may be another machine all the same. It writes
// the lease again, under the old name. From then on the holder of that name is probed, too
// (identity.previousMachine). The same goes for a machine that took the lease while we
// were away, and takes it again after we wrote over it.

const (
	// answerTime is how long a holder has for its answer: longer than it takes to
	// report that the server it was connected to is dead.
	answerTime = 20 * time.Second
	// movedAnswerTime is for a lease of our ID at another address: most likely we wrote
	// it ourselves. It is also for a holder that loses no lease if its answer is late.
	movedAnswerTime = 5 * time.Second
	// answerPoll is how often we look for the answer.
	answerPoll = 500 * time.Millisecond
	// conflictPause is how long a holder that answered is not probed again.
	conflictPause = 15 * time.Second
)

// probeHolder asks the machine that wrote a lease whether it is alive, unless that machine
// is this one. It fails if the holder is alive; else attempt.probed is the lease as it is
// after the probe.
type probeHolder struct {
	lease *Lease
	// stays: the lease is not to be ours; only its public address is in question.
	stays bool
}

// readdressed reports whether the lease bears an address that this machine had.
func (g probeHolder) readdressed(t *turn) bool {
	l := g.lease
	return SameMachine(l.Machine, t.attrs.Machine) && !l.PublicIP.Matches(t.attrs.PublicIP) && (t.identity.readdressed || !t.kept(l))
}

func (g probeHolder) start(t *turn) (action, error) {
	l, ours := g.lease, t.attrs.Machine
	t.attempt.probed = l
	same := l.Machine == ours || l.Machine != t.identity.previousMachine && SameMachine(l.Machine, ours)
	if l.Machine == "" || same && !g.readdressed(t) {
		return nil, nil
	}
	if c := t.identity.conflict; SameMachine(c.machine, l.Machine) && t.since(c.seen) < conflictPause {
		return nil, t.alive(l)
	}
	ask := l.Attrs
	ask.Challenger = ours
	return updateLease{l.Subnet, l.Revision, ask, ttl(l.Reserved())}, nil
}

func (g probeHolder) finish(t *turn, a answer) error {
	l := g.lease
	if a.err != nil {
		return fmt.Errorf("asking the machine %s whether it is alive: %w", printable.Name(l.Machine), a.err)
	}
	w := awaitAnswer{probe: g, asked: a.lease, readdressed: g.readdressed(t), patience: answerTime}
	if w.readdressed || g.stays {
		w.patience = movedAnswerTime
	}
	w.until = t.now.at.Add(w.patience)
	if w.readdressed {
		t.waitFor(fmt.Sprintf("the lease %s of this machine says that its public address is %s: waiting whether another machine with our ID is alive there", l.Subnet, l.PublicIP))
	} else {
		t.waitFor(fmt.Sprintf("the lease %s of our public address %s was written by the machine %s: waiting whether it is alive", l.Subnet, t.shared(l), printable.Name(l.Machine)))
	}
	t.first(sleep{answerPoll}, w)
	return nil
}

// awaitAnswer looks whether a machine answered, until its time is up.
type awaitAnswer struct {
	probe       probeHolder
	asked       *Lease // as it was written last, by us or by a third machine that asks, too
	readdressed bool
	patience    time.Duration
	until       time.Time
}

func (awaitAnswer) start(t *turn) (action, error) { return listLeases{t.attempt.timeout}, nil }

func (g awaitAnswer) finish(t *turn, a answer) error {
	s := a.snapshot
	if a.err != nil {
		return a.err
	}
	t.follow(s)
	t.publish() // the other hosts are followed meanwhile
	l := g.probe.lease
	switch now := s.Find(l.Subnet); {
	case now != nil && now.Revision == g.asked.Revision:
	case now == nil, !now.PublicIP.Matches(l.PublicIP), !SameMachine(now.Machine, l.Machine):
		return ErrChanged // by someone else: all is to be looked at anew
	case now.Challenger == "":
		t.identity.conflict = addressConflict{l.Machine, t.now.at}
		return t.alive(l)
	default:
		// A third machine asks, too. Were we to ask over that, and it over us,
		// neither would ever have waited for long enough.
		g.asked, g.until = now, t.now.at.Add(g.patience)
	}
	if t.now.at.Before(g.until) {
		t.first(sleep{answerPoll}, g)
		return nil
	}
	t.attempt.probed = g.asked
	switch {
	case g.readdressed:
		t.logf(warning, "the lease %s of this machine says that its public address is %s, where nobody answers: it is %s now", l.Subnet, l.PublicIP, t.attrs.PublicIP)
	case g.probe.stays:
		t.logf(warning, "the machine %s, whose lease %s has our public address %s, does not answer", printable.Name(l.Machine), l.Subnet, t.shared(l))
	default:
		t.logf(warning, "the machine %s, which had our public address %s and the lease %s, does not answer: the lease is ours now", printable.Name(l.Machine), t.shared(l), l.Subnet)
	}
	return nil
}

// shared returns the public addresses of a lease that are this machine's, too.
func (t *turn) shared(l *Lease) ip.Addrs { return l.PublicIP.Common(t.attrs.PublicIP) }

// alive is why a lease of our public address, or of our machine ID, can't be ours. A
// lease of our ID is left to the machine that lives by it: the error has us look at all
// leases anew, without that one.
func (t *turn) alive(l *Lease) error {
	shared := t.shared(l)
	if shared == (ip.Addrs{}) {
		t.identity.copied = l.Subnet
		t.logf(warning, "the lease %s is that of the machine %s, which is alive at %s: this machine is a copy of it, and takes another subnet; give it a machine ID of its own", l.Subnet, printable.Name(l.Machine), l.PublicIP)
		return fmt.Errorf("taking over the lease %s: a machine with our ID is alive: %w", l.Subnet, ErrChanged)
	}
	options := "-iface, -iface-regex or -public-ip"
	if !shared.V4.IsValid() {
		options = "-iface-ipv6, -iface, -iface-regex or -public-ipv6"
	}
	return waitingFor{fmt.Errorf("the public address %s of this machine, %s, is also that of the machine %s, which is alive and has the lease %s: give this one another by %s",
		shared, t.attrs.Machine, printable.Name(l.Machine), l.Subnet, options)}
}
