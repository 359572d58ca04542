package etcdv2

import (
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
	t := server.Transport(open.Dial(conns.NewDialer(etcd.DialTimeout)))
	t.MaxIdleConnsPerHost, t.IdleConnTimeout = 2, 30*time.Second
	return t
}
