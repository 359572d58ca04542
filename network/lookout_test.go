package network

import (
	"context"
	"errors"
	"slices"
	"testing"
	"testing/synctest"
	"time"
)

// A look follows changes once they have come to an end, or have gone on for long; it follows one
// that failed, and it follows when it was asked for a time.
func TestLookout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		begin := time.Now()
		ctx, cancel := context.WithCancel(t.Context())
		var looks []time.Duration
		fail := false
		l := lookout{
			woken: make(chan struct{}, 1), quiet: time.Second, longest: 5 * time.Second, retry: time.Minute,
			logf: func(string, ...any) {}, failed: "looking: %v",
		}
		ended := make(chan error)
		go func() {
			ended <- l.run(ctx, func(context.Context) (time.Duration, error) {
				looks = append(looks, time.Since(begin))
				if fail {
					fail = false
					return 0, errors.New("no")
				}
				return 10 * time.Second, nil
			})
		}()
		want := func(what string, at ...time.Duration) {
			t.Helper()
			synctest.Wait()
			if !slices.Equal(looks, at) {
				t.Errorf("%s: looks at %v, want %v", what, looks, at)
			}
			time.Sleep(time.Hour)
			begin, looks = time.Now(), nil
		}
		time.Sleep(time.Hour)
		want("nothing happens")
		l.wake()
		time.Sleep(30 * time.Second)
		want("one change", time.Second)
		for range 4 {
			l.wake()
			time.Sleep(500 * time.Millisecond)
		}
		time.Sleep(30 * time.Second)
		want("a few changes", 2500*time.Millisecond)
		for range 20 {
			l.wake()
			time.Sleep(500 * time.Millisecond)
		}
		time.Sleep(30 * time.Second)
		want("changes without an end, and the rest between looks", 5*time.Second, 16*time.Second)
		fail = true
		l.wake()
		time.Sleep(2 * time.Minute)
		want("one that fails", time.Second, 62*time.Second)
		l.wakeIn(time.Minute)
		l.wakeIn(20 * time.Second)
		l.wakeIn(0)
		time.Sleep(5 * time.Minute)
		want("the sooner of two times", 21*time.Second)
		l.wakeIn(time.Minute)
		l.wake()
		time.Sleep(5 * time.Minute)
		want("a time that a change has come before", time.Second)
		cancel()
		if err := <-ended; !errors.Is(err, context.Canceled) {
			t.Errorf("it ends with %v", err)
		}
	})
}
