package etcdv3

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc/codes"

	"flanneld/subnet"
	"flanneld/subnet/etcd"
	"flanneld/subnet/etcd/etcdtest"
)

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

// A server is asked again soon after it is there, however long it was not.
func TestServerComesBack(t *testing.T) {
	t.Parallel()
	server := plainEtcd(t)
	s := storeOf(t, server.URL)
	must(s.List(t.Context()))(t)
	server.Kill()
	for range 40 {
		if _, err := s.List(t.Context()); err == nil {
			t.Error("a dead server answers")
		}
		time.Sleep(50 * time.Millisecond)
	}
	server.Restart(t)
	started := time.Now()
	etcdtest.Eventually(t, "it answers", func() bool {
		_, err := s.List(t.Context())
		return err == nil
	})
	if took := time.Since(started); took > 2*redialMost {
		t.Errorf("it took %s", took)
	}
}

func TestStalledRequest(t *testing.T) {
	t.Parallel()
	server := plainEtcd(t)
	p := etcdtest.NewProxy(t, server.Server)
	s := storeOf(t, p.URL)
	must(s.List(t.Context()))(t)
	p.Stalled.Store(true)
	started := time.Now()
	_, err := s.List(t.Context())
	etcdtest.CheckError(t, "stalled", err, p.URL, "no answer within 5s")
	if took := time.Since(started); took > 2*etcd.RequestTimeout {
		t.Errorf("it took %s", took)
	}
	fresh := storeOf(t, p.URL)
	_, err = fresh.List(t.Context())
	etcdtest.CheckError(t, "stalled from the beginning", err, p.URL)
}

func TestDatabaseFull(t *testing.T) {
	t.Parallel()
	server := plainEtcd(t, "--quota-backend-bytes=1048576")
	s := storeOf(t, server.URL)
	l := must(s.Create(t.Context(), subnet1, attrs1, time.Hour))(t)
	big := make([]byte, 1<<19)
	for range 10 {
		if _, err := server.Put(t.Context(), "/elsewhere", string(big)); err != nil {
			break
		}
	}
	_, err := s.Update(t.Context(), subnet1, l.Revision, attrs1, time.Hour)
	etcdtest.CheckError(t, "full", err, server.URL, "full", "compacted", "alarm")
	if _, err := s.List(t.Context()); err != nil {
		t.Errorf("listing from a full database: %v", err)
	}
}

// Whatever a server answers, an error must not pass for an absence.
func TestStrangeAnswers(t *testing.T) {
	for name, answer := range map[string]http.HandlerFunc{
		"unavailable": func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusServiceUnavailable) },
		"bad gateway": func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusBadGateway) },
		"not found":   http.NotFound,
		"empty":       func(http.ResponseWriter, *http.Request) {},
		"HTML":        func(w http.ResponseWriter, _ *http.Request) { w.Write([]byte("<html>hello</html>")) },
		"no gRPC":     func(w http.ResponseWriter, _ *http.Request) { w.Header().Set("Content-Type", "application/grpc") },
		"not implemented": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/grpc")
			w.Header().Set("Grpc-Status", "12")
		},
		"an error of its own": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/grpc")
			w.Header().Set("Grpc-Status", "2")
			w.Header().Set("Grpc-Message", "something")
		},
	} {
		for _, h2 := range []bool{true, false} {
			t.Run(name, func(t *testing.T) {
				server := httptest.NewUnstartedServer(answer)
				server.Config.Protocols = new(http.Protocols)
				server.Config.Protocols.SetHTTP1(true)
				server.Config.Protocols.SetUnencryptedHTTP2(h2)
				server.Start()
				defer server.Close()
				s := newStore(t, Options{Endpoints: []string{server.URL}})
				defer s.Close()
				ctx := t.Context()
				_, configErr := s.Config(ctx)
				_, listErr := s.List(ctx)
				_, createErr := s.Create(ctx, subnet1, attrs1, time.Hour)
				watchErr := s.Watch(ctx, func(subnet.Snapshot) { t.Error("a snapshot") })
				for _, err := range []error{configErr, listErr, createErr, watchErr} {
					etcdtest.CheckError(t, name, err, server.URL)
					for _, known := range []error{subnet.ErrNoConfig, subnet.ErrExists, subnet.ErrChanged} {
						if errors.Is(err, known) {
							t.Errorf("it passes for %v", known)
						}
					}
				}
				if wantNoAPI := !h2 || name == "not found" || name == "not implemented"; errors.Is(configErr, etcd.ErrNoAPI) != wantNoAPI {
					t.Errorf("with HTTP/2 %t: %v; that there is no v3 API is %t", h2, configErr, wantNoAPI)
				}
			})
		}
	}
}

// What a server gives up, as one before 3.5 does with a watch when it has no leader,
// another one may do.
func TestServerGivesUp(t *testing.T) {
	t.Parallel()
	tired := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/grpc")
		w.Header().Set("Grpc-Status", strconv.Itoa(int(codes.Canceled)))
	}))
	tired.Config.Protocols = new(http.Protocols)
	tired.Config.Protocols.SetUnencryptedHTTP2(true)
	tired.Start()
	defer tired.Close()
	s := storeOf(t, tired.URL, plainEtcd(t).URL)
	defer s.Close()
	s.failover.Pin(0)
	if _, err := s.List(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestCallerGivesUp(t *testing.T) {
	t.Parallel()
	server := plainEtcd(t)
	p := etcdtest.NewProxy(t, server.Server)
	s := storeOf(t, p.URL)
	p.Stalled.Store(true)
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	started := time.Now()
	if _, err := s.Config(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Error(err)
	}
	if took := time.Since(started); took > time.Second {
		t.Errorf("it took %s", took)
	}
}
