package main

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
	"unicode/utf8"
)

// manager is a service manager that reads when it is asked to.
func manager(t *testing.T) *net.UnixConn {
	t.Helper()
	path := filepath.Join(t.TempDir(), "notify")
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	t.Setenv("NOTIFY_SOCKET", path)
	return conn
}

// next reads the next message; empty if none comes in time.
func next(t *testing.T, conn *net.UnixConn, within time.Duration) string {
	t.Helper()
	if err := conn.SetReadDeadline(time.Now().Add(within)); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 64<<10)
	n, err := conn.Read(buf)
	if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatal(err)
	}
	return string(buf[:n])
}

// A service manager that is frozen does not stop the daemon, and learns that it is ready
// when it reads again.
func TestFrozenManager(t *testing.T) {
	conn := manager(t)
	fill, err := net.DialUnix("unixgram", nil, conn.LocalAddr().(*net.UnixAddr))
	if err != nil {
		t.Fatal(err)
	}
	for full := 0; full < 2; { // a busy machine may have been the reason once
		_ = fill.SetWriteDeadline(time.Now().Add(200 * time.Millisecond))
		if _, err := fill.Write([]byte("FILL=1")); err != nil {
			full++
		}
	}
	_ = fill.Close()
	var s systemd
	done := make(chan struct{})
	go func() {
		defer close(done)
		s.status("waiting")
		s.alive()
		s.ready("in order")
	}()
	select {
	case <-done:
	case <-time.After(time.Minute):
		t.Fatal("the daemon waits for its service manager")
	}
	for next(t, conn, time.Second) == "FILL=1" {
		// until it is empty
	}
	s.ready("in order")
	s.ready("in order")
	s.ready("one peer")
	for _, want := range []string{"READY=1\nSTATUS=in order", "STATUS=one peer", ""} {
		if got := next(t, conn, time.Second); got != want {
			t.Errorf("it is told %q, want %q", got, want)
		}
	}
}

// Whatever a status says, it is one that systemd takes, and nothing else.
func TestStatusIsOneLine(t *testing.T) {
	conn := manager(t)
	var s systemd
	s.status("no address\nREADY=1")
	if got := next(t, conn, time.Second); got != "STATUS=no address; READY=1" {
		t.Errorf("it is told %q", got)
	}
	s.status("x" + strings.Repeat("…", 4<<10))
	got := next(t, conn, time.Second)
	if !strings.HasPrefix(got, "STATUS=x…") || len(got) > 4<<10 || !utf8.ValidString(got) {
		t.Errorf("it is told %d bytes: %q", len(got), got)
	}
}

// A daemon in which a lock is not given back does not say that it is alive.
func TestWatchdogSeesTheLock(t *testing.T) {
	conn := manager(t)
	t.Setenv("WATCHDOG_USEC", "100000")
	t.Setenv("WATCHDOG_PID", "")
	ctx, cancel := context.WithCancel(t.Context())
	d := new(daemon)
	d.mu.Lock()
	done := make(chan error)
	go func() { done <- new(systemd).watchdog(ctx, d.awaitLock) }()
	if got := next(t, conn, 500*time.Millisecond); got != "" {
		t.Errorf("while it is stuck, it says %q", got)
	}
	d.mu.Unlock()
	for range 3 {
		if got := next(t, conn, 10*time.Second); got != "WATCHDOG=1" {
			t.Errorf("it says %q", got)
		}
	}
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("it ended with %v", err)
	}
}
