package kube

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"k8s.io/klog/v2"

	"flanneld/pkg/ip"
	"flanneld/subnet"
	"flanneld/subnet/subnettest"
)

// patience is how long anything that must happen may take.
const patience = 30 * time.Second

// following is a watch that runs.
type following struct {
	mu      sync.Mutex
	last    subnet.Snapshot
	yielded int
	ended   chan error
	stop    context.CancelFunc
}

func follow(t *testing.T, s *Store) *following {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	f := &following{ended: make(chan error, 1), stop: cancel}
	var watching sync.WaitGroup
	watching.Go(func() {
		f.ended <- s.Watch(ctx, func(n subnet.Snapshot) {
			f.mu.Lock()
			defer f.mu.Unlock()
			f.last = n
			f.yielded++
		})
	})
	t.Cleanup(func() { cancel(); watching.Wait() })
	return f
}

func (f *following) snapshot() subnet.Snapshot {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.last
}

// until waits until the watch shows something.
func (f *following) until(t *testing.T, what string, is func(subnet.Snapshot) bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !is(f.snapshot()); time.Sleep(5 * time.Millisecond) {
		select {
		case err := <-f.ended:
			t.Fatalf("the watch ended before it showed %s: %v", what, err)
		default:
		}
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain for %s", what)
		}
	}
}

// failure returns why the watch ends.
func (f *following) failure(t *testing.T) error {
	t.Helper()
	select {
	case err := <-f.ended:
		return err
	case <-time.After(patience):
		t.Fatal("the watch goes on")
	}
	return nil
}

func has(cidr string) func(subnet.Snapshot) bool {
	return func(s subnet.Snapshot) bool { return s.Find(sub(cidr)) != nil }
}

// peer is a Node that says what a daemon does.
func peer(name, cidr, public string) subnettest.Node {
	a := subnet.Attrs{PublicIP: addrs(public), BackendType: "vxlan", BackendData: `{"VNI":1,"VtepMAC":"02:00:00:00:00:01"}`}
	return subnettest.Node{Name: name, Subnet: sub(cidr), Says: &a}
}

// A large list comes in parts, and one that was broken off is gone on with.
func TestListInParts(t *testing.T) {
	t.Parallel()
	r := newRoom(t, shared.get(t))
	for n := range 10 {
		r.put(peer(fmt.Sprint("n", n), fmt.Sprintf("10.5.%d.0/24", n), fmt.Sprintf("192.0.2.%d", n+1)))
	}
	s := r.open("n0")
	s.pages = 3
	asked := 0
	ctx, cancel := context.WithCancel(t.Context())
	s.onList = func() {
		if asked++; asked == 3 {
			cancel()
		}
	}
	if _, err := s.List(ctx); !errors.Is(err, context.Canceled) {
		t.Fatalf("a list that was broken off: %v", err)
	}
	snapshot := must(s.List(t.Context()))(t)
	if len(snapshot.Leases) != 10 {
		t.Errorf("there are %d leases", len(snapshot.Leases))
	}
	if s.partial != nil || asked < 4 {
		t.Errorf("asked %d times, left %v", asked, s.partial)
	}
	// The watch goes on from there.
	asked = 0
	f := follow(t, s)
	f.until(t, "all", func(n subnet.Snapshot) bool { return len(n.Leases) == 10 })
	if asked > 1 {
		t.Errorf("the watch lists all Nodes anew: asked %d times", asked)
	}
}

// What the API does not know any more is listed anew, and nothing is lost over it: no
// snapshot lacks what was there all the time.
func TestHistoryLost(t *testing.T) {
	t.Parallel()
	for what, revision := range map[string]uint64{"compacted": 2, "set back": 1 << 50} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			r := newRoom(t, shared.get(t))
			r.put(peer("a", "10.5.1.0/24", "192.0.2.1"))
			s := r.open("own")
			var listed atomic.Int32
			s.onList = func() { listed.Add(1) }
			stays := must(s.List(t.Context()))(t).Find(sub("10.5.1.0/24"))
			r.put(peer("b", "10.5.2.0/24", "192.0.2.2"))
			s.saved.revision = revision
			f := follow(t, s)
			f.until(t, "what came since", has("10.5.2.0/24"))
			if f.snapshot().Find(sub("10.5.1.0/24")) != stays || listed.Load() < 2 {
				t.Errorf("after %d listings the leases are %v", listed.Load(), f.snapshot().Leases)
			}
			r.put(peer("c", "10.5.3.0/24", "192.0.2.3"))
			f.until(t, "the next change", has("10.5.3.0/24"))
		})
	}
}

// The server is killed, and started again: meanwhile nothing is lost, the failure is named,
// and the watch goes on where it was.
func TestServerRestarted(t *testing.T) {
	t.Parallel()
	server := newServer(t)
	r := newRoom(t, server)
	r.put(peer("a", "10.5.1.0/24", "192.0.2.1"))
	r.put(subnettest.Node{Name: "own", Subnet: sub("10.5.9.0/24")})
	s := r.open("own")
	f := follow(t, s)
	f.until(t, "the lease", has("10.5.1.0/24"))
	stays := f.snapshot().Find(sub("10.5.1.0/24"))
	server.Kill()
	r.proxy.Cut()
	err := f.failure(t)
	for _, text := range []string{"watching the Nodes", "the Kubernetes API at " + r.proxy.URL, "nodes"} {
		if !strings.Contains(err.Error(), text) {
			t.Errorf("%q does not say %q", err, text)
		}
	}
	if _, err := s.List(t.Context()); err == nil {
		t.Error("a list without a server succeeds")
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	check(t, server.Start(ctx))
	r.put(peer("b", "10.5.2.0/24", "192.0.2.2"))
	f = follow(t, s)
	f.until(t, "what came since", has("10.5.2.0/24"))
	if f.snapshot().Find(sub("10.5.1.0/24")) != stays {
		t.Error("a lease that did not change is another one")
	}
	a := peer("own", "", "192.0.2.9").Says
	must(s.Create(t.Context(), sub("10.5.9.0/24"), *a, 0))(t)
	f.until(t, "our own", has("10.5.9.0/24"))
}

// A connection that brings nothing any more is given up.
func TestSilentConnection(t *testing.T) {
	t.Parallel()
	r := newRoom(t, shared.get(t))
	r.put(peer("a", "10.5.1.0/24", "192.0.2.1"))
	s := r.open("own")
	f := follow(t, s)
	f.until(t, "the lease", has("10.5.1.0/24"))
	begin := time.Now()
	r.proxy.Stalled.Store(true)
	err := f.failure(t)
	if took := time.Since(begin); took < pingAfter {
		t.Errorf("the watch ended after %s already", took)
	}
	if !strings.Contains(err.Error(), "silent") {
		t.Errorf("it ended with %v", err)
	}
	r.proxy.Stalled.Store(false)
	r.proxy.Cut()
	r.put(peer("b", "10.5.2.0/24", "192.0.2.2"))
	follow(t, s).until(t, "what came since", has("10.5.2.0/24"))
}

// The API ends each watch after a while. That is no failure, and nothing is missed.
func TestWatchEnds(t *testing.T) {
	t.Parallel()
	r := newRoom(t, shared.get(t))
	s := r.open("own")
	s.watchFor = time.Second
	var listed atomic.Int32
	s.onList = func() { listed.Add(1) }
	f := follow(t, s)
	for n := range 8 {
		cidr := fmt.Sprintf("10.5.%d.0/24", n)
		r.put(peer(fmt.Sprint("n", n), cidr, fmt.Sprintf("192.0.2.%d", n+1)))
		f.until(t, cidr, has(cidr))
		time.Sleep(400 * time.Millisecond)
	}
	if n := listed.Load(); n != 1 {
		t.Errorf("listed %d times", n)
	}
}

// What was there before our own write does not undo it, however late it comes.
func TestOlderThanOurWrite(t *testing.T) {
	s := must(New(Options{AnnotationPrefix: "flannel.alpha.coreos.com", NodeName: "w1"}))(t)
	v := s.newView()
	s.views[v] = make(chan struct{}, 1)
	v.listed = true
	bare := node{name: "w1", uid: "u", created: 1, revision: 10, podCIDR: "10.5.1.0/24"}
	s.resetView(v, &listing{nodes: []node{bare}, revision: 10})
	older := &listing{nodes: []node{bare, peerNode("w2", "10.5.2.0/24", "192.0.2.2", "null")}, revision: 15, writes: s.writes}

	written := peerNode("w1", "10.5.1.0/24", "192.0.2.1", "null")
	written.uid, written.created, written.revision = "u", 1, 20
	a, _, err := written.attrs(&s.names, sub("10.5.1.0/24"))
	check(t, err)
	s.wrote(written, &a, true)
	ours := func(when string) {
		t.Helper()
		shown := v.snapshot()
		if l := shown.Find(sub("10.5.1.0/24")); l == nil || l.Attrs != a || shown.Revision < 20 {
			t.Errorf("%s the snapshot of revision %d has %+v", when, shown.Revision, l)
		}
	}
	ours("after the write")
	bare.revision = 12
	v.put(bare)
	ours("after an older event")
	v.remove(bare)
	ours("after an older deletion")
	s.resetView(v, older)
	ours("after an older list")
	if v.snapshot().Find(sub("10.5.2.0/24")) == nil {
		t.Error("the list was not taken")
	}

	// A list that was begun after the write is the truth, whatever its revision: the API was
	// set back.
	bare.revision = 7
	s.resetView(v, &listing{nodes: []node{bare}, revision: 8, writes: s.writes})
	if shown := v.snapshot(); shown.Find(sub("10.5.1.0/24")) != nil || shown.Revision != 8 {
		t.Errorf("after the API was set back: %+v", shown)
	}
}

// Nodes of which one address is known twice are named; both are used.
func TestSameAddress(t *testing.T) {
	r := newRoom(t, shared.get(t))
	text := logText(t)
	r.put(peer("a", "10.5.1.0/24", "192.0.2.1"))
	r.put(peer("b", "10.5.2.0/24", "192.0.2.1"))
	f := follow(t, r.open("own"))
	f.until(t, "both", func(s subnet.Snapshot) bool { return len(s.Leases) == 2 && len(s.Problems) == 0 })
	want := fmt.Sprintf("the Nodes %s, %s have one public address, 192.0.2.1", r.node("a"), r.node("b"))
	for deadline := time.Now().Add(patience); !strings.Contains(text(), want); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("logged %q, want %q", text(), want)
		}
	}
}

// An address that people ask for and that is none is named, and ignored.
func TestAskedForGarbage(t *testing.T) {
	r := newRoom(t, shared.get(t))
	text := logText(t)
	r.put(subnettest.Node{Name: "own", Subnet: sub("10.5.1.0/24")})
	r.note("own", map[key]any{requestedIP: "my host", publicIPOverwrite: "192.0.2.9"})
	f := follow(t, r.open("own"))
	f.until(t, "the assignment", func(s subnet.Snapshot) bool { return s.Own != nil && s.Own.Overwrite == addrs("192.0.2.9") })
	if a := f.snapshot().Own; a.Requested != (ip.Addrs{}) {
		t.Errorf("requested is %+v", a.Requested)
	}
	want := `node-public-ip is "my host", and not an address, and is ignored`
	for deadline := time.Now().Add(patience); !strings.Contains(text(), want); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("logged %q, want %q", text(), want)
		}
	}
}

// The file of the configuration is a link to a folder that is replaced, as in a pod; and
// one that is written in place is not taken before it is whole.
func TestConfigFile(t *testing.T) {
	t.Parallel()
	r := newRoom(t, shared.get(t))
	dir := t.TempDir()
	mount := func(version, text string) {
		t.Helper()
		check(t, os.Mkdir(filepath.Join(dir, version), 0o755))
		check(t, os.WriteFile(filepath.Join(dir, version, "net-conf.json"), []byte(text), 0o644))
		check(t, os.Symlink(version, filepath.Join(dir, "..tmp")))
		check(t, os.Rename(filepath.Join(dir, "..tmp"), filepath.Join(dir, "..data")))
	}
	mount("v1", `{"Network":"10.5.0.0/16"}`)
	r.conf = filepath.Join(dir, "net-conf.json")
	check(t, os.Symlink("..data/net-conf.json", r.conf))
	s := r.open("own")
	ctx, cancel := context.WithCancel(t.Context())
	yielded := make(chan subnet.StoredConfig, 10)
	var watching sync.WaitGroup
	watching.Go(func() { _ = s.WatchConfig(ctx, func(c subnet.StoredConfig) { yielded <- c }) })
	defer watching.Wait()
	defer cancel()
	is := func(text string) {
		t.Helper()
		begin := time.Now()
		select {
		case c := <-yielded:
			if c != (subnet.StoredConfig{Text: text}) {
				t.Errorf("it is %+v, want %q", c, text)
			}
		case <-time.After(patience):
			t.Fatalf("waited in vain for %s", text)
		}
		t.Logf("followed after %s", time.Since(begin))
	}
	is(`{"Network":"10.5.0.0/16"}`)
	mount("v2", `{"Network":"10.6.0.0/16"}`)
	is(`{"Network":"10.6.0.0/16"}`)

	r.conf = filepath.Join(dir, "plain.json")
	check(t, os.WriteFile(r.conf, []byte(`{"Network":"10.7.0.0/16"}`), 0o644))
	c := confFile{path: r.conf}
	if _, changed := c.look(t.Context()); !changed {
		t.Error("it was not looked at")
	}
	check(t, os.WriteFile(r.conf, []byte(`{"Network":"10.8`), 0o644))
	if now, changed := c.look(t.Context()); changed {
		t.Errorf("half a file is taken: %q", now.Text)
	}
	check(t, os.WriteFile(r.conf, []byte(`{"Network":"10.8.0.0/16"}`), 0o644))
	if now, changed := c.look(t.Context()); !changed || now.Text != `{"Network":"10.8.0.0/16"}` {
		t.Errorf("it is taken for %q, %t", now.Text, changed)
	}
	aside := r.conf + ".aside"
	check(t, os.Rename(r.conf, aside))
	check(t, os.Mkdir(r.conf, 0o755))
	if now, _ := c.look(t.Context()); !strings.Contains(now.Unreadable, "is a directory") {
		t.Errorf("what cannot be read is taken for %+v", now)
	}
	check(t, os.Remove(r.conf))
	check(t, os.Rename(aside, r.conf))
	if now, changed := c.look(t.Context()); !changed || now.Text != `{"Network":"10.8.0.0/16"}` {
		t.Errorf("the former file, which is back after what could not be read, is taken for %q, %t", now.Text, changed)
	}
	check(t, os.Remove(r.conf))
	check(t, os.WriteFile(r.conf, []byte(`{`), 0o644))
	c.look(t.Context())
	if now, changed := c.look(t.Context()); !changed || now.Text != "{" {
		t.Errorf("what stays garbage is taken for %q, %t", now.Text, changed)
	}
}

// logText returns what is logged until the test ends.
func logText(t *testing.T) func() string {
	t.Helper()
	var mu sync.Mutex
	var b bytes.Buffer
	klog.LogToStderr(false)
	klog.SetOutput(io.Discard)
	klog.SetOutputBySeverity("INFO", writer(func(p []byte) {
		mu.Lock()
		defer mu.Unlock()
		b.Write(p)
	}))
	t.Cleanup(func() { klog.LogToStderr(true) })
	return func() string {
		mu.Lock()
		defer mu.Unlock()
		return b.String()
	}
}

type writer func([]byte)

func (w writer) Write(p []byte) (int, error) { w(p); return len(p), nil }
