package main

import (
	"context"
	"encoding/json"
	"fmt"
	"hash/maphash"
	"net"
	"net/http"
	"net/netip"
	"os"
	"slices"
	"strings"
	"time"

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
			what: "questions by HTTP", network: "tcp", address: at, handler: ownName(c.all()),
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
	mux.HandleFunc("GET /peers.json", c.replyPeers)
	mux.Handle("GET /", page.Handler())
	metrics := prometheus.NewRegistry()
	metrics.MustRegister(status.Metrics{Look: c.status}, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	mux.Handle("GET /metrics", promhttp.HandlerFor(metrics, promhttp.HandlerOpts{MaxRequestsInFlight: 4, Timeout: askTime}))
	return mux
}

// ownNames are those that this host has by itself, and in the domains that it looks for names in.
func ownNames() []string {
	name, _ := os.Hostname()
	short, _, _ := strings.Cut(name, ".")
	names := []string{"localhost", name, short}
	conf, _ := os.ReadFile("/etc/resolv.conf")
	for line := range strings.Lines(string(conf)) {
		if fields := strings.Fields(line); len(fields) > 1 && (fields[0] == "search" || fields[0] == "domain") {
			for _, domain := range fields[1:] {
				names = append(names, short+"."+domain)
			}
		}
	}
	return strings.Fields(strings.ToLower(strings.Join(names, " ")))
}

// ownName has questions answered only if they are put to an address, or to this host by its
// name. Else a site that a browser here looks at could have its own name lead here, and read the
// answers. Health checks and metrics tell of no other host.
func ownName(h http.Handler) http.Handler {
	own := ownNames()
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		host := strings.ToLower(r.Host)
		if name, _, err := net.SplitHostPort(host); err == nil {
			host = name
		}
		_, err := netip.ParseAddr(strings.Trim(host, "[]"))
		switch {
		case err == nil, slices.Contains(own, strings.TrimSuffix(host, ".")), slices.Contains([]string{"/healthz", "/readyz", "/metrics"}, r.URL.Path):
			h.ServeHTTP(w, r)
		default:
			http.Error(w, "ask by the address of this host, or by its name", http.StatusForbidden)
		}
	})
}

// replyPeers answers with how each of the others is. Of a large network that is much, so it is
// made for one at a time, and not anew if nothing but times changed.
func (c *collector) replyPeers(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := context.WithTimeout(r.Context(), askTime)
	defer cancel()
	if c.asked.Acquire(ctx, 1) != nil {
		w.Header().Set("Retry-After", "1")
		http.Error(w, "others ask at this moment", http.StatusServiceUnavailable)
		return
	}
	defer c.asked.Release(1)
	peers := c.peers()
	var h maphash.Hash
	h.SetSeed(tagSeed)
	for _, p := range peers {
		for _, text := range []string{p.Subnet, p.PublicIP, string(p.State), p.Reason} {
			_, _ = h.WriteString(text)
			_ = h.WriteByte(0)
		}
	}
	if fresh(w, r, h.Sum64()+uint64(time.Since(c.started)/timesOld)) {
		reply := json.NewEncoder(w)
		if peers == nil {
			peers = []status.Peer{}
		}
		_ = reply.Encode(peers) // whoever asked may be gone
	}
}

// timesOld is how old the times of round trips may be that someone has.
const timesOld = 15 * time.Second

// replyJSON answers with a value, unless whoever asks has it already.
func replyJSON(w http.ResponseWriter, r *http.Request, value any) {
	content, err := json.Marshal(value)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	if fresh(w, r, maphash.Bytes(tagSeed, content)) {
		_, _ = w.Write(append(content, '\n'))
	}
}

// fresh writes what goes before an answer of JSON, and reports whether whoever asks does not have
// that already.
func fresh(w http.ResponseWriter, r *http.Request, sum uint64) bool {
	tag := fmt.Sprintf(`"%x"`, sum)
	w.Header().Set("ETag", tag)
	w.Header().Set("Cache-Control", "no-cache")
	if r.Header.Get("If-None-Match") == tag {
		w.WriteHeader(http.StatusNotModified)
		return false
	}
	w.Header().Set("Content-Type", "application/json")
	return true
}

var tagSeed = maphash.MakeSeed()
