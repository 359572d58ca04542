package etcdv2

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"flanneld/pkg/conns"
	"flanneld/subnet"
	"flanneld/subnet/etcd"
	"flanneld/subnet/etcd/etcdtest"
)

func TestWatchDirectoryEvents(t *testing.T) {
	t.Parallel()
	server := plainEtcd(t)
	s := newStore(t, Options{Endpoints: []string{server.URL}})
	w := etcdtest.Watch(t, s)
	fill := func() {
		server.put(t, leaseKey(1), value(1), 0)
		server.put(t, leaseKey(2), value(2), 0)
		w.Until(t, "the leases", etcdtest.Leases(2))
	}
	for _, directory := range []string{prefix + "/subnets", prefix, "/coreos.com"} {
		fill()
		server.delete(t, directory)
		w.Until(t, "nothing", etcdtest.Leases(0))
	}
	server.raw(t, http.MethodPut, "/v2/keys"+prefix+"/subnets?dir=true&prevExist=false",
		"application/x-www-form-urlencoded", "ttl=3")
	fill()
	w.Until(t, "nothing", etcdtest.Leases(0))
}

func TestWatchThroughStalledConnection(t *testing.T) {
	t.Parallel()
	server := plainEtcd(t)
	p := etcdtest.NewProxy(t, server.Server)
	s := newStore(t, Options{Endpoints: []string{p.URL, server.URL}})
	s.failover.Pin(0)
	s.pollLimit = time.Second
	server.put(t, leaseKey(1), value(1), 0)
	w := etcdtest.Watch(t, s)
	w.Until(t, "the lease", etcdtest.Leases(1))
	p.Stalled.Store(true)
	server.put(t, leaseKey(2), value(2), 0)
	w.Until(t, "one more lease", etcdtest.Leases(2))
	if n := s.lists.Load(); n != 1 {
		t.Errorf("all leases were listed %d times, want once", n)
	}
}

// Where much has happened, it is not asked for one by one.
func TestWatchFarBehind(t *testing.T) {
	t.Parallel()
	server := plainEtcd(t)
	s := newStore(t, Options{Endpoints: []string{server.URL}})
	server.put(t, leaseKey(0), value(1), 0)
	w := etcdtest.Watch(t, s)
	w.Until(t, "the lease", etcdtest.Leases(1))
	w.Stop()
	for n := range 100 {
		server.put(t, leaseKey(1+n), value(1), 0)
	}
	before := s.polls.Load()
	w = etcdtest.Watch(t, s)
	w.Until(t, "all leases", etcdtest.Leases(101))
	if n := s.polls.Load() - before; n > 5 {
		t.Errorf("events were waited for %d times", n)
	}
}

// A long poll that ends quietly moves the index on: else, beside busy keys of
// others, each would find its history lost.
func TestQuietPollMovesOn(t *testing.T) {
	t.Parallel()
	second := make(chan string, 1)
	var polls atomic.Int32
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Etcd-Cluster-Id", "c1")
		if r.URL.Query().Get("wait") == "" {
			w.WriteHeader(http.StatusNotFound)
			index := 5
			if polls.Load() > 0 {
				index = 700
			}
			_, _ = fmt.Fprintf(w, `{"errorCode":100,"message":"Key not found","index":%d}`, index)
			return
		}
		if strings.HasSuffix(r.URL.Path, "/config") {
			<-r.Context().Done() // that is another one
			return
		}
		if polls.Add(1) == 1 {
			w.Header().Set("X-Etcd-Index", "700")
			return
		}
		select {
		case second <- r.URL.Query().Get("waitIndex"):
		default:
		}
		w.(http.Flusher).Flush()
		<-r.Context().Done()
	}))
	defer server.Close()
	s := newStore(t, Options{Endpoints: []string{server.URL}})
	w := etcdtest.Watch(t, s)
	defer w.Stop()
	select {
	case got := <-second:
		if got != "701" {
			t.Errorf("the second poll waits for index %s, want 701", got)
		}
	case <-time.After(patience):
		t.Fatal("no second poll")
	}
}

// A server that has forgotten what happened each time it is asked shows the configuration
// all the same.
func TestConfigBesideLostHistory(t *testing.T) {
	t.Parallel()
	var index atomic.Int32 // of the configuration
	index.Store(5)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Etcd-Cluster-Id", "c1")
		w.Header().Set("X-Etcd-Index", fmt.Sprint(index.Load()))
		switch {
		case r.URL.Query().Get("wait") != "":
			w.WriteHeader(http.StatusBadRequest)
			_, _ = io.WriteString(w, `{"errorCode":401,"message":"The event in requested index is outdated and cleared","index":5}`)
		case strings.HasSuffix(r.URL.Path, "/config"):
			_, _ = fmt.Fprintf(w, `{"action":"get","node":{"key":"%s/config","value":"%d","modifiedIndex":%[2]d,"createdIndex":%[2]d}}`, prefix, index.Load())
		default:
			_, _ = fmt.Fprintf(w, `{"action":"get","node":{"key":"%s/subnets","dir":true,"nodes":[{"key":"%s","value":%q,"modifiedIndex":4,"createdIndex":4}]}}`, prefix, leaseKey(1), value(1))
		}
	}))
	defer server.Close()
	w := etcdtest.Watch(t, newStore(t, Options{Endpoints: []string{server.URL}}))
	defer w.Stop()
	for _, i := range []int32{5, 6} {
		index.Store(i)
		w.Until(t, "the configuration", func(got subnet.Snapshot) bool {
			return len(got.Leases) == 1 && got.Config != nil && got.Config.Text == fmt.Sprint(i)
		})
	}
}

// A server that keeps a long poll but has no majority behind it is left.
func TestServerWithoutMajority(t *testing.T) {
	t.Parallel()
	var polling atomic.Bool
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Etcd-Cluster-Id", "c1")
		switch {
		case r.URL.Query().Get("wait") != "":
			polling.Store(true)
			w.(http.Flusher).Flush()
			<-r.Context().Done()
		case polling.Load():
			w.WriteHeader(http.StatusInternalServerError)
			_, _ = io.WriteString(w, `{"errorCode":300,"message":"Raft Internal Error","cause":"etcdserver: request timed out"}`)
		default:
			w.WriteHeader(http.StatusNotFound)
			_, _ = io.WriteString(w, `{"errorCode":100,"message":"Key not found","index":5}`)
		}
	}))
	defer server.Close()
	s := newStore(t, Options{Endpoints: []string{server.URL}})
	s.pollCheck = 50 * time.Millisecond
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := s.Watch(ctx, func(subnet.Snapshot) {}); err == nil || ctx.Err() != nil {
		t.Errorf("the watch ended with %v", err)
	}
}

func TestConnectionsAreProbed(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	c, err := conns.NewDialer(etcd.DialTimeout).DialContext(t.Context(), "tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	raw, err := c.(syscall.Conn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	err = raw.Control(func(fd uintptr) {
		for _, o := range []struct{ level, option, want int }{
			{unix.SOL_SOCKET, unix.SO_KEEPALIVE, 1},
			{unix.IPPROTO_TCP, unix.TCP_KEEPIDLE, 5},
			{unix.IPPROTO_TCP, unix.TCP_KEEPINTVL, 5},
			{unix.IPPROTO_TCP, unix.TCP_KEEPCNT, 3},
			{unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, 20_000},
		} {
			got, err := unix.GetsockoptInt(int(fd), o.level, o.option)
			if err != nil || got != o.want {
				t.Errorf("socket option %d/%d is %d, %v; want %d", o.level, o.option, got, err, o.want)
			}
		}
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestApplyRejects(t *testing.T) {
	for name, event := range map[string]string{
		"another revision before": `{"action":"set","node":{"key":"/n/subnets/10.5.1.0-24","modifiedIndex":9},"prevNode":{"key":"/n/subnets/10.5.1.0-24","modifiedIndex":6}}`,
		"created a second time":   `{"action":"create","node":{"key":"/n/subnets/10.5.1.0-24","modifiedIndex":9}}`,
		"unknown before":          `{"action":"expire","node":{"key":"/n/subnets/10.5.2.0-24","modifiedIndex":9},"prevNode":{"key":"/n/subnets/10.5.2.0-24","modifiedIndex":6}}`,
		"unknown action":          `{"action":"rename","node":{"key":"/n/subnets/10.5.2.0-24","modifiedIndex":9}}`,
		"deeper key":              `{"action":"create","node":{"key":"/n/subnets/a/b","modifiedIndex":9}}`,
		"directory":               `{"action":"create","node":{"key":"/n/subnets/a","dir":true,"modifiedIndex":9}}`,
		"all":                     `{"action":"delete","node":{"key":"/n/subnets","dir":true,"modifiedIndex":9}}`,
	} {
		v := new(etcd.View)
		v.Reset([]subnet.Entry{{Key: "10.5.1.0-24", Value: value(1), Revision: 5}}, 5, "")
		var r reply
		if err := json.Unmarshal([]byte(event), &r.Response); err != nil {
			t.Fatal(err)
		}
		if apply(v, "/n/subnets", &r) {
			t.Errorf("%s: taken for the continuation", name)
		}
		if s := v.Snapshot(); s.Revision != 5 || len(s.Leases) != 1 {
			t.Errorf("%s: the view was changed to %+v", name, s)
		}
	}
}
