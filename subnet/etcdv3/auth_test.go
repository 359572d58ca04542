package etcdv3

import (
	"crypto/tls"
	"errors"
	"net/netip"
	"testing"
	"time"

	client "go.etcd.io/etcd/client/v3"

	"flanneld/pkg/lab"
	"flanneld/subnet"
	"flanneld/subnet/etcd"
	"flanneld/subnet/etcd/etcdtest"
)

// enableAuth makes the users root and flannel, who may use what is under the
// prefix, and turns authentication on. The client is root from then on.
func (s *server) enableAuth(t testing.TB) {
	t.Helper()
	ctx := t.Context()
	must(s.UserAdd(ctx, "root", "secret-root"))(t)
	must(s.UserGrantRole(ctx, "root", "root"))(t)
	must(s.RoleAdd(ctx, "flannel"))(t)
	must(s.RoleGrantPermission(ctx, "flannel", prefix+"/", client.GetPrefixRangeEnd(prefix+"/"), client.PermissionType(client.PermReadWrite)))(t)
	must(s.UserAdd(ctx, "flannel", "secret-flannel"))(t)
	must(s.UserGrantRole(ctx, "flannel", "flannel"))(t)
	must(s.AuthEnable(ctx))(t)
	s.Client = newClient(t, client.Config{Endpoints: []string{s.URL}, Username: "root", Password: "secret-root", TLS: s.tls})
}

// The user may do with etcd leases what has to be done.
func TestEtcdLeasesOfAUser(t *testing.T) {
	t.Parallel()
	versions(t, func(t *testing.T, binary string) {
		server := newServer(t, etcdtest.Config{Binary: binary})
		server.enableAuth(t)
		s := newStore(t, Options{Endpoints: []string{server.URL}, Username: "flannel", Password: "secret-flannel"})
		l := must(s.Create(t.Context(), subnet1, attrs1, time.Hour))(t)
		l = must(s.Update(t.Context(), subnet1, l.Revision, attrs1, 2*time.Hour))(t)
		server.checkLeases(t, "after a renewal", 1)
		if err := s.Delete(t.Context(), subnet1, l.Revision); err != nil {
			t.Error(err)
		}
		server.checkLeases(t, "after deletion", 0)
	})
}

// A token that the server has forgotten is no error: not for a call, nor for a
// watch that begins anew.
func TestTokenExpires(t *testing.T) {
	t.Parallel()
	versions(t, func(t *testing.T, binary string) {
		server := newServer(t, etcdtest.Config{Binary: binary, Args: []string{"--auth-token-ttl=1"}})
		server.enableAuth(t)
		p := etcdtest.NewProxy(t, server.Server)
		s := newStore(t, Options{Endpoints: []string{p.URL}, Username: "flannel", Password: "secret-flannel"})
		w := etcdtest.Watch(t, s)
		w.Until(t, "nothing", etcdtest.Leases(0))
		l := must(s.Create(t.Context(), subnet1, attrs1, time.Hour))(t)
		for range 2 {
			time.Sleep(2500 * time.Millisecond)
			l = must(s.Update(t.Context(), subnet1, l.Revision, attrs1, time.Hour))(t)
			w.Until(t, "the renewal", func(got subnet.Snapshot) bool {
				return len(got.Leases) == 1 && got.Leases[0].Revision == l.Revision
			})
			time.Sleep(2500 * time.Millisecond)
			p.Cut()
			server.put(t, leaseKey(2), value(2), 0)
			w.Until(t, "the lease after a cut", etcdtest.Leases(2))
			server.delete(t, leaseKey(2))
			w.Until(t, "one lease", etcdtest.Leases(1))
		}
		if n := s.lists.Load(); n != 1 {
			t.Errorf("all leases were listed %d times, want once", n)
		}
	})
}

// Who is known by a certificate needs no password to see that there are users.
func TestUserByCertificate(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	ca := must(lab.NewCA(dir, "ca"))(t)
	host := must(ca.Client("flannel", lab.Valid))(t)
	cert := must(ca.Server("server", lab.Valid, netip.MustParseAddr("127.0.0.1")))(t)
	pair := must(tls.LoadX509KeyPair(host.Cert, host.Key))(t)
	trusting := &tls.Config{InsecureSkipVerify: true, Certificates: []tls.Certificate{pair}}
	server := newServer(t, etcdtest.Config{TLS: trusting, Args: []string{
		"--cert-file=" + cert.Cert, "--key-file=" + cert.Key, "--client-cert-auth", "--trusted-ca-file=" + ca.Cert,
	}})
	server.put(t, prefix+"/config", "{}", 0)
	s := newStore(t, Options{Endpoints: []string{server.URL}, CAFile: ca.Cert, CertFile: host.Cert, KeyFile: host.Key})
	for _, want := range []bool{false, true} {
		if want {
			server.enableAuth(t)
		}
		if guarded, err := s.Guarded(t.Context()); guarded != want || err != nil {
			t.Errorf("guarded is %v, %v; want %v", guarded, err, want)
		}
		if c, err := s.Config(t.Context()); string(c) != "{}" || err != nil {
			t.Errorf("the configuration is %q, %v", c, err)
		}
	}
}

// A server that takes permission away while a stream goes on is said to, and the stream
// is kept.
func TestPermissionIsRevoked(t *testing.T) {
	t.Parallel()
	versions(t, func(t *testing.T, binary string) {
		server := newServer(t, etcdtest.Config{Binary: binary})
		server.enableAuth(t)
		s := newStore(t, Options{Endpoints: []string{server.URL}, Username: "flannel", Password: "secret-flannel"})
		s.progress = 200 * time.Millisecond
		w := etcdtest.Watch(t, s)
		server.put(t, leaseKey(1), value(1), 0)
		w.Until(t, "a lease", etcdtest.Leases(1))
		server.put(t, leaseKey(2), value(2), 0)
		w.Until(t, "a lease by the stream", etcdtest.Leases(2))
		must(server.UserRevokeRole(t.Context(), "flannel", "flannel"))(t)
		w.Until(t, "the refusal", func(got subnet.Snapshot) bool { return errors.Is(got.Refused, etcd.ErrRefused) })
		server.put(t, leaseKey(3), value(3), 0)
		w.Until(t, "one more lease", func(got subnet.Snapshot) bool { return len(got.Leases) == 3 && got.Refused != nil })
		must(server.UserGrantRole(t.Context(), "flannel", "flannel"))(t)
		w.Until(t, "the end of it", func(got subnet.Snapshot) bool { return len(got.Leases) == 3 && got.Refused == nil })
		if n := w.Errors(); n != 0 {
			t.Errorf("the watch ended %d times", n)
		}
	})
}

// That permission is back is told at once by a watch that goes on after its stream broke,
// though nothing else has changed.
func TestPermissionIsBackWithStream(t *testing.T) {
	t.Parallel()
	server := newServer(t, etcdtest.Config{})
	server.enableAuth(t)
	proxy := etcdtest.NewProxy(t, server.Server)
	s := newStore(t, Options{Endpoints: []string{proxy.URL}, Username: "flannel", Password: "secret-flannel"})
	s.progress = 5 * time.Second
	w := etcdtest.Watch(t, s)
	refused := func(got subnet.Snapshot) bool { return errors.Is(got.Refused, etcd.ErrRefused) }
	for n := 1; !refused(w.Last()); n++ {
		must(server.UserGrantRole(t.Context(), "flannel", "flannel"))(t)
		server.put(t, leaseKey(n), value(n), 0)
		w.Until(t, "a lease", etcdtest.Leases(n))
		ended := w.Errors()
		must(server.UserRevokeRole(t.Context(), "flannel", "flannel"))(t)
		// A watch whose stream breaks now, as of a host that has no time, ends.
		w.Until(t, "the refusal", func(got subnet.Snapshot) bool { return refused(got) || w.Errors() > ended })
	}
	must(server.UserGrantRole(t.Context(), "flannel", "flannel"))(t)
	began := time.Now()
	proxy.Cut()
	w.Until(t, "the end of it", func(got subnet.Snapshot) bool { return got.Refused == nil })
	if took := time.Since(began); took > s.progress-time.Second {
		t.Errorf("that took %s, as if the stream had not broken", took)
	}
}
