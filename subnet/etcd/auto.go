package etcd

import (
	"context"
	"sync"
	"time"

	"k8s.io/klog/v2"

	"flanneld/pkg/ip"
	"flanneld/subnet"
)

// Store is a subnet.Store that has connections.
type Store interface {
	subnet.Store
	// Guarded reports whether only users of etcd can write what the store holds.
	Guarded(ctx context.Context) (bool, error)
	Close()
}

// Auto is the store in the one of etcd's two APIs where the network is. It finds
// out which one that is as soon as it can, and keeps to it: one day both may have
// a configuration, and a host must not leave its lease for that.
type Auto struct {
	v2, v3 Store
	memory Memory

	mu     sync.Mutex
	chosen Store
}

// Memory keeps the version of etcd's API that a host used last. 0 is unknown.
type Memory interface {
	Used() int
	Use(version int)
}

// NewAuto returns a store that is one of these. It closes both.
func NewAuto(v2, v3 Store, m Memory) *Auto { return &Auto{v2: v2, v3: v3, memory: m} }

func (a *Auto) store(ctx context.Context) (Store, error) {
	a.mu.Lock()
	chosen := a.chosen
	a.mu.Unlock()
	if chosen != nil {
		return chosen, nil
	}
	found, why, err := detectAPI(ctx, a.v2, a.v3, a.memory.Used())
	if err != nil {
		return nil, err
	}
	a.mu.Lock()
	first := a.chosen == nil
	if first {
		a.chosen = found.store
	}
	chosen = a.chosen
	a.mu.Unlock()
	if first {
		klog.Infof("using version %d of etcd's API: %s", found.version, why)
		a.memory.Use(found.version)
	}
	return chosen, nil
}

// Guarded implements Store.
func (a *Auto) Guarded(ctx context.Context) (bool, error) {
	s, err := a.store(ctx)
	if err != nil {
		return false, err
	}
	return s.Guarded(ctx)
}

// Config implements subnet.Store.
func (a *Auto) Config(ctx context.Context) ([]byte, error) {
	s, err := a.store(ctx)
	if err != nil {
		return nil, err
	}
	return s.Config(ctx)
}

// List implements subnet.Store.
func (a *Auto) List(ctx context.Context) (subnet.Snapshot, error) {
	s, err := a.store(ctx)
	if err != nil {
		return subnet.Snapshot{}, err
	}
	return s.List(ctx)
}

// Watch implements subnet.Store.
func (a *Auto) Watch(ctx context.Context, yield func(subnet.Snapshot)) error {
	s, err := a.store(ctx)
	if err != nil {
		return err
	}
	return s.Watch(ctx, yield)
}

// Create implements subnet.Store.
func (a *Auto) Create(ctx context.Context, sub ip.Subnet, attrs subnet.Attrs, ttl time.Duration) (*subnet.Lease, error) {
	s, err := a.store(ctx)
	if err != nil {
		return nil, err
	}
	return s.Create(ctx, sub, attrs, ttl)
}

// Update implements subnet.Store.
func (a *Auto) Update(ctx context.Context, sub ip.Subnet, revision uint64, attrs subnet.Attrs, ttl time.Duration) (*subnet.Lease, error) {
	s, err := a.store(ctx)
	if err != nil {
		return nil, err
	}
	return s.Update(ctx, sub, revision, attrs, ttl)
}

// Move implements subnet.Store.
func (a *Auto) Move(ctx context.Context, from ip.Subnet, revision uint64, to ip.Subnet, attrs subnet.Attrs, ttl time.Duration) (*subnet.Lease, error) {
	s, err := a.store(ctx)
	if err != nil {
		return nil, err
	}
	return s.Move(ctx, from, revision, to, attrs, ttl)
}

// Delete implements subnet.Store.
func (a *Auto) Delete(ctx context.Context, sub ip.Subnet, revision uint64) error {
	s, err := a.store(ctx)
	if err != nil {
		return err
	}
	return s.Delete(ctx, sub, revision)
}

// Reconnect implements subnet.Store.
func (a *Auto) Reconnect() {
	a.v2.Reconnect()
	a.v3.Reconnect()
}

// Close closes both stores.
func (a *Auto) Close() {
	a.v2.Close()
	a.v3.Close()
}
