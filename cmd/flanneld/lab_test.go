package main_test

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	client "go.etcd.io/etcd/client/v2"

	"flanneld/pkg/lab"
)

// daemonBinary is the flanneld under test, built anew for each run, with the
// race detector if the tests have it.
var daemonBinary string

func TestMain(m *testing.M) {
	if err := lab.Enter(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	dir, err := os.MkdirTemp("", "flanneld-test-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	daemonBinary = filepath.Join(dir, "flanneld")
	args := []string{"build", "-o", daemonBinary}
	if raceEnabled {
		args = append(args, "-race")
	}
	build := exec.Command("go", append(args, ".")...)
	if !raceEnabled {
		build.Env = append(os.Environ(), "CGO_ENABLED=0")
	}
	if out, err := build.CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "building flanneld: %v\n%s", err, out)
		os.Exit(1)
	}
	code := m.Run()
	_ = os.RemoveAll(dir)
	os.Exit(code)
}

const (
	keyPrefix  = "/coreos.com/network"
	hostGW     = `{"Network":"10.5.0.0/16","Backend":{"Type":"host-gw"}}`
	allocOnly  = `{"Network":"10.5.0.0/16","Backend":{"Type":"alloc"}}`
	ourRoutes  = 70 // the route protocol
	soon       = 10 * time.Second
	pingPeriod = 2 * time.Millisecond
	// testTimeout bounds what a test or benchmark waits for.
	testTimeout = 4 * time.Minute
)

// network is a lab with etcd on a host of its own, and the daemons' hosts.
type network struct {
	t      testing.TB
	ctx    context.Context
	lab    *lab.Lab
	sw     *lab.Switch
	server *lab.Host // has etcd
	etcd   *lab.Etcd
	nodes  []*node
}

// node is a host with a daemon and a pod.
type node struct {
	*lab.Host
	n      *network
	args   []string
	daemon *lab.Daemon
	pod    *lab.Pod // the latest
	pods   int
}

// newLab returns a lab with a switch, etcd, and no daemons. It is closed when
// the test ends; then no process may have reported a data race.
func newLab(t testing.TB) *network {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), testTimeout)
	t.Cleanup(cancel)
	l, err := lab.New(lab.Options{})
	check(t, err)
	n := &network{t: t, ctx: ctx, lab: l}
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
	n.sw, err = l.AddSwitch("switch", netip.MustParsePrefix("192.168.0.0/24"))
	check(t, err)
	n.server, err = l.AddHost("server", n.sw, lab.HostOptions{})
	check(t, err)
	return n
}

func (n *network) startEtcd(opts lab.EtcdOptions) {
	n.t.Helper()
	var err error
	n.etcd, err = n.lab.StartEtcd(n.ctx, n.server, opts)
	check(n.t, err)
}

// newNetwork returns a lab of so many hosts, each with a daemon that is ready
// and a pod, where that pod has an address.
func newNetwork(t testing.TB, hosts int, config string) *network {
	t.Helper()
	n := newLab(t)
	n.startEtcd(lab.EtcdOptions{})
	n.put("config", config)
	for range hosts {
		n.addNode(lab.HostOptions{})
	}
	for _, node := range n.nodes {
		node.start()
	}
	n.readyWithPods()
	return n
}

// readyWithPods waits for the daemons and for the routes to all hosts, and puts
// a pod on each host.
func (n *network) readyWithPods() {
	n.t.Helper()
	for _, node := range n.nodes {
		node.waitReady()
		node.addPod()
	}
	for _, node := range n.nodes {
		if strings.Contains(node.daemon.Status(), "host-gw") {
			node.waitRoutes(soon, node.routesToOthers()...)
		}
	}
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
	var err error
	h.daemon, err = h.StartFlanneld(daemonBinary, append(slices.Clone(h.args), args...)...)
	check(h.n.t, err)
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

// subnet of the host, as subnet.env names it.
func (h *node) subnet() netip.Prefix {
	h.n.t.Helper()
	p, err := netip.ParsePrefix(h.daemon.Env()["FLANNEL_SUBNET"])
	check(h.n.t, err)
	return p.Masked()
}

// key of the host's lease.
func (h *node) key() string {
	return "subnets/" + strings.ReplaceAll(h.subnet().String(), "/", "-")
}

// routes are those of the host that are ours, as "DESTINATION via GATEWAY".
func (h *node) routes() []string {
	h.n.t.Helper()
	all, err := h.Routes()
	check(h.n.t, err)
	var ours []string
	for _, r := range all {
		if before, ok := strings.CutSuffix(r, fmt.Sprintf(" dev eth0 proto %d", ourRoutes)); ok {
			ours = append(ours, before)
		}
	}
	return ours
}

// routesToOthers is what routes should be.
func (h *node) routesToOthers() []string {
	h.n.t.Helper()
	var want []string
	for _, other := range h.n.nodes {
		if other != h && other.daemon != nil {
			want = append(want, routeTo(other))
		}
	}
	slices.Sort(want)
	return want
}

func routeTo(h *node) string { return fmt.Sprintf("%s via %s", h.subnet(), h.Addr) }

// waitRoutes waits until our routes on the host are just these.
func (h *node) waitRoutes(within time.Duration, want ...string) time.Duration {
	h.n.t.Helper()
	return h.n.wait(within, fmt.Sprintf("routes %q on %s", want, h.Name), func() string {
		if got := h.routes(); !slices.Equal(got, want) {
			return fmt.Sprintf("routes are %q", got)
		}
		return ""
	})
}

// wait polls until problem returns nothing, and returns how long that took.
func (n *network) wait(within time.Duration, what string, problem func() string) time.Duration {
	n.t.Helper()
	start := time.Now()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for {
		why := problem()
		took := time.Since(start)
		if why == "" {
			return took
		}
		if took > within {
			n.t.Fatalf("waiting %s for %s: %s", within, what, why)
		}
		select {
		case <-tick.C:
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
	if _, err := h.pod.Ping(h.n.ctx, to.pod.Addr, 2*time.Second); err != nil {
		h.n.t.Errorf("pod of %s to pod of %s: %v", h.Name, to.Name, err)
	}
}

// witness pings from pod to pod every 2 ms while f runs; not one ping may be
// lost.
func (n *network) witness(from, to *node, f func()) {
	n.t.Helper()
	p, err := from.pod.StartPinger(to.pod.Addr, pingPeriod)
	check(n.t, err)
	f()
	if report := p.Stop(); report.Lost > 0 || report.Sent == 0 {
		n.t.Errorf("pod of %s to pod of %s: %v", from.Name, to.Name, report)
	}
}

func (n *network) keys() client.KeysAPI {
	n.t.Helper()
	keys, err := n.etcd.Keys()
	check(n.t, err)
	return keys
}

// put writes a key below the prefix, without a TTL.
func (n *network) put(key, value string) {
	n.t.Helper()
	_, err := n.keys().Set(n.ctx, keyPrefix+"/"+key, value, nil)
	check(n.t, err)
}

func (n *network) delete(key string) {
	n.t.Helper()
	_, err := n.keys().Delete(n.ctx, keyPrefix+"/"+key, nil)
	check(n.t, err)
}

// get returns the node of a key, or nil if there is none.
func (n *network) get(key string) *client.Node {
	n.t.Helper()
	r, err := n.keys().Get(n.ctx, keyPrefix+"/"+key, &client.GetOptions{Quorum: true})
	if client.IsKeyNotFound(err) {
		return nil
	}
	check(n.t, err)
	return r.Node
}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
