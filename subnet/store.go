// Package subnet is the life of a lease: the cluster's configuration, which
// subnet this host holds, and what the other hosts hold.
package subnet

import (
	"context"
	"errors"
	"time"

	"flanneld/pkg/ip"
)

// Errors that a Store returns, wrapped or bare.
var (
	// ErrNoConfig: the store answers and holds no configuration.
	ErrNoConfig = errors.New("no network configuration")
	// ErrExists: the subnet that was to be created is taken.
	ErrExists = errors.New("the subnet is taken")
	// ErrChanged: the lease that was to be written is gone or was written by
	// someone else meanwhile.
	ErrChanged = errors.New("the lease was changed meanwhile")
)

// steady is what a store says of a failure that stays the same, without which subnet was
// asked for this time.
func steady(err error) string {
	var s interface{ Steady() string }
	if errors.As(err, &s) {
		return s.Steady()
	}
	return err.Error()
}

// Store holds the configuration and the leases of one network. Every write is
// compare-and-swap. Any error other than those above means that the store
// could not be asked, or that it is unknown whether it did what it was asked.
// No lease seems to last longer than it does: how long it lasts, by an answer, is
// counted from when the store was asked. A Store is safe for concurrent use.
type Store interface {
	// Config returns the configuration as it is written, or ErrNoConfig.
	Config(ctx context.Context) ([]byte, error)

	// List returns all leases as they are now.
	List(ctx context.Context) (Snapshot, error)

	// Watch calls yield with all leases and the configuration as they are now,
	// and again after each change of any of them, until ctx ends (then it returns ctx.Err()) or the
	// store cannot be asked any more (then the error). What passed between two
	// calls of Watch is not lost: the first snapshot is complete. Snapshots
	// never go back in time within one call. yield is called from one
	// goroutine and should return soon.
	Watch(ctx context.Context, yield func(Snapshot)) error

	// Create takes a free subnet, for ttl, or for ever where ttl is 0; it
	// returns ErrExists if the subnet's key is there, whatever it holds.
	// Whether other leases overlap the subnet is the caller's concern.
	Create(ctx context.Context, s ip.Subnet, a Attrs, ttl time.Duration) (*Lease, error)

	// Update writes the lease of s anew, for ttl, or for ever where ttl is 0,
	// if revision is still that of its last write; else it returns ErrChanged.
	Update(ctx context.Context, s ip.Subnet, revision uint64, a Attrs, ttl time.Duration) (*Lease, error)

	// Move writes the lease of to in the place of that of from, for ttl, or for ever where
	// ttl is 0, if revision is still that of from's last write; else it returns ErrChanged. It
	// returns ErrExists if to's key is there. Where the store cannot do both at once, the new
	// lease comes first; after an error that is neither, both may be there. Who hears
	// of one change after the other ends with the new one.
	Move(ctx context.Context, from ip.Subnet, revision uint64, to ip.Subnet, a Attrs, ttl time.Duration) (*Lease, error)

	// Delete removes the lease of s if revision is still that of its last
	// write; else it returns ErrChanged.
	Delete(ctx context.Context, s ip.Subnet, revision uint64) error

	// Reconnect gives up connections that an address of this host was used for
	// which it no longer has. The store goes on by others.
	Reconnect()
}

// Assigner is a Store that chooses the subnet of each host itself, as Kubernetes does: its
// snapshots have Own. Its leases do not expire, and Machine of each is the name by which
// the store knows the host. Create and Update publish what the lease of this host says;
// they return ErrChanged where the subnet is not this host's, in the families that it has.
// Nothing is moved there.
type Assigner interface {
	Store
	// Name is what messages call the store.
	Name() string
	// WatchConfig calls yield with the configuration as it is now, and again after each change,
	// until ctx ends, and returns ctx.Err(). It is no part of what Watch shows: it is a file of
	// this host's, and there also while the store is not. yield is called from one goroutine.
	WatchConfig(ctx context.Context, yield func(StoredConfig)) error
}
