package etcd

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"k8s.io/klog/v2"
)

// clusterCheck is what is known of which cluster the endpoints are members of. Leases in
// another cluster are another network's, or no one's.
type clusterCheck struct {
	mu      sync.Mutex
	ours    string         // the cluster that is used; empty before one is
	of      map[int]string // the cluster of endpoints, as they last said
	checked map[int]bool   // endpoints of ours that did not fail since they said so
}

// pollTimeout is how long the other endpoints have to say which cluster they are of.
const pollTimeout = 500 * time.Millisecond

// checkCluster returns an error if endpoint k is of another cluster than ours. Our
// cluster is the one of most endpoints, or else of those that are named first. It is
// another one when an endpoint of it was replaced, and no other is of it any more: not
// when its endpoints are down, and one that was left out is not.
func (f *Failover) checkCluster(ctx context.Context, k int) error {
	c := &f.cluster
	c.mu.Lock()
	checked := c.checked[k]
	c.mu.Unlock()
	if f.Cluster == nil || f.endpoints == 1 || checked {
		return nil
	}
	id, err := f.Cluster(ctx, k)
	switch {
	case Unanswered(err):
		return asUnsent(err)
	case err != nil || id == "":
		return nil // what it says to the request itself is worth more
	}
	c.mu.Lock()
	ours, replaced := c.ours, c.of[k] == c.ours || c.of[k] == ""
	c.mu.Unlock()
	ids := make([]string, f.endpoints)
	ids[k] = id
	if id != ours && (ours == "" || replaced) {
		f.poll(ctx, k, ids)
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case ours == "":
			ours = majority(ids)
		case !slices.Contains(ids, ours):
			ours = id
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ours = ours
	f.note(ids)
	if id == ours {
		c.checked[k] = true
		return nil
	}
	return &endpointError{
		Diagnosis: Diagnosis{
			Seen:   fmt.Sprintf("it is a member of the etcd cluster %.20q, and other endpoints are of %.20q", id, ours),
			Advice: "-etcd-endpoints must name one cluster",
		},
		name:   f.Name(k),
		unsent: true,
	}
}

// poll asks all endpoints but k which cluster they are of.
func (f *Failover) poll(ctx context.Context, k int, ids []string) {
	ctx, cancel := context.WithTimeout(ctx, pollTimeout)
	defer cancel()
	var g sync.WaitGroup
	for i := range ids {
		if i != k {
			g.Go(func() { ids[i], _ = f.Cluster(ctx, i) })
		}
	}
	g.Wait()
}

// majority is the cluster that most are of, or the first of several.
func majority(ids []string) (most string) {
	count := make(map[string]int)
	for _, id := range ids {
		count[id]++
	}
	for _, id := range ids {
		if id != "" && (most == "" || count[id] > count[most]) {
			most = id
		}
	}
	return most
}

// note remembers what endpoints said, and logs each that turns out to be of another
// cluster than ours. The caller holds f.cluster.mu.
func (f *Failover) note(ids []string) {
	c := &f.cluster
	for k, id := range ids {
		was := c.of[k]
		if id == "" || id == was {
			continue
		}
		if c.of[k] = id; id == c.ours {
			continue
		}
		klog.Warningf("not using the endpoint %s: it is a member of the etcd cluster %.20q, and the others are of %.20q; -etcd-endpoints must name one cluster", f.Name(k), id, c.ours)
	}
}

// distrust has endpoint k checked before it is used again.
func (f *Failover) distrust(k int) {
	f.cluster.mu.Lock()
	defer f.cluster.mu.Unlock()
	delete(f.cluster.checked, k)
}

// isElsewhere reports whether endpoint k is of another cluster, which was logged.
func (f *Failover) isElsewhere(k int) bool {
	f.cluster.mu.Lock()
	defer f.cluster.mu.Unlock()
	return f.cluster.of[k] != "" && f.cluster.of[k] != f.cluster.ours
}
