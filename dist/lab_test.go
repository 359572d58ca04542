package dist_test

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"flanneld/pkg/lab"
)

// daemonBinary is the flanneld under test, built as it is shipped.
var daemonBinary string

func TestMain(m *testing.M) {
	// Most tests wait for systemd, Docker and the daemon, more than they work.
	if err := cmp.Or(lab.Enter(), flag.Set("test.parallel", strconv.Itoa(2*runtime.NumCPU()))); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	if daemonBinary = os.Getenv(childEnv); daemonBinary != "" {
		os.Exit(m.Run())
	}
	dir, remove, err := lab.TempDir("flanneld-dist-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	daemonBinary = filepath.Join(dir, "flanneld")
	build := exec.Command("make", "-C", "..", "flanneld", "OUT="+daemonBinary)
	if out, err := build.CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "building flanneld: %v\n%s", err, out)
		os.Exit(1)
	}
	code := m.Run()
	_ = remove()
	os.Exit(code)
}

// lookAtSources lets `go test` know that the result of these tests depends on all of
// the daemon and on what is installed beside it: it keeps results by the files that a
// test itself has asked for.
var lookAtSources = sync.OnceValue(func() error {
	return filepath.WalkDir("..", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() && (path == "../.git" || path == "../build") {
			return cmp.Or(err, fs.SkipDir)
		}
		_, err = os.Stat(path)
		return err
	})
})

// soon is how long to wait for what should happen at once, on a busy machine.
const soon = time.Minute

// network is a lab with etcd on a host of its own, and two more hosts.
type network struct {
	t      *testing.T
	ctx    context.Context
	lab    *lab.Lab
	sw     *lab.Switch
	server *lab.Host // has etcd, and no way to containers
	etcd   *lab.Etcd
	hosts  [2]*host
}

// host is one that may have a systemd of its own.
type host struct {
	*lab.Host
	n     *network
	binds []string // directories that its system has in common with this machine
	path  string   // with programs, where it has no system
	sys   *lab.System
	pod   *lab.Pod
}

// newLab returns a lab with nothing in it.
func newLab(t *testing.T) *network {
	t.Helper()
	check(t, lookAtSources())
	ctx, cancel := context.WithTimeout(t.Context(), 8*time.Minute)
	t.Cleanup(cancel)
	l, err := lab.New(lab.Options{})
	check(t, err)
	t.Cleanup(func() { check(t, l.Close()) })
	return &network{t: t, ctx: ctx, lab: l}
}

// newNetwork returns a lab in which nothing but etcd runs. The hosts' link has these networks
// beside the usual one.
func newNetwork(t *testing.T, more ...netip.Prefix) *network {
	t.Helper()
	n := newLabWithServer(t, more...)
	var err error
	n.etcd, err = n.lab.StartEtcd(n.ctx, n.server, lab.EtcdOptions{})
	check(t, err)
	return n
}

// newLabWithServer returns a lab in which nothing runs.
func newLabWithServer(t *testing.T, more ...netip.Prefix) *network {
	t.Helper()
	n := newLab(t)
	var err error
	n.sw, err = n.lab.AddSwitch("switch", append([]netip.Prefix{netip.MustParsePrefix("192.168.0.0/24")}, more...)...)
	check(t, err)
	n.server, err = n.lab.AddHost("server", n.sw, lab.HostOptions{})
	check(t, err)
	for i := range n.hosts {
		h, err := n.lab.AddHost(fmt.Sprintf("host%d", i+1), n.sw, lab.HostOptions{})
		check(t, err)
		n.hosts[i] = &host{Host: h, n: n}
	}
	return n
}

// in is the network as a subtest sees it.
func (n *network) in(t *testing.T) *network {
	sub := *n
	sub.t = t
	for i, h := range n.hosts {
		h := *h
		h.n = &sub
		sub.hosts[i] = &h
	}
	return &sub
}

// configure writes the configuration.
func (n *network) configure(network, backend string) {
	n.t.Helper()
	n.put("config", fmt.Sprintf(`{"Network": %q, "Backend": {"Type": %q}}`, network, backend))
}

// put writes a key of the network.
func (n *network) put(key, value string) {
	n.t.Helper()
	c, err := n.etcd.ClientV3()
	check(n.t, err)
	defer func() { check(n.t, c.Close()) }()
	_, err = c.Put(n.ctx, "/coreos.com/network/"+key, value)
	check(n.t, err)
}

// wait polls until problem returns nothing.
func (n *network) wait(within time.Duration, what string, problem func() string) {
	n.t.Helper()
	for deadline := time.Now().Add(within); ; time.Sleep(20 * time.Millisecond) {
		why := problem()
		if why == "" {
			return
		}
		if time.Now().After(deadline) || n.ctx.Err() != nil {
			n.t.Fatalf("waited %s in vain for %s: %s", within, what, why)
		}
	}
}

// env has the variables of a subnet file.
func env(text string) map[string]string {
	all := map[string]string{}
	for line := range strings.Lines(text) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), "=")
		all[name] = value
	}
	return all
}

func check(t testing.TB, err error) {
	t.Helper()
	if errors.Is(err, lab.ErrNotRoot) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// read returns the text of a file.
func read(t testing.TB, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	check(t, err)
	return string(text)
}
