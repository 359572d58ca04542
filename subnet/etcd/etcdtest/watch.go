package etcdtest

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"flanneld/subnet"
)

// Watched is a watch that goes on as the daemon's does: it is called again
// whenever it ends.
type Watched struct {
	mu     sync.Mutex
	last   *subnet.Snapshot
	errors []error
	cancel context.CancelFunc
	ended  chan struct{}
}

// Watch starts a watch. It ends with the test.
func Watch(t testing.TB, s subnet.Store) *Watched {
	ctx, cancel := context.WithCancel(context.Background())
	w := &Watched{cancel: cancel, ended: make(chan struct{})}
	go func() {
		defer close(w.ended)
		for ctx.Err() == nil {
			err := s.Watch(ctx, func(s subnet.Snapshot) {
				w.mu.Lock()
				defer w.mu.Unlock()
				w.last = &s
			})
			w.mu.Lock()
			w.errors = append(w.errors, err)
			w.mu.Unlock()
			time.Sleep(50 * time.Millisecond)
		}
	}()
	t.Cleanup(w.Stop)
	return w
}

// Last returns the last snapshot.
func (w *Watched) Last() subnet.Snapshot {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.last == nil {
		return subnet.Snapshot{}
	}
	return *w.last
}

// Errors returns how often the watch ended with an error, and was called again.
func (w *Watched) Errors() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.errors)
}

// Stop ends the watch.
func (w *Watched) Stop() { w.cancel(); <-w.ended }

// Until waits until the watch shows what is asked for.
func (w *Watched) Until(t testing.TB, what string, is func(subnet.Snapshot) bool) {
	t.Helper()
	for deadline := time.Now().Add(Patience); ; time.Sleep(10 * time.Millisecond) {
		w.mu.Lock()
		last, errs := w.last, w.errors
		w.mu.Unlock()
		if last != nil && is(*last) {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain until the watch shows %s; it shows %+v; errors %v", what, last, errs)
		}
	}
}

// Leases asks for n leases.
func Leases(n int) func(subnet.Snapshot) bool {
	return func(s subnet.Snapshot) bool { return len(s.Leases) == n }
}

// CheckError checks that err says all that is wanted, and no secret.
func CheckError(t testing.TB, name string, err error, want ...string) {
	t.Helper()
	if err == nil {
		t.Errorf("%s: no error", name)
		return
	}
	for _, w := range want {
		if !strings.Contains(err.Error(), w) {
			t.Errorf("%s: error %q does not mention %q", name, err, w)
		}
	}
	for e := range tree(err) {
		if text := fmt.Sprintf("%v %+v", e, e); strings.Contains(text, "secret") {
			t.Errorf("%s: error %q holds the password", name, text)
		}
	}
}

// tree yields err and all that it wraps.
func tree(err error) func(func(error) bool) {
	return func(yield func(error) bool) {
		pending := []error{err}
		for len(pending) > 0 {
			e := pending[0]
			pending = pending[1:]
			if e == nil {
				continue
			}
			if !yield(e) {
				return
			}
			switch w := e.(type) { //nolint:errorlint // it is what unwraps
			case interface{ Unwrap() error }:
				pending = append(pending, w.Unwrap())
			case interface{ Unwrap() []error }:
				pending = append(pending, w.Unwrap()...)
			}
		}
	}
}
