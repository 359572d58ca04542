// Package kernel keeps objects in the network stack of the namespace it runs
// in, by netlink.
package kernel

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"flanneld/pkg/dataplane"
)

// Kernel is the kernel as a target.
type Kernel struct {
	links *links // as of the last dump, or change of devices

	// devices is held while devices of ours are changed, and while an event
	// looks what one of them is now: none shows one half made.
	devices sync.Mutex
	trial   trial // under devices
}

// New returns the kernel of the network namespace of the calling process.
func New() *Kernel { return &Kernel{links: &links{}} }

// noLink is a dataplane.ErrNoLink that says more.
type noLink string

func (e noLink) Error() string { return string(e) }

func (e noLink) Is(err error) bool { return err == dataplane.ErrNoLink }

var errInterrupted = errors.New("the kernel's tables changed meanwhile")

// uninterrupted runs a dump until no change of the kernel's tables came between
// its parts, a few times at most.
func uninterrupted(ctx context.Context, dump func() error) error {
	var err error
	for range 5 {
		if err = dump(); !errors.Is(err, errInterrupted) || ctx.Err() != nil {
			return err
		}
	}
	return fmt.Errorf("%w: %w", dataplane.ErrIncomplete, err)
}

// HasNexthops reports whether the kernel knows nexthop objects: it does since
// version 5.3.
func (k *Kernel) HasNexthops() bool { return dumpNexthops(func([]byte) {}) == nil }
