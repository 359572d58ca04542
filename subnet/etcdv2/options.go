// Package etcdv2 keeps leases in etcd through its version 2 API.
package etcdv2

import (
	"net/http"
	"time"

	"flanneld/pkg/conns"
	"flanneld/subnet/etcd"
)

// Options say where etcd is and how to talk to it.
type Options = etcd.Options

// Store is a subnet.Store in etcd.
type Store struct {
	etcd.Leases
	options   Options
	prefix    string
	endpoints []endpoint
	failover  etcd.Failover
	conns     conns.Set
	pollLimit time.Duration
	pollCheck time.Duration
}

type endpoint struct {
	etcd.Server
	transport *http.Transport
}

// New returns the store of the network under o.Prefix. It does not connect.
func New(o Options) (*Store, error) {
	servers, err := o.Servers()
	if err != nil {
		return nil, err
	}
	s := &Store{
		options:   o,
		prefix:    o.Root(),
		pollLimit: pollLimit,
		pollCheck: pollCheck,
	}
	for _, server := range servers {
		s.endpoints = append(s.endpoints, endpoint{server, newTransport(server, &s.conns)})
	}
	s.Leases = etcd.Leases{Watching: etcd.Watch{List: s.list, Verify: s.verify, Follow: s.follow}, Put: s.put, Replace: s.replace, Remove: s.remove}
	s.failover.Cluster = s.cluster
	s.failover.Name = func(k int) string { return s.endpoints[k].Name }
	s.failover.Failing = o.Failing
	s.failover.Start(len(s.endpoints))
	return s, nil
}

// Close closes connections that are not in use. Those in use end with the
// contexts of their calls.
func (s *Store) Close() {
	for _, e := range s.endpoints {
		e.transport.CloseIdleConnections()
	}
}

// Reconnect implements subnet.Store.
func (s *Store) Reconnect() { s.conns.DropStale() }
