package subnet

import (
	"context"
	"fmt"
	"slices"

	"k8s.io/klog/v2"

	"flanneld/pkg/ip"
	"flanneld/pkg/printable"
)

// lost takes a new subnet because someone else has ours.
func (k *Keeper) lost(ctx context.Context, holder string) error {
	klog.Errorf("our subnet %s now belongs to %s; taking another one", k.holding.Own.Subnet, holder)
	k.holding.Holder = holder
	k.follow(k.holding.Snapshot)
	return k.move(ctx)
}

// move tries to take a new subnet. Until that succeeds, the old one is what this
// host has, and the other hosts are followed as before.
func (k *Keeper) move(ctx context.Context) error {
	old := k.holding.Own
	k.Previous = old.Subnet // it may be free again
	if err := k.tryAcquire(ctx); err != nil {
		return fmt.Errorf("taking another subnet than %s, which belongs to %s: %w", old.Subnet, k.holding.Holder, err)
	}
	if k.holding.Own.Subnet == old.Subnet {
		klog.Infof("our subnet %s is free again, and ours", old.Subnet)
		return nil
	}
	klog.Errorf("this host's subnet changed from %s to %s: what still uses the old addresses, such as running containers and the bridge that they are on, has to be restarted",
		old.Subnet, k.holding.Own.Subnet)
	return nil
}

// follow makes s the latest snapshot, also of who has our subnet.
func (k *Keeper) follow(s Snapshot) {
	k.holding.Snapshot, k.holding.Partial = s, false
	if k.holding.Holder == "" && !k.offline {
		return
	}
	own := *k.holding.Own
	switch l := s.Find(own.Subnet); {
	case slices.ContainsFunc(s.Problems, func(p Problem) bool { return p.Subnet == own.Subnet }):
		k.holding.Holder = unreadable
	case l != nil && k.holder(l) != "":
		k.holding.Holder = k.holder(l)
	}
	if k.holding.Holder != "" {
		// When we last wrote is history, maybe that of a store which was replaced:
		// old is what is older than this.
		own.Revision = s.Revision
		k.holding.Own = &own
	}
}

// usurper says which lease has our subnet, of which there is none; nothing if we may
// claim it again. What overlapped it while it was there has no part in it.
func (k *Keeper) usurper(s Snapshot) string {
	c, own := k.holding.Config, k.holding.Own.Subnet
	has := func(there ip.Subnet, revision uint64) bool {
		before := revision <= k.seen && k.seen <= s.Revision // else it is another history
		return there.Overlaps(own) && c.contains(there) && !before
	}
	lost := c.losers(s.Leases)
	for _, l := range s.Leases {
		if _, isLost := lost[l]; !isLost && has(l.Subnet, l.Revision) {
			return fmt.Sprintf("the host with the public address %s, by the lease %s, which overlaps it", l.PublicIP, l.Subnet)
		}
	}
	for _, p := range s.Problems {
		if has(p.Subnet, p.Revision) {
			return fmt.Sprintf("whoever has the lease %s, which overlaps it and cannot be read", p.Subnet)
		}
	}
	return ""
}

// unreadable is the holder of a subnet whose key says nothing that we understand.
const unreadable = "someone whose lease cannot be read"

// holder says who has our subnet by a lease of it; nothing if we have. What it says
// of us may be what we have not yet learned that we wrote.
func (k *Keeper) holder(l *Lease) string {
	switch own := k.holding.Own; {
	case l.PublicIP != own.PublicIP && l.PublicIP != k.attrs.PublicIP:
		return fmt.Sprintf("the host with the public address %s", l.PublicIP)
	case l.Machine != "" && !SameMachine(l.Machine, own.Machine) && !SameMachine(l.Machine, k.attrs.Machine):
		return fmt.Sprintf("the machine %s, which has our public address %s, too", printable.Name(l.Machine), l.PublicIP)
	case l.Machine != "" && l.Machine == k.former && l.Machine != own.Machine && l.Machine != k.attrs.Machine:
		return fmt.Sprintf("the machine %s, which has our public address %s and our machine ID, too", printable.Name(l.Machine), l.PublicIP)
	}
	return ""
}
