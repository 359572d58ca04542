package subnet

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"flanneld/pkg/ip"
	"flanneld/pkg/printable"
)

// acquire makes one attempt to get a lease: the one that we have already, the subnet that
// we had before, or any free one.
type acquire struct{}

func (acquire) start(t *turn) (action, error) {
	t.attempt = attempt{timeout: callTimeout}
	// A store that swallows what it is asked must not keep us longer from starting
	// without it than one that is not there.
	if left := offlineAfter - t.since(t.begun); t.saved.exists && t.mode == starting && left > 0 {
		t.attempt.timeout = left
	}
	goals := []goal{readConfig{t.attempt.timeout}, listLeases{t.attempt.timeout}}
	if t.assigned {
		goals = append(goals, heedAssignment{})
	}
	t.first(append(goals, askAttrs{})...)
	return nil, nil
}

func (a readConfig) start(*turn) (action, error) { return a, nil }

// While we run on one configuration already, a new one that is missing or bad changes
// nothing.
func (readConfig) finish(t *turn, a answer) error {
	var c *Config
	err := a.err
	if err == nil {
		c, err = t.parse(a.config)
	}
	ours := t.holding.Config
	switch {
	case err == nil && (ours == nil || ours.raw != c.raw && (t.mode == offline || needsRestart(ours, c) == nil)):
		t.attempt.config = c
		return nil
	case err != nil && !errors.Is(err, ErrNoConfig) && !errors.As(err, new(*ConfigError)):
		return err
	case ours == nil:
		return waitingFor{err}
	case err != nil:
		t.logf(warningState, "keeping the configuration that we have: %v", err)
	}
	t.attempt.config = ours
	return nil
}

// needsRestart returns why a daemon that runs on one configuration cannot follow another,
// if so.
func needsRestart(is, c *Config) error {
	if c.BackendType == is.BackendType {
		return nil
	}
	return &ConfigError{
		Key:    "Backend.Type",
		Value:  fmt.Sprintf("%q", c.BackendType),
		Reason: fmt.Sprintf("in the place of %q takes a restart of the daemon", is.BackendType),
	}
}

// askAttrs asks what our lease has to say.
type askAttrs struct{}

func (askAttrs) start(t *turn) (action, error) { return prepare{t.attempt.config, t.listed}, nil }

func (askAttrs) finish(t *turn, a answer) error {
	if a.err != nil {
		return waitingFor{a.err}
	}
	t.attrs, t.avoid, t.asked, t.outdated = a.attrs, a.avoid, t.listed.Own, false
	t.follow(t.listed)
	if t.assigned {
		t.first(announce{})
		return nil
	}
	t.first(claim{})
	if t.asksSaved(t.listed.Leases) {
		t.first(loadSaved{})
	}
	return nil
}

// claim chooses what to take: a lease that this machine wrote, or that bears our public
// address; else a free subnet.
type claim struct{}

func (claim) start(t *turn) (action, error) {
	c, s := t.attempt.config, t.listed
	var best *Lease
	var goals []goal
	lost := c.losers(s.Leases)
	for _, l := range s.Leases {
		switch moved, kept := t.moved(l), t.kept(l); {
		case l.PublicIP != t.attrs.PublicIP && !kept && !moved:
		case lost[l] != nil && l.Subnet != t.identity.previous && !kept: // no other host uses it, nor did we
			t.logf(warningState, "the lease %s of our public address overlaps %s, which is in force in its place; not using it", l.Subnet, lost[l].Subnet)
		case c.Keeps(l.Subnet):
			if best == nil || t.rank(c, l) > t.rank(c, best) {
				best = l
			}
		case moved && !kept:
			t.logf(warningState, "the lease %s that this machine wrote does not fit the configuration; not using it", l.Subnet)
		case l.Reserved(): // a person made it, and is the one to delete it
			t.logf(warningState, "the subnet %s, reserved for this host, does not fit the configuration; not using it", l.Subnet)
		default:
			goals = append(goals, probeHolder{lease: l}, discard{})
		}
	}
	if best == nil {
		t.first(append(goals, create{s})...)
		return nil, nil
	}
	if best.PublicIP != t.attrs.PublicIP {
		// This machine's own lease. But another machine may live at our new address.
		for _, l := range s.Leases {
			if l.PublicIP == t.attrs.PublicIP {
				goals = append(goals, probeHolder{lease: l, stays: true})
			}
		}
	}
	t.first(append(goals, probeHolder{lease: best}, takeOver{best})...)
	return nil, nil
}

// discard deletes the lease that was probed: it is ours, and does not fit the
// configuration any more.
type discard struct{}

func (discard) start(t *turn) (action, error) {
	l := t.attempt.probed
	return deleteLease{l.Subnet, l.Revision}, nil
}

func (discard) finish(t *turn, a answer) error {
	s := t.attempt.probed.Subnet
	if a.err != nil && !errors.Is(a.err, ErrChanged) {
		return fmt.Errorf("deleting our old lease %s: %w", s, a.err)
	}
	t.logf(info, "deleted this host's lease %s, which does not fit the configuration", s)
	return nil
}

// takeOver writes the lease that was probed as ours.
type takeOver struct{ found *Lease }

func (takeOver) start(t *turn) (action, error) {
	l := t.attempt.probed
	return updateLease{l.Subnet, l.Revision, t.attrs, ttl(l.Reserved())}, nil
}

func (g takeOver) finish(t *turn, a answer) error {
	if a.err != nil {
		return fmt.Errorf("taking over our lease %s: %w", g.found.Subnet, a.err)
	}
	t.identity.previousMachine = ""
	if t.attempt.probed == g.found { // it was not asked, and may be alive
		t.identity.previousMachine = g.found.Machine
	}
	if a.lease.Reserved() {
		t.logf(info, "using the subnet %s that is reserved for this host", a.lease.Subnet)
	} else {
		t.logf(info, "using the subnet %s that this host has a lease of", a.lease.Subnet)
	}
	t.hold(a.lease)
	return nil
}

// create takes the subnet that we had before, if it is free in the snapshot, or any
// other.
type create struct{ Snapshot }

func (g create) start(t *turn) (action, error) {
	c, previous := t.attempt.config, t.identity.previous
	var want ip.Subnet
	switch {
	case !previous.IsValid():
	case !c.Keeps(previous):
		t.logf(warningState, "the subnet %s that this host had before does not fit the configuration; not asking for it", previous)
	case !c.Free(g.Snapshot, previous):
		t.logf(warningState, "the subnet %s that this host had before is taken; not asking for it", previous)
	case slices.ContainsFunc(t.avoid, func(p netip.Prefix) bool { return previous.Overlaps(ip.SubnetOf(p)) }):
		t.logf(warningState, "the subnet %s that this host had before overlaps a network that this host is in; not asking for it", previous)
	default:
		want = previous
	}
	if !want.IsValid() {
		var err error
		if want, err = chooseSubnet(c, g.Snapshot, t.avoid, t.source()); err != nil {
			return nil, waitingFor{err}
		}
	}
	t.attempt.wanted = want
	return createLease{want, t.attrs, LeaseTTL}, nil
}

func (create) finish(t *turn, a answer) error {
	if a.err != nil {
		return fmt.Errorf("acquiring the subnet %s: %w", t.attempt.wanted, a.err)
	}
	t.logf(info, "acquired the subnet %s", a.lease.Subnet)
	t.hold(a.lease)
	return nil
}

// announce publishes the lease of the subnet that the host was given, and holds it.
type announce struct{}

func (announce) start(t *turn) (action, error) {
	s := t.listed.Own.Subnet
	if i := slices.IndexFunc(t.avoid, func(p netip.Prefix) bool { return s.Overlaps(ip.SubnetOf(p)) }); i >= 0 {
		return nil, waitingFor{fmt.Errorf("%s, the podCIDR of this host's Node %s, overlaps %s, a network that this host is in: pods and hosts need networks of their own",
			s, printable.Name(t.listed.Own.Host), t.avoid[i])}
	}
	if l := t.listed.Find(s); l != nil && l.Attrs == t.attrs {
		t.holdAssigned(l)
		return nil, nil
	}
	return createLease{s, t.attrs, 0}, nil
}

func (announce) finish(t *turn, a answer) error {
	if a.err != nil {
		return a.err
	}
	t.holdAssigned(a.lease)
	return nil
}

func (t *turn) holdAssigned(l *Lease) {
	t.logf(info, "using the subnet %s, the podCIDR of the Node %s", l.Subnet, printable.Name(t.listed.Own.Host))
	t.hold(l)
}

// hold makes a lease ours.
func (t *turn) hold(l *Lease) {
	c, was := t.attempt.config, t.holding
	t.holding = Holding{Config: c, Own: l, Snapshot: was.Snapshot, Unfollowed: was.Unfollowed} // maybe a later one than the attempt's
	if t.stored.StoredConfig != nil && *t.stored.StoredConfig == (StoredConfig{Text: c.raw}) {
		t.holding.Unfollowed = ""
	}
	t.saved = recollection{exists: t.saved.exists} // it may be large, and is rarely needed again
	switch {
	case was.Own == nil:
	case was.Own.Subnet != l.Subnet:
		t.logf(severe, "this host's subnet changed from %s to %s: what still uses the old addresses, such as running containers and the bridge that they are on, has to be restarted", was.Own.Subnet, l.Subnet)
	case was.Holder != "":
		t.logf(info, "our subnet %s is free again, and ours", l.Subnet)
	}
	if t.mode != online {
		t.mode = online
		t.notify(ended{}) // what kept us waiting
		// Hosts that started together should not renew together. This is drawn once:
		// were it drawn with each snapshot, one host's renewal would set off others.
		t.renewal.spread = time.Duration(t.source().Int64N(int64(min(t.margin/10, (LeaseTTL-t.margin)/2) + 1)))
	}
}
