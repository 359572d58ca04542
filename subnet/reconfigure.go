package subnet

import (
	"errors"
	"fmt"
	"net/netip"

	"flanneld/pkg/ip"
)

// The configuration that a host goes by is the one in the store, as long as that can be
// used. What becomes of it while the host runs is followed where no traffic is lost
// over it; the rest waits for a restart, and is named.

// reconfigure puts the stored configuration in force if that can be done.
type reconfigure struct{}

func (reconfigure) start(t *turn) (action, error) {
	is, moving := t.holding, t.stored.moving.IsValid()
	same := *t.stored.StoredConfig == (StoredConfig{Text: is.Config.raw})
	if same && !moving {
		if is.Unfollowed != "" {
			t.logf(info, "the network configuration is again the one in force")
		}
		t.holding.Unfollowed, t.stored.unfinished = "", false
	}
	c := is.Config
	if !same {
		next, err := t.acceptable()
		if err != nil {
			t.refuse(err)
		} else {
			c = next
		}
	}
	if c == is.Config && !moving {
		return nil, nil
	}
	t.stored.next = c
	return prepare{c, is.Snapshot}, nil
}

func (reconfigure) finish(t *turn, a answer) error {
	next := setup{t.stored.next, a.attrs, a.avoid, t.holding.Snapshot.Own}
	switch {
	case a.err != nil:
		t.refuse(a.err)
	case t.stored.moving.IsValid():
		t.first(lookAfter{next})
	case t.holding.Holder != "" || !t.assigned && next.config.completes(t.holding.Own.Subnet) || t.assigned && t.given(next.config) == t.holding.Own.Subnet:
		t.goesBy(next)
	default:
		t.first(refit{next, t.holding.Own, t.holding.Own.Subnet})
	}
	return nil
}

// setup is a configuration and what goes with it.
type setup struct {
	config *Config
	attrs  Attrs
	avoid  []netip.Prefix
	asked  *Assignment
}

// goesBy puts a configuration in force.
func (t *turn) goesBy(s setup) {
	if s.config != t.holding.Config {
		what := "was changed, and is in force now"
		if t.holding.Config.whole == t.stored.Text {
			what = "is all in force now"
		}
		t.logf(info, "the network configuration %s: %.500q", what, t.stored.Text)
	}
	if *t.stored.StoredConfig == (StoredConfig{Text: s.config.raw}) {
		t.holding.Unfollowed = ""
	}
	t.holding.Config, t.holding.Unsaid = s.config, ""
	t.attrs, t.avoid, t.asked = s.attrs, s.avoid, s.asked
	t.stored.moving, t.stored.unfinished = ip.Subnet{}, false
}

// refit has a lease of ours cover the address families of a configuration, and puts that in
// force. The part that is kept is the same, so that no packet of it is lost.
type refit struct {
	setup
	lease *Lease
	keep  ip.Subnet
}

func (g refit) start(t *turn) (action, error) {
	to := t.given(g.config)
	if !t.assigned {
		keep := g.config.part(g.keep)
		var err error
		if to, err = t.complete(g.config, t.holding.Snapshot, keep, g.avoid); err != nil {
			t.refuse(err)
			if g.lease.Subnet != t.holding.Own.Subnet {
				t.first(moveBack{g.lease})
			}
			return nil, nil
		}
	}
	t.stored.moving = to
	return t.rewrite(g.lease, to, g.attrs), nil
}

func (g refit) finish(t *turn, a answer) error {
	if a.err != nil {
		t.refuse(fmt.Errorf("having the lease %s in the place of %s: %w", t.stored.moving, g.lease.Subnet, a.err))
		if errors.Is(a.err, ErrExists) || errors.Is(a.err, ErrChanged) {
			t.stored.moving = ip.Subnet{}
		}
		return nil
	}
	t.first(refitted{g, a.lease})
	return nil
}

// moveBack has a lease be again of the subnet that we have: there is none for us to have instead.
type moveBack struct{ lease *Lease }

func (g moveBack) start(t *turn) (action, error) {
	if t.holding.Snapshot.Find(t.holding.Own.Subnet) != nil { // it was never deleted
		return deleteLease{g.lease.Subnet, g.lease.Revision}, nil
	}
	return t.rewrite(g.lease, t.holding.Own.Subnet, t.attrs), nil
}

func (g moveBack) finish(t *turn, a answer) error {
	if a.err != nil {
		return fmt.Errorf("having our lease %s again: %w", t.holding.Own.Subnet, a.err)
	}
	if t.stored.moving = (ip.Subnet{}); a.lease != nil {
		t.holding.Own = a.lease
	} else {
		t.first(stay{t.holding.Own}) // once more after the other one went: see lookAfter.settle
	}
	return nil
}

// stay writes our lease as it is. A request to delete it may be on its way, and is void then.
type stay struct{ lease *Lease }

func (g stay) start(t *turn) (action, error) { return t.rewrite(g.lease, g.lease.Subnet, t.attrs), nil }

func (g stay) finish(t *turn, a answer) error {
	if a.err != nil {
		return fmt.Errorf("renewing our lease %s: %w", g.lease.Subnet, a.err)
	}
	t.holding.Own = a.lease
	return nil
}

// refitted makes the lease ours, as confirm does.
type refitted struct {
	refit
	lease *Lease
}

func (g refitted) start(t *turn) (action, error) {
	for _, p := range g.lease.Subnet.Prefixes() {
		if !t.assigned && !t.holding.Own.Subnet.Shares(ip.SubnetOf(p)) {
			return listLeases{callTimeout}, nil
		}
	}
	g.done(t)
	return nil, nil
}

func (g refitted) finish(t *turn, a answer) error {
	if a.err != nil {
		t.refuse(fmt.Errorf("looking after the lease %s: %w", g.lease.Subnet, a.err))
	} else {
		g.settle(t, a.snapshot)
	}
	return nil
}

func (g refitted) settle(t *turn, s Snapshot) {
	t.follow(s)
	keep, there := g.config.undisputed(g.lease, s)
	switch {
	case !there:
		t.refuse(fmt.Errorf("looking after the lease %s: %w", g.lease.Subnet, ErrChanged))
	case keep != g.lease.Subnet:
		t.first(refit{g.setup, g.lease, keep})
	default:
		g.done(t)
	}
}

func (g refitted) done(t *turn) {
	t.logSubnet(t.holding.Own.Subnet, g.lease.Subnet)
	t.holding.Own = g.lease
	t.goesBy(g.setup)
}

// lookAfter finds out what became of a lease that we wrote in the place of ours, as far as we
// know, and goes on from there.
type lookAfter struct{ setup }

func (lookAfter) start(*turn) (action, error) { return listLeases{callTimeout}, nil }

func (g lookAfter) finish(t *turn, a answer) error {
	if a.err != nil {
		t.refuse(fmt.Errorf("looking after the lease %s: %w", t.stored.moving, a.err))
	} else if !g.settle(t, a.snapshot) {
		return fmt.Errorf("looking after our lease %s: %w", t.holding.Own.Subnet, ErrChanged)
	}
	return nil
}

// settle reports whether the lease is there.
func (g lookAfter) settle(t *turn, s Snapshot) bool {
	t.follow(s)
	t.stored.unfinished = true // until it has gone well
	moved := t.movedIn(s)
	if moved == nil {
		t.stored.moving = ip.Subnet{}
		return false
	}
	if is := s.Find(t.holding.Own.Subnet); is != nil && t.holder(is) == "" && g.config.completes(is.Subnet) && !g.config.completes(moved.Subnet) {
		t.first(stay{is}, moveBack{moved}, reconfigure{}) // the configuration is again such as ours is of
		return true
	}
	for _, l := range s.Leases {
		if t.wroteInPlace(g.config, moved, l) {
			t.attempt.probed = l
			t.first(discard{}, g)
			return true
		}
	}
	// It is written in any case: flannel takes the routes of a subnet away when a key with a part of
	// it goes, which may have been after the last write.
	keep, _ := g.config.undisputed(moved, s)
	t.first(refit{g.setup, moved, keep})
	return true
}

// acceptable returns the stored configuration, or why it cannot be followed whatever
// this host is like.
func (t *turn) acceptable() (*Config, error) {
	if t.stored.Missing {
		where := "from the store"
		if t.assigned {
			where = "with its file"
		}
		return nil, &ConfigError{Value: "was deleted", Reason: where}
	}
	if why := t.stored.Unreadable; why != "" {
		return nil, &ConfigError{Value: "cannot be read:", Reason: why}
	}
	c, err := t.parse([]byte(t.stored.Text))
	if err == nil {
		err = needsRestart(t.holding.Config, c)
	}
	if err != nil {
		return nil, err
	}
	if t.assigned {
		s := t.holding.Snapshot
		if !s.Own.Subnet.IsValid() { // the store gives nothing now, and we go on with ours
			a := *s.Own
			a.Subnet, s.Own = t.holding.Own.Subnet, &a
		}
		return c, t.unassignable(c, s)
	}
	if t.holding.Holder != "" {
		return c, nil
	}
	own, stays := t.holding.Own.Subnet, false
	for _, f := range own.Families() {
		switch r := c.Of(f); {
		case r.contains(own.Of(f)):
			stays = true
		case r.Network.IsValid():
			return nil, &ConfigError{
				Key:    networkKey(f),
				Value:  r.Network.String(),
				Reason: fmt.Sprintf("does not hold this host's subnet %s; a restart of the daemon takes another subnet", own.Of(f)),
			}
		}
	}
	if !stays {
		f := own.Families()[0]
		return nil, &ConfigError{
			Key:    "Enable" + f.String(),
			Value:  "false",
			Reason: fmt.Sprintf("leaves nothing of this host's subnet %s; a restart of the daemon takes another subnet", own),
		}
	}
	return c, nil
}

// refuse keeps the configuration that is in force. What this host lacks for the stored
// one is looked at again.
func (t *turn) refuse(err error) {
	if why := err.Error(); t.holding.Unfollowed != why {
		t.holding.Unfollowed = why
		if !t.stored.wiped { // else it is logged with the lease
			where := ""
			if t.configKey != "" {
				where = " (" + t.configPlace() + ")"
			}
			what := "the network configuration was changed, and the former one stays in force"
			if c := t.holding.Config; c.whole != "" && *t.stored.StoredConfig == (StoredConfig{Text: c.whole}) {
				what = fmt.Sprintf("going on without %s until it can be had", c.lacking)
			}
			t.logf(warning, "%s: %v%s", what, err, where)
		}
	}
	if t.stored.unfinished = !errors.As(err, new(*ConfigError)); t.stored.unfinished {
		t.again = t.now.at.Add(retryMost)
	}
}
