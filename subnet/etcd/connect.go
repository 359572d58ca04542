package etcd

import (
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"time"

	"flanneld/pkg/printable"
)

const (
	// RequestTimeout bounds each request to one endpoint.
	RequestTimeout = 5 * time.Second
	// DialTimeout is shorter, so that a write to a dead endpoint is known not to
	// have been sent, and may go to the next.
	DialTimeout = 3 * time.Second
)

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
	text, err := readFile("-etcd-cafile", o.CAFile)
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(text) {
		return nil, &fileError{
			problem: fmt.Sprintf("-etcd-cafile %s holds no PEM certificate%s", o.CAFile, insteadOf(text)),
			remedy:  "name the file with the certificate of etcd's CA",
		}
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
	certPEM, err := readFile("-etcd-certfile", o.CertFile)
	if err != nil {
		return nil, err
	}
	keyPEM, err := readFile("-etcd-keyfile", o.KeyFile)
	if err != nil {
		return nil, err
	}
	cert, err := tls.X509KeyPair(certPEM, keyPEM)
	if err != nil {
		return nil, o.diagnosePair(certPEM, keyPEM, err)
	}
	return &cert, nil
}

// diagnosePair says why a certificate and a key are no pair.
func (o Options) diagnosePair(certPEM, keyPEM []byte, err error) error {
	e := &fileError{cause: err}
	isKey := func(text []byte) bool { return bytes.Contains(text, []byte("PRIVATE KEY-----")) }
	isCert := func(text []byte) bool { return bytes.Contains(text, []byte("-----BEGIN CERTIFICATE-----")) }
	switch {
	case isKey(certPEM) && !isCert(certPEM) && isCert(keyPEM) && !isKey(keyPEM):
		e.problem = fmt.Sprintf("-etcd-certfile %s is a key, and -etcd-keyfile %s a certificate", o.CertFile, o.KeyFile)
		e.remedy = "exchange the two options' values"
	case !isCert(certPEM):
		e.problem = fmt.Sprintf("-etcd-certfile %s holds no PEM certificate%s", o.CertFile, insteadOf(certPEM))
		e.remedy = "name the file with this host's certificate"
	case bytes.Contains(keyPEM, []byte("ENCRYPTED")):
		e.problem = fmt.Sprintf("-etcd-keyfile %s is encrypted", o.KeyFile)
		e.remedy = "name a file with the key in plain; this writes one: openssl pkey -in " + printable.Word(o.KeyFile) + " -out FILE"
	case !isKey(keyPEM):
		e.problem = fmt.Sprintf("-etcd-keyfile %s holds no PEM private key%s", o.KeyFile, insteadOf(keyPEM))
		e.remedy = "name the file with the key of -etcd-certfile " + o.CertFile
	default:
		e.problem = fmt.Sprintf("-etcd-certfile %s and -etcd-keyfile %s cannot be used together: %v", o.CertFile, o.KeyFile, err)
		e.remedy = "name two files that were made together"
	}
	return e
}

// fileError is that a file named by an option cannot be used.
type fileError struct {
	problem, remedy string
	cause           error
}

func (e *fileError) Error() string { return e.problem + " (" + e.remedy + ")" }
func (e *fileError) Unwrap() error { return e.cause }

func readFile(option, name string) ([]byte, error) {
	text, err := os.ReadFile(name)
	if err != nil {
		return nil, &fileError{
			problem: fmt.Sprintf("reading %s: %v", option, err),
			remedy:  "it must be a PEM file that the daemon's user may read",
			cause:   err,
		}
	}
	return text, nil
}

// insteadOf says what a file holds in the place of what it should.
func insteadOf(text []byte) string {
	block, _ := pem.Decode(text)
	switch {
	case len(text) == 0:
		return ": it is empty"
	case block == nil:
		return ": it is not PEM"
	}
	return ", but " + printable.Quote(block.Type)
}

// ProxyError is that the proxy which the environment names does not lead to a server.
type ProxyError struct {
	Proxy string // what was asked of which proxy, without its password
	Err   error
}

// Error leaves out the addresses of the connection, which differ from one to the next.
func (e *ProxyError) Error() string { return e.Proxy + ": " + errno(e.Err) }
func (e *ProxyError) Unwrap() error { return e.Err }

// DialFunc makes a connection.
type DialFunc = func(ctx context.Context, network, addr string) (net.Conn, error)

// Transport returns a transport of HTTP to the server: by its socket, by the proxy that the
// environment names, or directly. The proxy's refusal to connect to it is a ProxyError.
func (s Server) Transport(dial DialFunc) *http.Transport {
	t := &http.Transport{
		Proxy: http.ProxyFromEnvironment, DialContext: dial, TLSClientConfig: s.TLS, TLSHandshakeTimeout: RequestTimeout,
		OnProxyConnectResponse: func(_ context.Context, proxy *url.URL, _ *http.Request, resp *http.Response) error {
			if resp.StatusCode == http.StatusOK {
				return nil
			}
			return &ProxyError{fmt.Sprintf("through the proxy %s, which HTTPS_PROXY names", proxy.Redacted()), fmt.Errorf("it answers %.100q", resp.Status)}
		},
	}
	if s.Socket != "" {
		t.Proxy, t.DialContext = nil, func(ctx context.Context, _, _ string) (net.Conn, error) {
			return dial(ctx, "unix", s.Socket)
		}
	}
	t.DialTLSContext = s.dialTLS(t.DialContext)
	return t
}

// dialTLS returns a dialer of connections with TLS to a server, or to a proxy of https,
// which the server's certificates do not concern. What goes wrong before there is TLS is a
// HandshakeError.
func (s Server) dialTLS(dial DialFunc) DialFunc {
	return func(ctx context.Context, network, addr string) (net.Conn, error) {
		raw, err := dial(ctx, network, addr)
		if err != nil {
			return nil, err
		}
		c := s.TLS
		if proxy, err := http.ProxyFromEnvironment(&http.Request{URL: s.URL}); err == nil && proxy != nil && s.Socket == "" && addr == Address(proxy) {
			c = &tls.Config{MinVersion: tls.VersionTLS12, ServerName: proxy.Hostname()}
		}
		ctx, cancel := context.WithTimeout(ctx, RequestTimeout)
		defer cancel()
		conn := tls.Client(raw, c)
		if err := conn.HandshakeContext(ctx); err != nil {
			_ = raw.Close()
			return nil, &HandshakeError{err}
		}
		return conn, nil
	}
}

// Address is what to dial for a URL of http or https.
func Address(u *url.URL) string {
	port := u.Port()
	if port == "" && u.Scheme == "https" {
		port = "443"
	}
	return net.JoinHostPort(u.Hostname(), cmp.Or(port, "80"))
}
