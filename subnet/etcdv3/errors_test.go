package etcdv3

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"strconv"
	"testing"
	"time"

	"google.golang.org/grpc/codes"

	"flanneld/subnet/etcd"
	"flanneld/subnet/etcd/etcdtest"
)

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
	// etcd refuses a large value by itself first, and raises its alarm after that.
	awaitAlarm := time.Now().Add(10 * time.Second)
	for refused := false; !refused; time.Sleep(10 * time.Millisecond) {
		_, err := server.Put(t.Context(), "/elsewhere/small", "")
		refused = err != nil
		if !refused && time.Now().After(awaitAlarm) {
			t.Fatal("etcd raised no alarm although its database is full")
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
				errs := etcdtest.CheckFails(t, name, s, server.URL)
				if wantNoAPI := !h2 || name == "not found" || name == "not implemented"; errors.Is(errs[0], etcd.ErrNoAPI) != wantNoAPI {
					t.Errorf("with HTTP/2 %t: %v; that there is no v3 API is %t", h2, errs[0], wantNoAPI)
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
