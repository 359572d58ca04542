package subnet

import (
	"context"
	"errors"
	"fmt"

	"k8s.io/klog/v2"
)

// The configuration that a host goes by is the one in the store, as long as that can be
// used. What becomes of it while the host runs is followed where no traffic is lost
// over it; the rest waits for a restart, and is named.

// hear takes what a snapshot says of the configuration. It reports whether another one
// is in force now, and whether our lease has to say something else for that.
func (k *Keeper) hear(ctx context.Context, s Snapshot) (changed, write bool) {
	c := s.Config
	if c == nil || k.stored != nil && *k.stored == *c {
		return false, false
	}
	k.stored = c
	// That of a store which lost everything is logged with the lease.
	k.wiped = c.Missing && s.Find(k.holding.Own.Subnet) == nil
	return k.reconfigure(ctx)
}

// reconsider looks again at a configuration that could not be followed: what was wrong
// may have been this host.
func (k *Keeper) reconsider(ctx context.Context) (changed, write bool) {
	if k.stored == nil || k.holding.Unfollowed == "" {
		return false, false
	}
	return k.reconfigure(ctx)
}

// reconfigure puts the stored configuration in force if that can be done.
func (k *Keeper) reconfigure(ctx context.Context) (changed, write bool) {
	before := k.holding
	if !k.stored.Missing && k.stored.Text == before.Config.raw {
		k.holding.Unfollowed = ""
		if before.Unfollowed != "" {
			klog.Info("the network configuration is again the one in force")
		}
		return before.Unfollowed != "", false
	}
	c, attrs, err := k.prepareNew(ctx)
	if ctx.Err() != nil {
		return false, false
	}
	if err != nil {
		k.holding.Unfollowed = err.Error()
		if before.Unfollowed != k.holding.Unfollowed && !k.wiped {
			klog.Warningf("the network configuration was changed, and the former one stays in force: %v%s", err, k.where())
		}
		if !errors.As(err, new(*ConfigError)) {
			k.again.Reset(retryMost)
		}
		return before.Unfollowed != k.holding.Unfollowed, false
	}
	klog.Infof("the network configuration was changed, and is in force now: %.500q", k.stored.Text)
	k.holding.Config, k.holding.Unfollowed = c, ""
	write = attrs != k.attrs
	k.attrs = attrs
	return true, write
}

// where names the configuration's key, in a message about it.
func (k *Keeper) where() string {
	if k.ConfigKey == "" {
		return ""
	}
	return " (key " + k.ConfigKey + ")"
}

// prepareNew returns the stored configuration, and what our lease has to say under it, or
// why it cannot be followed.
func (k *Keeper) prepareNew(ctx context.Context) (*Config, Attrs, error) {
	if k.stored.Missing {
		return nil, Attrs{}, &ConfigError{Value: "was deleted", Reason: "from the store"}
	}
	c, err := ParseConfig([]byte(k.stored.Text))
	if err == nil {
		err = k.restartFor(c)
	}
	if err != nil {
		return nil, Attrs{}, err
	}
	own := k.holding.Own.Subnet
	if k.holding.Holder == "" && (own.V4.IsValid() && !c.V4.contains(own.V4) || own.V6.IsValid() && !c.V6.contains(own.V6)) {
		return nil, Attrs{}, &ConfigError{
			Key:    "Network",
			Value:  c.Network().String(),
			Reason: fmt.Sprintf("does not hold this host's subnet %s; a restart of the daemon takes another subnet", own),
		}
	}
	attrs, avoid, err := k.Prepare(ctx, c, k.holding.Snapshot)
	if err != nil {
		return nil, Attrs{}, err
	}
	k.avoid = avoid
	return c, attrs, nil
}

// restartFor returns why a configuration cannot be followed by a daemon that runs, if so.
func (k *Keeper) restartFor(c *Config) error {
	if is := k.holding.Config.BackendType; c.BackendType != is {
		return &ConfigError{
			Key:    "Backend.Type",
			Value:  fmt.Sprintf("%q", c.BackendType),
			Reason: fmt.Sprintf("in the place of %q takes a restart of the daemon", is),
		}
	}
	return nil
}

// mustRefresh reports whether our lease is to be written anew, after someone asked for a
// look at what it must say.
func (k *Keeper) mustRefresh(ctx context.Context, retrying bool) bool {
	changed, write := k.reconsider(ctx)
	if retrying || k.ask(ctx) || write {
		return true
	}
	if changed {
		k.Changed(k.holding)
	}
	return false
}
