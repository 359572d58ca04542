package subnettest

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"flanneld/pkg/ip"
	"flanneld/subnet"
)

// Node is a host as a store knows it that chooses subnets.
type Node struct {
	Name string
	// Subnet is not valid while the host has none.
	Subnet ip.Subnet
	// Says is what was published; nil for nothing.
	Says *subnet.Attrs
	// Garbled: what was published cannot be read.
	Garbled bool
	// Requested and Overwrite are as in subnet.Assignment.
	Requested, Overwrite ip.Addrs
}

// Cluster is a store in memory that chooses the subnets of hosts. Of two with one subnet, the
// one that was put first has it.
type Cluster struct {
	*Memory // the configuration

	mu       sync.Mutex
	revision uint64
	nodes    map[string]*placed
	watchers []chan struct{}
}

// placed is a Node with what follows from it.
type placed struct {
	Node
	created  uint64
	revision uint64
	lease    *subnet.Lease // as it was last readable
}

// NewCluster returns a cluster without hosts.
func NewCluster() *Cluster { return &Cluster{Memory: NewMemory(), nodes: make(map[string]*placed)} }

// Put makes a Node, or changes it. One that gets another subnet is made anew.
func (c *Cluster) Put(n Node) {
	c.change(func() {
		is := c.nodes[n.Name]
		if is == nil || is.Subnet.IsValid() && is.Subnet != n.Subnet {
			is = &placed{created: c.revision}
			c.nodes[n.Name] = is
		}
		is.Node, is.revision = n, c.revision
		is.read()
	})
}

// read reads what a Node says.
func (p *placed) read() {
	switch {
	case p.Says == nil || !p.Subnet.IsValid():
		p.lease = nil
	case p.Garbled && p.lease != nil && p.lease.Subnet == p.Subnet:
	case p.Garbled:
		p.lease = nil
	default:
		a := *p.Says
		a.Machine = p.Name
		var part ip.Subnet // in the families of which it says anything
		for _, f := range ip.Families {
			if a.PublicIP.Of(f).IsValid() {
				part = part.With(f, p.Subnet.Of(f))
			}
		}
		if p.lease == nil || p.lease.Subnet != part || p.lease.Attrs != a {
			p.lease = &subnet.Lease{Subnet: part, Attrs: a, Revision: p.revision}
		}
	}
}

// Remove takes a Node away.
func (c *Cluster) Remove(name string) { c.change(func() { delete(c.nodes, name) }) }

// Says returns what a Node says; nil for nothing.
func (c *Cluster) Says(name string) *subnet.Attrs {
	c.mu.Lock()
	defer c.mu.Unlock()
	if n := c.nodes[name]; n != nil {
		return n.Says
	}
	return nil
}

func (c *Cluster) change(do func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.revision++
	do()
	for _, w := range c.watchers {
		select {
		case w <- struct{}{}:
		default:
		}
	}
}

// Host is the store for a host. Each has faults of its own.
func (c *Cluster) Host(name string) *Assigned { return &Assigned{c.Join(), c, name} }

// Assigned is a subnet.Assigner: a client of a cluster.
type Assigned struct {
	*Memory
	cluster *Cluster
	name    string
}

var _ subnet.Assigner = (*Assigned)(nil)

// Name implements subnet.Assigner.
func (a *Assigned) Name() string { return "the cluster" }

// List implements subnet.Store.
func (a *Assigned) List(ctx context.Context) (subnet.Snapshot, error) {
	return call(ctx, a.Memory, List, func() (subnet.Snapshot, error) { return a.snapshot(), nil })
}

func (a *Assigned) snapshot() subnet.Snapshot {
	c := a.cluster
	c.mu.Lock()
	defer c.mu.Unlock()
	s := subnet.Snapshot{Revision: c.revision, Own: &subnet.Assignment{Host: a.name, Missing: fmt.Sprintf("there is no Node %s", a.name)}}
	owners := make(map[ip.Subnet]*placed)
	for _, n := range slices.SortedFunc(maps.Values(c.nodes), func(x, y *placed) int { return int(x.created) - int(y.created) }) {
		own := n.Name == a.name
		if own {
			s.Own.Subnet, s.Own.Missing = n.Subnet, ""
			s.Own.Requested, s.Own.Overwrite = n.Requested, n.Overwrite
			if !n.Subnet.IsValid() {
				s.Own.Missing = fmt.Sprintf("the Node %s has no podCIDR", a.name)
			}
		}
		if !n.Subnet.IsValid() || n.Says == nil && !own {
			continue
		}
		p := subnet.Problem{Key: n.Subnet.Key() + "/" + n.Name, Revision: n.revision, Reason: "the Node " + n.Name + " cannot be read"}
		if first := owners[n.Subnet]; first != nil {
			p.Withdraw, p.Reason = true, fmt.Sprintf("%s and %s have one subnet", n.Name, first.Name)
			s.Problems = append(s.Problems, p)
			continue
		}
		owners[n.Subnet] = n
		if n.Garbled && !own {
			p.Subnet = n.Subnet
			s.Problems = append(s.Problems, p)
		}
		if n.lease != nil && (!own || !n.Garbled) {
			s.Leases = append(s.Leases, n.lease)
		}
	}
	slices.SortFunc(s.Leases, func(x, y *subnet.Lease) int { return x.Subnet.Compare(y.Subnet) })
	slices.SortFunc(s.Problems, func(x, y subnet.Problem) int { return strings.Compare(x.Key, y.Key) })
	return s
}

// Watch implements subnet.Store.
func (a *Assigned) Watch(ctx context.Context, yield func(subnet.Snapshot)) error {
	_, err := call(ctx, a.Memory, Watch, func() (struct{}, error) { return struct{}{}, a.watch(ctx, yield) })
	return err
}

func (a *Assigned) watch(ctx context.Context, yield func(subnet.Snapshot)) error {
	a.mu.Lock()
	drop := a.drop
	a.mu.Unlock()
	wake := make(chan struct{}, 1)
	c := a.cluster
	c.mu.Lock()
	c.watchers = append(c.watchers, wake)
	c.mu.Unlock()
	defer func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.watchers = slices.DeleteFunc(c.watchers, func(w chan struct{}) bool { return w == wake })
	}()
	var last subnet.Snapshot
	for {
		if s := a.snapshot(); last.Own == nil || s.Revision != last.Revision {
			last = s
			yield(s)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-drop:
			a.mu.Lock()
			defer a.mu.Unlock()
			return a.reason
		case <-wake:
		}
	}
}

// WatchConfig implements subnet.Assigner.
func (a *Assigned) WatchConfig(ctx context.Context, yield func(subnet.StoredConfig)) error {
	c, _, config, _ := a.server.subscribe()
	defer a.server.unsubscribe(c)
	for {
		yield(config)
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-c.ready:
		}
		a.server.take(c)
		a.server.mu.Lock()
		config = a.server.stored()
		a.server.mu.Unlock()
	}
}

// Create implements subnet.Store.
func (a *Assigned) Create(ctx context.Context, s ip.Subnet, attrs subnet.Attrs, _ time.Duration) (*subnet.Lease, error) {
	return call(ctx, a.Memory, Create, func() (*subnet.Lease, error) { return a.write(s, &attrs) })
}

// Update implements subnet.Store.
func (a *Assigned) Update(ctx context.Context, s ip.Subnet, _ uint64, attrs subnet.Attrs, _ time.Duration) (*subnet.Lease, error) {
	return call(ctx, a.Memory, Update, func() (*subnet.Lease, error) { return a.write(s, &attrs) })
}

// Move implements subnet.Store.
func (a *Assigned) Move(ctx context.Context, _ ip.Subnet, _ uint64, to ip.Subnet, attrs subnet.Attrs, _ time.Duration) (*subnet.Lease, error) {
	return call(ctx, a.Memory, Move, func() (*subnet.Lease, error) { return a.write(to, &attrs) })
}

// Delete implements subnet.Store.
func (a *Assigned) Delete(ctx context.Context, s ip.Subnet, _ uint64) error {
	_, err := call(ctx, a.Memory, Delete, func() (*subnet.Lease, error) {
		if a.cluster.Says(a.name) == nil {
			return nil, subnet.ErrChanged
		}
		return a.write(s, nil)
	})
	return err
}

func (a *Assigned) write(s ip.Subnet, attrs *subnet.Attrs) (l *subnet.Lease, err error) {
	a.cluster.change(func() {
		n := a.cluster.nodes[a.name]
		if n == nil || slices.ContainsFunc(s.Families(), func(f ip.Family) bool { return n.Subnet.Of(f) != s.Of(f) }) {
			err = subnet.ErrChanged
			return
		}
		n.Says, n.Garbled, n.revision = attrs, false, a.cluster.revision
		n.read()
		l = n.lease
	})
	return l, err
}
