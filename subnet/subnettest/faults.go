package subnettest

import (
	"context"
	"strings"
	"time"
)

// Method names a method of subnet.Store.
type Method string

// The methods of subnet.Store.
const (
	Config Method = "Config"
	List   Method = "List"
	Watch  Method = "Watch"
	Create Method = "Create"
	Update Method = "Update"
	Move   Method = "Move"
	Delete Method = "Delete"
)

// fault is what goes wrong with each call of a method.
type fault struct {
	err   error
	after bool          // fails after it was done
	hang  chan struct{} // closed when the fault is lifted
}

// Fail makes calls of these methods, all if none is named, return err without
// doing anything. Watches that run go on; see DropWatches.
func (m *Memory) Fail(err error, which ...Method) { m.set(fault{err: err}, which) }

// FailAfter makes calls of these methods, all if none is named, do what they
// are asked, then return err: the answer was lost.
func (m *Memory) FailAfter(err error, which ...Method) { m.set(fault{err: err, after: true}, which) }

// Hang makes calls of these methods, all if none is named, block until their
// context ends or the fault is lifted.
func (m *Memory) Hang(which ...Method) {
	for _, method := range orAll(which) {
		m.set(fault{hang: make(chan struct{})}, []Method{method})
	}
}

// Heal lifts the faults of these methods, all if none is named.
func (m *Memory) Heal(which ...Method) { m.set(fault{}, which) }

func (m *Memory) set(f fault, which []Method) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, method := range orAll(which) {
		if h := m.faults[method].hang; h != nil {
			close(h)
		}
		m.faults[method] = f
	}
}

func orAll(which []Method) []Method {
	if len(which) == 0 {
		return []Method{Config, List, Watch, Create, Update, Move, Delete}
	}
	return which
}

// DropWatches makes all watches of this client that run now return err.
func (m *Memory) DropWatches(err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.reason = err
	close(m.drop)
	m.drop = make(chan struct{})
}

// Calls returns how often a method has been called, failed calls included.
func (m *Memory) Calls(method Method) int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.calls[method]
}

// SetConfig writes the network's configuration.
func (m *Memory) SetConfig(value string) { m.server.configure(&value) }

// UnsetConfig removes the network's configuration.
func (m *Memory) UnsetConfig() { m.server.configure(nil) }

// PutRaw writes any value under any key below "subnets/"; for ever where ttl
// is 0.
func (m *Memory) PutRaw(key, value string, ttl time.Duration) {
	m.server.mu.Lock()
	defer m.server.mu.Unlock()
	m.server.put(key, value, ttl)
}

// DeleteRaw removes a key below "subnets/", if it is there.
func (m *Memory) DeleteRaw(key string) {
	m.server.mu.Lock()
	defer m.server.mu.Unlock()
	m.server.remove(key)
}

// Harness is the store for Suite.
func (m *Memory) Harness() Harness {
	return Harness{
		Store: m,
		PutRaw: func(path, value string, ttl time.Duration) {
			if key, ok := strings.CutPrefix(path, "subnets/"); ok {
				m.PutRaw(key, value, ttl)
			} else if path == "config" {
				m.SetConfig(value)
			}
		},
		DeleteRaw: func(path string) {
			if path == "config" {
				m.UnsetConfig()
			} else {
				m.DeleteRaw(strings.TrimPrefix(path, "subnets/"))
			}
		},
		ShortTTL: 50 * time.Millisecond,
	}
}

// Wipe removes everything, the configuration too.
func (m *Memory) Wipe() {
	m.UnsetConfig()
	m.server.mu.Lock()
	defer m.server.mu.Unlock()
	for key := range m.server.entries {
		m.server.remove(key)
	}
}

// Replace puts a store that holds no lease in the place of this one, with the
// same configuration; its writes are counted from revision on. No watch is told.
func (m *Memory) Replace(revision uint64) {
	m.server.mu.Lock()
	defer m.server.mu.Unlock()
	for key := range m.server.entries {
		m.server.stopExpiry(key)
		delete(m.server.entries, key)
	}
	m.server.revision = revision
}

// Skew makes this client be told, when it lists or watches, that leases end so
// much later than they do: it is connected to a server whose clock is wrong.
func (m *Memory) Skew(d time.Duration) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.skew = d
}

// JumpClock sets the clock of the server forward by d, or back. As in etcd, each
// lease ends at the same time by that clock as before, and no watch is told.
// To a host that was suspended for d, the server's clock has done just that.
func (m *Memory) JumpClock(d time.Duration) {
	m.server.mu.Lock()
	defer m.server.mu.Unlock()
	for key, e := range m.server.entries {
		if e.expiry != nil {
			e.Expires = e.Expires.Add(-d)
			e.expiry.Reset(max(0, time.Until(e.Expires)))
			m.server.entries[key] = e
		}
	}
}

// call runs one method under the fault that is set for it.
func call[T any](ctx context.Context, m *Memory, method Method, do func() (T, error)) (T, error) {
	m.mu.Lock()
	m.calls[method]++
	f := m.faults[method]
	m.mu.Unlock()

	var zero T
	if err := ctx.Err(); err != nil {
		return zero, err
	}
	if f.hang != nil {
		select {
		case <-ctx.Done():
			return zero, ctx.Err()
		case <-f.hang:
		}
	}
	if f.err != nil && !f.after {
		return zero, f.err
	}
	v, err := do()
	if f.after {
		return zero, f.err
	}
	return v, err
}
