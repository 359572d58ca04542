package etcdv2

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"flanneld/subnet/etcd/etcdtest"
)

// answers is the URL of a server with this one answer. It ends with the test.
func answers(t *testing.T, handle http.HandlerFunc) string {
	t.Helper()
	s := httptest.NewServer(handle)
	t.Cleanup(s.Close)
	return s.URL
}

// A redirect to another server is not followed, and carries no password there.
func TestRedirectElsewhere(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	var stolen []string
	thief := answers(t, func(_ http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		stolen = append(stolen, r.Method+" "+r.URL.Path+" "+r.Header.Get("Authorization"))
	})
	host := strings.TrimPrefix(thief, "http://")
	secure := httptest.NewTLSServer(http.NotFoundHandler())
	t.Cleanup(secure.Close)
	for _, location := range []string{
		thief + "/v2/keys/",
		"//" + host + "/v2/keys",
		"http://flannel:secret-other@" + host,
		secure.URL,
		"http://\nforged/",
		"http:///",
		"ftp://" + host,
		"%zz://secret-other/",
	} {
		for _, status := range []int{http.StatusMovedPermanently, http.StatusTemporaryRedirect, http.StatusPermanentRedirect} {
			url := answers(t, func(w http.ResponseWriter, _ *http.Request) {
				w.Header()["Location"] = []string{location}
				w.WriteHeader(status)
			})
			s := newStore(t, Options{Endpoints: []string{url}, Username: "flannel", Password: "secret-flannel"})
			_, err := s.Config(t.Context())
			etcdtest.CheckError(t, location, err, url)
			_, err = s.Create(t.Context(), subnet1, attrs1, time.Hour)
			etcdtest.CheckError(t, location, err, url, "redirects")
			if _, err := s.Guarded(t.Context()); err == nil {
				t.Errorf("%s: it has an answer about users", location)
			}
			ctx := t.Context()
			if err := s.Watch(ctx, nil); err == nil {
				t.Errorf("%s: it is watched", location)
			}
			if strings.Contains(err.Error(), "\n") {
				t.Errorf("%q has two lines", err)
			}
		}
	}
	mu.Lock()
	defer mu.Unlock()
	if len(stolen) > 0 {
		t.Errorf("another server was sent %q", stolen)
	}
}

// Nor from https to http on the same host.
func TestRedirectToPlain(t *testing.T) {
	t.Parallel()
	secure := httptest.NewUnstartedServer(nil)
	secure.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, strings.Replace(secure.URL, "https", "http", 1)+r.URL.Path, http.StatusTemporaryRedirect)
	})
	secure.StartTLS()
	t.Cleanup(secure.Close)
	s := newStore(t, Options{Endpoints: []string{secure.URL}})
	s.endpoints[0].transport.TLSClientConfig.InsecureSkipVerify = true
	_, err := s.Config(t.Context())
	etcdtest.CheckError(t, "https to http", err, "redirects to", `"http://127.0.0.1:`)
}

// The server itself may be arranged in another way, and another endpoint is asked in
// the place of one that redirects.
func TestRedirectWithin(t *testing.T) {
	t.Parallel()
	server := plainEtcd(t)
	server.put(t, prefix+"/config", "{}", 0)
	var within string
	within = answers(t, func(w http.ResponseWriter, r *http.Request) {
		if rest, ok := strings.CutPrefix(r.URL.Path, "/etcd"); ok {
			if user, _, _ := r.BasicAuth(); user != "flannel" {
				t.Error("the user is not named")
			}
			w.Header().Set("X-Rest", rest)
			_, _ = w.Write([]byte(`{"action":"get","node":{"key":"/x","value":"{}"}}`))
			return
		}
		location := "/etcd" + r.URL.Path
		if r.Method == http.MethodPut {
			location = within + location
		}
		w.Header().Set("Location", location)
		w.WriteHeader(http.StatusTemporaryRedirect)
	})
	s := newStore(t, Options{Endpoints: []string{within}, Username: "flannel", Password: "secret-flannel"})
	if c, err := s.Config(t.Context()); string(c) != "{}" {
		t.Errorf("the configuration is %q, %v", c, err)
	}
	if _, err := s.Create(t.Context(), subnet1, attrs1, time.Hour); err != nil {
		t.Error(err)
	}
	away := answers(t, func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, "http://192.0.2.1/", http.StatusTemporaryRedirect)
	})
	s = newStore(t, Options{Endpoints: []string{away, server.URL}})
	s.failover.Pin(0)
	if _, err := s.Create(t.Context(), subnet1, attrs1, time.Hour); err != nil {
		t.Errorf("a write is not brought to the next endpoint: %v", err)
	}
}
