package etcd

import (
	"context"
	"fmt"
	"sync"
	"time"
)

// Resume hands on what a watch knows, a V, to the next one. The zero Resume has
// nothing.
type Resume[V any] struct {
	mu      sync.Mutex
	watched bool // now or before
	saved   *V
}

// Offer gives the first watch something to begin with, such as what was listed
// before it.
func (r *Resume[V]) Offer(v *V) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.watched {
		r.saved = v
	}
}

// Watch calls watch with what the last one knew when it ended, or with a zero V,
// and returns its error, or ctx.Err() if ctx has ended. A second Watch beside this
// one starts from nothing.
func (r *Resume[V]) Watch(ctx context.Context, watch func(v *V) error) error {
	r.mu.Lock()
	v := r.saved
	r.saved = nil
	r.watched = true
	r.mu.Unlock()
	if v == nil {
		v = new(V)
	}
	defer func() {
		r.mu.Lock()
		r.saved = v
		r.mu.Unlock()
	}()
	err := watch(v)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return fmt.Errorf("watching leases: %w", err)
}

// Sleep waits for d, or until ctx ends; then it returns ctx.Err().
func Sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}
