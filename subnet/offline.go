package subnet

import (
	"context"
	"fmt"
	"time"

	"k8s.io/klog/v2"

	"flanneld/pkg/printable"
)

// offlineAfter is how long the store is tried at the start before what was saved
// has to do.
const offlineAfter = 5 * time.Second

// goOffline takes what was saved as if it came from the store, if this host may
// still live by it.
func (k *Keeper) goOffline(ctx context.Context) bool {
	s, err := k.Saved()
	if err != nil {
		k.Saved = nil // it will not get better
	} else {
		// What is wrong may get better: the clock is set, the interface comes up.
		k.Saved = func() (Saved, error) { return s, nil }
		err = k.usable(ctx, s)
	}
	switch {
	case ctx.Err() != nil:
		return false
	case err != nil:
		k.tell("waiting for the store, as there is nothing to start with: %v", err)
		return false
	}
	whose := "ours for ever"
	switch {
	case s.Holder != "":
		whose = "now that of " + s.Holder
	case !s.Own.Reserved():
		whose = "ours until " + s.Own.Expires.Format(time.DateTime)
	}
	klog.Warningf("the store cannot be reached: starting with what was known of it at %s, %d leases; our subnet %s is %s",
		s.At.Format(time.DateTime), len(s.Snapshot.Leases), s.Own.Subnet, whose)
	k.holding, k.offline = s.Holding, true
	k.holding.Partial = true
	return true
}

// usable asks what our lease has to say, and returns why a saved one can't be
// lived by.
func (k *Keeper) usable(ctx context.Context, s Saved) error {
	now := time.Now() // of what was saved, there is but the reading of the wall clock
	switch own := s.Own; {
	case now.Before(s.At):
		return fmt.Errorf("it was saved at %s, which is yet to come: the clock can't be right", s.At.Format(time.DateTime))
	case !own.Reserved() && !now.Before(own.Expires):
		return fmt.Errorf("our lease %s ended at %s", own.Subnet, own.Expires.Format(time.DateTime))
	case !s.Config.Keeps(own.Subnet):
		return fmt.Errorf("our lease %s does not fit the configuration", own.Subnet)
	}
	attrs, avoid, err := k.Prepare(ctx, s.Config, s.Snapshot)
	if err != nil {
		return err
	}
	// Machines made from one image may have one ID: see moved.
	if attrs.PublicIP != s.Own.PublicIP && (s.Own.Machine == "" || !SameMachine(s.Own.Machine, attrs.Machine) || k.Previous.IsValid() && s.Own.Subnet != k.Previous) {
		return fmt.Errorf("our lease is that of another public address, %s", s.Own.PublicIP)
	}
	if s.Own.Machine != "" && !SameMachine(printable.Name(s.Own.Machine), attrs.Machine) {
		return fmt.Errorf("our lease is that of the machine %s, and this one is %s", printable.Name(s.Own.Machine), attrs.Machine)
	}
	k.attrs, k.avoid, k.outdated = attrs, avoid, false
	k.readdressed = attrs.PublicIP != s.Own.PublicIP
	return nil
}

// online gets a lease from the store, once that can be reached.
func (k *Keeper) online(ctx context.Context) error {
	old := k.holding.Own.Subnet
	k.Saved, k.Previous = nil, old
	if err := k.acquire(ctx); err != nil {
		return err
	}
	k.offline = false
	if now := k.holding.Own.Subnet; now != old {
		klog.Errorf("this host's subnet changed from %s to %s, for the other was not ours any more: what still uses the old addresses, such as running containers and the bridge that they are on, has to be restarted",
			old, now)
	}
	return nil
}
