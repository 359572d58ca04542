package subnet

import (
	"errors"
	"fmt"
)

// The configuration that a host goes by is the one in the store, as long as that can be
// used. What becomes of it while the host runs is followed where no traffic is lost
// over it; the rest waits for a restart, and is named.

// reconfigure puts the stored configuration in force if that can be done.
type reconfigure struct{}

func (reconfigure) start(t *turn) (action, error) {
	if is := t.holding; *t.stored.StoredConfig == (StoredConfig{Text: is.Config.raw}) {
		if is.Unfollowed != "" {
			t.logf(info, "the network configuration is again the one in force")
			t.holding.Unfollowed = ""
		}
		return nil, nil
	}
	c, err := t.acceptable()
	if err != nil {
		t.refuse(err)
		return nil, nil
	}
	t.stored.next = c
	return prepare{c, t.holding.Snapshot}, nil
}

func (reconfigure) finish(t *turn, a answer) error {
	if a.err != nil {
		t.refuse(a.err)
	} else {
		t.logf(info, "the network configuration was changed, and is in force now: %.500q", t.stored.Text)
		t.holding.Config, t.holding.Unfollowed, t.holding.Unsaid = t.stored.next, "", ""
		t.attrs, t.avoid, t.asked = a.attrs, a.avoid, t.holding.Snapshot.Own
	}
	return nil
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
	own := t.holding.Own.Subnet
	if t.assigned {
		s := t.holding.Snapshot
		if !s.Own.Subnet.IsValid() { // the store gives nothing now, and we go on with ours
			a := *s.Own
			a.Subnet, s.Own = own, &a
		}
		return c, t.unassignable(c, s)
	}
	if t.holding.Holder == "" && (own.V4.IsValid() && !c.V4.contains(own.V4) || own.V6.IsValid() && !c.V6.contains(own.V6)) {
		return nil, &ConfigError{
			Key:    "Network",
			Value:  c.Network().String(),
			Reason: fmt.Sprintf("does not hold this host's subnet %s; a restart of the daemon takes another subnet", own),
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
			t.logf(warning, "the network configuration was changed, and the former one stays in force: %v%s", err, where)
		}
	}
	if !errors.As(err, new(*ConfigError)) {
		t.again = t.now.at.Add(retryMost)
	}
}
