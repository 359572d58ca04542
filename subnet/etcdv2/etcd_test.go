package etcdv2

import (
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"flanneld/subnet/etcd/etcdtest"
)

const (
	patience = etcdtest.Patience
	prefix   = etcdtest.Prefix
)

var (
	subnet1 = etcdtest.Subnet1
	attrs1  = etcdtest.Attrs1

	leaseKey, value = etcdtest.LeaseKey, etcdtest.Value
)

func TestMain(m *testing.M) { etcdtest.Main(m) }

func TestSuite(t *testing.T) {
	t.Parallel()
	etcdtest.Suite(t, etcdtest.API{
		ShortTTL: time.Second,
		Start: func(t testing.TB, c etcdtest.Config) etcdtest.Peer {
			c.Args = append(c.Args, "--enable-v2")
			s := newServer(t, c)
			return etcdtest.Peer{Server: s.Server, Put: s.put, Delete: s.delete, Forget: s.forget, EnableAuth: s.enableAuth}
		},
		New: func(t testing.TB, o Options) etcdtest.Store {
			s := newStore(t, o)
			return etcdtest.Store{Store: s.Store, Lists: &s.lists, Pin: s.failover.Pin}
		},
	})
}

// server is a real server.
type server struct{ *etcdtest.Server }

func newServer(t testing.TB, c etcdtest.Config) *server {
	t.Helper()
	return &server{etcdtest.Start(t, c)}
}

// plainEtcd is a server with the v2 API.
func plainEtcd(t testing.TB) *server {
	t.Helper()
	return newServer(t, etcdtest.Config{Args: []string{"--enable-v2"}})
}

// put writes below /v2/keys; for ever where ttl is 0.
func (e *server) put(t testing.TB, key, value string, ttl time.Duration) {
	t.Helper()
	form := url.Values{"value": {value}}
	if ttl > 0 {
		form.Set("ttl", strconv.Itoa(int(ttl/time.Second)))
	}
	e.raw(t, http.MethodPut, "/v2/keys"+key, "application/x-www-form-urlencoded", form.Encode())
}

func (e *server) delete(t testing.TB, key string) {
	t.Helper()
	e.raw(t, http.MethodDelete, "/v2/keys"+key+"?recursive=true", "", "")
}

func (e *server) raw(t testing.TB, method, path, contentType, body string) {
	t.Helper()
	req, err := http.NewRequest(method, e.URL+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", contentType)
	resp, err := e.Client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	answer, _ := io.ReadAll(resp.Body)
	if resp.StatusCode >= 300 {
		t.Fatalf("%s %s: %s: %s", method, path, resp.Status, answer)
	}
}

// forget writes as much as the server keeps of its history.
func (e *server) forget(t testing.TB) {
	t.Helper()
	for range 1010 {
		e.put(t, "/elsewhere", "x", 0)
	}
}

// enableAuth makes the user flannel, and turns authentication on.
func (e *server) enableAuth(t testing.TB) {
	t.Helper()
	const asJSON = "application/json"
	e.raw(t, http.MethodPut, "/v2/auth/users/root", asJSON, `{"user":"root","password":"secret-root"}`)
	e.raw(t, http.MethodPut, "/v2/auth/roles/flannel", asJSON,
		`{"role":"flannel","permissions":{"kv":{"read":["/coreos.com/network/*"],"write":["/coreos.com/network/*"]}}}`)
	e.raw(t, http.MethodPut, "/v2/auth/users/flannel", asJSON,
		`{"user":"flannel","password":"secret-flannel","roles":["flannel"]}`)
	e.raw(t, http.MethodPut, "/v2/auth/enable", asJSON, "")
	// The guest may do anything until told otherwise.
	e.rawAsRoot(t, http.MethodPut, "/v2/auth/roles/guest", `{"role":"guest","revoke":{"kv":{"read":["/*"],"write":["/*"]}}}`)
}

func (e *server) rawAsRoot(t testing.TB, method, path, body string) {
	t.Helper()
	req, err := http.NewRequest(method, e.URL+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.SetBasicAuth("root", "secret-root")
	resp, err := e.Client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if answer, _ := io.ReadAll(resp.Body); resp.StatusCode != http.StatusOK {
		t.Fatalf("%s %s: %s: %s", method, path, resp.Status, answer)
	}
}

// counted is a Store that counts how often it lists all leases, and waits for events.
type counted struct {
	*Store
	lists, polls atomic.Int32
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
	t.Cleanup(s.Close)
	c := &counted{Store: s}
	for _, e := range s.endpoints {
		// The transport asks this of each request.
		e.transport.Proxy = func(r *http.Request) (*url.URL, error) {
			switch {
			case !strings.HasSuffix(r.URL.Path, "/subnets"):
			case r.URL.Query().Get("wait") == "":
				c.lists.Add(1)
			default:
				c.polls.Add(1)
			}
			return nil, nil
		}
	}
	return c
}
