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
	if a.err != nil && t.mode == starting && len(t.attempt.config.Families()) > 1 {
		t.first(goByFewer{a.err})
		if t.saved.exists {
			t.first(loadSaved{})
		}
		return nil
	}
	if a.err != nil {
		return t.lacks(a.err)
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

// Lacking is why a host cannot have an address family, and may later. It can have the other one.
type Lacking struct {
	ip.Family
	Why error
}

func (l Lacking) Error() string { return l.Why.Error() }
func (l Lacking) Unwrap() error { return l.Why }

// goByFewer has a host that cannot have all address families of the configuration get a lease with
// fewer of them. If it last went by a configuration that has fewer, and the same network, it goes by
// that: so a restart ends nothing, and the other configuration is refused, and tried again, as it was
// before. Else it does without the family that it lacks.
type goByFewer struct{ why error }

func (g goByFewer) start(t *turn) (action, error) {
	c, former := t.attempt.config, t.holding.Config
	if former == nil && t.saved.err == nil {
		former = t.saved.Config
	}
	var lacks Lacking
	switch {
	case former != nil && c.extends(former):
		c = c.lessAs(former)
	case errors.As(g.why, &lacks) && len(c.Families()) > 1:
		var err error
		if c, err = c.without(lacks.Family); err != nil {
			return nil, waitingFor{err}
		}
	default:
		return nil, waitingFor{g.why}
	}
	t.attempt.config = c
	t.stored.unfinished = t.mode == online // else the watch tells of the other one
	t.first(askAttrs{})
	return nil, nil
}

// extends reports whether c has the networks of a former configuration, and more address families.
func (c *Config) extends(former *Config) bool {
	for _, f := range former.Families() {
		if !c.Of(f).covers(former.Of(f).Network) {
			return false
		}
	}
	return len(former.Families()) < len(c.Families()) && needsRestart(former, c) == nil
}

// lessAs returns a former configuration. If that is c without a family, it says so.
func (c *Config) lessAs(former *Config) *Config {
	for _, f := range c.Families() {
		if less, err := c.without(f); err == nil && less.raw == former.raw && former.whole != c.raw {
			return less
		}
	}
	return former
}

// claim chooses what to take: a lease that this machine wrote, or that bears our public
// address; else a free subnet.
type claim struct{}

func (claim) start(t *turn) (action, error) {
	c, s := t.attempt.config, t.listed
	var best *Lease
	var goals, after []goal
	lost := make(map[ip.Family]map[*Lease]*Lease)
	for _, f := range c.families() {
		lost[f.Family] = f.losers(s.Leases)
	}
	keep := make(map[*Lease]ip.Subnet) // of our leases
	for _, l := range s.Leases {
		moved, kept := t.moved(l), t.kept(l)
		if l.Subnet.Placeholder() || !l.PublicIP.Matches(t.attrs.PublicIP) && !kept && !moved {
			continue
		}
		var rival *Lease
		keep[l] = c.Keep(l.Subnet)
		for _, f := range c.families() {
			w := lost[f.Family][l]
			same := w != nil && f.of(w) == f.of(l)
			unused := t.identity.previous.Of(f.Family) != f.of(l) && !kept // no other host uses it, nor did we
			better := w != nil && w.PublicIP.Matches(t.attrs.PublicIP) && c.completes(l.Subnet) && !c.completes(w.Subnet)
			if (same || unused && w != nil) && !t.wroteInPlace(c, w, l) && !better {
				keep[l], rival = keep[l].With(f.Family, netip.Prefix{}), w
			}
			if (unused || !c.completes(l.Subnet)) && f.unreadable(l, s) {
				keep[l] = keep[l].With(f.Family, netip.Prefix{})
			}
		}
		if to := keep[l]; to != l.Subnet && c.completes(to) { // it would have to move there
			if is := s.Find(to); is != nil && !t.wroteInPlace(c, l, is) { // else that one goes
				keep[l], rival = ip.Subnet{}, is
			} else if _, garbled := s.problem(to); garbled {
				keep[l] = ip.Subnet{}
			}
		}
		switch {
		case keep[l].IsValid():
			if best == nil || t.rank(c, l) > t.rank(c, best) {
				best = l
			}
		case rival != nil:
			t.logf(warningState, "the lease %s of our public address overlaps %s, which is in force in its place; not using it", l.Subnet, rival.Subnet)
		case moved && !kept:
			t.logf(warningState, "the lease %s that this machine wrote does not fit the configuration; not using it", l.Subnet)
		case l.Reserved(): // a person made it, and is the one to delete it
			t.logf(warningState, "the subnet %s, reserved for this host, does not fit the configuration; not using it", l.Subnet)
		case kept: // this host lives by it
			after = append(after, forsake{l})
		default:
			goals = append(goals, probeHolder{lease: l}, discard{})
		}
	}
	others := t.probeSharing(s, best)
	if best == nil {
		t.first(slices.Concat(goals, others, []goal{create{s}}, after)...)
		return nil, nil
	}
	for _, l := range s.Leases { // what it was made of, or was to become, where that was broken off
		if _, is := keep[l]; is && (t.wroteInPlace(c, best, l) || t.wroteInPlace(c, l, best)) {
			goals = append(goals, probeHolder{lease: l}, discard{})
		}
	}
	t.first(slices.Concat(goals, others, []goal{probeHolder{lease: best}, takeOver{best, keep[best]}}, after)...)
	return nil, nil
}

// probeSharing returns what asks the machines whose leases have an address that ours is to have
// from now on. best is our lease, or nil: then those that match ours by their address are dealt with.
func (t *turn) probeSharing(s Snapshot, best *Lease) (goals []goal) {
	wanted := t.attrs.PublicIP
	if best != nil {
		wanted = wanted.Without(best.PublicIP)
	}
	for _, l := range s.Leases {
		if l != best && l.PublicIP.Common(wanted) != (ip.Addrs{}) && (best != nil || !l.PublicIP.Matches(t.attrs.PublicIP)) {
			goals = append(goals, probeHolder{lease: l, stays: true})
		}
	}
	return goals
}

// wroteInPlace reports whether this machine wrote a lease of ours in the place of another one,
// to have it in other address families.
func (t *turn) wroteInPlace(c *Config, l, old *Lease) bool {
	persons := old.Reserved() && old.Machine == ""
	return !persons && l.Machine == t.attrs.Machine && old.Machine == l.Machine &&
		slices.ContainsFunc(c.families(), func(f family) bool { return f.supersedes(l, old) })
}

// lacks is for an attempt that fails because something is missing that may come. A host which
// lives by what was saved, and whose lease is there, does not let that end meanwhile: it goes on
// with the configuration that it has, and follows the other one as a host does that runs. One that
// has no lease any more gets one in the address families that it can have.
func (t *turn) lacks(err error) error {
	c := t.attempt.config
	switch kept := slices.ContainsFunc(t.listed.Leases, t.kept); {
	case t.mode == starting || kept && (t.assigned || c == t.holding.Config):
		return waitingFor{err}
	case kept:
		t.attempt.config = c.lessAs(t.holding.Config)
		t.first(askAttrs{})
	default:
		t.first(goByFewer{err})
	}
	return nil
}

// forsake deletes the lease that we started with without the store, once we have another one.
type forsake struct{ lease *Lease }

func (g forsake) start(t *turn) (action, error) {
	if t.holding.Own.Subnet != g.lease.Subnet {
		t.publish()
		t.first(probeHolder{lease: g.lease}, discard{})
	}
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

// takeOver writes the lease that was probed as ours. It keeps a part of its subnet, and gets
// what it lacks in the address families that the configuration has.
type takeOver struct {
	found *Lease
	keep  ip.Subnet
}

func (g takeOver) start(t *turn) (action, error) {
	to, err := t.complete(t.attempt.config, t.listed, g.keep, t.avoid)
	if err != nil {
		return nil, t.lacks(err)
	}
	return t.rewrite(t.attempt.probed, to, t.attrs), nil
}

// rewrite has a lease of ours be of a subnet, and say something.
func (t *turn) rewrite(l *Lease, to ip.Subnet, a Attrs) action {
	if to == l.Subnet {
		return updateLease{to, l.Revision, a, ttl(l.Reserved())}
	}
	return moveLease{l.Subnet, l.Revision, to, a, ttl(l.Reserved())}
}

func (g takeOver) finish(t *turn, a answer) error {
	if a.err != nil {
		return fmt.Errorf("taking over our lease %s: %w", g.found.Subnet, a.err)
	}
	t.identity.previousMachine = ""
	if t.attempt.probed == g.found { // it was not asked, and may be alive
		t.identity.previousMachine = g.found.Machine
	}
	switch l := a.lease; {
	case l.Subnet != g.found.Subnet:
		t.logf(info, "using the subnet %s in the place of %s, which this host has a lease of: the address families are those of the configuration", l.Subnet, g.found.Subnet)
	case l.Reserved():
		t.logf(info, "using the subnet %s that is reserved for this host", l.Subnet)
	default:
		t.logf(info, "using the subnet %s that this host has a lease of", l.Subnet)
	}
	t.first(confirm{a.lease, g.keep})
	return nil
}

// complete returns a subnet with the prefixes that it lacks under a configuration: those that
// we had before, if they are free in the snapshot, or any others.
func (t *turn) complete(c *Config, s Snapshot, sub ip.Subnet, avoid []netip.Prefix) (ip.Subnet, error) {
	if c.completes(sub) {
		return sub, nil
	}
	for _, p := range t.identity.previous.Prefixes() {
		f, previous := ip.FamilyOf(p.Addr()), ip.SubnetOf(p)
		switch {
		case sub.Of(f).IsValid(), !c.Of(f).Network.IsValid():
		case !c.Keeps(previous):
			t.logf(warningState, "the subnet %s that this host had before does not fit the configuration; not asking for it", previous)
		case !c.Free(s, previous):
			t.logf(warningState, "the subnet %s that this host had before is taken; not asking for it", previous)
		case slices.ContainsFunc(avoid, p.Overlaps):
			t.logf(warningState, "the subnet %s that this host had before overlaps a network that this host is in; not asking for it", previous)
		default:
			sub = sub.With(f, p)
		}
	}
	return c.draw(sub, s, avoid, t.source())
}

// create takes the subnet that we had before, if it is free in the snapshot, or any
// other.
type create struct{ Snapshot }

func (g create) start(t *turn) (action, error) {
	var err error
	if t.attempt.wanted, err = t.complete(t.attempt.config, g.Snapshot, ip.Subnet{}, t.avoid); err != nil {
		return nil, t.lacks(err)
	}
	return createLease{t.attempt.wanted, t.attrs, LeaseTTL}, nil
}

func (create) finish(t *turn, a answer) error {
	if a.err != nil {
		return fmt.Errorf("acquiring the subnet %s: %w", t.attempt.wanted, a.err)
	}
	t.logf(info, "acquired the subnet %s", a.lease.Subnet)
	t.first(confirm{a.lease, ip.Subnet{}})
	return nil
}

// confirm holds a lease whose subnet was drawn, but for the part that was ours before. Of each key
// the store has one lease; but two hosts that draw at once may get keys that have a prefix in
// common: the later one makes way. In a network of one family there are no such keys.
type confirm struct {
	lease *Lease
	firm  ip.Subnet
}

func (g confirm) start(t *turn) (action, error) {
	mixed := slices.ContainsFunc(t.listed.Leases, func(l *Lease) bool { return len(l.Subnet.Families()) > 1 })
	if g.firm == g.lease.Subnet || len(t.attempt.config.Families()) == 1 && !mixed {
		t.hold(g.lease)
		return nil, nil
	}
	return listLeases{t.attempt.timeout}, nil
}

func (g confirm) finish(t *turn, a answer) error {
	if a.err != nil {
		return a.err
	}
	t.listed = a.snapshot
	keep, there := t.attempt.config.undisputed(g.lease, t.listed)
	switch {
	case !there:
		return fmt.Errorf("looking after our lease %s: %w", g.lease.Subnet, ErrChanged)
	case keep == g.lease.Subnet:
		t.hold(g.lease)
	default:
		t.logf(verbose, "another host has a part of the subnet %s by a lease that is older", g.lease.Subnet)
		t.attempt.probed = g.lease
		if g.firm.IsValid() {
			t.first(takeOver{g.lease, keep})
		} else {
			t.first(makeWay{})
		}
	}
	return nil
}

// makeWay deletes a lease that is younger than another one with a part of its subnet. Another
// subnet is drawn after a moment.
type makeWay struct{}

func (makeWay) start(t *turn) (action, error) {
	l := t.attempt.probed
	return deleteLease{l.Subnet, l.Revision}, nil
}

func (makeWay) finish(t *turn, a answer) error {
	if a.err != nil {
		return fmt.Errorf("deleting our lease %s, of which another host has a part: %w", t.attempt.probed.Subnet, a.err)
	}
	return fmt.Errorf("acquiring the subnet %s: %w", t.attempt.probed.Subnet, ErrExists)
}

// undisputed returns the part of a lease that no older one has, and whether the lease is there.
func (c *Config) undisputed(l *Lease, s Snapshot) (keep ip.Subnet, there bool) {
	now := s.Find(l.Subnet)
	if now == nil || now.Revision != l.Revision {
		return keep, false
	}
	keep = l.Subnet
	for _, f := range c.families() {
		if w := f.losers(s.Leases)[now]; w != nil && f.of(w) == f.of(now) || f.unreadable(now, s) {
			keep = keep.With(f.Family, netip.Prefix{})
		}
	}
	return keep, true
}

// announce publishes the lease of the subnet that the host was given, and holds it.
type announce struct{}

func (announce) start(t *turn) (action, error) {
	s := t.attempt.config.part(t.listed.Own.Subnet)
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
	t.stored.moving = ip.Subnet{}
	if t.stored.StoredConfig != nil && *t.stored.StoredConfig == (StoredConfig{Text: c.raw}) {
		t.holding.Unfollowed = ""
	}
	t.resumeLater()
	t.saved = recollection{exists: t.saved.exists} // it may be large, and is rarely needed again
	switch {
	case was.Own == nil:
	case was.Own.Subnet != l.Subnet:
		t.logSubnet(was.Own.Subnet, l.Subnet)
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

// logSubnet logs that this host's subnet changed.
func (t *turn) logSubnet(from, to ip.Subnet) {
	for _, f := range ip.Families {
		switch was, is := from.Of(f), to.Of(f); {
		case was == is:
		case !was.IsValid():
			t.logf(info, "this host has the subnet %s, too, now: pods that are started from now on get addresses of it", is)
		case !is.IsValid():
			t.logf(warning, "this host has no %s subnet any more, and had %s: the configuration has that family no more", f, was)
		default:
			t.logf(severe, "this host's subnet changed from %s to %s: what still uses the old addresses, such as running containers and the bridge that they are on, has to be restarted", was, is)
		}
	}
}
