package etcdv2

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"syscall"
	"testing"
	"time"

	"flanneld/pkg/ip"
	"flanneld/subnet"
	"flanneld/subnet/etcd/etcdtest"
)

func TestAuth(t *testing.T) {
	t.Parallel()
	server := plainEtcd(t)
	const asJSON = "application/json"
	server.raw(t, http.MethodPut, "/v2/auth/users/root", asJSON, `{"user":"root","password":"secret-root"}`)
	server.raw(t, http.MethodPut, "/v2/auth/roles/flannel", asJSON,
		`{"role":"flannel","permissions":{"kv":{"read":["/coreos.com/network/*"],"write":["/coreos.com/network/*"]}}}`)
	server.raw(t, http.MethodPut, "/v2/auth/users/flannel", asJSON,
		`{"user":"flannel","password":"secret-flannel","roles":["flannel"]}`)
	server.raw(t, http.MethodPut, "/v2/auth/enable", asJSON, "")
	// The guest may do anything until told otherwise.
	req, err := http.NewRequest(http.MethodPut, server.URL+"/v2/auth/roles/guest",
		strings.NewReader(`{"role":"guest","revoke":{"kv":{"read":["/*"],"write":["/*"]}}}`))
	if err != nil {
		t.Fatal(err)
	}
	req.SetBasicAuth("root", "secret-root")
	resp, err := http.DefaultClient.Do(req)
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Fatal(resp, err)
	}
	resp.Body.Close()

	as := func(user, password, prefix string) *counted {
		return newStore(t, Options{Endpoints: []string{server.URL}, Username: user, Password: password, Prefix: prefix})
	}
	s := as("flannel", "secret-flannel", "")
	w := etcdtest.Watch(t, s)
	w.Until(t, "nothing", etcdtest.Leases(0))
	if _, err := s.Create(t.Context(), subnet1, attrs1, time.Hour); err != nil {
		t.Error(err)
	}
	w.Until(t, "the lease", etcdtest.Leases(1))
	byURL := newStore(t, Options{Endpoints: []string{strings.Replace(server.URL, "://", "://flannel:secret-flannel@", 1)}})
	if _, err := byURL.List(t.Context()); err != nil {
		t.Errorf("with credentials in the endpoint: %v", err)
	}

	for name, test := range map[string]struct {
		s    *counted
		want []string
	}{
		"wrong password": {as("flannel", "secret-wrong", ""), []string{`"flannel"`, "-etcd-username", "-etcd-password", prefix}},
		"unknown user":   {as("nobody", "secret-wrong", ""), []string{`"nobody"`, "-etcd-username"}},
		"other prefix":   {as("flannel", "secret-flannel", "/elsewhere"), []string{`"flannel"`, "/elsewhere"}},
		"no user":        {as("", "", ""), []string{"-etcd-username", "-etcd-password"}},
	} {
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		_, configErr := test.s.Config(ctx)
		_, listErr := test.s.List(ctx)
		_, createErr := test.s.Create(ctx, subnet1, attrs1, time.Hour)
		_, updateErr := test.s.Update(ctx, subnet1, 1, attrs1, time.Hour)
		for _, err := range []error{
			configErr, listErr, createErr, updateErr,
			test.s.Delete(ctx, subnet1, 1),
			test.s.Watch(ctx, func(subnet.Snapshot) { t.Errorf("%s: a snapshot", name) }),
		} {
			etcdtest.CheckError(t, name, err, test.want...)
		}
		cancel()
	}
}

func TestUnreachable(t *testing.T) {
	t.Parallel()
	a, b := etcdtest.FreeAddr(t), etcdtest.FreeAddr(t)
	s := newStore(t, Options{
		Endpoints: []string{"http://" + a, "http://user:secret@" + b},
		Username:  "flannel", Password: "secret",
	})
	_, err := s.Config(t.Context())
	etcdtest.CheckError(t, "unreachable", err, "http://"+a, "http://"+b, "connection refused")
	if !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("%v does not wrap its cause", err)
	}
	var op *net.OpError
	if !errors.As(err, &op) {
		t.Errorf("%v does not wrap its cause", err)
	}
	err = s.Watch(t.Context(), func(subnet.Snapshot) { t.Error("a snapshot") })
	etcdtest.CheckError(t, "unreachable", err, "http://"+a, "http://"+b)
}

func TestNoV2(t *testing.T) {
	t.Parallel()
	server := newServer(t, "http", http.DefaultClient)
	s := newStore(t, Options{Endpoints: []string{server.URL}})
	_, err := s.Config(t.Context())
	etcdtest.CheckError(t, "v2 switched off", err, server.URL, "v2 API", "--enable-v2")
	if errors.Is(err, subnet.ErrNoConfig) {
		t.Errorf("%v passes for a missing configuration", err)
	}
	if _, err := s.List(t.Context()); err == nil {
		t.Error("v2 switched off passes for an empty network")
	}
	err = s.Watch(t.Context(), func(subnet.Snapshot) { t.Error("a snapshot") })
	etcdtest.CheckError(t, "v2 switched off", err, "--enable-v2")
}

// Whatever a server answers, an error must not pass for an absence.
func TestStrangeAnswers(t *testing.T) {
	for name, answer := range map[string]http.HandlerFunc{
		"no leader":   func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusServiceUnavailable) },
		"bad gateway": func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusBadGateway) },
		"not found":   http.NotFound,
		"empty":       func(http.ResponseWriter, *http.Request) {},
		"HTML":        func(w http.ResponseWriter, _ *http.Request) { w.Write([]byte("<html>hello</html>")) },
		"other JSON":  func(w http.ResponseWriter, _ *http.Request) { w.Write([]byte(`{"hello":1}`)) },
		"other error": func(w http.ResponseWriter, _ *http.Request) { http.Error(w, `{"message":"no"}`, http.StatusTeapot) },
		"cut": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "99")
			w.Write([]byte(`{`))
		},
		"endless turn": func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, r.URL.String(), http.StatusTemporaryRedirect)
		},
	} {
		t.Run(name, func(t *testing.T) {
			server := httptest.NewServer(answer)
			defer server.Close()
			s := newStore(t, Options{Endpoints: []string{server.URL}, Username: "u", Password: "secret"})
			defer s.Close()
			ctx := t.Context()
			_, configErr := s.Config(ctx)
			_, listErr := s.List(ctx)
			_, createErr := s.Create(ctx, ip.SubnetOf(netip.MustParsePrefix("10.5.1.0/24")), attrs1, time.Hour)
			watchErr := s.Watch(ctx, func(subnet.Snapshot) { t.Error("a snapshot") })
			for _, err := range []error{configErr, listErr, createErr, watchErr} {
				etcdtest.CheckError(t, name, err, server.URL)
				for _, known := range []error{subnet.ErrNoConfig, subnet.ErrExists, subnet.ErrChanged} {
					if errors.Is(err, known) {
						t.Errorf("it passes for %v", known)
					}
				}
			}
		})
	}
}
