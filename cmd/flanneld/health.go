package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/net/netutil"
	"golang.org/x/sys/unix"
	"k8s.io/klog/v2"

	"flanneld/pkg/notice"
	"flanneld/pkg/once"
)

// health answers the probes of what runs this daemon, such as a kubelet: whether it has to
// be started again, and whether its host has a network.
type health struct {
	at      netip.AddrPort // not valid if nobody asks
	systemd *systemd       // is told what is being waited for

	daemon atomic.Pointer[daemon] // nil while it waits to begin its work
}

const (
	// healthTime bounds each request: whoever asks has one of a few connections.
	healthTime = 5 * time.Second
	// healthConns is how many may ask at a time. The other files of the daemon need
	// descriptors, too.
	healthConns = 100
	// healthRetryFirst and healthRetryMost are the pauses between two tries to get the port.
	healthRetryFirst = 100 * time.Millisecond
	healthRetryMost  = 5 * time.Second
)

const healthChecks = "health checks"

// Run answers until ctx ends, and returns ctx.Err(). That the port cannot be had stops
// nothing else: it is tried again.
func (h *health) Run(ctx context.Context) error {
	if !h.at.IsValid() {
		return nil
	}
	var said notice.Log
	retry := once.Backoff{First: healthRetryFirst, Most: healthRetryMost}
	for {
		l, err := new(net.ListenConfig).Listen(ctx, "tcp", h.at.String())
		if err == nil {
			retry.Reset()
			if said.Over(healthChecks) {
				klog.Infof("%s are answered at %s now", healthChecks, h.at)
			}
			err = h.serve(ctx, l)
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if said.State(healthChecks, err.Error()) {
			remedy := ""
			if errors.Is(err, unix.EADDRINUSE) {
				remedy = fmt.Sprintf("; another program has port %d: stop it, or name another port with -healthz-port", h.at.Port())
			}
			klog.Errorf("%s cannot be answered, trying again: %v%s", healthChecks, err, remedy)
		}
		if err := once.Sleep(ctx, retry.Double()); err != nil {
			return err
		}
	}
}

// serve answers at a listener until ctx ends, or the listener fails.
func (h *health) serve(ctx context.Context, l net.Listener) error {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, r *http.Request) { reply(w, h.live(r.Context())) })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) { reply(w, h.ready()) })
	s := &http.Server{
		Handler: mux, ReadTimeout: healthTime, WriteTimeout: 2 * healthTime, IdleTimeout: healthTime, MaxHeaderBytes: 8 << 10,
		ErrorLog: log.New(io.Discard, "", 0), // of those who ask
	}
	stop := context.AfterFunc(ctx, func() { _ = s.Close() })
	defer stop()
	return s.Serve(netutil.LimitListener(l, healthConns))
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

// live returns why this process should be started again, if so. That it waits for
// something outside is no reason.
func (h *health) live(ctx context.Context) error {
	d := h.daemon.Load()
	if d == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, healthTime)
	defer cancel()
	if err := d.tryLock(ctx); err != nil {
		return errors.New("stuck: a part of the daemon does not go on")
	}
	return nil
}

// ready returns why this host has no network, if so.
func (h *health) ready() error {
	d := h.daemon.Load()
	if d == nil || !d.reconciler.Converged() || !d.publisher.written() {
		return errors.New(notReady + strings.TrimPrefix(cmp.Or(h.systemd.latest(), "starting"), notReady))
	}
	if _, err := os.Stat(d.publisher.file); err != nil {
		once.Wake(d.publisher.changed)
		return fmt.Errorf("%s%w", notReady, err)
	}
	if h := d.publisher.now().holding; h.Holder != "" {
		return fmt.Errorf("%sthe subnet %s belongs to %s: other hosts send no packets for it here", notReady, h.Own.Subnet, h.Holder)
	}
	return nil
}
