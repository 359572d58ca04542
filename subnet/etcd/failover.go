package etcd

import (
	"cmp"
	"context"
	"errors"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"k8s.io/klog/v2"
)

// Failover goes from one endpoint to the next. The stores leave that to no
// library: only so do they know which endpoint failed and how, and whether a
// write may be sent again.
type Failover struct {
	// Cluster returns the ID of the cluster that endpoint k is a member of. If set,
	// endpoints of another cluster than the others are left out, and logged by Name.
	Cluster func(ctx context.Context, k int) (string, error)
	Name    func(k int) string
	// Failing is what was logged of endpoints. It may be nil.
	Failing *Failing

	endpoints int
	current   atomic.Int64 // the one that answered last
	cluster   clusterCheck
}

// Start begins with one of n endpoints at random, which spreads the hosts.
func (f *Failover) Start(n int) {
	f.endpoints = n
	f.cluster.of, f.cluster.checked = make(map[int]string), make(map[int]bool)
	f.Pin(rand.IntN(n))
}

// Current is the endpoint that is asked first.
func (f *Failover) Current() int { return int(f.current.Load()) }

// Pin makes the next request go to endpoint k first.
func (f *Failover) Pin(k int) { f.current.Store(int64(k % f.endpoints)) }

// Leave makes the next request go to another endpoint than k, if it would go
// there.
func (f *Failover) Leave(k int) {
	f.distrust(k)
	f.current.CompareAndSwap(int64(k), int64((k+1)%f.endpoints))
}

// Do asks one endpoint after the other until one answers. A write is not sent
// again unless it never left: if only the answer was lost, the second one would
// be told that the key was changed meanwhile.
func (f *Failover) Do(ctx context.Context, write bool, ask func(ctx context.Context, k int) error) error {
	failed := make(failures)
	asking, cancel := leaveTime(ctx)
	defer cancel()
	first := f.Current()
	for i := range f.endpoints {
		k := (first + i) % f.endpoints
		err := f.checkCluster(asking, k)
		if err == nil {
			err = ask(asking, k)
		}
		if err != nil && asking.Err() != nil {
			// The next call begins with the next endpoint: this one may hang.
			f.Pin(k + 1)
			if Unanswered(err) {
				failed[k] = err
			}
			if errors.Is(ctx.Err(), context.Canceled) || len(failed) == 0 {
				return cmp.Or(ctx.Err(), asking.Err())
			}
			return failed.unavailable(ctx)
		}
		if !Unanswered(err) {
			f.Pin(k)
			f.Failing.note(f, failed, k)
			return err
		}
		f.distrust(k)
		failed[k] = err
		if write && !unsent(err) {
			break
		}
	}
	f.Pin(first + len(failed))
	return failed.unavailable(ctx)
}

// leaveTime leaves some of the time that there is for finding out why it was not enough.
func leaveTime(ctx context.Context) (context.Context, context.CancelFunc) {
	end, limited := ctx.Deadline()
	if !limited {
		return context.WithCancel(ctx)
	}
	return context.WithDeadline(ctx, end.Add(-min(examineTimeout, time.Until(end)/5)))
}

// Failing is the endpoints that fail while others answer, as far as that was logged. The
// stores in both APIs share it.
type Failing struct {
	mu    sync.Mutex
	names map[string]bool
}

// note logs the endpoints that have failed where another one, k, has answered.
func (l *Failing) note(f *Failover, failed failures, k int) {
	if l == nil {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.names, f.Name(k))
	failing := &UnavailableError{}
	for _, i := range slices.Sorted(maps.Keys(failed)) {
		if name := f.Name(i); !l.names[name] && !f.isElsewhere(i) {
			if l.names == nil {
				l.names = make(map[string]bool)
			}
			l.names[name] = true
			failing.failures = append(failing.failures, failed[i])
		}
	}
	if len(failing.failures) > 0 {
		klog.Infof("going on with the endpoint %s, as others fail: %s", f.Name(k), failing.text())
	}
}
