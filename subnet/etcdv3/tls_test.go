package etcdv3

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net/http"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	client "go.etcd.io/etcd/client/v3"

	"flanneld/pkg/lab"
	"flanneld/subnet"
	"flanneld/subnet/etcd/etcdtest"
)

var loopback = netip.MustParseAddr("127.0.0.1")

// tlsEtcd starts a server with a certificate.
func tlsEtcd(t *testing.T, cert lab.CertFiles, trusting *tls.Config, args ...string) *server {
	t.Helper()
	tr := &http.Transport{TLSClientConfig: trusting}
	t.Cleanup(tr.CloseIdleConnections)
	s := etcdtest.Start(t, etcdtest.Config{
		Binary: etcdtest.Etcd6, Scheme: "https", Client: &http.Client{Transport: tr},
		Args: append(args, "--cert-file="+cert.Cert, "--key-file="+cert.Key),
	})
	return &server{s, newClient(t, client.Config{Endpoints: []string{s.URL}, TLS: trusting})}
}

func trusting(certs ...tls.Certificate) *tls.Config {
	return &tls.Config{InsecureSkipVerify: true, Certificates: certs}
}

// configError returns why the configuration cannot be read. That a busy machine
// took too long is no answer.
func configError(t *testing.T, o Options) (err error) {
	t.Helper()
	s := newStore(t, o)
	defer s.Close()
	etcdtest.Eventually(t, "there is an answer in time", func() bool {
		_, err = s.Config(t.Context())
		return err == nil || !strings.Contains(err.Error(), "no answer") && !strings.Contains(err.Error(), "timeout")
	})
	return err
}

func TestTLS(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	ca, other := must(lab.NewCA(dir, "ca"))(t), must(lab.NewCA(dir, "other"))(t)
	server := tlsEtcd(t, must(ca.Server("server", lab.Valid, loopback))(t), trusting())
	endpoints := []string{server.URL}

	s := newStore(t, Options{Endpoints: endpoints, CAFile: ca.Cert})
	if _, err := s.Config(t.Context()); !errors.Is(err, subnet.ErrNoConfig) {
		t.Errorf("with the CA alone: %v, want ErrNoConfig", err)
	}
	w := etcdtest.Watch(t, s)
	w.Until(t, "nothing", etcdtest.Leases(0))
	server.put(t, leaseKey(1), value(1), 0)
	w.Until(t, "the lease", etcdtest.Leases(1))

	err := configError(t, Options{Endpoints: endpoints, CAFile: other.Cert})
	etcdtest.CheckError(t, "wrong CA", err, "-etcd-cafile "+other.Cert, server.URL)
	if !errors.As(err, &x509.UnknownAuthorityError{}) {
		t.Errorf("wrong CA: %v does not wrap its cause", err)
	}
	err = configError(t, Options{Endpoints: endpoints})
	etcdtest.CheckError(t, "no CA", err, "-etcd-cafile", server.URL)
	err = configError(t, Options{Endpoints: []string{"http" + server.URL[len("https"):]}})
	etcdtest.CheckError(t, "http for https", err, "http://127.0.0.1")
	plain := plainEtcd(t)
	err = configError(t, Options{Endpoints: []string{"https" + plain.URL[len("http"):]}})
	etcdtest.CheckError(t, "https for http", err, "https://127.0.0.1")
}

func TestTLSClientCertificate(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	ca, other := must(lab.NewCA(dir, "ca"))(t), must(lab.NewCA(dir, "other"))(t)
	good := must(ca.Client("client", lab.Valid))(t)
	server := tlsEtcd(t, must(ca.Server("server", lab.Valid, loopback))(t),
		trusting(must(tls.LoadX509KeyPair(good.Cert, good.Key))(t)),
		"--client-cert-auth", "--trusted-ca-file="+ca.Cert)
	with := func(c lab.CertFiles) Options {
		return Options{Endpoints: []string{server.URL}, CAFile: ca.Cert, CertFile: c.Cert, KeyFile: c.Key}
	}
	s := newStore(t, with(good))
	if _, err := s.Config(t.Context()); !errors.Is(err, subnet.ErrNoConfig) {
		t.Errorf("with a good certificate: %v, want ErrNoConfig", err)
	}

	old := must(ca.Client("expired", lab.Expired))(t)
	for name, o := range map[string]Options{
		"no certificate":            with(lab.CertFiles{}),
		"expired certificate":       with(old),
		"certificate of another CA": with(must(other.Client("strange", lab.Valid))(t)),
	} {
		for range 10 { // whether the server's verdict or the end comes first is a race
			etcdtest.CheckError(t, name, configError(t, o), "-etcd-certfile", server.URL)
		}
	}

	// The files are replaced while the daemon runs.
	p := etcdtest.NewProxy(t, server.Server)
	o := with(good)
	o.Endpoints = []string{p.URL}
	s = newStore(t, o)
	for _, replaced := range []struct {
		by   lab.CertFiles
		good bool
	}{{good, true}, {old, false}, {must(ca.Client("new", lab.Valid))(t), true}} {
		copyFile(t, replaced.by.Cert, o.CertFile)
		copyFile(t, replaced.by.Key, o.KeyFile)
		p.Cut()
		etcdtest.Eventually(t, "the connection is another one", func() bool {
			_, err := s.Config(t.Context())
			return errors.Is(err, subnet.ErrNoConfig) == replaced.good
		})
		_, err := s.Config(t.Context())
		if replaced.good != errors.Is(err, subnet.ErrNoConfig) {
			t.Errorf("with %s: %v", replaced.by.Cert, err)
		}
		if !replaced.good {
			etcdtest.CheckError(t, "replaced by an expired certificate", err, "-etcd-certfile")
		}
	}
}

func copyFile(t *testing.T, from, to string) {
	t.Helper()
	if from == to {
		return
	}
	b := must(os.ReadFile(from))(t)
	if err := os.WriteFile(to, b, 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestTLSExpiredServer(t *testing.T) {
	t.Parallel()
	ca := must(lab.NewCA(t.TempDir(), "ca"))(t)
	server := tlsEtcd(t, must(ca.Server("server", -time.Hour, loopback))(t), trusting())
	err := configError(t, Options{Endpoints: []string{server.URL}, CAFile: ca.Cert})
	etcdtest.CheckError(t, "expired server certificate", err, "expired", server.URL)
}
