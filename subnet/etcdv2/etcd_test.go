package etcdv2

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"flanneld/subnet"
)

// patience is how long anything that must happen may take.
const patience = 20 * time.Second

// etcd is a real server.
type etcd struct {
	url    string // of clients
	peer   string
	dir    string
	args   []string
	client *http.Client
	cmd    *exec.Cmd
	output bytes.Buffer
}

// newEtcd starts a server with the v2 API that listens at a URL of this scheme.
func newEtcd(t *testing.T, scheme string, client *http.Client, args ...string) *etcd {
	t.Helper()
	e := &etcd{
		url:    scheme + "://" + freeAddr(t),
		peer:   "http://" + freeAddr(t),
		dir:    t.TempDir(),
		args:   args,
		client: client,
	}
	t.Cleanup(func() { e.kill() })
	e.start(t)
	return e
}

func plainEtcd(t *testing.T) *etcd {
	t.Helper()
	return newEtcd(t, "http", http.DefaultClient, "--enable-v2")
}

func freeAddr(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// start starts the server, again if it ran before, and waits until it serves.
func (e *etcd) start(t *testing.T) {
	t.Helper()
	binary, err := filepath.Abs("../../build/etcd")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(binary); err != nil {
		t.Fatal("build/etcd is missing: run `make build`")
	}
	e.output.Reset()
	e.cmd = exec.Command(binary, append([]string{
		"--name=test",
		"--data-dir=" + e.dir,
		"--listen-client-urls=" + e.url,
		"--advertise-client-urls=" + e.url,
		"--listen-peer-urls=" + e.peer,
		"--initial-advertise-peer-urls=" + e.peer,
		"--initial-cluster=test=" + e.peer,
		"--unsafe-no-fsync",
		"--log-level=error",
	}, e.args...)...)
	e.cmd.Stdout, e.cmd.Stderr = &e.output, &e.output
	e.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := e.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "etcd is healthy", func() bool {
		resp, err := e.client.Get(e.url + "/health")
		if err != nil {
			return false
		}
		defer resp.Body.Close()
		return resp.StatusCode == http.StatusOK
	})
}

func (e *etcd) kill() {
	if e.cmd != nil {
		e.cmd.Process.Kill()
		e.cmd.Wait()
		e.cmd = nil
	}
}

// put writes below /v2/keys; for ever where ttl is 0.
func (e *etcd) put(t *testing.T, key, value string, ttl time.Duration) {
	t.Helper()
	form := url.Values{"value": {value}}
	if ttl > 0 {
		form.Set("ttl", strconv.Itoa(int(ttl/time.Second)))
	}
	e.raw(t, http.MethodPut, "/v2/keys"+key, "application/x-www-form-urlencoded", form.Encode())
}

func (e *etcd) delete(t *testing.T, key string) {
	t.Helper()
	e.raw(t, http.MethodDelete, "/v2/keys"+key+"?recursive=true", "", "")
}

func (e *etcd) raw(t *testing.T, method, path, contentType, body string) {
	t.Helper()
	req, err := http.NewRequest(method, e.url+path, strings.NewReader(body))
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

func eventually(t *testing.T, what string, is func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !is(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain until %s", what)
		}
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

// watched is a watch that goes on as the daemon's does: it is called again
// whenever it ends.
type watched struct {
	mu     sync.Mutex
	last   *subnet.Snapshot
	errors []error
	cancel context.CancelFunc
	ended  chan struct{}
}

func watch(t *testing.T, s subnet.Store) *watched {
	ctx, cancel := context.WithCancel(context.Background())
	w := &watched{cancel: cancel, ended: make(chan struct{})}
	go func() {
		defer close(w.ended)
		for ctx.Err() == nil {
			err := s.Watch(ctx, func(s subnet.Snapshot) {
				w.mu.Lock()
				defer w.mu.Unlock()
				w.last = &s
			})
			w.mu.Lock()
			w.errors = append(w.errors, err)
			w.mu.Unlock()
			_ = sleep(ctx, 50*time.Millisecond)
		}
	}()
	t.Cleanup(w.stop)
	return w
}

func (w *watched) stop() { w.cancel(); <-w.ended }

func (w *watched) until(t *testing.T, what string, is func(subnet.Snapshot) bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); ; time.Sleep(10 * time.Millisecond) {
		w.mu.Lock()
		last, errs := w.last, w.errors
		w.mu.Unlock()
		if last != nil && is(*last) {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain until the watch shows %s; it shows %+v; errors %v", what, last, errs)
		}
	}
}

func leases(n int) func(subnet.Snapshot) bool {
	return func(s subnet.Snapshot) bool { return len(s.Leases) == n }
}

func value(host int) string { return fmt.Sprintf(`{"PublicIP":"192.0.2.%d"}`, host) }

func leaseKey(n int) string { return fmt.Sprintf("%s/subnets/10.5.%d.0-24", prefix, n) }
