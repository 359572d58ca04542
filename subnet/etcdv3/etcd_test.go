package etcdv3

import (
	"context"
	"crypto/tls"
	"net/netip"
	"sync/atomic"
	"testing"
	"time"

	client "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"flanneld/pkg/ip"
	"flanneld/subnet"
	"flanneld/subnet/etcd/etcdtest"
)

const (
	patience = etcdtest.Patience
	prefix   = etcdtest.Prefix
)

var (
	subnet1 = etcdtest.Subnet1
	subnet2 = ip.SubnetOf(netip.MustParsePrefix("10.5.2.0/24"))
	attrs1  = etcdtest.Attrs1
	attrs2  = subnet.Attrs{PublicIP: ip.Addrs{V4: netip.MustParseAddr("192.0.2.2")}}

	leaseKey, value = etcdtest.LeaseKey, etcdtest.Value
)

func TestMain(m *testing.M) { etcdtest.Main(m) }

func TestSuite(t *testing.T) {
	versions(t, func(t *testing.T, binary string) {
		etcdtest.Suite(t, etcdtest.API{
			ShortTTL: 2 * time.Second,
			Past:     true,
			Flat:     true,
			Start: func(t testing.TB, c etcdtest.Config) etcdtest.Peer {
				c.Binary = binary
				s := newServer(t, c)
				return etcdtest.Peer{Server: s.Server, Put: s.put, Delete: s.delete, Forget: s.compact, EnableAuth: s.enableAuth}
			},
			New: func(t testing.TB, o Options) etcdtest.Store {
				s := newStore(t, o)
				return etcdtest.Store{Store: s.Store, Lists: &s.lists, Pin: s.failover.Pin}
			},
		})
	})
}

// versions runs a test with each version of etcd.
func versions(t *testing.T, test func(t *testing.T, binary string)) {
	for _, binary := range []string{etcdtest.Old, etcdtest.Etcd6, etcdtest.Etcd7} {
		t.Run(binary, func(t *testing.T) {
			t.Parallel()
			test(t, binary)
		})
	}
}

// server is a real server with a client of etcd's own.
type server struct {
	*etcdtest.Server
	*client.Client
	tls *tls.Config
}

func newServer(t testing.TB, c etcdtest.Config) *server {
	t.Helper()
	s := etcdtest.Start(t, c)
	return &server{s, newClient(t, client.Config{Endpoints: []string{s.URL}, TLS: c.TLS}), c.TLS}
}

// plainEtcd is the newest server.
func plainEtcd(t testing.TB, args ...string) *server {
	t.Helper()
	return newServer(t, etcdtest.Config{Binary: etcdtest.Etcd7, Args: args})
}

func newClient(t testing.TB, c client.Config) *client.Client {
	t.Helper()
	c.Logger = zap.NewNop()
	c.DialTimeout = patience
	cl, err := client.New(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cl.Close() })
	return cl
}

// put writes a key; for ever where ttl is 0.
func (s *server) put(t testing.TB, key, value string, ttl time.Duration) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	var o []client.OpOption
	if ttl > 0 {
		l, err := s.Grant(ctx, int64(ttl/time.Second))
		if err != nil {
			t.Fatal(err)
		}
		o = append(o, client.WithLease(l.ID))
	}
	if _, err := s.Put(ctx, key, value, o...); err != nil {
		t.Fatal(err)
	}
}

func (s *server) delete(t testing.TB, key string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if _, err := s.Delete(ctx, key); err != nil {
		t.Fatal(err)
	}
}

// checkLeases checks how many etcd leases there are.
func (s *server) checkLeases(t testing.TB, when string, want int) {
	t.Helper()
	resp, err := s.Leases(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if len(resp.Leases) != want {
		t.Errorf("%s there are %d etcd leases, want %d", when, len(resp.Leases), want)
	}
}

// counted is a Store that counts how often it lists all leases.
type counted struct {
	*Store
	lists atomic.Int32
}

func newStore(t testing.TB, o Options) *counted {
	t.Helper()
	if o.Prefix == "" {
		o.Prefix = prefix
	}
	s, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	c := &counted{Store: s}
	s.onList = func() { c.lists.Add(1) }
	return c
}

func storeOf(t testing.TB, urls ...string) *counted { return newStore(t, Options{Endpoints: urls}) }

func must[T any](v T, err error) func(testing.TB) T {
	return func(t testing.TB) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}
