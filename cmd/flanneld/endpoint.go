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
	"strings"
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
	var c net.ListenConfig
	if e.network == "unix" {
		if err := os.Remove(e.address); err != nil && !errors.Is(err, os.ErrNotExist) {
			return nil, err
		}
		if err := os.MkdirAll(filepath.Dir(e.address), 0o755); err != nil {
			return nil, err
		}
		c.Control = func(_, _ string, conn syscall.RawConn) (err error) {
			// The kernel makes the file with the mode of the socket.
			if cannot := conn.Control(func(fd uintptr) { err = unix.Fchmod(int(fd), 0o600) }); cannot != nil {
				return cannot
			}
			return err
		}
	}
	return c.Listen(ctx, e.network, e.address)
}

// serve answers at a listener until ctx ends, or the listener fails.
func (e *endpoint) serve(ctx context.Context, l net.Listener) error {
	s := &http.Server{
		Handler: e.handler, ReadTimeout: askTime, WriteTimeout: 2 * askTime, IdleTimeout: askTime, MaxHeaderBytes: 8 << 10,
		ErrorLog: log.New(io.Discard, "", 0), // of those who ask
	}
	defer context.AfterFunc(ctx, func() { _ = s.Close() })()
	lost := make(chan struct{})
	if e.network == "unix" {
		watch, stop := context.WithCancel(ctx)
		defer stop()
		go func() {
			if e.awaitLoss(watch) == nil {
				close(lost)
				_ = s.Close()
			}
		}()
	}
	err := s.Serve(netutil.LimitListener(l, askConns))
	select {
	case <-lost:
		return errSocketLost
	default:
		return err
	}
}

// awaitLoss waits until the socket is not where it was made: someone cleared /run, say.
func (e *endpoint) awaitLoss(ctx context.Context) error {
	made, err := os.Lstat(e.address)
	for err == nil {
		if err := once.Sleep(ctx, recheck); err != nil {
			return err
		}
		var now os.FileInfo
		if now, err = os.Lstat(e.address); err == nil && !os.SameFile(made, now) {
			break
		}
	}
	return nil
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
func socketFile(subnetFile string) string {
	return strings.TrimSuffix(subnetFile, filepath.Ext(subnetFile)) + ".sock"
}
