package etcdtest

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"flanneld/pkg/lab"
	"flanneld/subnet"
	"flanneld/subnet/etcd"
)

// calls makes each call of a store once, and returns their errors. The watch must
// bring nothing.
func calls(t testing.TB, s subnet.Store) []error {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), Patience)
	defer cancel()
	_, configErr := s.Config(ctx)
	_, listErr := s.List(ctx)
	_, createErr := s.Create(ctx, Subnet1, Attrs1, time.Hour)
	_, updateErr := s.Update(ctx, Subnet1, 1, Attrs1, time.Hour)
	return []error{
		configErr, listErr, createErr, updateErr,
		s.Delete(ctx, Subnet1, 1),
		s.Watch(ctx, func(subnet.Snapshot) { t.Error("a snapshot") }),
	}
}

// CheckFails checks that each call of a store fails with an error that names the
// server, and that passes for no answer of it. It returns the errors.
func CheckFails(t testing.TB, name string, s subnet.Store, url string) []error {
	t.Helper()
	errs := calls(t, s)
	for _, err := range errs {
		CheckError(t, name, err, url)
		for _, known := range []error{subnet.ErrNoConfig, subnet.ErrExists, subnet.ErrChanged} {
			if errors.Is(err, known) {
				t.Errorf("%s: %v passes for %v", name, err, known)
			}
		}
	}
	return errs
}

func testUnreachable(t *testing.T, a API) {
	addr1, addr2 := FreeAddr(t), FreeAddr(t)
	s := a.New(t, etcd.Options{
		Endpoints: []string{"http://" + addr1, "http://user:secret@" + addr2},
		Username:  "flannel", Password: "secret",
	})
	_, err := s.Config(t.Context())
	CheckError(t, "unreachable", err, "http://"+addr1, "http://"+addr2, "connection refused")
	if !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("%v does not wrap its cause", err)
	}
	var op *net.OpError
	if !errors.As(err, &op) {
		t.Errorf("%v does not wrap its cause", err)
	}
	err = s.Watch(t.Context(), func(subnet.Snapshot) { t.Error("a snapshot") })
	CheckError(t, "unreachable", err, "http://"+addr1, "http://"+addr2)
}

func testStalled(t *testing.T, a API) {
	p := NewProxy(t, a.Start(t, Config{}).Server)
	s := a.open(t, p.URL)
	if _, err := s.List(t.Context()); err != nil {
		t.Fatal(err)
	}
	p.Stalled.Store(true)
	started := time.Now()
	_, err := s.List(t.Context())
	CheckError(t, "stalled", err, p.URL, "no answer within 5s")
	if took := time.Since(started); took > 2*etcd.RequestTimeout {
		t.Errorf("it took %s", took)
	}
	_, err = a.open(t, p.URL).List(t.Context())
	CheckError(t, "stalled from the beginning", err, p.URL)
}

// checkGuarded checks whether only users can write what the store holds.
func (s Store) checkGuarded(t *testing.T, want bool) {
	t.Helper()
	if guarded, err := s.Guarded(t.Context()); guarded != want || err != nil {
		t.Errorf("guarded is %v, %v; want %v", guarded, err, want)
	}
}

func testAuth(t *testing.T, a API) {
	server := a.Start(t, Config{})
	as := func(user, password, prefix string) Store {
		return a.New(t, etcd.Options{Endpoints: []string{server.URL}, Username: user, Password: password, Prefix: prefix})
	}
	s := as("flannel", "secret-flannel", "")
	w := Watch(t, s)
	w.Until(t, "nothing while authentication is off", Leases(0))
	s.checkGuarded(t, false)
	as("", "", "").checkGuarded(t, false)
	server.EnableAuth(t)
	for _, password := range []string{"secret-flannel", "secret-wrong"} {
		as("flannel", password, "").checkGuarded(t, true)
	}
	as("", "", "").checkGuarded(t, true)
	if _, err := s.Create(t.Context(), Subnet1, Attrs1, time.Hour); err != nil {
		t.Error(err)
	}
	w.Until(t, "the lease", Leases(1))
	byURL := a.open(t, strings.Replace(server.URL, "://", "://flannel:secret-flannel@", 1))
	if _, err := byURL.List(t.Context()); err != nil {
		t.Errorf("with credentials in the endpoint: %v", err)
	}
	for name, test := range map[string]struct {
		s    Store
		want []string
	}{
		"wrong password": {as("flannel", "secret-wrong", ""), []string{`"flannel"`, "-etcd-username", "-etcd-password", Prefix}},
		"unknown user":   {as("nobody", "secret-wrong", ""), []string{`"nobody"`, "-etcd-username"}},
		"other prefix":   {as("flannel", "secret-flannel", "/elsewhere"), []string{`"flannel"`, "/elsewhere"}},
		"no user":        {as("", "", ""), []string{"-etcd-username", "-etcd-password"}},
	} {
		for _, err := range calls(t, test.s) {
			CheckError(t, name, err, test.want...)
		}
	}
}

var loopback = netip.MustParseAddr("127.0.0.1")

// must returns v of a call that went well.
func must[T any](v T, err error) func(testing.TB) T {
	return func(t testing.TB) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

// startTLS starts a server with a certificate.
func (a API) startTLS(t *testing.T, cert lab.CertFiles, trusting *tls.Config, args ...string) Peer {
	t.Helper()
	return a.Start(t, Config{TLS: trusting, Args: append(args, "--cert-file="+cert.Cert, "--key-file="+cert.Key)})
}

func trusting(certs ...tls.Certificate) *tls.Config {
	return &tls.Config{InsecureSkipVerify: true, Certificates: certs}
}

// configError returns why the configuration cannot be read. That a busy machine
// took too long is no answer.
func (a API) configError(t *testing.T, o etcd.Options) (err error) {
	t.Helper()
	s := a.New(t, o)
	defer s.Close()
	Eventually(t, "there is an answer in time", func() bool {
		_, err = s.Config(t.Context())
		return err == nil || !strings.Contains(err.Error(), "no answer") && !strings.Contains(err.Error(), "timeout")
	})
	return err
}

// untilConfig waits until the configuration is found missing, or cannot be asked for,
// and the error says what is wanted.
func untilConfig(t *testing.T, s Store, want ...string) {
	t.Helper()
	Eventually(t, "the files that replaced others are read", func() bool {
		_, err := s.Config(t.Context())
		if len(want) == 0 {
			return errors.Is(err, subnet.ErrNoConfig)
		}
		return err != nil && !slices.ContainsFunc(want, func(w string) bool { return !strings.Contains(err.Error(), w) })
	})
}

func testTLS(t *testing.T, a API) {
	dir := t.TempDir()
	ca, other := must(lab.NewCA(dir, "ca"))(t), must(lab.NewCA(dir, "other"))(t)
	server := a.startTLS(t, must(ca.Server("server", lab.Valid, loopback))(t), trusting())
	endpoints := []string{server.URL}

	s := a.New(t, etcd.Options{Endpoints: endpoints, CAFile: ca.Cert})
	if _, err := s.Config(t.Context()); !errors.Is(err, subnet.ErrNoConfig) {
		t.Errorf("with the CA alone: %v, want ErrNoConfig", err)
	}
	w := Watch(t, s)
	w.Until(t, "nothing", Leases(0))
	server.Put(t, LeaseKey(1), Value(1), 0)
	w.Until(t, "the lease", Leases(1))

	err := a.configError(t, etcd.Options{Endpoints: endpoints, CAFile: other.Cert})
	CheckError(t, "wrong CA", err, "-etcd-cafile "+other.Cert, server.URL)
	if !errors.As(err, &x509.UnknownAuthorityError{}) {
		t.Errorf("wrong CA: %v does not wrap its cause", err)
	}
	err = a.configError(t, etcd.Options{Endpoints: endpoints})
	CheckError(t, "no CA", err, "-etcd-cafile", server.URL)
	err = a.configError(t, etcd.Options{Endpoints: []string{"http" + server.URL[len("https"):]}})
	CheckError(t, "http for https", err, "http://127.0.0.1")
	plain := a.Start(t, Config{})
	err = a.configError(t, etcd.Options{Endpoints: []string{"https" + plain.URL[len("http"):]}})
	CheckError(t, "https for http", err, "https://127.0.0.1")

	elsewhere := a.startTLS(t, must(ca.Server("elsewhere", lab.Valid, netip.MustParseAddr("192.0.2.1")))(t), trusting())
	err = a.configError(t, etcd.Options{Endpoints: []string{elsewhere.URL}, CAFile: ca.Cert})
	CheckError(t, "a certificate of another address", err, "127.0.0.1", "192.0.2.1")

	// The file is replaced while the daemon runs, as authorities end, too.
	p := NewProxy(t, server.Server)
	s = a.New(t, etcd.Options{Endpoints: []string{p.URL}, CAFile: other.Cert})
	untilConfig(t, s, "is not signed by the CA in -etcd-cafile "+other.Cert)
	copyFile(t, ca.Cert, other.Cert)
	untilConfig(t, s)
	if err := os.Remove(other.Cert); err != nil {
		t.Fatal(err)
	}
	p.Cut()
	untilConfig(t, s, "reading -etcd-cafile", other.Cert)
}

func testTLSClientCertificate(t *testing.T, a API) {
	dir := t.TempDir()
	ca, other := must(lab.NewCA(dir, "ca"))(t), must(lab.NewCA(dir, "other"))(t)
	good := must(ca.Client("client", lab.Valid))(t)
	server := a.startTLS(t, must(ca.Server("server", lab.Valid, loopback))(t),
		trusting(must(tls.LoadX509KeyPair(good.Cert, good.Key))(t)),
		"--client-cert-auth", "--trusted-ca-file="+ca.Cert)
	with := func(c lab.CertFiles) etcd.Options {
		return etcd.Options{Endpoints: []string{server.URL}, CAFile: ca.Cert, CertFile: c.Cert, KeyFile: c.Key}
	}
	s := a.New(t, with(good))
	if _, err := s.Config(t.Context()); !errors.Is(err, subnet.ErrNoConfig) {
		t.Errorf("with a good certificate: %v, want ErrNoConfig", err)
	}

	old := must(ca.Client("expired", lab.Expired))(t)
	for name, o := range map[string]etcd.Options{
		"no certificate":            with(lab.CertFiles{}),
		"expired certificate":       with(old),
		"certificate of another CA": with(must(other.Client("strange", lab.Valid))(t)),
	} {
		for range 10 { // whether the server's verdict or the end comes first is a race
			CheckError(t, name, a.configError(t, o), "-etcd-certfile", server.URL)
		}
	}

	// The files are replaced while the daemon runs.
	p := NewProxy(t, server.Server)
	o := with(good)
	o.Endpoints = []string{p.URL}
	s = a.New(t, o)
	untilConfig(t, s)
	replace := func(by lab.CertFiles) {
		copyFile(t, by.Cert, o.CertFile)
		copyFile(t, by.Key, o.KeyFile)
		p.Cut()
	}
	replace(old)
	Eventually(t, "the expired certificate is refused twice", func() bool {
		_, err := s.Config(t.Context())
		_, again := s.Config(t.Context())
		return refusesCertificate(err) && refusesCertificate(again)
	})
	replace(must(ca.Client("new", lab.Valid))(t))
	untilConfig(t, s)
}

// refusesCertificate reports whether an error is of a client certificate that is
// refused, and not of a connection that was cut.
func refusesCertificate(err error) bool {
	return err != nil && strings.Contains(err.Error(), "-etcd-certfile")
}

func copyFile(t *testing.T, from, to string) {
	t.Helper()
	if err := os.WriteFile(to, must(os.ReadFile(from))(t), 0o600); err != nil {
		t.Fatal(err)
	}
}

func testTLSExpiredServer(t *testing.T, a API) {
	ca := must(lab.NewCA(t.TempDir(), "ca"))(t)
	server := a.startTLS(t, must(ca.Server("server", lab.Expired, loopback))(t), trusting())
	err := a.configError(t, etcd.Options{Endpoints: []string{server.URL}, CAFile: ca.Cert})
	CheckError(t, "expired server certificate", err, "expired", server.URL)
}
