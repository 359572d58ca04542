package main

import (
	"testing"
	"testing/synctest"
	"time"
)

// A daemon in which a lock is not given back is not alive; one that is busy for a while is.
func TestHealthSeesTheLock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newCollector(&options{})
		must(t, h.live(t.Context())) // there is nothing yet that could be stuck
		d := new(daemon)
		h.daemon.Store(d)
		d.mu.Lock()
		if err := h.live(t.Context()); err == nil {
			t.Error("it is alive while it is stuck")
		}
		time.AfterFunc(time.Second, d.mu.Unlock)
		must(t, h.live(t.Context()))
	})
}
