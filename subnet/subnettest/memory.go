// Package subnettest holds an in-memory subnet.Store for tests, and the suite
// of tests that every Store passes.
package subnettest

import (
	"context"
	"sync"
	"time"

	"flanneld/pkg/ip"
	"flanneld/subnet"
)

// Memory is a Store for tests: one client of a server that lives in memory.
// Time is that of package time, so it works inside a testing/synctest bubble.
type Memory struct {
	server *server

	mu     sync.Mutex
	faults map[Method]fault
	calls  map[Method]int
	drop   chan struct{} // closed to end the watches that run
	reason error         // why drop was closed
	view   *subnet.Assembler
	skew   time.Duration
}

var _ subnet.Store = (*Memory)(nil)

// NewMemory returns the first client of a new, empty server.
func NewMemory() *Memory { return newMemory(&server{entries: make(map[string]entry)}) }

// Join returns another client of the same server, with faults and counters of
// its own.
func (m *Memory) Join() *Memory { return newMemory(m.server) }

func newMemory(s *server) *Memory {
	return &Memory{
		server: s,
		faults: make(map[Method]fault),
		calls:  make(map[Method]int),
		drop:   make(chan struct{}),
	}
}

// Config implements subnet.Store.
func (m *Memory) Config(ctx context.Context) ([]byte, error) {
	return call(ctx, m, Config, func() ([]byte, error) {
		m.server.mu.Lock()
		defer m.server.mu.Unlock()
		if m.server.config == nil {
			return nil, subnet.ErrNoConfig
		}
		return []byte(*m.server.config), nil
	})
}

// List implements subnet.Store.
func (m *Memory) List(ctx context.Context) (subnet.Snapshot, error) {
	return call(ctx, m, List, func() (subnet.Snapshot, error) {
		m.server.mu.Lock()
		defer m.server.mu.Unlock()
		var a subnet.Assembler
		a.Reset(m.skewed(m.server.list()))
		return a.Snapshot(m.server.revision), nil
	})
}

// Create implements subnet.Store.
func (m *Memory) Create(ctx context.Context, s ip.Subnet, a subnet.Attrs, ttl time.Duration) (*subnet.Lease, error) {
	return call(ctx, m, Create, func() (*subnet.Lease, error) {
		m.server.mu.Lock()
		defer m.server.mu.Unlock()
		if _, ok := m.server.entries[s.Key()]; ok {
			return nil, subnet.ErrExists
		}
		return m.server.write(s, a, ttl)
	})
}

// Update implements subnet.Store.
func (m *Memory) Update(ctx context.Context, s ip.Subnet, revision uint64, a subnet.Attrs, ttl time.Duration) (*subnet.Lease, error) {
	return call(ctx, m, Update, func() (*subnet.Lease, error) {
		m.server.mu.Lock()
		defer m.server.mu.Unlock()
		if e, ok := m.server.entries[s.Key()]; !ok || e.Revision != revision {
			return nil, subnet.ErrChanged
		}
		return m.server.write(s, a, ttl)
	})
}

// Move implements subnet.Store.
func (m *Memory) Move(ctx context.Context, from ip.Subnet, revision uint64, to ip.Subnet, a subnet.Attrs, ttl time.Duration) (*subnet.Lease, error) {
	return call(ctx, m, Move, func() (*subnet.Lease, error) {
		m.server.mu.Lock()
		defer m.server.mu.Unlock()
		if e, ok := m.server.entries[from.Key()]; !ok || e.Revision != revision {
			return nil, subnet.ErrChanged
		}
		if _, ok := m.server.entries[to.Key()]; ok {
			return nil, subnet.ErrExists
		}
		return m.server.move(from, to, a, ttl)
	})
}

// Delete implements subnet.Store.
func (m *Memory) Delete(ctx context.Context, s ip.Subnet, revision uint64) error {
	_, err := call(ctx, m, Delete, func() (struct{}, error) {
		m.server.mu.Lock()
		defer m.server.mu.Unlock()
		if e, ok := m.server.entries[s.Key()]; !ok || e.Revision != revision {
			return struct{}{}, subnet.ErrChanged
		}
		m.server.remove(s.Key())
		return struct{}{}, nil
	})
	return err
}

// Watch implements subnet.Store.
func (m *Memory) Watch(ctx context.Context, yield func(subnet.Snapshot)) error {
	_, err := call(ctx, m, Watch, func() (struct{}, error) {
		return struct{}{}, m.watch(ctx, yield)
	})
	return err
}

func (m *Memory) watch(ctx context.Context, yield func(subnet.Snapshot)) error {
	m.mu.Lock()
	view, drop := m.view, m.drop
	m.view = nil // a second Watch beside this one starts from nothing
	m.mu.Unlock()
	if view == nil {
		view = &subnet.Assembler{}
	}
	defer func() {
		m.mu.Lock()
		m.view = view
		m.mu.Unlock()
	}()

	changes, entries, config, revision := m.server.subscribe()
	defer m.server.unsubscribe(changes)
	view.Reset(m.skewed(entries))
	view.SetConfig(config)
	yield(view.Snapshot(revision))
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-drop:
			m.mu.Lock()
			defer m.mu.Unlock()
			return m.reason
		case <-changes.ready:
		}
		for _, c := range m.server.take(changes) {
			switch {
			case c.config != nil:
				view.SetConfig(*c.config)
			case c.gone:
				view.Remove(c.Key)
			default:
				view.Put(m.skewed([]subnet.Entry{c.Entry})[0])
			}
			if !c.more {
				yield(view.Snapshot(c.at))
			}
		}
	}
}

// skewed makes what a server says of the end of entries what this client is told.
func (m *Memory) skewed(entries []subnet.Entry) []subnet.Entry {
	m.mu.Lock()
	defer m.mu.Unlock()
	for i := range entries {
		if !entries[i].Expires.IsZero() {
			entries[i].Expires = entries[i].Expires.Add(m.skew)
		}
	}
	return entries
}

// Reconnect implements subnet.Store: there are no connections.
func (m *Memory) Reconnect() {}
