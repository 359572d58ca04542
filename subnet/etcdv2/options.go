// Package etcdv2 keeps leases in etcd through its version 2 API.
package etcdv2

import (
	"fmt"
	"net/http"
	"sync"
	"time"

	client "go.etcd.io/etcd/client/v2"

	"flanneld/pkg/conns"
	"flanneld/subnet/etcd"
)

// Options say where etcd is and how to talk to it.
type Options = etcd.Options

// Store is a subnet.Store in etcd.
type Store struct {
	options   Options
	prefix    string
	endpoints []endpoint
	failover  etcd.Failover
	transport *http.Transport
	conns     conns.Set
	pollLimit time.Duration
	pollCheck time.Duration

	mu      sync.Mutex
	watched bool  // by a Watch, now or before
	saved   *view // what the last Watch knew when it ended; before the first, the last List
}

type endpoint struct {
	etcd.Server
	client client.Client
}

// New returns the store of the network under o.Prefix. It does not connect.
func New(o Options) (*Store, error) {
	tlsConfig, err := o.TLSConfig()
	if err != nil {
		return nil, err
	}
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
	s.transport = newTransport(tlsConfig, &s.conns)
	for _, server := range servers {
		c, err := client.New(client.Config{
			Endpoints: []string{server.URL.String()},
			Transport: s.transport,
			Username:  server.Username,
			Password:  server.Password,
		})
		if err != nil {
			return nil, fmt.Errorf("endpoint %s: %w", server.URL, err)
		}
		s.endpoints = append(s.endpoints, endpoint{server, c})
	}
	s.failover.Start(len(s.endpoints))
	return s, nil
}

// Close closes connections that are not in use. Those in use end with the
// contexts of their calls.
func (s *Store) Close() { s.transport.CloseIdleConnections() }

// Reconnect implements subnet.Store.
func (s *Store) Reconnect() { s.conns.DropStale() }
