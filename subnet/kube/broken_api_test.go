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
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// brokenAPI is an API that lists Nodes as it should, and does with watches what it likes.
type brokenAPI struct {
	*httptest.Server
	lists, watches atomic.Int32
	whole          atomic.Int32 // lists of more than one Node
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
		if r.URL.Query().Get("limit") != "1" {
			a.whole.Add(1)
		}
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

func refuse(t *testing.T, code int) http.HandlerFunc { return answer(t, status(code)) }

func answer(t *testing.T, s *metav1.Status) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", protobuf)
		w.WriteHeader(int(s.Code))
		_, _ = w.Write(wire(t, "Status", s))
	}
}

// end ends a watch by an event.
func end(t *testing.T, s *metav1.Status) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", protobuf+";stream=watch")
		e := event1(t, "ERROR", wire(t, "Status", s))
		_, _ = w.Write(binary.BigEndian.AppendUint32(nil, uint32(len(e))))
		_, _ = w.Write(e)
	}
}

// yetToCome is how the API refuses what it has yet to come to, such as after it was set back.
func yetToCome() *metav1.Status {
	s := apierrors.NewTimeoutError("Too large resource version: 10, current: 5", 1).ErrStatus
	s.Details.Causes = []metav1.StatusCause{{Type: metav1.CauseTypeResourceVersionTooLarge, Message: "Too large resource version"}}
	return &s
}

// An API that lists Nodes, and lets nothing be followed: what is listed is shown, why it is not
// followed is told, and it is not listed as fast as can be.
func TestWatchRefused(t *testing.T) {
	t.Parallel()
	for what, c := range map[string]struct {
		watch http.HandlerFunc
		want  string
	}{
		"forbidden":               {refuse(t, http.StatusForbidden), "grant it: a ClusterRole with the verb watch on nodes"},
		"gone":                    {refuse(t, http.StatusGone), "does not let be followed"},
		"gone by an event":        {end(t, status(http.StatusGone)), "does not let be followed"},
		"yet to come":             {answer(t, yetToCome()), "does not let be followed"},
		"yet to come by an event": {end(t, yetToCome()), "does not let be followed"},
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

// A proxy, or the API itself, that has no time for a watch says nothing about what passed
// meanwhile: the watch goes on from where it was, and not all is listed anew.
func TestWatchTimesOut(t *testing.T) {
	t.Parallel()
	for what, watch := range map[string]func(*testing.T) http.HandlerFunc{
		"a proxy": func(*testing.T) http.HandlerFunc {
			return func(w http.ResponseWriter, _ *http.Request) {
				http.Error(w, "upstream request timeout", http.StatusGatewayTimeout)
			}
		},
		"the API":              func(t *testing.T) http.HandlerFunc { return refuse(t, http.StatusGatewayTimeout) },
		"the API, by an event": func(t *testing.T) http.HandlerFunc { return end(t, status(http.StatusGatewayTimeout)) },
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			a, s := newBrokenAPI(t, watch(t))
			for range 3 {
				if err := follow(t, s).failure(t); strings.Contains(err.Error(), errHistory.Error()) {
					t.Errorf("it ends with %v", err)
				}
			}
			if n := a.whole.Load(); n != 1 {
				t.Errorf("all was listed %d times", n)
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
