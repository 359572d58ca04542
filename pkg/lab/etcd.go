package lab

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// EtcdOptions are the ways in which an etcd may be special.
type EtcdOptions struct {
	// Version is "3.6" or "3.7"; empty is 3.5, the last one with the version 2
	// API.
	Version string
	// Server makes it speak TLS with this certificate.
	Server CertFiles
	// ClientCA makes it ask for client certificates signed by this one.
	ClientCA string
	// Client is the certificate of the lab's own connections to it. The lab
	// does not check the server's certificate.
	Client CertFiles
	// Addr is the address at which it serves; if there is none, the host's.
	Addr netip.Addr
	// Args are more arguments for it.
	Args []string
}

// binary is the name of the server's.
func (o EtcdOptions) binary() string {
	if o.Version == "" {
		return "etcd"
	}
	return "etcd-" + o.Version
}

// Etcd is a member of an etcd, as a rule the only one, with its version 2 API on if
// it has one.
type Etcd struct {
	*Process // the current one; a new one after each start

	host       *Host
	binDir     string
	dataDir    string
	opts       EtcdOptions
	transport  *http.Transport
	generation int     // of the data
	members    []*Etcd // all, if there are others

	rootPassword string // empty while authentication is off
}

// StartEtcd starts an etcd on a host and waits until it answers.
func (l *Lab) StartEtcd(ctx context.Context, on *Host, opts EtcdOptions) (*Etcd, error) {
	e, err := l.newEtcd(on, opts)
	if err != nil {
		return nil, err
	}
	if err := e.Start(ctx); err != nil {
		return nil, err
	}
	l.mu.Lock()
	l.etcd = e
	l.mu.Unlock()
	return e, nil
}

// StartCluster starts an etcd with a member on each host and waits until all
// answer.
func (l *Lab) StartCluster(ctx context.Context, on []*Host, opts EtcdOptions) ([]*Etcd, error) {
	members := make([]*Etcd, len(on))
	for i, h := range on {
		var err error
		if members[i], err = l.newEtcd(h, opts); err != nil {
			return nil, err
		}
		members[i].members = members
	}
	if err := startAll(ctx, members); err != nil {
		return nil, err
	}
	l.mu.Lock()
	l.etcd = members[0]
	l.mu.Unlock()
	return members, nil
}

func (l *Lab) newEtcd(on *Host, opts EtcdOptions) (*Etcd, error) {
	e := &Etcd{
		host:    on,
		binDir:  l.binDir,
		dataDir: filepath.Join(on.Dir, "etcd.data"),
		opts:    opts,
	}
	// As many as tests write at once: a new connection for each write takes all ports.
	e.transport = &http.Transport{DialContext: on.DialContext, MaxIdleConnsPerHost: 32}
	if opts.Server.Cert != "" {
		cfg, err := opts.clientTLS()
		if err != nil {
			return nil, err
		}
		e.transport.TLSClientConfig = cfg
	}
	if _, err := on.onClose(e.transport.CloseIdleConnections); err != nil {
		return nil, err
	}
	return e, nil
}

// clientTLS is for the lab's own connections.
func (o EtcdOptions) clientTLS() (*tls.Config, error) {
	cfg := &tls.Config{InsecureSkipVerify: true}
	if o.Client.Cert != "" {
		cert, err := tls.LoadX509KeyPair(o.Client.Cert, o.Client.Key)
		if err != nil {
			return nil, fmt.Errorf("reading the client certificate for etcd: %w", err)
		}
		cfg.Certificates = []tls.Certificate{cert}
	}
	return cfg, nil
}

// Endpoint is the URL for clients.
func (e *Etcd) Endpoint() string {
	scheme := "http"
	if e.opts.Server.Cert != "" {
		scheme = "https"
	}
	return fmt.Sprintf("%s://%s", scheme, netip.AddrPortFrom(e.addr(), 2379))
}

// addr is where the server is.
func (e *Etcd) addr() netip.Addr {
	if e.opts.Addr.IsValid() {
		return e.opts.Addr
	}
	return e.host.Addr
}

// Endpoints are the URLs of all members.
func (e *Etcd) Endpoints() []string {
	var urls []string
	for _, m := range e.all() {
		urls = append(urls, m.Endpoint())
	}
	return urls
}

// peer is the URL for other members.
func (e *Etcd) peer() string {
	if e.members == nil {
		return "http://127.0.0.1:2380"
	}
	return fmt.Sprintf("http://%s", netip.AddrPortFrom(e.addr(), 2380))
}

// timing is in milliseconds: where there is nobody to wait for, little is enough.
func (e *Etcd) timing() []string {
	if e.members == nil {
		return []string{"--heartbeat-interval=20", "--election-timeout=200"}
	}
	return []string{"--heartbeat-interval=100", "--election-timeout=1000"}
}

// Start starts the server on the data it had and waits until it answers.
func (e *Etcd) Start(ctx context.Context) error {
	return startAll(ctx, []*Etcd{e})
}

// launch starts the server on the data it had. It may be in want of others before
// it answers.
func (e *Etcd) launch() error {
	var cluster []string
	for _, m := range e.all() {
		cluster = append(cluster, m.host.Name+"="+m.peer())
	}
	bin := filepath.Join(e.binDir, e.opts.binary())
	if _, err := os.Stat(bin); err != nil {
		if errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("build/%s is missing: run `make build/%[1]s`", e.opts.binary())
		}
		return fmt.Errorf("starting etcd: %w", err)
	}
	argv := []string{
		bin,
		"--name=" + e.host.Name,
		"--data-dir=" + e.dataDir,
		"--listen-client-urls=" + e.Endpoint(),
		"--advertise-client-urls=" + e.Endpoint(),
		"--listen-peer-urls=" + e.peer(),
		"--initial-advertise-peer-urls=" + e.peer(),
		"--initial-cluster=" + strings.Join(cluster, ","),
		fmt.Sprintf("--initial-cluster-token=lab-%d", e.generation),
		"--unsafe-no-fsync", // what it wrote survives its end, if not the machine's
		"--bcrypt-cost=4",   // passwords are checked often, on busy machines
		"--logger=zap", "--log-level=warn", "--log-outputs=stderr",
	}
	if e.opts.Version == "" {
		argv = append(argv, "--enable-v2")
	}
	if s := e.opts.Server; s.Cert != "" {
		argv = append(argv, "--cert-file="+s.Cert, "--key-file="+s.Key)
	}
	if e.opts.ClientCA != "" {
		argv = append(argv, "--client-cert-auth", "--trusted-ca-file="+e.opts.ClientCA)
	}
	argv = append(append(argv, e.timing()...), e.opts.Args...)
	p, err := e.host.Start("etcd", argv, nil, ProcessOptions{})
	if err != nil {
		return err
	}
	e.Process = p
	return nil
}

// Restart stops the server and starts it on the same data.
func (e *Etcd) Restart(ctx context.Context) error {
	if _, err := e.Stop(10 * time.Second); err != nil {
		return err
	}
	return e.Start(ctx)
}

// Change stops the server and starts another version on the same data, or the same
// with other arguments.
func (e *Etcd) Change(ctx context.Context, version string, args ...string) error {
	e.opts.Version, e.opts.Args = version, args
	return e.Restart(ctx)
}

// Wipe replaces the server, or all members, by an empty one, as a new cluster at
// the same address. Authentication is off in it.
func (e *Etcd) Wipe(ctx context.Context) error {
	all := e.all()
	for _, m := range all {
		m.Kill()
	}
	for _, m := range all {
		if err := os.RemoveAll(m.dataDir); err != nil {
			return fmt.Errorf("wiping etcd: %w", err)
		}
		m.generation++
		m.rootPassword = ""
	}
	return startAll(ctx, all)
}

// all returns the members, also of an etcd of one.
func (e *Etcd) all() []*Etcd {
	if e.members == nil {
		return []*Etcd{e}
	}
	return e.members
}

// startAll starts members, which may need each other, and waits until all answer.
func startAll(ctx context.Context, members []*Etcd) error {
	for _, e := range members {
		if err := e.launch(); err != nil { //nolint:contextcheck // the servers outlive ctx
			return err
		}
	}
	for _, e := range members {
		if err := e.WaitHealthy(ctx); err != nil {
			return err
		}
	}
	return nil
}

// WaitHealthy waits until the server says that it is.
func (e *Etcd) WaitHealthy(ctx context.Context) error {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		err := e.health(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-tick.C:
		case <-e.Exited():
			return fmt.Errorf("waiting for etcd: %w", e.endedError())
		case <-ctx.Done():
			return fmt.Errorf("waiting for etcd: %w: %w; its log ends with:\n%s", ctx.Err(), err, e.logTail())
		}
	}
}

func (e *Etcd) health(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, e.Endpoint()+"/health", nil)
	if err != nil {
		return err
	}
	resp, err := e.transport.RoundTrip(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return err
	}
	if !strings.Contains(string(body), `"health":"true"`) {
		return fmt.Errorf("%s: %s", resp.Status, body)
	}
	return nil
}
