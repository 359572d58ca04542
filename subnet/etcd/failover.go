package etcd

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync/atomic"
)

// Failover goes from one endpoint to the next. The stores leave that to no
// library: only so do they know which endpoint failed and how, and whether a
// write may be sent again.
type Failover struct {
	// Cluster returns the ID of the cluster that endpoint k is a member of. If set,
	// endpoints of another cluster than the others are left out, and logged by Name.
	Cluster func(ctx context.Context, k int) (string, error)
	Name    func(k int) string

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
func (f *Failover) Do(ctx context.Context, write bool, ask func(k int) error) error {
	var failures []error
	first := f.Current()
	for i := range f.endpoints {
		k := (first + i) % f.endpoints
		err := f.checkCluster(ctx, k)
		if err == nil {
			err = ask(k)
		}
		if err != nil && ctx.Err() != nil {
			// The next call begins with the next endpoint: this one may hang.
			f.Pin(k + 1)
			if len(failures) > 0 && errors.Is(ctx.Err(), context.DeadlineExceeded) {
				return &UnavailableError{failures}
			}
			return ctx.Err()
		}
		if !Unanswered(err) {
			f.Pin(k)
			return err
		}
		f.distrust(k)
		failures = append(failures, err)
		if write && !unsent(err) {
			break
		}
	}
	f.Pin(first + len(failures))
	return &UnavailableError{failures}
}
