package subnet

import (
	"context"
	"fmt"

	"k8s.io/klog/v2"
)

// refresh has our lease say what this host now wants it to.
func (k *Keeper) refresh(ctx context.Context) error {
	attrs, avoid, err := k.Prepare(ctx, k.holding.Config, k.holding.Snapshot)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err != nil {
		return waitingFor{fmt.Errorf("our lease %s cannot say what it should: %w", k.holding.Own.Subnet, err)}
	}
	k.outdated, k.avoid = false, avoid
	if attrs == k.attrs {
		return nil
	}
	klog.Infof("our lease %s is to say %s now", k.holding.Own.Subnet, attrs)
	k.attrs = attrs
	err = k.renew(ctx)
	k.Changed(k.holding)
	return err
}
