package kube

import (
	"context"
	"flag"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"
	"k8s.io/klog/v2"

	"flanneld/pkg/file"
	"flanneld/pkg/ip"
	"flanneld/pkg/lab"
	"flanneld/subnet"
	"flanneld/subnet/etcd/etcdtest"
	"flanneld/subnet/subnettest"
)

func TestMain(m *testing.M) {
	if err := lab.Enter(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	flag.Parse()
	_ = flag.Set("test.parallel", "8") // they wait more than they compute
	status := m.Run()
	shared.close()
	klog.StopFlushDaemon()
	if err := goleak.Find(); status == 0 && err != nil {
		fmt.Println(err)
		status = 1
	}
	os.Exit(status)
}

// server is a real API server on a host of a lab.
type server struct {
	*lab.Kube
	host  *lab.Host
	lab   *lab.Lab
	token string // of a daemon's service account
}

// startServer starts one.
func startServer(ctx context.Context) (s *server, err error) {
	s = new(server)
	if s.lab, err = lab.New(lab.Options{}); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			_ = s.lab.Close()
		}
	}()
	sw, err := s.lab.AddSwitch("sw", netip.MustParsePrefix("192.168.0.0/24"))
	if err != nil {
		return nil, err
	}
	if s.host, err = s.lab.AddHost("api", sw, lab.HostOptions{}); err != nil {
		return nil, err
	}
	if s.Kube, err = s.lab.StartKube(ctx, s.host, lab.KubeOptions{}); err != nil {
		return nil, err
	}
	s.token, err = s.FlannelToken(ctx)
	return s, err
}

// newServer starts a server that ends with the test.
func newServer(t testing.TB) *server {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	s, err := startServer(ctx)
	check(t, err)
	t.Cleanup(func() { check(t, s.lab.Close()) })
	return s
}

// shared is a server for all tests that leave it as it is: each has annotations and Nodes of
// its own.
var shared sharedServer

type sharedServer struct {
	once  sync.Once
	s     *server
	err   error
	tests atomic.Uint32
}

func (o *sharedServer) get(t testing.TB) *server {
	t.Helper()
	o.once.Do(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
		defer cancel()
		o.s, o.err = startServer(ctx)
	})
	check(t, o.err)
	return o.s
}

func (o *sharedServer) close() {
	if o.s != nil {
		if err := o.s.lab.Close(); err != nil {
			fmt.Fprintln(os.Stderr, err)
		}
	}
}

// room is what one test has to itself on a server.
type room struct {
	*server
	t       testing.TB
	id      string
	names   names
	prefix  string
	proxy   *etcdtest.Proxy // that all stores go through
	conf    string
	kubectl string // a kubeconfig of a daemon, through the proxy
	made    map[string]bool
}

func newRoom(t testing.TB, s *server) *room {
	t.Helper()
	r := &room{server: s, t: t, id: fmt.Sprint(shared.tests.Add(1)), made: make(map[string]bool)}
	r.prefix = "t" + r.id + ".example.com"
	r.names = must(newNames(r.prefix))(t)
	r.proxy = etcdtest.NewProxyTo(t, "https", func(ctx context.Context) (net.Conn, error) {
		return s.host.DialContext(ctx, "tcp", strings.TrimPrefix(s.URL(), "https://"))
	})
	dir := t.TempDir()
	r.conf = filepath.Join(dir, "net-conf.json")
	r.kubectl = r.kubeconfig(s.token)
	t.Cleanup(func() {
		for name := range r.made {
			_ = s.DeleteNode(context.Background(), name)
		}
	})
	return r
}

// kubeconfig writes a kubeconfig that leads through the proxy.
func (r *room) kubeconfig(token string) string {
	r.t.Helper()
	name := filepath.Join(r.t.TempDir(), "kubeconfig")
	check(r.t, r.WriteKubeconfigFor(name, r.proxy.URL+"\n    tls-server-name: "+r.host.Addr.String(), token))
	return name
}

// open returns the store of a Node.
func (r *room) open(name string) *Store {
	r.t.Helper()
	s := must(New(Options{Kubeconfig: r.kubectl, AnnotationPrefix: r.prefix, NetConfigPath: r.conf, NodeName: r.node(name)}))(r.t)
	r.t.Cleanup(s.Close)
	return s
}

// node is the name of a Node on the server; in the room it has a shorter one.
func (r *room) node(name string) string { return name + "." + r.id }

// note changes annotations of a Node, by their keys; nil takes one away.
func (r *room) note(name string, notes map[key]any) {
	r.t.Helper()
	change := make(map[string]any)
	for k, text := range notes {
		change[r.names[k]] = text
	}
	check(r.t, r.Annotate(r.t.Context(), r.node(name), change))
}

// put makes a Node as the suite wants it.
func (r *room) put(n subnettest.Node) {
	r.t.Helper()
	ctx, name := r.t.Context(), r.node(n.Name)
	var cidrs []string
	for _, p := range n.Subnet.Prefixes() {
		cidrs = append(cidrs, p.String())
	}
	is, err := r.Node(ctx, name)
	there := err == nil
	if there && is.Spec.PodCIDR != "" && (len(cidrs) == 0 || is.Spec.PodCIDR != cidrs[0]) {
		check(r.t, r.DeleteNode(ctx, name))
		there = false
	}
	r.made[name] = true
	switch {
	case !there:
		_, err := r.CreateNode(ctx, name, cidrs...)
		check(r.t, err)
	case is.Spec.PodCIDR == "" && len(cidrs) > 0:
		check(r.t, r.SetPodCIDRs(ctx, name, cidrs...))
	}
	notes := map[key]any{requestedIP: nil, publicIPOverwrite: nil}
	for k := range publicIPv6 + 1 {
		notes[k] = nil
	}
	if n.Says != nil {
		for k, text := range annotations(n.Subnet, *n.Says) {
			notes[k] = text
		}
	}
	if n.Garbled {
		notes[publicIP] = "2001:db8::1"
	}
	if n.Requested.V4.IsValid() {
		notes[requestedIP] = n.Requested.V4.String()
	}
	if n.Overwrite.V4.IsValid() {
		notes[publicIPOverwrite] = n.Overwrite.V4.String()
	}
	r.note(n.Name, notes)
}

func (r *room) remove(name string) {
	r.t.Helper()
	check(r.t, r.DeleteNode(r.t.Context(), r.node(name)))
}

func (r *room) setConfig(text string) {
	r.t.Helper()
	check(r.t, file.Write(r.conf, []byte(text)))
}

func TestSuite(t *testing.T) {
	s := shared.get(t)
	subnettest.AssignedSuite(t, func(t *testing.T) subnettest.AssignedHarness {
		r := newRoom(t, s)
		return subnettest.AssignedHarness{
			Name: r.node,
			Open: func(name string) subnet.Assigner { return r.open(name) },
			Put:  r.put, Remove: r.remove,
			Touch:       func(name string) { check(t, r.Heartbeat(t.Context(), r.node(name))) },
			SetConfig:   r.setConfig,
			UnsetConfig: func() { check(t, os.Remove(r.conf)) },
		}
	})
}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func must[T any](v T, err error) func(testing.TB) T {
	return func(t testing.TB) T {
		t.Helper()
		check(t, err)
		return v
	}
}

func sub(cidr string) ip.Subnet {
	if cidr == "" {
		return ip.Subnet{}
	}
	return ip.SubnetOf(netip.MustParsePrefix(cidr))
}

func addrs(text string) ip.Addrs { return ip.Addrs{V4: netip.MustParseAddr(text)} }
