package main

import (
	"context"
	"time"

	sd "github.com/coreos/go-systemd/v22/daemon"
	"k8s.io/klog/v2"
)

// watchdog tells systemd that the daemon is alive, twice in the time that its unit's
// WatchdogSec allows. One that is frozen, or stuck in a lock, does not.
func (d *daemon) watchdog(ctx context.Context) error {
	allowed, err := sd.SdWatchdogEnabled(false)
	if err != nil {
		klog.Warningf("systemd will not be told that this daemon is alive: %v", err)
	}
	if allowed <= 0 {
		return nil
	}
	tick := time.NewTicker(allowed / 2)
	defer tick.Stop()
	for {
		d.awaitLock()
		d.systemd.alive()
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
	}
}

// awaitLock waits for what all parts of the daemon need now and then.
func (d *daemon) awaitLock() {
	d.mu.Lock()
	defer d.mu.Unlock()
}
