// Package kube is the store where Kubernetes has the subnets: the subnet of a host is the
// podCIDR of its Node, and what its lease says are annotations there.
//
// What is seen of the Nodes is kept in a view: listed once, in parts, and then followed by
// a watch, which goes on where it was broken off. Of each Node no more is kept than what
// matters to other hosts.
package kube

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"flanneld/pkg/file"
	"flanneld/pkg/ip"
	"flanneld/pkg/notice"
	"flanneld/pkg/once"
	"flanneld/subnet"
)

// Options say where the API is, and which Node is this host's.
type Options struct {
	// APIURL is the URL of the API; it goes over that of Kubeconfig.
	APIURL string
	// Kubeconfig is a file that says where the API is, and who we are. If this and APIURL
	// are empty, both are known from being a pod.
	Kubeconfig string
	// AnnotationPrefix is what the names of our annotations begin with.
	AnnotationPrefix string
	// NetConfigPath is the file with the configuration of the network.
	NetConfigPath string
	// NodeName is the name of this host's Node.
	NodeName string
}

// Store is a subnet.Assigner.
type Store struct {
	options Options
	names   names
	client  client
	conf    file.Patient[[]byte] // reads what Config returns
	log     notice.Log           // of what is wrong with Nodes, and no lease's own trouble

	pages    int           // how many Nodes are listed at once; another number in tests
	watchFor time.Duration // see watchLeast; shorter in tests
	onList   func()        // for tests

	mu      sync.Mutex
	views   map[*view]once.Slot[struct{}] // those that are watched, and who is to look again
	saved   *view                         // of the last listing or watch, to go on from
	partial *listing                      // a listing that was broken off
	said    *subnet.Attrs                 // what was last published, in the words of the backend
	writes  uint64                        // how often this store wrote its Node
}

var _ subnet.Assigner = (*Store)(nil)

// New returns the store. It does not connect, and reads no file: what is missing is waited
// for.
func New(o Options) (*Store, error) {
	names, err := newNames(o.AnnotationPrefix)
	if err != nil {
		return nil, err
	}
	if o.NodeName == "" {
		return nil, errors.New("the name of this host's Node is not known: set NODE_NAME to spec.nodeName of this pod")
	}
	return &Store{
		options: o, names: names, client: client{options: o},
		pages: pageSize, watchFor: watchLeast, onList: func() {},
		views: make(map[*view]once.Slot[struct{}]),
	}, nil
}

// Endpoints returns the URL of the API, without a password, as it was last used; none before.
func (s *Store) Endpoints() []string {
	if at := s.client.at.Load(); at != nil {
		return []string{*at}
	}
	return nil
}

// Name implements subnet.Assigner.
func (s *Store) Name() string { return "the Kubernetes API" }

// Close gives up the connections. No other method may be called after it.
func (s *Store) Close() { s.client.close() }

// Reconnect implements subnet.Store.
func (s *Store) Reconnect() { s.client.conns.DropStale() }

// Config implements subnet.Store.
func (s *Store) Config(ctx context.Context) ([]byte, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	return s.readConfig(ctx)
}

// List implements subnet.Store. While a watch goes on, what that knows is at hand. While the
// API permits none, all hosts would list all Nodes again and again: what was listed has to do
// for a while.
func (s *Store) List(ctx context.Context) (subnet.Snapshot, error) {
	if err := ctx.Err(); err != nil {
		return subnet.Snapshot{}, err
	}
	if shows, known := s.known(); known {
		return shows, nil
	}
	v, err := s.list(ctx)
	if err != nil {
		return subnet.Snapshot{}, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.views) == 0 {
		s.saved = v
	}
	return v.snapshot(), nil
}

// known returns what need not be listed anew, if that is so.
func (s *Store) known() (shows subnet.Snapshot, known bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	views := slices.Collect(maps.Keys(s.views))
	if s.saved != nil {
		views = append(views, s.saved)
	}
	for _, v := range views {
		if v.follows || v.refused != nil && time.Since(v.listedAt) < unwatchedPace {
			shows = v.snapshot()
			shows.Refused = v.refused
			return shows, true
		}
	}
	return subnet.Snapshot{}, false
}

// Create implements subnet.Store.
func (s *Store) Create(ctx context.Context, sub ip.Subnet, a subnet.Attrs, _ time.Duration) (*subnet.Lease, error) {
	l, err := s.publish(ctx, sub, a)
	if err != nil {
		return nil, fmt.Errorf("publishing the lease %s: %w", sub, err)
	}
	return l, nil
}

// Update implements subnet.Store. Nobody but this host writes its annotations, so there is
// nothing to compare a revision with but the Node itself.
func (s *Store) Update(ctx context.Context, sub ip.Subnet, _ uint64, a subnet.Attrs, ttl time.Duration) (*subnet.Lease, error) {
	return s.Create(ctx, sub, a, ttl)
}

// Move implements subnet.Store.
func (s *Store) Move(ctx context.Context, _ ip.Subnet, _ uint64, to ip.Subnet, a subnet.Attrs, ttl time.Duration) (*subnet.Lease, error) {
	return s.Create(ctx, to, a, ttl)
}

// Delete implements subnet.Store: the annotations go, and the subnet remains the Node's.
func (s *Store) Delete(ctx context.Context, sub ip.Subnet, _ uint64) error {
	if err := s.withdraw(ctx, sub); err != nil {
		return fmt.Errorf("withdrawing the lease %s: %w", sub, err)
	}
	return nil
}
