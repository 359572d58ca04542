package etcdv2

import (
	"context"
	"net"
	"net/http"
	"time"

	"flanneld/pkg/conns"
	"flanneld/subnet/etcd"
)

const (
	// requestTimeout bounds each request that is no long poll, and how long a
	// long poll may take to be accepted.
	requestTimeout = etcd.RequestTimeout
	// pollLimit is more than the five minutes after which etcd itself ends a
	// long poll.
	pollLimit = 330 * time.Second
	// pollCheck is how often, during a long poll, the server is asked for what a
	// majority has: one that was cut off from the others keeps the poll for as
	// long as it lives, and brings nothing.
	pollCheck = 20 * time.Second
)

// newTransport returns a transport whose long polls may last, but not on a
// connection that was cut without a word.
func newTransport(server etcd.Server, open *conns.Set) *http.Transport {
	t := &http.Transport{
		Proxy:               http.ProxyFromEnvironment,
		DialContext:         open.Dial(etcd.NewDialer()),
		TLSClientConfig:     server.TLS,
		TLSHandshakeTimeout: requestTimeout,
		MaxIdleConnsPerHost: 2,
		IdleConnTimeout:     30 * time.Second,
	}
	etcd.HeedProxy(t)
	if server.Socket != "" {
		dial := t.DialContext
		t.Proxy, t.DialContext = nil, func(ctx context.Context, _, _ string) (net.Conn, error) {
			return dial(ctx, "unix", server.Socket)
		}
	}
	t.DialTLSContext = server.DialTLS(t.DialContext)
	return t
}
