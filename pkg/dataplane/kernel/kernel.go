// Package kernel keeps objects in the network stack of the namespace it runs
// in, by netlink.
package kernel

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"golang.org/x/sys/unix"

	"flanneld/pkg/dataplane"
	"flanneld/pkg/ip"
)

// Kernel is the kernel as a target.
type Kernel struct {
	links *links // as of the last dump, or change of devices

	// devices is held while devices of ours are changed, and while an event
	// looks what one of them is now: none shows one half made.
	devices sync.Mutex
	trials  map[string]*trial // by the name of the device that is wanted; under devices

	following sync.Mutex
	families  []ip.Family        // whose routes are watched
	again     context.CancelFunc // ends what listens for them now
}

// New returns the kernel of the network namespace of the calling process.
func New() *Kernel {
	return &Kernel{links: &links{}, trials: make(map[string]*trial), families: ip.Families[:], again: func() {}}
}

// noLink is a dataplane.ErrNoLink with its cause.
type noLink string

func (e noLink) Error() string { return string(e) }

func (e noLink) Is(err error) bool { return err == dataplane.ErrNoLink }

var errInterrupted = errors.New("the kernel's tables changed meanwhile")

// table is what the kernel is asked to list.
type table struct {
	what    string
	request uint16
	header  []byte
}

// dump calls f with the payload of each message of the list, until no change came between
// its parts, a few times at most. It calls reset before it begins anew.
func (t table) dump(ctx context.Context, reset func(), f func([]byte)) error {
	var err error
	for try := range 5 {
		if try > 0 {
			reset()
		}
		switch err = ask(t.request, unix.NLM_F_DUMP, t.header, f); {
		case err == nil:
			return nil
		case !errors.Is(err, errInterrupted) || ctx.Err() != nil:
			return fmt.Errorf("listing %s: %w", t.what, err)
		}
	}
	return fmt.Errorf("listing %s: %w: %w", t.what, dataplane.ErrIncomplete, err)
}

// list returns what decode makes of a table.
func list[T any](ctx context.Context, t table, decode func([]byte) (T, bool)) ([]T, error) {
	var all []T
	err := t.dump(ctx, func() { all = all[:0] }, func(payload []byte) {
		if entry, ok := decode(payload); ok {
			all = append(all, entry)
		}
	})
	return all, err
}

// HasNexthops reports whether the kernel knows nexthop objects: it does since
// version 5.3.
func (*Kernel) HasNexthops() bool {
	return nexthops.dump(context.Background(), func() {}, func([]byte) {}) == nil
}
