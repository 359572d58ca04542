package etcdv2

import (
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"testing"
	"time"

	"flanneld/subnet"
	"flanneld/subnet/etcd/etcdtest"
)

func TestNoV2(t *testing.T) {
	t.Parallel()
	server := newServer(t, etcdtest.Config{})
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
			etcdtest.CheckFails(t, name, s, server.URL)
		})
	}
}

// A server that closes a connection does it before anything is asked, or after: which of them
// is chance, and the same cause.
func TestClosedBeforeAsked(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			c.Close()
		}
	}()
	s := newStore(t, Options{Endpoints: []string{"http://" + l.Addr().String()}})
	ctx := httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{
		GotConn: func(httptrace.GotConnInfo) { time.Sleep(100 * time.Millisecond) },
	})
	_, err = s.Config(ctx)
	etcdtest.CheckError(t, "closed", err, "it closes the connection without an answer: EOF (")
}
