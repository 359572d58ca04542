package etcd

import (
	"context"
	"errors"
	"fmt"
	"time"

	"flanneld/pkg/ip"
	"flanneld/subnet"
)

// ErrCondition is that a write was not done, as the key is not as it was taken to be.
var ErrCondition = errors.New("the condition failed")

// Leases is what a store does with leases in either API: it is subnet.Store but for the
// configuration.
type Leases struct {
	Watching Watch
	// Put writes the lease of a subnet if revision is that of its last write, or if there is
	// none where that is 0. If not, ErrCondition is in the error.
	Put func(ctx context.Context, sub ip.Subnet, a subnet.Attrs, ttl time.Duration, revision uint64) (*subnet.Lease, error)
	// Replace writes the lease of a subnet in the place of that of another one, if revision is
	// that of the last write of that, and if there is none in the new place: else
	// ErrCondition or subnet.ErrExists is in the error.
	Replace func(ctx context.Context, from ip.Subnet, revision uint64, to ip.Subnet, a subnet.Attrs, ttl time.Duration) (*subnet.Lease, error)
	// Remove deletes it likewise.
	Remove func(ctx context.Context, sub ip.Subnet, revision uint64) error
}

// List implements subnet.Store.
func (l *Leases) List(ctx context.Context) (subnet.Snapshot, error) { return l.Watching.Snapshot(ctx) }

// Watch implements subnet.Store.
func (l *Leases) Watch(ctx context.Context, yield func(subnet.Snapshot)) error {
	return l.Watching.Run(ctx, yield)
}

// Create implements subnet.Store.
func (l *Leases) Create(ctx context.Context, sub ip.Subnet, a subnet.Attrs, ttl time.Duration) (*subnet.Lease, error) {
	created, err := l.Put(ctx, sub, a, ttl, 0)
	return created, failed("creating", sub, err, subnet.ErrExists)
}

// Update implements subnet.Store. Revision 0 would be that of a key that is not there.
func (l *Leases) Update(ctx context.Context, sub ip.Subnet, revision uint64, a subnet.Attrs, ttl time.Duration) (updated *subnet.Lease, err error) {
	if err = ErrCondition; revision != 0 {
		updated, err = l.Put(ctx, sub, a, ttl, revision)
	}
	return updated, failed("updating", sub, err, subnet.ErrChanged)
}

// Move implements subnet.Store.
func (l *Leases) Move(ctx context.Context, from ip.Subnet, revision uint64, to ip.Subnet, a subnet.Attrs, ttl time.Duration) (moved *subnet.Lease, err error) {
	if err = ErrCondition; revision != 0 {
		moved, err = l.Replace(ctx, from, revision, to, a, ttl)
	}
	return moved, failed("moving to "+to.String(), from, err, subnet.ErrChanged)
}

// Delete implements subnet.Store.
func (l *Leases) Delete(ctx context.Context, sub ip.Subnet, revision uint64) error {
	err := ErrCondition
	if revision != 0 {
		err = l.Remove(ctx, sub, revision)
	}
	return failed("deleting", sub, err, subnet.ErrChanged)
}

// failed is the error of a write; condition stands for ErrCondition.
func failed(doing string, sub ip.Subnet, err, condition error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, ErrCondition):
		err = condition
	}
	return fmt.Errorf("%s lease %s: %w", doing, sub, err)
}
