// Package etcdv3 keeps leases in etcd through its version 3 API.
//
// A key lives as long as the etcd lease that it is attached to. Each key has one
// of its own, which renewals keep alive, and the next run of the daemon too.
package etcdv3

import (
	"path"
	"sync"
	"time"

	"flanneld/pkg/conns"
	"flanneld/pkg/ip"
	"flanneld/subnet/etcd"
)

// Options say where etcd is and how to talk to it.
type Options = etcd.Options

// Store is a subnet.Store in etcd.
type Store struct {
	etcd.Leases
	options   Options
	prefix    string
	endpoints []*endpoint
	failover  etcd.Failover
	conns     conns.Set

	// writing is held by the one write that goes on: another one would take its
	// etcd lease, which has no key yet, for left over.
	writing chan struct{}
	leases  map[int64]bool // etcd leases that were granted or taken over; under writing

	mu      sync.Mutex
	written map[string]bool // keys, below "subnets/", whose end is of interest

	progress time.Duration // see there; another one in tests
	onList   func()        // for tests
}

// New returns the store of the network under o.Prefix. It does not connect.
func New(o Options) (*Store, error) {
	servers, err := o.Servers()
	if err != nil {
		return nil, err
	}
	s := &Store{
		options: o,
		prefix:  o.FlatRoot(),
		writing: make(chan struct{}, 1),
		leases:  make(map[int64]bool),
		written: make(map[string]bool),

		progress: progress,
		onList:   func() {},
	}
	for _, server := range servers {
		e, err := newEndpoint(server, &s.conns)
		if err != nil {
			s.Close()
			return nil, err
		}
		s.endpoints = append(s.endpoints, e)
	}
	s.Leases = etcd.Leases{Watching: etcd.Watch{List: s.list, Verify: s.verify, Follow: s.follow}, Put: s.put, Replace: s.replace, Remove: s.remove}
	s.failover.Cluster = s.cluster
	s.failover.Name = func(k int) string { return s.endpoints[k].Name }
	s.failover.Failing = o.Failing
	s.failover.Start(len(s.endpoints))
	return s, nil
}

// Close closes all connections. What uses them fails.
func (s *Store) Close() {
	for _, e := range s.endpoints {
		_ = e.conn.Close() // which fails only if it is closed already
	}
}

// Reconnect implements subnet.Store.
func (s *Store) Reconnect() { s.conns.DropStale() }

func (s *Store) configKey() string { return path.Join(s.prefix, "config") }

// subnetsKey ends in a slash, so that it is no prefix of "subnets2/".
func (s *Store) subnetsKey() string { return path.Join(s.prefix, "subnets") + "/" }

func (s *Store) subnetKey(sub ip.Subnet) string { return s.subnetsKey() + sub.Key() }
