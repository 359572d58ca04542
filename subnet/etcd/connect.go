package etcd

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// RequestTimeout bounds each request to one endpoint.
	RequestTimeout = 5 * time.Second
	// DialTimeout is shorter, so that a write to a dead endpoint is known not to
	// have been sent, and may go to the next.
	DialTimeout = 3 * time.Second
	// userTimeout is how long the peer may leave data unacknowledged.
	userTimeout = 20 * time.Second
)

// NewDialer returns a dialer of connections that may be idle for long, but not
// if they were cut without a word.
func NewDialer() *net.Dialer {
	return &net.Dialer{
		Timeout: DialTimeout,
		KeepAliveConfig: net.KeepAliveConfig{
			Enable:   true,
			Idle:     5 * time.Second,
			Interval: 5 * time.Second,
			Count:    3,
		},
		Control: func(network, _ string, c syscall.RawConn) error {
			if network == "unix" {
				return nil
			}
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

// tlsConfig returns the configuration of connections with TLS to a host. The files
// are read at each handshake: they may be replaced while the daemon runs.
func (o Options) tlsConfig(host string) (*tls.Config, error) {
	c := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: host}
	if o.CAFile != "" {
		if _, err := o.authorities(); err != nil {
			return nil, err
		}
		c.InsecureSkipVerify = true // VerifyConnection does, with the authorities of that time
		c.VerifyConnection = func(s tls.ConnectionState) error { return o.verify(host, s.PeerCertificates) }
	}
	switch {
	case o.CertFile == "" && o.KeyFile == "":
		return c, nil
	case o.CertFile == "":
		return nil, errors.New("-etcd-keyfile is given without -etcd-certfile: a client certificate needs both")
	case o.KeyFile == "":
		return nil, errors.New("-etcd-certfile is given without -etcd-keyfile: a client certificate needs both")
	}
	if _, err := o.clientCertificate(); err != nil {
		return nil, err
	}
	c.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
		return o.clientCertificate()
	}
	return c, nil
}

func (o Options) authorities() (*x509.CertPool, error) {
	pem, err := os.ReadFile(o.CAFile)
	if err != nil {
		return nil, fmt.Errorf("reading -etcd-cafile: %w", err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("-etcd-cafile %s holds no PEM certificate", o.CAFile)
	}
	return pool, nil
}

// verify verifies the certificates of a server, of which the first is its own.
func (o Options) verify(host string, certs []*x509.Certificate) error {
	roots, err := o.authorities()
	if err != nil {
		return err
	}
	others := x509.NewCertPool()
	for _, c := range certs[1:] {
		others.AddCert(c)
	}
	_, err = certs[0].Verify(x509.VerifyOptions{DNSName: host, Roots: roots, Intermediates: others})
	return err
}

func (o Options) clientCertificate() (*tls.Certificate, error) {
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
