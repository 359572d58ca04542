package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/net/netutil"
	"golang.org/x/sys/unix"
	"k8s.io/klog/v2"

	"flanneld/pkg/notice"
	"flanneld/pkg/once"
)

// endpoint is where the daemon answers questions by HTTP.
type endpoint struct {
	what    string // for messages
	network string // tcp or unix
	address string
	remedy  string // of an address that another program has
	handler http.Handler
}

const (
	// askTime bounds each request: whoever asks has one of a few connections.
	askTime = 5 * time.Second
	// askConns is how many may ask at a time. The other files of the daemon need
	// descriptors, too.
	askConns = 100
	// listenRetryFirst and listenRetryMost are the pauses between two tries to have the address.
	listenRetryFirst = 100 * time.Millisecond
	listenRetryMost  = 5 * time.Second
)

var errSocketLost = errors.New("the socket was removed")

// Run answers until ctx ends, and returns ctx.Err(). That the address cannot be had stops
// nothing else: it is tried again.
func (e *endpoint) Run(ctx context.Context) error {
	var said notice.Log
	retry := once.Backoff{First: listenRetryFirst, Most: listenRetryMost}
	for {
		l, err := e.listen(ctx)
		if err == nil {
			retry.Reset()
			if said.Over(e.what) {
				klog.Infof("%s are answered at %s now", e.what, e.address)
			}
			err = e.serve(ctx, l)
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if errors.Is(err, errSocketLost) {
			continue
		}
		if said.State(e.what, err.Error()) {
			remedy := ""
			if errors.Is(err, unix.EADDRINUSE) {
				remedy = e.remedy
			}
			klog.Errorf("%s cannot be answered, trying again: %v%s", e.what, err, remedy)
		}
		if err := once.Sleep(ctx, retry.Double()); err != nil {
			return err
		}
	}
}

// listen has the address. A socket is for its owner alone, and takes the place of one that a
// daemon left which was killed.
func (e *endpoint) listen(ctx context.Context) (net.Listener, error) {
	if e.network != "unix" {
		return new(net.ListenConfig).Listen(ctx, e.network, e.address)
	}
	if err := os.MkdirAll(filepath.Dir(e.address), 0o755); err != nil {
		return nil, err
	}
	if err := removeDeadSocket(ctx, e.address); err != nil {
		return nil, err
	}
	c := net.ListenConfig{Control: func(_, _ string, conn syscall.RawConn) (err error) {
		// The kernel makes the file with the mode of the socket.
		if cannot := conn.Control(func(fd uintptr) { err = unix.Fchmod(int(fd), 0o600) }); cannot != nil {
			return cannot
		}
		return err
	}}
	l, err := c.Listen(ctx, e.network, e.address)
	if err == nil {
		l.(*net.UnixListener).SetUnlinkOnClose(false) // another one may have its name by then
	}
	return l, err
}

// removeDeadSocket removes a socket at which nobody listens, and nothing else.
func removeDeadSocket(ctx context.Context, path string) error {
	is, err := os.Lstat(path)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return nil
	case err != nil:
		return err
	case is.Mode().Type() != os.ModeSocket:
		return fmt.Errorf("%s is there, and is no socket", path)
	}
	c, err := new(net.Dialer).DialContext(ctx, "unix", path)
	if err == nil {
		_ = c.Close()
		return fmt.Errorf("another program listens at %s", path)
	}
	if !errors.Is(err, unix.ECONNREFUSED) {
		return err
	}
	return os.Remove(path)
}

// serve answers at a listener until ctx ends, or the listener fails.
func (e *endpoint) serve(ctx context.Context, l net.Listener) error {
	s := &http.Server{
		Handler: e.handler, ReadTimeout: askTime, WriteTimeout: 2 * askTime, IdleTimeout: askTime, MaxHeaderBytes: 8 << 10,
		ErrorLog: log.New(io.Discard, "", 0), // of those who ask
	}
	defer context.AfterFunc(ctx, func() { _ = s.Close() })()
	if e.network != "unix" {
		return s.Serve(netutil.LimitListener(l, askConns))
	}
	made, err := os.Lstat(e.address)
	if err != nil {
		_ = l.Close()
		return err
	}
	there := func() bool {
		now, err := os.Lstat(e.address)
		return err == nil && os.SameFile(made, now)
	}
	defer func() {
		if there() {
			_ = os.Remove(e.address)
		}
	}()
	var lost atomic.Bool // someone cleared /run, say
	watch, stop := context.WithCancel(ctx)
	defer stop()
	go func() {
		for once.Sleep(watch, recheck) == nil {
			if !there() {
				lost.Store(true)
				_ = s.Close()
				return
			}
		}
	}()
	if err := s.Serve(netutil.LimitListener(l, askConns)); !lost.Load() {
		return err
	}
	return errSocketLost
}

// reply answers that all is well, or what is not.
func reply(w http.ResponseWriter, err error) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	text := "ok"
	if err != nil {
		w.WriteHeader(http.StatusServiceUnavailable)
		text = line(err.Error())
	}
	_, _ = fmt.Fprintln(w, text) // whoever asked may be gone
}

// socketFile is where a daemon answers on its own host, to its own user alone. It is named
// after the subnet file, as daemons for several networks have one each.
func socketFile(subnetFile string) string { return subnetFile + ".sock" }
