package etcdv2

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	"flanneld/subnet"
	"flanneld/subnet/etcd/etcdtest"
)

// authority issues certificates.
type authority struct {
	file string
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newCA(t *testing.T, dir, name string) *authority {
	t.Helper()
	key := newKey(t)
	template := &x509.Certificate{
		SerialNumber:          big.NewInt(time.Now().UnixNano()),
		Subject:               pkix.Name{CommonName: name},
		NotBefore:             time.Now().Add(-2 * time.Hour),
		NotAfter:              time.Now().Add(2 * time.Hour),
		IsCA:                  true,
		BasicConstraintsValid: true,
		KeyUsage:              x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, name+".pem")
	write(t, file, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})))
	return &authority{file: file, cert: cert, key: key}
}

// issue writes a certificate for 127.0.0.1, as server and as client, and
// returns its files.
func (a *authority) issue(t *testing.T, dir, name string, until time.Time) (certFile, keyFile string) {
	t.Helper()
	key := newKey(t)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()),
		Subject:      pkix.Name{CommonName: name},
		NotBefore:    time.Now().Add(-2 * time.Hour),
		NotAfter:     until,
		KeyUsage:     x509.KeyUsageDigitalSignature,
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		IPAddresses:  []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, &key.PublicKey, a.key)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	certFile, keyFile = filepath.Join(dir, name+".pem"), filepath.Join(dir, name+".key")
	write(t, certFile, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})))
	write(t, keyFile, string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER})))
	return certFile, keyFile
}

func newKey(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func write(t *testing.T, file, text string) {
	t.Helper()
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// insecure returns a client that these files let into any server.
func insecure(t *testing.T, certFile, keyFile string) *http.Client {
	t.Helper()
	c := &tls.Config{InsecureSkipVerify: true}
	if certFile != "" {
		cert, err := tls.LoadX509KeyPair(certFile, keyFile)
		if err != nil {
			t.Fatal(err)
		}
		c.Certificates = []tls.Certificate{cert}
	}
	tr := &http.Transport{TLSClientConfig: c}
	t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr}
}

func TestTLS(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	ca, other := newCA(t, dir, "ca"), newCA(t, dir, "other")
	cert, key := ca.issue(t, dir, "server", time.Now().Add(time.Hour))
	server := newServer(t, "https", insecure(t, "", ""), "--enable-v2", "--cert-file="+cert, "--key-file="+key)
	endpoints := []string{server.URL}

	s := newStore(t, Options{Endpoints: endpoints, CAFile: ca.file})
	if _, err := s.Config(t.Context()); !errors.Is(err, subnet.ErrNoConfig) {
		t.Errorf("with the CA alone: %v, want ErrNoConfig", err)
	}
	w := etcdtest.Watch(t, s)
	w.Until(t, "nothing", etcdtest.Leases(0))
	server.put(t, leaseKey(1), value(1), 0)
	w.Until(t, "the lease", etcdtest.Leases(1))

	_, err := newStore(t, Options{Endpoints: endpoints, CAFile: other.file}).Config(t.Context())
	etcdtest.CheckError(t, "wrong CA", err, "-etcd-cafile "+other.file, server.URL)
	if !errors.As(err, &x509.UnknownAuthorityError{}) {
		t.Errorf("wrong CA: %v does not wrap its cause", err)
	}
	_, err = newStore(t, Options{Endpoints: endpoints}).Config(t.Context())
	etcdtest.CheckError(t, "no CA", err, "-etcd-cafile", server.URL)
	_, err = newStore(t, Options{Endpoints: []string{"http" + server.URL[len("https"):]}}).Config(t.Context())
	etcdtest.CheckError(t, "http for https", err, "http://127.0.0.1")
}

func TestTLSClientCertificate(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	ca, other := newCA(t, dir, "ca"), newCA(t, dir, "other")
	cert, key := ca.issue(t, dir, "server", time.Now().Add(time.Hour))
	good, goodKey := ca.issue(t, dir, "client", time.Now().Add(time.Hour))
	server := newServer(t, "https", insecure(t, good, goodKey), "--enable-v2", "--client-cert-auth",
		"--trusted-ca-file="+ca.file, "--cert-file="+cert, "--key-file="+key)
	o := Options{Endpoints: []string{server.URL}, CAFile: ca.file, CertFile: good, KeyFile: goodKey}

	s := newStore(t, o)
	if _, err := s.Config(t.Context()); !errors.Is(err, subnet.ErrNoConfig) {
		t.Errorf("with a good certificate: %v, want ErrNoConfig", err)
	}

	refused := map[string]Options{"no certificate": {Endpoints: o.Endpoints, CAFile: o.CAFile}}
	oldCert, oldKey := ca.issue(t, dir, "expired", time.Now().Add(-time.Hour))
	refused["expired certificate"] = Options{Endpoints: o.Endpoints, CAFile: o.CAFile, CertFile: oldCert, KeyFile: oldKey}
	strange, strangeKey := other.issue(t, dir, "strange", time.Now().Add(time.Hour))
	refused["certificate of another CA"] = Options{Endpoints: o.Endpoints, CAFile: o.CAFile, CertFile: strange, KeyFile: strangeKey}
	for name, o := range refused {
		for range 10 { // whether the server's verdict or the end comes first is a race
			_, err := newStore(t, o).Config(t.Context())
			etcdtest.CheckError(t, name, err, "-etcd-certfile", server.URL)
		}
	}

	// The files are replaced while the store is in use.
	copyFile(t, oldCert, good)
	copyFile(t, oldKey, goodKey)
	s.Close()
	_, err := s.Config(t.Context())
	etcdtest.CheckError(t, "replaced by an expired certificate", err, "-etcd-certfile")
	ca.issue(t, dir, "client", time.Now().Add(time.Hour))
	if _, err := s.Config(t.Context()); !errors.Is(err, subnet.ErrNoConfig) {
		t.Errorf("replaced by a good certificate: %v, want ErrNoConfig", err)
	}
}

func copyFile(t *testing.T, from, to string) {
	t.Helper()
	b, err := os.ReadFile(from)
	if err != nil {
		t.Fatal(err)
	}
	write(t, to, string(b))
}

func TestTLSExpiredServer(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	ca := newCA(t, dir, "ca")
	cert, key := ca.issue(t, dir, "server", time.Now().Add(-time.Hour))
	server := newServer(t, "https", insecure(t, "", ""), "--enable-v2", "--cert-file="+cert, "--key-file="+key)
	_, err := newStore(t, Options{Endpoints: []string{server.URL}, CAFile: ca.file}).Config(t.Context())
	etcdtest.CheckError(t, "expired server certificate", err, "expired", server.URL)
}
