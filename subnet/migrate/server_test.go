package migrate

import (
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	client "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"flanneld/subnet/etcd"
	"flanneld/subnet/etcd/etcdtest"
	"flanneld/subnet/etcdv2"
	"flanneld/subnet/etcdv3"
)

func TestMain(m *testing.M) { etcdtest.Main(m) }

const (
	prefix = "/coreos.com/network"
	config = `{ "Network": "10.5.0.0/16" }`
)

// server is a real one with both APIs.
type server struct {
	t testing.TB
	*etcdtest.Server
	*client.Client
}

func start(t testing.TB) *server {
	t.Helper()
	s := etcdtest.Start(t, etcdtest.Config{Args: []string{"--enable-v2"}})
	c, err := client.New(client.Config{Endpoints: []string{s.URL}, Logger: zap.NewNop(), DialTimeout: etcdtest.Patience})
	check(t, err)
	t.Cleanup(func() { c.Close() })
	return &server{t, s, c}
}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// v2 writes a key in version 2; for ever where ttl is 0.
func (s *server) v2(key, value string, ttl time.Duration) {
	s.t.Helper()
	form := url.Values{"value": {value}}
	if ttl > 0 {
		form.Set("ttl", strconv.Itoa(int(ttl/time.Second)))
	}
	s.ask(http.MethodPut, prefix+"/"+key, form.Encode())
}

func (s *server) ask(method, key, body string) {
	s.t.Helper()
	req, err := http.NewRequestWithContext(s.t.Context(), method, s.URL+"/v2/keys"+key, strings.NewReader(body))
	check(s.t, err)
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	resp, err := http.DefaultClient.Do(req)
	check(s.t, err)
	check(s.t, resp.Body.Close())
	if resp.StatusCode >= 300 {
		s.t.Fatalf("%s %s: %s", method, key, resp.Status)
	}
}

// v3 writes a key in version 3.
func (s *server) v3(key, value string, ttl time.Duration) {
	s.t.Helper()
	var o []client.OpOption
	if ttl > 0 {
		l, err := s.Grant(s.t.Context(), int64(ttl/time.Second))
		check(s.t, err)
		o = append(o, client.WithLease(l.ID))
	}
	_, err := s.Put(s.t.Context(), prefix+"/"+key, value, o...)
	check(s.t, err)
}

// written is a key of version 3.
type written struct {
	value    string
	ttl      int64 // seconds; 0 means for ever
	lease    int64
	revision int64
}

// all returns the keys in version 3.
func (s *server) all() map[string]written {
	s.t.Helper()
	resp, err := s.Get(s.t.Context(), prefix+"/", client.WithPrefix())
	check(s.t, err)
	m := make(map[string]written)
	for _, kv := range resp.Kvs {
		w := written{value: string(kv.Value), lease: kv.Lease, revision: kv.ModRevision}
		if kv.Lease != 0 {
			l, err := s.TimeToLive(s.t.Context(), client.LeaseID(kv.Lease))
			check(s.t, err)
			w.ttl = l.TTL
		}
		m[strings.TrimPrefix(string(kv.Key), prefix+"/")] = w
	}
	return m
}

// checkLeases checks how many etcd leases there are.
func (s *server) checkLeases(want int) {
	s.t.Helper()
	resp, err := s.Leases(s.t.Context())
	check(s.t, err)
	if len(resp.Leases) != want {
		s.t.Errorf("there are %d etcd leases, want %d", len(resp.Leases), want)
	}
}

func (s *server) stores() (*etcdv2.Store, *etcdv3.Store) {
	s.t.Helper()
	o := etcd.Options{Endpoints: []string{s.URL}, Prefix: prefix}
	v2, err := etcdv2.New(o)
	check(s.t, err)
	s.t.Cleanup(v2.Close)
	v3, err := etcdv3.New(o)
	check(s.t, err)
	s.t.Cleanup(v3.Close)
	return v2, v3
}

// migrate returns what it reported.
func (s *server) migrate(change func(*Migration)) ([]string, error) {
	s.t.Helper()
	var reported []string
	m := &Migration{Report: func(line string) { reported = append(reported, line) }}
	m.From, m.To = s.stores()
	if change != nil {
		change(m)
	}
	err := m.Run(s.t.Context())
	return reported, err
}

func dry(m *Migration) { m.DryRun = true }

// reports checks what was reported, but for the minutes that are left.
func reports(t testing.TB, got []string, want ...string) {
	t.Helper()
	if len(got) != len(want) || slices.ContainsFunc(got, func(g string) bool {
		return !slices.ContainsFunc(want, func(w string) bool { return strings.HasPrefix(g, w) })
	}) {
		t.Errorf("it reported\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}
