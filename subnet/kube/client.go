package kube

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"

	"flanneld/pkg/conns"
)

const (
	// dialTimeout bounds the making of a connection.
	dialTimeout = 3 * time.Second
	// pingAfter is how long a connection is silent before the server is asked for a sign of
	// life, which it has pingTimeout for.
	pingAfter   = 10 * time.Second
	pingTimeout = 5 * time.Second
	// answerTimeout bounds the wait for the first bytes of an answer.
	answerTimeout = 10 * time.Second
)

const (
	protobuf       = "application/vnd.kubernetes.protobuf"
	serviceAccount = "/var/run/secrets/kubernetes.io/serviceaccount"
)

// client talks to the API. What it needs is read from files when it is first used, and again
// after a failure if a file was changed: they may not be there yet, or be replaced.
type client struct {
	options Options
	conns   conns.Set

	mu     sync.Mutex
	http   *http.Client // nil: to be made
	direct *http.Transport
	config *rest.Config
	base   *url.URL
	files  []stamp // that it was made from, as they were
	of     string  // the cluster, as of Options.Cluster

	at atomic.Pointer[string] // base, without a password
}

// stamp is which file was at a path at some time, links followed, and when it was changed.
type stamp struct {
	path    string
	changed unix.Timespec
	inode   uint64
	size    int64 // -1: there was none
}

func stampOf(path string) stamp {
	var s unix.Stat_t
	if unix.Stat(path, &s) != nil {
		return stamp{path: path, size: -1}
	}
	return stamp{path, s.Mtim, s.Ino, s.Size}
}

// load reads how to reach the API.
func (c *client) load() (*rest.Config, error) {
	o := c.options
	switch {
	case o.Kubeconfig != "":
		rules := &clientcmd.ClientConfigLoadingRules{ExplicitPath: o.Kubeconfig}
		file, err := rules.Load()
		if err != nil {
			return nil, fmt.Errorf("reading -kubeconfig-file: %w", err)
		}
		over := &clientcmd.ConfigOverrides{ClusterInfo: clientcmdapi.Cluster{Server: o.APIURL}}
		config, err := clientcmd.NewDefaultClientConfig(*file, over).ClientConfig()
		if err != nil {
			return nil, fmt.Errorf("-kubeconfig-file %s: %w", o.Kubeconfig, err)
		}
		return config, nil
	case o.APIURL != "":
		return &rest.Config{Host: o.APIURL}, nil
	}
	config, err := rest.InClusterConfig()
	if errors.Is(err, rest.ErrNotInCluster) {
		err = errNowhere
	} else if err != nil {
		err = fmt.Errorf("reading the credentials of this pod's service account: %w", err)
	}
	return config, err
}

// get returns what to send requests with, and where to.
func (c *client) get() (*http.Client, *url.URL, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.http != nil {
		return c.http, c.base, nil
	}
	config, err := c.load()
	if err != nil {
		return nil, nil, err
	}
	config.UserAgent = "flanneld"
	base, _, err := rest.DefaultServerUrlFor(config)
	if err != nil {
		return nil, nil, fmt.Errorf("the URL of the Kubernetes API, %s: %w", config.Host, err)
	}
	direct, err := c.transport(config)
	var with http.RoundTripper
	if err == nil {
		with, err = rest.HTTPWrappersForConfig(config, direct)
	}
	if err != nil {
		return nil, nil, fmt.Errorf("making a client of the Kubernetes API at %s: %w", base.Redacted(), err)
	}
	c.files = nil
	for _, path := range []string{c.options.Kubeconfig, config.CAFile, config.CertFile, config.KeyFile} {
		if path != "" {
			c.files = append(c.files, stampOf(path))
		}
	}
	at := base.Redacted()
	c.at.Store(&at)
	c.http, c.direct, c.config, c.base, c.of = &http.Client{Transport: with}, direct, config, base, clusterOf(config)
	return c.http, base, nil
}

// transport is what sends requests. A server that says nothing for pingAfter is asked whether
// it is there.
func (c *client) transport(config *rest.Config) (*http.Transport, error) {
	tls, err := rest.TLSConfigFor(config)
	if err != nil {
		return nil, err
	}
	proxy := config.Proxy
	if proxy == nil {
		proxy = http.ProxyFromEnvironment
	}
	return &http.Transport{
		Proxy: proxy, DialContext: c.conns.Dial(conns.NewDialer(dialTimeout)), TLSClientConfig: tls, TLSHandshakeTimeout: dialTimeout,
		ForceAttemptHTTP2: true, HTTP2: &http.HTTP2Config{SendPingTimeout: pingAfter, PingTimeout: pingTimeout},
		IdleConnTimeout:    time.Minute,
		DisableCompression: true, // it takes longer than what it saves
	}, nil
}

// outdated reports whether a file that the client was made from was changed. Then it is made
// anew.
func (c *client) outdated() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.http == nil || !slices.ContainsFunc(c.files, func(was stamp) bool { return stampOf(was.path) != was }) {
		return false
	}
	c.direct.CloseIdleConnections()
	c.http = nil
	return true
}

// credentials says in a few words what the API is shown of us.
func (c *client) credentials() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.config == nil:
	case c.options.Kubeconfig != "":
		return "those of -kubeconfig-file " + c.options.Kubeconfig
	case c.config.BearerTokenFile != "":
		return "the token in " + c.config.BearerTokenFile
	}
	return "none: -kube-api-url alone has no credentials, a -kubeconfig-file has"
}

// cluster tells of which cluster it is what the API answers.
func (c *client) cluster() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.of
}

func (c *client) close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.http != nil {
		c.direct.CloseIdleConnections()
	}
}

// request is one request to the API.
type request struct {
	verb     string // as in a role: list, watch, patch, get
	resource string // as in a role
	method   string
	path     string
	query    url.Values
	body     []byte
	bodyType string
	accept   string // protobuf, where empty
}

// send sends a request and returns the answer if it is a good one. The caller closes its
// body.
func (c *client) send(ctx context.Context, r request) (*http.Response, error) {
	resp, err := c.try(ctx, r)
	if err != nil && ctx.Err() != nil && !errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return nil, ctx.Err()
	}
	if err != nil && c.outdated() {
		return c.try(ctx, r)
	}
	return resp, err
}

func (c *client) try(ctx context.Context, r request) (*http.Response, error) {
	do, base, err := c.get()
	if err != nil {
		return nil, &Error{text: err.Error(), cause: err}
	}
	u := base.JoinPath(r.path)
	u.RawQuery = r.query.Encode()
	ctx, cancel := context.WithCancelCause(ctx)
	late := time.AfterFunc(answerTimeout, func() { cancel(context.DeadlineExceeded) })
	req, err := http.NewRequestWithContext(ctx, r.method, u.String(), strings.NewReader(string(r.body)))
	if err != nil {
		cancel(nil)
		return nil, &Error{text: err.Error(), cause: err}
	}
	req.Header.Set("Accept", cmp.Or(r.accept, protobuf))
	if r.bodyType != "" {
		req.Header.Set("Content-Type", r.bodyType)
	}
	resp, err := do.Do(req)
	if err == nil {
		late.Stop()
		resp.Body = &body{resp.Body, cancel}
		if resp.StatusCode < 300 {
			return resp, nil
		}
		defer func() { _ = resp.Body.Close() }()
		return nil, c.answered(base, r, resp)
	}
	if errors.Is(context.Cause(ctx), context.DeadlineExceeded) {
		err = context.DeadlineExceeded
	}
	cancel(nil)
	return nil, c.unanswered(base, r, err)
}

// body ends its request when it is closed.
type body struct {
	io.ReadCloser
	cancel context.CancelCauseFunc
}

func (b *body) Close() error {
	err := b.ReadCloser.Close()
	b.cancel(nil)
	return err
}

// statusOf reads what the API answers in the place of an object.
func statusOf(resp *http.Response) (metav1.Status, string) {
	const most = 64 << 10
	content, _ := io.ReadAll(io.LimitReader(resp.Body, most))
	var s metav1.Status
	kind, _, _ := mime.ParseMediaType(resp.Header.Get("Content-Type"))
	if kind == protobuf {
		if is, raw, err := object(content); err == nil && is == "Status" && s.Unmarshal(raw) == nil {
			return s, ""
		}
	}
	if json.Unmarshal(content, &s) == nil && s.Status != "" {
		return s, ""
	}
	return metav1.Status{}, string(content)
}
