package subnet

import (
	"context"

	"k8s.io/klog/v2"
)

const cannotSay = "our lease %s cannot say what it should: %v; trying again"

// ask has Prepare say anew what our lease must say, and reports whether that has
// changed. As long as Prepare can't tell, the lease is kept as it is: this host
// still lives by it.
func (k *Keeper) ask(ctx context.Context) (changed bool) {
	attrs, avoid, err := k.Prepare(ctx, k.holding.Config, k.holding.Snapshot)
	if ctx.Err() != nil {
		return false
	}
	if err != nil {
		k.tell(cannotSay, k.holding.Own.Subnet, err)
		k.again.Reset(retryMost)
		return false
	}
	k.told.Over(cannotSay)
	if k.holding.Unfollowed == "" { // else it is for that, too
		k.again.Stop()
	}
	k.outdated, k.avoid = false, avoid
	if attrs == k.attrs {
		return false
	}
	klog.Infof("our lease %s is to say %s now", k.holding.Own.Subnet, attrs)
	k.attrs = attrs
	return true
}

// refresh writes our lease with what this host now wants it to say.
func (k *Keeper) refresh(ctx context.Context) error {
	err := k.renew(ctx)
	k.Changed(k.holding)
	return err
}
