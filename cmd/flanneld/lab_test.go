package main_test

import (
	"cmp"
	"context"
	"flag"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	daemon "flanneld/cmd/flanneld"
	"flanneld/pkg/ip"
	"flanneld/pkg/lab"
	"flanneld/pkg/lab/browser"
)

// daemonBinary is the flanneld under test, built anew for each run, with the
// race detector if the tests have it.
var daemonBinary string

func TestMain(m *testing.M) {
	if faults, ok := os.LookupEnv(faultyKernelEnv); ok {
		os.Exit(daemon.StartOnFaultyKernel(faults))
	}
	if err := cmp.Or(lab.Enter(), configure()); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	dir, remove, err := lab.TempDir("flanneld-test-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	daemonBinary = filepath.Join(dir, "flanneld")
	if err := build(daemonBinary, raceEnabled); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	code := m.Run()
	_ = remove()
	os.Exit(code)
}

// build makes a flanneld, with the race detector or as it is shipped.
func build(binary string, race bool) error {
	cmd := exec.Command("make", "-C", "../..", "flanneld", "OUT="+binary, "VERSION=dev")
	if race {
		cmd = exec.Command("go", "build", "-race", "-o", binary)
	}
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("building flanneld: %w\n%s", err, out)
	}
	return nil
}

// configure sets what fits these tests better than the usual. What the user gives
// goes first.
func configure() error {
	// Tests that run in parallel wait for most of their time.
	if err := flag.Set("test.parallel", strconv.Itoa(6*runtime.NumCPU())); err != nil {
		return err
	}
	// The race detector has each program wait for a second before it ends, for
	// goroutines that still run. A daemon that ends has none.
	return os.Setenv("GORACE", "atexit_sleep_ms=0 "+os.Getenv("GORACE"))
}

const (
	keyPrefix  = "/coreos.com/network"
	ourRoutes  = 70 // the route protocol
	soon       = 15 * time.Second
	pingPeriod = 2 * time.Millisecond
	// testTimeout bounds what a test or benchmark waits for.
	testTimeout = 4 * time.Minute
)

// network is a lab with etcd on a host of its own, and the daemons' hosts.
type network struct {
	variant
	t      testing.TB
	ctx    context.Context
	lab    *lab.Lab
	sw     *lab.Switch
	server *lab.Host // has etcd
	etcd   *lab.Etcd
	kube   *kube // in the place of etcd
	admin  admin
	binary string // of the daemons
	nodes  []*node
	// named are the subnets of all peers that the test has waited for.
	named map[netip.Prefix]bool
}

// node is a host with a daemon and a pod.
type node struct {
	*lab.Host
	n      *network
	args   []string
	env    []string // of its daemons, beside what all have
	binary string   // of its daemons, if not that of all
	daemon *lab.Daemon
	past   []*lab.Daemon // and the present one
	pod    *lab.Pod      // the latest
	pods   int
	page   *browser.Tab // that shows its daemon
	// resolved are the addresses of strangers that have a neighbour entry.
	resolved map[netip.Addr]bool
}

// newLab returns a lab with a switch and a host for etcd, and no daemons.
func newLab(t testing.TB, v variant) *network {
	t.Helper()
	n := newEmptyLab(t, v)
	var err error
	n.sw, err = n.lab.AddSwitch("switch", n.links("192.168.0.0/24")...)
	check(t, err)
	n.server, err = n.lab.AddHost("server", n.sw, lab.HostOptions{})
	check(t, err)
	return n
}

// newEmptyLab returns a lab that is closed when the test ends; then no process may
// have reported a data race.
func newEmptyLab(t testing.TB, v variant) *network {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), testTimeout)
	t.Cleanup(cancel)
	l, err := lab.New(lab.Options{})
	check(t, err)
	n := &network{variant: v, t: t, ctx: ctx, lab: l, binary: daemonBinary, named: make(map[netip.Prefix]bool)}
	t.Cleanup(func() {
		for _, race := range l.Races() {
			t.Error(race)
		}
		if t.Failed() {
			for _, node := range n.nodes {
				if node.daemon != nil {
					t.Logf("log of %s:\n%s", node.Name, node.daemon.Log())
				}
			}
		}
		check(t, l.Close())
	})
	return n
}

func (n *network) startEtcd(opts lab.EtcdOptions) {
	n.t.Helper()
	if opts.Version == "" {
		opts.Version = n.store.version
	}
	var err error
	n.etcd, err = n.lab.StartEtcd(n.ctx, n.server, opts)
	check(n.t, err)
	n.admin = n.store.admin(n.t, n.etcd)
}

// newConfigured returns a lab with etcd, and the configuration in it.
func newConfigured(t testing.TB, v variant, special settings) *network {
	t.Helper()
	n := newLab(t, v)
	n.startEtcd(lab.EtcdOptions{})
	n.put("config", n.config(special))
	return n
}

// newNetwork returns a lab of so many hosts, each with a daemon that is ready
// and a pod, where that pod has an address.
func newNetwork(t testing.TB, hosts int, v variant, special settings) *network {
	t.Helper()
	n := newConfigured(t, v, special)
	for range hosts {
		n.addNode(lab.HostOptions{})
	}
	for _, node := range n.nodes {
		node.start()
	}
	n.readyWithPods()
	return n
}

// readyWithPods waits for the daemons and until they have what they must have for
// each other, and puts a pod on each host.
func (n *network) readyWithPods() {
	n.t.Helper()
	for _, node := range n.nodes {
		node.waitReady()
		node.addPod()
	}
	for _, node := range n.nodes {
		node.waitPeers(soon, node.others()...)
	}
	// A first ping finds the neighbours on its way. On a busy machine that takes
	// so long that pings every 2 ms would be dropped meanwhile.
	for _, node := range n.nodes {
		for _, other := range n.nodes {
			if other != node && node.expected(other.peer()) != nil {
				node.ping(other)
			}
		}
	}
}

// parallel has the rest of a test run in parallel to others: it waits more than it works.
func (n *network) parallel(t *testing.T) {
	t.Helper()
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), testTimeout)
	t.Cleanup(cancel)
	n.ctx = ctx // of the other one, little may be left
}

func (n *network) addNode(opts lab.HostOptions, args ...string) *node {
	n.t.Helper()
	h, err := n.lab.AddHost(fmt.Sprintf("host%d", len(n.nodes)+1), n.sw, opts)
	check(n.t, err)
	node := &node{Host: h, n: n, args: args}
	n.nodes = append(n.nodes, node)
	return node
}

func (h *node) start(args ...string) {
	h.n.t.Helper()
	h.runs(h.StartFlanneldIn(h.env, cmp.Or(h.binary, h.n.binary), slices.Concat(h.args, args)...))
}

// runs takes note of a daemon that was started.
func (h *node) runs(d *lab.Daemon, err error) {
	h.n.t.Helper()
	check(h.n.t, err)
	h.daemon = d
	h.past = append(h.past, d)
}

func (h *node) waitReady() {
	h.n.t.Helper()
	ctx, cancel := context.WithTimeout(h.n.ctx, soon)
	defer cancel()
	check(h.n.t, h.daemon.WaitReady(ctx))
}

func (h *node) waitLog(text string) {
	h.n.t.Helper()
	ctx, cancel := context.WithTimeout(h.n.ctx, soon)
	defer cancel()
	check(h.n.t, h.daemon.WaitLog(ctx, text))
}

// addPod puts a pod on the host, with the subnet that subnet.env names.
func (h *node) addPod() {
	h.n.t.Helper()
	var err error
	h.pods++
	h.pod, err = h.AddPod(fmt.Sprintf("pod%d", h.pods), h.daemon.Env())
	check(h.n.t, err)
}

// subnet of the host, as subnet.env names it: the IPv4 one, if there are both.
func (h *node) subnet() netip.Prefix {
	h.n.t.Helper()
	return h.peer().subnet
}

// key of the host's lease.
func (h *node) key() string {
	return h.peer().key()
}

// routes are those of the host that are ours, as "DESTINATION via GATEWAY", with
// the device if that is not eth0.
func (h *node) routes() []string {
	h.n.t.Helper()
	all, err := h.Routes(ip.V4, ip.V6)
	check(h.n.t, err)
	var ours []string
	for _, r := range all {
		r = strings.TrimSuffix(r, " metric 1024") // what IPv6 has for none
		before, metric, ok := strings.Cut(r, fmt.Sprintf(" proto %d", ourRoutes))
		if ok && (metric == "" || strings.HasPrefix(metric, " metric ")) {
			ours = append(ours, strings.TrimSuffix(before, " dev eth0")+metric)
		}
	}
	return ours
}

// others are the peers of the host that are there.
func (h *node) others() []peer {
	h.n.t.Helper()
	var all []peer
	for _, other := range h.n.nodes {
		if other != h && other.daemon != nil {
			all = append(all, other.peer())
		}
	}
	return all
}

// waitPeers waits until the host has what it must have for just these peers.
func (h *node) waitPeers(within time.Duration, peers ...peer) time.Duration {
	h.n.t.Helper()
	var want []string
	for _, p := range peers {
		want = append(want, h.expected(p)...)
	}
	slices.Sort(want)
	return h.n.wait(within, fmt.Sprintf("%q on %s", want, h.Name), func() string {
		if got := sorted(h.n.backend.present(h)...); !slices.Equal(got, want) {
			return fmt.Sprintf("there is %q", got)
		}
		return ""
	})
}

// expected is what the host must have so as to reach a peer.
func (h *node) expected(p peer) (all []string) {
	h.n.t.Helper()
	for _, view := range p.views() {
		if slices.Contains(h.n.families.list(), ip.FamilyOf(view.subnet.Addr())) {
			all = append(all, h.n.backend.expected(h, view)...)
		}
	}
	return all
}

// wait polls until problem returns nothing, and returns how long that took.
func (n *network) wait(within time.Duration, what string, problem func() string) time.Duration {
	n.t.Helper()
	start := time.Now()
	for {
		began := time.Now()
		why := problem()
		took, looked := time.Since(start), time.Since(began)
		if why == "" {
			return took
		}
		if took > within {
			n.t.Fatalf("waiting %s for %s: %s", within, what, why)
		}
		// The longer it takes, the less it matters when exactly it is over. Looking
		// must not keep the daemon from the processor.
		pause := max(time.Millisecond, min(max(took/50, looked), within-took))
		select {
		case <-time.After(pause):
		case <-n.ctx.Done():
			n.t.Fatalf("waiting for %s: %s: %v", what, why, n.ctx.Err())
		}
	}
}

// pingAll has each pod ping each other one.
func (n *network) pingAll() {
	n.t.Helper()
	for _, from := range n.nodes {
		for _, to := range n.nodes {
			if from != to {
				from.ping(to)
			}
		}
	}
}

func (h *node) ping(to *node) {
	h.n.t.Helper()
	for _, f := range h.n.families.list() {
		if _, err := h.pod.Ping(h.n.ctx, to.pod.In(f).Addr, 2*time.Second); err != nil {
			h.n.t.Errorf("pod of %s to pod of %s: %v", h.Name, to.Name, err)
		}
	}
}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
