package main

import (
	"context"
	"encoding/json"
	"fmt"
	"hash/maphash"
	"net"
	"net/http"
	"strconv"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"golang.org/x/sync/errgroup"

	"flanneld/pkg/page"
	"flanneld/pkg/status"
)

// answer answers whoever asks, until ctx ends: the probes of what runs this daemon, such as a
// kubelet; programs and people at -http-addr; and commands on this host.
func (c *collector) answer(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	if at := c.options.health; at.IsValid() {
		e := &endpoint{
			what: "health checks", network: "tcp", address: at.String(), handler: c.probes(),
			remedy: fmt.Sprintf("; another program has port %d: stop it, or name another port with -healthz-port", at.Port()),
		}
		g.Go(func() error { return e.Run(ctx) })
	}
	if at := c.options.httpAddr; at != "" {
		_, port, _ := net.SplitHostPort(at)
		e := &endpoint{
			what: "questions by HTTP", network: "tcp", address: at, handler: c.all(),
			remedy: fmt.Sprintf("; another program has port %s: stop it, or name another port with -http-addr", port),
		}
		g.Go(func() error { return e.Run(ctx) })
	}
	return g.Wait()
}

// answerHere answers commands on this host until ctx ends. The daemon has its subnet file to
// itself by then, and so the socket.
func (c *collector) answerHere(ctx context.Context) error {
	e := &endpoint{what: "questions on this host", network: "unix", address: socketFile(c.options.subnetFile), handler: c.all()}
	return e.Run(ctx)
}

// probes are the answers for what runs this daemon: whether it has to be started again, and
// whether its host has a network.
func (c *collector) probes() *http.ServeMux {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, r *http.Request) { reply(w, c.live(r.Context())) })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) { reply(w, c.ready()) })
	return mux
}

// all are all answers. None of them changes anything.
func (c *collector) all() *http.ServeMux {
	mux := c.probes()
	mux.HandleFunc("GET /status.json", func(w http.ResponseWriter, r *http.Request) { replyJSON(w, r, c.status()) })
	mux.HandleFunc("GET /peers.json", func(w http.ResponseWriter, r *http.Request) { replyJSON(w, r, c.peers()) })
	mux.Handle("GET /", page.Handler())
	metrics := prometheus.NewRegistry()
	metrics.MustRegister(status.Metrics{Look: c.status}, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	mux.Handle("GET /metrics", promhttp.HandlerFor(metrics, promhttp.HandlerOpts{MaxRequestsInFlight: 4, Timeout: askTime}))
	return mux
}

// replyJSON answers with a value, unless whoever asks has it already.
func replyJSON(w http.ResponseWriter, r *http.Request, value any) {
	content, err := json.Marshal(value)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	tag := fmt.Sprintf(`"%x"`, maphash.Bytes(tagSeed, content))
	w.Header().Set("ETag", tag)
	w.Header().Set("Cache-Control", "no-cache")
	if r.Header.Get("If-None-Match") == tag {
		w.WriteHeader(http.StatusNotModified)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Content-Length", strconv.Itoa(len(content)+1))
	_, _ = w.Write(append(content, '\n')) // whoever asked may be gone
}

var tagSeed = maphash.MakeSeed()
