package etcdv2

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"flanneld/pkg/conns"
)

const (
	// requestTimeout bounds each request that is no long poll, and how long a
	// long poll may take to be accepted.
	requestTimeout = 5 * time.Second
	// dialTimeout is shorter, so that a write to a dead endpoint is known not to
	// have been sent, and may go to the next.
	dialTimeout = 3 * time.Second
	// pollLimit is more than the five minutes after which etcd itself ends a
	// long poll.
	pollLimit = 330 * time.Second
	// pollCheck is how often, during a long poll, the server is asked for what a
	// majority has: one that was cut off from the others keeps the poll for as
	// long as it lives, and brings nothing.
	pollCheck = 20 * time.Second
	// userTimeout is how long the peer may leave data unacknowledged.
	userTimeout = 20 * time.Second
)

// newTransport returns a transport whose long polls may last, but not on a
// connection that was cut without a word.
func newTransport(tlsConfig *tls.Config, open *conns.Set) *http.Transport {
	return &http.Transport{
		Proxy:               http.ProxyFromEnvironment,
		DialContext:         open.Dial(newDialer()),
		TLSClientConfig:     tlsConfig,
		TLSHandshakeTimeout: requestTimeout,
		MaxIdleConnsPerHost: 2,
		IdleConnTimeout:     30 * time.Second,
	}
}

func newDialer() *net.Dialer {
	return &net.Dialer{
		Timeout: dialTimeout,
		KeepAliveConfig: net.KeepAliveConfig{
			Enable:   true,
			Idle:     5 * time.Second,
			Interval: 5 * time.Second,
			Count:    3,
		},
		Control: func(_, _ string, c syscall.RawConn) error {
			var err error
			if e := c.Control(func(fd uintptr) {
				err = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(userTimeout.Milliseconds()))
			}); e != nil {
				return e
			}
			return os.NewSyscallError("setsockopt TCP_USER_TIMEOUT", err)
		},
	}
}

func tlsConfig(o Options) (*tls.Config, error) {
	c := &tls.Config{MinVersion: tls.VersionTLS12}
	if o.CAFile != "" {
		pem, err := os.ReadFile(o.CAFile)
		if err != nil {
			return nil, fmt.Errorf("reading -etcd-cafile: %w", err)
		}
		c.RootCAs = x509.NewCertPool()
		if !c.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("-etcd-cafile %s holds no PEM certificate", o.CAFile)
		}
	}
	switch {
	case o.CertFile == "" && o.KeyFile == "":
		return c, nil
	case o.CertFile == "":
		return nil, errors.New("-etcd-keyfile is given without -etcd-certfile: a client certificate needs both")
	case o.KeyFile == "":
		return nil, errors.New("-etcd-certfile is given without -etcd-keyfile: a client certificate needs both")
	}
	if _, err := clientCertificate(o); err != nil {
		return nil, err
	}
	// Read at each handshake, the files may be replaced while the daemon runs.
	c.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
		return clientCertificate(o)
	}
	return c, nil
}

func clientCertificate(o Options) (*tls.Certificate, error) {
	certPEM, err := os.ReadFile(o.CertFile)
	if err != nil {
		return nil, fmt.Errorf("reading -etcd-certfile: %w", err)
	}
	keyPEM, err := os.ReadFile(o.KeyFile)
	if err != nil {
		return nil, fmt.Errorf("reading -etcd-keyfile: %w", err)
	}
	cert, err := tls.X509KeyPair(certPEM, keyPEM)
	if err != nil {
		return nil, fmt.Errorf("-etcd-certfile %s with -etcd-keyfile %s: %w", o.CertFile, o.KeyFile, err)
	}
	return &cert, nil
}
