// Package etcdv2 keeps leases in etcd through its version 2 API.
package etcdv2

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/url"
	"path"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	client "go.etcd.io/etcd/client/v2"

	"flanneld/pkg/conns"
)

// Options say where etcd is and how to talk to it.
type Options struct {
	Endpoints []string
	// Prefix of all keys of the network.
	Prefix string
	// CAFile, CertFile and KeyFile are PEM files. CAFile alone suffices to
	// verify the server.
	CAFile, CertFile, KeyFile string
	Username, Password        string
}

// Store is a subnet.Store in etcd.
type Store struct {
	prefix    string
	username  string
	caFile    string
	endpoints []endpoint
	pinned    atomic.Int64 // the endpoint that answered last
	transport *http.Transport
	conns     conns.Set
	pollLimit time.Duration
	pollCheck time.Duration

	config atomic.Uint64 // the index of its last write, when it was last read

	mu      sync.Mutex
	watched bool  // by a Watch, now or before
	saved   *view // what the last Watch knew when it ended; before the first, the last List
}

// endpoint is one server. The store goes from one to the next by itself: only
// so does it know which one failed and how, and whether a write may be sent
// again.
type endpoint struct {
	url    string // without credentials
	client client.Client
}

// New returns the store of the network under o.Prefix. It does not connect.
func New(o Options) (*Store, error) {
	tlsConfig, err := tlsConfig(o)
	if err != nil {
		return nil, err
	}
	s := &Store{
		prefix:    path.Join("/", o.Prefix),
		username:  o.Username,
		caFile:    o.CAFile,
		pollLimit: pollLimit,
		pollCheck: pollCheck,
	}
	s.transport = newTransport(tlsConfig, &s.conns)
	for _, text := range o.Endpoints {
		text = strings.TrimSpace(text)
		if text == "" {
			continue
		}
		e, err := s.endpoint(text, o)
		if err != nil {
			return nil, err
		}
		s.endpoints = append(s.endpoints, e)
	}
	if len(s.endpoints) == 0 {
		return nil, errors.New("-etcd-endpoints names no endpoint")
	}
	s.pinned.Store(rand.Int64N(int64(len(s.endpoints)))) // spreads the hosts
	return s, nil
}

func (s *Store) endpoint(text string, o Options) (endpoint, error) {
	u, err := url.Parse(text)
	if err != nil {
		// The error and the text are withheld: they may hold a password.
		return endpoint{}, errors.New("-etcd-endpoints holds something that is not a URL such as http://10.0.0.1:2379")
	}
	if (u.Scheme != "http" && u.Scheme != "https") || u.Hostname() == "" {
		return endpoint{}, fmt.Errorf("-etcd-endpoints: %q is not a URL such as http://10.0.0.1:2379", u.Redacted())
	}
	user, password := o.Username, o.Password
	if u.User != nil {
		if user == "" {
			user = u.User.Username()
			password, _ = u.User.Password()
		}
		u.User = nil // it would appear in errors
	}
	c, err := client.New(client.Config{
		Endpoints: []string{u.String()},
		Transport: s.transport,
		Username:  user,
		Password:  password,
	})
	if err != nil {
		return endpoint{}, fmt.Errorf("endpoint %s: %w", u, err)
	}
	return endpoint{url: u.String(), client: c}, nil
}

// Close closes connections that are not in use. Those in use end with the
// contexts of their calls.
func (s *Store) Close() { s.transport.CloseIdleConnections() }

// Reconnect implements subnet.Store.
func (s *Store) Reconnect() { s.conns.DropStale() }
