package etcdv2

import (
	"fmt"
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

const patience = etcdtest.Patience

// server is a real server with the v2 API.
type server struct {
	*etcdtest.Server
	client *http.Client
}

// newServer starts a server with the v2 API that listens at a URL of this scheme.
func newServer(t *testing.T, scheme string, client *http.Client, args ...string) *server {
	t.Helper()
	return &server{etcdtest.Start(t, etcdtest.Config{Scheme: scheme, Client: client, Args: args}), client}
}

func plainEtcd(t *testing.T) *server {
	t.Helper()
	return newServer(t, "http", http.DefaultClient, "--enable-v2")
}

// put writes below /v2/keys; for ever where ttl is 0.
func (e *server) put(t *testing.T, key, value string, ttl time.Duration) {
	t.Helper()
	form := url.Values{"value": {value}}
	if ttl > 0 {
		form.Set("ttl", strconv.Itoa(int(ttl/time.Second)))
	}
	e.raw(t, http.MethodPut, "/v2/keys"+key, "application/x-www-form-urlencoded", form.Encode())
}

func (e *server) delete(t *testing.T, key string) {
	t.Helper()
	e.raw(t, http.MethodDelete, "/v2/keys"+key+"?recursive=true", "", "")
}

func (e *server) raw(t *testing.T, method, path, contentType, body string) {
	t.Helper()
	req, err := http.NewRequest(method, e.URL+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", contentType)
	resp, err := e.client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	answer, _ := io.ReadAll(resp.Body)
	if resp.StatusCode >= 300 {
		t.Fatalf("%s %s: %s: %s", method, path, resp.Status, answer)
	}
}

const prefix = "/coreos.com/network"

// counted is a Store that counts how often it lists all leases.
type counted struct {
	*Store
	lists atomic.Int32
}

func newStore(t *testing.T, o Options) *counted {
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
	// The transport asks this of each request.
	s.transport.Proxy = func(r *http.Request) (*url.URL, error) {
		if strings.HasSuffix(r.URL.Path, "/subnets") && r.URL.Query().Get("wait") == "" {
			c.lists.Add(1)
		}
		return nil, nil
	}
	return c
}

func value(host int) string { return fmt.Sprintf(`{"PublicIP":"192.0.2.%d"}`, host) }

func leaseKey(n int) string { return fmt.Sprintf("%s/subnets/10.5.%d.0-24", prefix, n) }
