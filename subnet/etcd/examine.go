package etcd

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"

	"flanneld/pkg/conns"
	"flanneld/pkg/printable"
	"flanneld/subnet"
)

// examineTimeout is how long a server that failed has to say what it is.
const examineTimeout = time.Second

// examine looks at what the server is that failed, and makes the diagnosis more exact.
func (e *endpointError) examine(ctx context.Context) {
	s := e.server
	version, err := s.ask(ctx, s.URL.Scheme, "version")
	var running struct{ Etcdserver string }
	switch {
	case err != nil && refusesCertificate(err):
		e.Diagnosis, _ = e.options.diagnoseTLS(err)
	case err != nil && cut(err) && s.URL.Scheme == "http":
		if s.speaksTLS(ctx) {
			e.Seen, e.Advice = "it speaks TLS, and was asked in plain http: EOF", adviceTLS
		}
	case err != nil && cut(err):
		if _, err := s.ask(ctx, "http", "version"); err == nil {
			e.Seen, e.Advice = "it does not speak TLS: EOF", advicePlain
		}
	case err != nil:
	case bytes.Contains(version.body, []byte("HTTP request to an HTTPS server")):
		e.Seen, e.Advice = "it speaks TLS, and was asked in plain http: "+version.summary(), adviceTLS
	case version.status == http.StatusProxyAuthRequired, version.proxied && version.status == http.StatusForbidden:
		e.Seen, e.Advice = "this host's HTTP proxy refuses the request: "+version.summary(), adviceProxy
	case version.status == http.StatusBadGateway, version.status == http.StatusServiceUnavailable, version.status == http.StatusGatewayTimeout:
		e.Seen = "a proxy answers that does not reach etcd: " + version.summary()
		e.Advice = "see the proxy's log, and whether etcd runs behind it; or name etcd itself in -etcd-endpoints"
	case json.Unmarshal(version.body, &running) != nil || running.Etcdserver == "":
		e.Seen, e.Advice = "it is not etcd: "+version.summary(), adviceEndpoint
	case s.isForPeers(ctx):
		e.Seen, e.Advice = "it is etcd's port for the other members, its --listen-peer-urls", adviceEndpoint
	case errors.Is(e.cause, ErrNoAPI):
		e.Diagnosis = withoutAPI(e.cause, running.Etcdserver)
	default:
		e.askHealth(ctx)
	}
}

// askHealth finds out whether etcd has a leader.
func (e *endpointError) askHealth(ctx context.Context) {
	answer, err := e.server.ask(ctx, e.server.URL.Scheme, "health")
	if err != nil {
		return
	}
	var health struct{ Health, Reason string }
	switch {
	case json.Unmarshal(answer.body, &health) != nil || health.Health != "false":
	case health.Reason == "RAFT NO LEADER", health.Reason == "": // as before 3.5
		e.Diagnosis = NoLeader(e.Seen)
	default:
		e.Seen += ", and its health check says " + printable.Quote(health.Reason)
	}
}

// withoutAPI is the diagnosis of an etcd that has not the API which is wanted.
func withoutAPI(cause error, version string) Diagnosis {
	var major, minor int
	_, _ = fmt.Sscanf(version, "%d.%d", &major, &minor)
	is := "etcd " + printable.Name(version)
	switch {
	case errors.Is(cause, ErrNoV2) && (major > 3 || major == 3 && minor >= 6):
		return Diagnosis{Seen: is + " does not offer the v2 API", Advice: "it ended with etcd 3.5, where --enable-v2 turns it on: remove -etcd-api=2, and write the configuration by version 3"}
	case errors.Is(cause, ErrNoV2):
		return Diagnosis{Seen: is + " does not offer the v2 API", Advice: adviceNoV2}
	case major < 3 || major == 3 && minor < 4:
		return Diagnosis{Seen: is + " does not offer the v3 API as of etcd 3.4", Advice: "bring etcd to 3.4 or later, or say -etcd-api=2"}
	}
	return Diagnosis{Seen: is + " is behind something that speaks no HTTP/2, so that its v3 API cannot be used: " + cause.Error(), Advice: "let the proxy pass HTTP/2 on, or name etcd itself in -etcd-endpoints"}
}

const adviceNoV2 = "start etcd (3.5 or older) with --enable-v2, or remove -etcd-api=2 and write the configuration by version 3"

// Errors that are ErrNoAPI.
var (
	ErrNoV2 = fmt.Errorf("%w the v2 API", ErrNoAPI)
	ErrNoV3 = fmt.Errorf("%w the v3 API", ErrNoAPI)
)

// NoAPI is the diagnosis of a server that has not the API which is wanted.
func NoAPI(err error) Diagnosis {
	d := Diagnosis{Seen: err.Error(), Advice: adviceNoV2, doubtful: true}
	if errors.Is(err, ErrNoV3) {
		d.Advice = "etcd 3.4 or later is needed, and " + adviceEndpoint
	}
	return d
}

// reply is what a server says to an HTTP request.
type reply struct {
	status  int
	server  string // what it calls itself
	content string
	body    []byte
	proxied bool // it may be this host's proxy that says so
	date    time.Time
}

// summary is what such answers have in common: pages may differ each time.
func (r reply) summary() string {
	text := fmt.Sprintf("%d %s", r.status, http.StatusText(r.status))
	if r.server != "" {
		text += " of " + printable.Quote(r.server)
	}
	if r.content != "" {
		text += ", " + printable.Name(r.content)
	}
	return text
}

// ask sends a request that needs no API and no user.
func (s Server) ask(ctx context.Context, scheme, path string) (r reply, err error) {
	u := *s.URL
	u.Scheme = scheme
	u = *u.JoinPath(path)
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return r, err
	}
	t := s.Transport(s.dial)
	t.DisableKeepAlives = true
	if s.Dial != nil {
		t.Proxy = nil
	}
	resp, err := t.RoundTrip(req)
	if err != nil {
		return r, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 4<<10))
	proxied := false
	if t.Proxy != nil && scheme == "http" {
		proxy, err := t.Proxy(req)
		proxied = err == nil && proxy != nil
	}
	date, _ := http.ParseTime(resp.Header.Get("Date")) // some do not say
	return reply{resp.StatusCode, resp.Header.Get("Server"), resp.Header.Get("Content-Type"), body, proxied, date}, err
}

// Examine asks each endpoint what it is. It needs no user.
func (o Options) Examine(ctx context.Context) ([]subnet.ServerHealth, error) {
	servers, err := o.Servers()
	if err != nil {
		return nil, err
	}
	all := make([]subnet.ServerHealth, len(servers))
	var g sync.WaitGroup
	for i, s := range servers {
		g.Go(func() { all[i] = subnet.QuickestOf(func() subnet.ServerHealth { return o.health(ctx, s) }) })
	}
	g.Wait()
	return all, nil
}

func (o Options) health(ctx context.Context, s Server) subnet.ServerHealth {
	ctx, cancel := context.WithTimeout(ctx, RequestTimeout)
	defer cancel()
	h := subnet.ServerHealth{Name: s.Name}
	begun := time.Now()
	r, err := s.ask(ctx, s.URL.Scheme, "version")
	h.Took, h.Date, h.At = time.Since(begun), r.date, time.Now()
	var running struct{ Etcdserver string }
	switch {
	case err != nil:
		d := o.diagnose(s, err)
		h.Err, h.Advice = errors.New(d.Seen), d.Advice
	case r.status != http.StatusOK || json.Unmarshal(r.body, &running) != nil || running.Etcdserver == "":
		h.Err, h.Advice = errors.New("it is not etcd: "+r.summary()), adviceEndpoint
	default:
		h.Version = printable.Name(running.Etcdserver)
	}
	return h
}

// isForPeers reports whether the server is what members of etcd say to each other.
func (s Server) isForPeers(ctx context.Context) bool {
	r, err := s.ask(ctx, s.URL.Scheme, "members")
	return err == nil && r.status == http.StatusOK && bytes.Contains(r.body, []byte("peerURLs"))
}

// speaksTLS reports whether the server begins a TLS handshake.
func (s Server) speaksTLS(ctx context.Context) bool {
	c, err := s.dial(ctx, "tcp", Address(s.URL))
	if err != nil {
		return false
	}
	defer c.Close()
	// Nothing is sent by it.
	err = tls.Client(c, &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS12}).HandshakeContext(ctx)
	return err == nil || strings.Contains(err.Error(), "remote error: tls: ")
}

// dial connects to the server, by its socket if it has one.
func (s Server) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	if s.Dial != nil {
		return s.Dial(ctx, network, addr)
	}
	if s.Socket != "" {
		network, addr = "unix", s.Socket
	}
	return conns.NewDialer(DialTimeout).DialContext(ctx, network, addr)
}
