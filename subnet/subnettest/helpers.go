package subnettest

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"flanneld/pkg/ip"
	"flanneld/subnet"
)

// patience is how long anything that must happen may take.
const patience = 10 * time.Second

// watcher is a Watch that runs.
type watcher struct {
	snapshots chan subnet.Snapshot
	result    chan error
	cancel    context.CancelFunc
	last      uint64
	latest    subnet.Snapshot
}

func watch(t *testing.T, h Harness) *watcher {
	ctx, cancel := context.WithCancel(context.Background())
	w := &watcher{snapshots: make(chan subnet.Snapshot, 1000), result: make(chan error, 1), cancel: cancel}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		w.result <- h.Store.Watch(ctx, func(s subnet.Snapshot) { w.snapshots <- s })
	}()
	t.Cleanup(func() { cancel(); <-ended })
	return w
}

// stop ends the watch as its caller would.
func (w *watcher) stop(t *testing.T) {
	t.Helper()
	w.cancel()
	select {
	case err := <-w.result:
		if !errors.Is(err, context.Canceled) {
			t.Fatalf("the cancelled watch returned %v, want context.Canceled", err)
		}
	case <-time.After(patience):
		t.Fatal("the cancelled watch does not return")
	}
}

func (w *watcher) next(t *testing.T) subnet.Snapshot {
	t.Helper()
	select {
	case s := <-w.snapshots:
		if s.Revision < w.last {
			t.Fatalf("the revision went back from %d to %d", w.last, s.Revision)
		}
		w.last, w.latest = s.Revision, s
		return s
	case err := <-w.result:
		t.Fatalf("the watch ended: %v", err)
	case <-time.After(patience):
		t.Fatal("no snapshot comes")
	}
	panic("unreachable")
}

func (w *watcher) until(t *testing.T, what string, is func(subnet.Snapshot) bool) {
	t.Helper()
	deadline := time.Now().Add(patience)
	for !is(w.next(t)) {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain until the watch shows %s", what)
		}
	}
}

func until(t *testing.T, what string, is func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !is(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain until %s", what)
		}
	}
}

func list(t *testing.T, h Harness) subnet.Snapshot {
	t.Helper()
	s, err := h.Store.List(t.Context())
	check(t, err)
	return s
}

// find returns the lease of s, which must be there.
func find(t *testing.T, h Harness, s ip.Subnet) *subnet.Lease {
	t.Helper()
	l := list(t, h).Find(s)
	if l == nil {
		t.Fatalf("the lease of %s is not there", s)
	}
	return l
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func checkLease(t *testing.T, l *subnet.Lease, s ip.Subnet, a subnet.Attrs) {
	t.Helper()
	if l == nil {
		t.Fatalf("the lease of %s is not there", s)
	}
	if l.Subnet != s || l.Attrs != a || l.Revision == 0 {
		t.Errorf("lease is %+v, want %s with %+v and a revision", l, s, a)
	}
}

// checkExpires allows for a store that counts in whole seconds. The end must be
// by the monotonic clock: in the text of a time, m= is its reading.
func checkExpires(t *testing.T, expires time.Time, ttl time.Duration) {
	t.Helper()
	if left := time.Until(expires); left < ttl-5*time.Second || left > ttl+2*time.Second {
		t.Errorf("the lease expires in %s, want about %s", left, ttl)
	}
	if !strings.Contains(expires.String(), " m=") {
		t.Errorf("the lease expires at %s, by the wall clock", expires)
	}
}

func checkSubnets(t *testing.T, s subnet.Snapshot, want ...ip.Subnet) {
	t.Helper()
	var got []string
	for _, l := range s.Leases {
		got = append(got, l.Subnet.String())
	}
	var names []string
	for _, w := range want {
		names = append(names, w.String())
	}
	if diff := cmp.Diff(names, got); diff != "" {
		t.Fatalf("subnets (-want +got):\n%s", diff)
	}
}

// checkProblems compares keys. A store without directories has a key below the
// one that is wanted.
func checkProblems(t *testing.T, s subnet.Snapshot, want ...string) {
	t.Helper()
	var got []string
	for _, p := range s.Problems {
		key, _, _ := strings.Cut(p.Key, "/")
		got = append(got, key)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Fatalf("keys with problems (-want +got):\n%s", diff)
	}
}
