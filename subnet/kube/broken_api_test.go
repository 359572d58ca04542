package kube

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// brokenAPI is an API that lists Nodes as it should, and does with watches what it likes.
type brokenAPI struct {
	*httptest.Server
	lists, watches atomic.Int32
	revision       atomic.Int32
}

func newBrokenAPI(t *testing.T, watch http.HandlerFunc) (*brokenAPI, *Store) {
	t.Helper()
	a := new(brokenAPI)
	a.revision.Store(10)
	a.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Query().Get("watch") != "" {
			a.watches.Add(1)
			watch(w, r)
			return
		}
		a.lists.Add(1)
		list := &corev1.NodeList{ListMeta: metav1.ListMeta{ResourceVersion: fmt.Sprint(a.revision.Load())}}
		for n := range a.revision.Load() - 9 {
			name := fmt.Sprint("w", n)
			node := corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, UID: "u", ResourceVersion: fmt.Sprint(10 + n), Annotations: map[string]string{}}}
			node.Spec.PodCIDR = fmt.Sprintf("10.5.%d.0/24", n)
			s := sub(node.Spec.PodCIDR)
			names := must(newNames("flannel.alpha.coreos.com"))(t)
			for k, text := range annotations(s, *peer(name, node.Spec.PodCIDR, fmt.Sprintf("192.0.2.%d", n+1)).Says) {
				node.Annotations[names[k]] = text
			}
			list.Items = append(list.Items, node)
		}
		w.Header().Set("Content-Type", protobuf)
		_, _ = w.Write(wire(t, "NodeList", list))
	}))
	t.Cleanup(a.Close)
	s := must(New(Options{APIURL: a.URL, AnnotationPrefix: "flannel.alpha.coreos.com", NetConfigPath: filepath.Join(t.TempDir(), "net-conf.json"), NodeName: "w0"}))(t)
	t.Cleanup(s.Close)
	return a, s
}

// status is how an API refuses something.
func status(code int) *metav1.Status {
	return &metav1.Status{Status: metav1.StatusFailure, Message: "no", Code: int32(code)}
}

func refuse(t *testing.T, code int) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", protobuf)
		w.WriteHeader(code)
		_, _ = w.Write(wire(t, "Status", status(code)))
	}
}

// An API that lists Nodes, and lets nothing be followed: what is listed is shown, why it is not
// followed is told, and it is not listed as fast as can be.
func TestWatchRefused(t *testing.T) {
	t.Parallel()
	gone := func(t *testing.T) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", protobuf+";stream=watch")
			e := event1(t, "ERROR", wire(t, "Status", status(http.StatusGone)))
			_, _ = w.Write(binary.BigEndian.AppendUint32(nil, uint32(len(e))))
			_, _ = w.Write(e)
		}
	}
	for what, c := range map[string]struct {
		watch http.HandlerFunc
		want  string
	}{
		"forbidden":        {refuse(t, http.StatusForbidden), "grant it: a ClusterRole with the verb watch on nodes"},
		"gone":             {refuse(t, http.StatusGone), "does not let be followed"},
		"gone by an event": {gone(t), "does not let be followed"},
		"too slow":         {refuse(t, http.StatusGatewayTimeout), "does not let be followed"},
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			a, s := newBrokenAPI(t, c.watch)
			f := follow(t, s)
			if err := f.failure(t); !strings.Contains(err.Error(), c.want) {
				t.Errorf("it ends with %v", err)
			}
			if n := f.snapshot(); len(n.Leases) != 1 || (n.Refused != nil) != (what == "forbidden") {
				t.Errorf("it shows %+v", n)
			}
			if n := a.lists.Load(); n > 1 {
				t.Errorf("listed %d times", n)
			}
			if what != "forbidden" {
				return
			}
			for range 3 { // as a host does that waits for its subnet
				if l := must(s.List(t.Context()))(t); len(l.Leases) != 1 || l.Refused == nil {
					t.Errorf("listed is %+v", l)
				}
			}
			if n := a.lists.Load(); n > 1 {
				t.Errorf("listed %d times", n)
			}
			// Now and then it is listed all the same.
			a.revision.Store(11)
			f = follow(t, s)
			_ = f.failure(t)
			if n := f.snapshot(); len(n.Leases) != 1 {
				t.Errorf("it lists anew at once: %+v", n)
			}
			s.saved.listedAt = time.Now().Add(-unwatchedPace)
			for range 2 {
				f = follow(t, s)
				_ = f.failure(t)
			}
			if n := f.snapshot(); len(n.Leases) != 2 {
				t.Errorf("later it shows %+v", n)
			}
		})
	}
}

// An event of an impossible size ends the watch, and nothing else.
func TestImpossibleEvent(t *testing.T) {
	t.Parallel()
	_, s := newBrokenAPI(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", protobuf+";stream=watch")
		_, _ = w.Write([]byte("\xff\xff\xff\xffgarbage"))
	})
	if err := follow(t, s).failure(t); !errors.Is(err, errWire) && !strings.Contains(err.Error(), errWire.Error()) {
		t.Error(err)
	}
}

// A watch that the API should have ended is given up, also where nothing asks it for a sign of
// life: without TLS there is no HTTP/2.
func TestWatchOverdue(t *testing.T) {
	t.Parallel()
	a, s := newBrokenAPI(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", protobuf+";stream=watch")
		w.(http.Flusher).Flush()
		<-r.Context().Done()
	})
	s.watchFor = time.Second
	f := follow(t, s)
	for begin := time.Now(); a.watches.Load() < 2; time.Sleep(10 * time.Millisecond) {
		if time.Since(begin) > patience {
			t.Fatal("the first watch goes on")
		}
	}
	f.stop()
}
