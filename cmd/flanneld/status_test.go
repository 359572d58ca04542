package main_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"flanneld/pkg/lab"
	"flanneld/pkg/lab/browser"
	"flanneld/pkg/status"
)

// status asks the daemon of a host how it is, as an administrator does.
func (h *node) status() (code int, s status.Status) {
	h.n.t.Helper()
	code, out := h.act("-status", "-o", "json")
	if err := json.Unmarshal([]byte(out), &s); err != nil {
		h.n.t.Fatalf("-status -o json, with status %d: %v in %s", code, err, out)
	}
	return code, s
}

// waitScreen waits until -status prints texts, and ends with a status.
func (h *node) waitScreen(code int, has ...string) {
	h.n.t.Helper()
	h.n.wait(soon, fmt.Sprintf("the screen of %s to say %q", h.Name, has), func() string {
		got, out := h.act("-status")
		if got != code || slices.ContainsFunc(has, func(part string) bool { return !strings.Contains(out, part) }) {
			return fmt.Sprintf("status %d, %s", got, out)
		}
		return ""
	})
}

// Whoever asks how a daemon is gets an answer whatever it does, waiting included.
func TestStatus(t *testing.T) {
	inParallel(t, everyVariant, func(t *testing.T, v variant) {
		n := newLab(t, v)
		n.startEtcd(lab.EtcdOptions{})
		h := n.addNode(lab.HostOptions{})
		h.waitScreen(2, "no flanneld runs for the subnet file "+filepath.Join(h.Dir, "subnet.env"))
		h.start()
		h.waitScreen(1, "degraded", "waiting", "network configuration ")
		n.put("config", n.config(nil))
		h.waitReady()
		other := n.addNode(lab.HostOptions{})
		other.start()
		other.waitReady()
		h.waitPeers(soon, other.peer())
		h.waitScreen(0, ": healthy\n", h.subnet().String()+" of 10.5.0.0/16", v.backend.name, "eth0, "+h.Addr.String()+", MTU 1500", "peers      1", "problems   none")
		code, s := h.status()
		if code != 0 || s.Health != status.Healthy || !s.Ready || s.Peers.Count != 1 || len(s.Problems) != 0 || len(s.Objects) == 0 {
			t.Errorf("status %d, %+v", code, s)
		}
		socket := filepath.Join(h.Dir, "subnet.env.sock")
		if is, err := os.Stat(socket); err != nil || is.Mode() != os.ModeSocket|0o600 {
			t.Errorf("the socket is %v, %v", is, err)
		}

		n.put("subnets/10.5.200.0-24", "{")
		h.waitScreen(1, ": degraded\n", "peers: 1 leases unusable", "1 in trouble", "10.5.200.0/24 unusable: ")
		n.delete("subnets/10.5.200.0-24")
		h.waitScreen(0, ": healthy\n")

		n.etcd.Kill()
		h.waitScreen(1, "store: etcd cannot be used since ")
		check(t, n.etcd.Start(n.ctx))
		h.waitScreen(0, ": healthy\n")
		if _, s := h.status(); s.Store.Outages == 0 {
			t.Errorf("the store is %+v", s.Store)
		}

		check(t, os.Remove(socket))
		h.waitScreen(0, ": healthy\n")
		h.daemon.Kill()
		h.waitScreen(2, "no flanneld runs")
		h.start()
		h.waitReady()
		h.waitScreen(0, ": healthy\n")
		must(h.daemon.Stop(soon))(t)
		h.waitScreen(2, "no flanneld runs")
	})
}

const httpAddr = "127.0.0.1:8286"

// asks sends a request to what -http-addr=httpAddr has a daemon answer, and returns the answer.
func (h *node) asks(method, page string) (code int, text string) {
	h.n.t.Helper()
	c := http.Client{Transport: &http.Transport{DialContext: h.DialContext, DisableKeepAlives: true}, Timeout: soon}
	r, err := http.NewRequestWithContext(h.n.ctx, method, "http://"+httpAddr+page, http.NoBody)
	check(h.n.t, err)
	answer, err := c.Do(r)
	check(h.n.t, err)
	defer answer.Body.Close()
	content := must(io.ReadAll(answer.Body))(h.n.t)
	return answer.StatusCode, string(content)
}

// Programs get the same answers by HTTP, where a port was given for it, and change nothing.
func TestAnswersByHTTP(t *testing.T) {
	t.Parallel()
	n := newNetwork(t, 0, udp, nil)
	const secret = "hunter2"
	h := n.addNode(lab.HostOptions{}, "-http-addr="+httpAddr, "-etcd-endpoints=http://someone:"+secret+"@"+n.server.Addr.String()+":2379")
	h.start()
	h.waitReady()
	n.addNode(lab.HostOptions{}).start()
	other := n.nodes[1]
	other.waitReady()
	h.waitPeers(soon, other.peer())
	for page, has := range map[string][]string{
		"/healthz":     {"ok"},
		"/readyz":      {"ok"},
		"/status.json": {`"health":"healthy"`, `"subnet":"` + h.subnet().String() + `"`, "://someone:xxxxx@"},
		"/peers.json":  {`"subnet":"` + other.subnet().String() + `"`, `"publicIP":"` + other.Addr.String() + `"`},
		"/metrics":     {"\nflanneld_peers 1\n", "\nflanneld_healthy 1\n", "\nflanneld_store_up 1\n", `flanneld_objects_missing{kind="tunnel peer"} 0`, `flanneld_tunnel_dropped_packets_total{device="flannel0",direction="in",reason="spoofed"} 0`, "\nprocess_resident_memory_bytes "},
	} {
		code, text := h.asks(http.MethodGet, page)
		if code != http.StatusOK || strings.Contains(text, secret) {
			t.Errorf("%s: %d %s", page, code, text)
		}
		for _, part := range has {
			if !strings.Contains(text, part) {
				t.Errorf("%s lacks %q: %s", page, part, text)
			}
		}
		for _, method := range []string{http.MethodPost, http.MethodPut, http.MethodDelete, http.MethodPatch} {
			if code, text := h.asks(method, page); code != http.StatusMethodNotAllowed {
				t.Errorf("%s %s: %d %s", method, page, code, text)
			}
		}
	}
	// A site could have its name lead here, for a browser on this host to read what it must not.
	c := http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
		return h.DialContext(ctx, network, httpAddr)
	}, DisableKeepAlives: true}, Timeout: soon}
	own := must(os.Hostname())(t)
	for name, pages := range map[string]map[string]int{
		own:                   {"/status.json": 200},
		strings.ToUpper(own):  {"/status.json": 200},
		own + ".evil.example": {"/": 403, "/status.json": 403},
		"evil.example":        {"/": 403, "/status.json": 403, "/peers.json": 403, "/metrics": 200, "/healthz": 200},
		"localhost":           {"/": 200, "/status.json": 200},
		"[::1]":               {"/status.json": 200},
	} {
		for page, want := range pages {
			answer, err := c.Get("http://" + name + ":8286" + page)
			check(t, err)
			check(t, answer.Body.Close())
			if answer.StatusCode != want {
				t.Errorf("http://%s%s: %s, want %d", name, page, answer.Status, want)
			}
		}
	}
	if code, _ := h.asks(http.MethodGet, "/debug/pprof/"); code != http.StatusNotFound {
		t.Errorf("/debug/pprof/ is answered with %d", code)
	}
	if out := h.run("ss", "-Hltn", "sport = :8286"); !strings.Contains(out, httpAddr) || strings.Count(out, "\n") != 1 {
		t.Errorf("it listens at %s", out)
	}
}

// What a browser gets is of this daemon alone, and can load nothing else.
func TestPageIsServed(t *testing.T) {
	t.Parallel()
	n := newNetwork(t, 0, hostGW, nil)
	h := n.addNode(lab.HostOptions{}, "-http-addr="+httpAddr)
	h.start()
	h.waitReady()
	for page, has := range map[string]string{"/": "<title>flanneld</title>", "/page.js": "'use strict'", "/page.css": ":root", "/icon.svg": "<svg"} {
		if code, text := h.asks(http.MethodGet, page); code != http.StatusOK || !strings.Contains(text, has) || strings.Contains(text, "//cdn") {
			t.Errorf("%s: %d %.200s", page, code, text)
		}
	}
	for _, page := range []string{"/page.go", "/../options.env", "/etc/passwd"} {
		if code, text := h.asks(http.MethodGet, page); code != http.StatusNotFound {
			t.Errorf("%s: %d %.200s", page, code, text)
		}
	}
}

// reach forwards what is asked at the address that it returns to what a daemon answers on its
// host.
func (h *node) reach() string {
	h.n.t.Helper()
	return h.passOn(h.DialContext)
}

// passOn is a URL at which whoever asks gets what the daemon answers at a connection.
func (h *node) passOn(dial func(ctx context.Context, network, addr string) (net.Conn, error)) string {
	proxy := httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "http", Host: httpAddr})
	proxy.Transport = &http.Transport{DialContext: dial}
	server := httptest.NewServer(proxy)
	h.n.t.Cleanup(server.Close)
	return server.URL
}

// tells checks that status, metrics and page say the same of what is wrong with a host, and name
// nothing else: but for the peers that what is in the way of packets keeps them from.
func (h *node) tells(what string, c status.Component, text string) {
	h.n.t.Helper()
	expected := func(p status.Problem) bool {
		return p.Component == c || c == status.ComponentPackets && p.Component == status.ComponentPeers && strings.Contains(p.Text, "first mend")
	}
	h.n.wait(noticed, what+": its status", func() string {
		code, s := h.status()
		problems := s.Problems
		all := fmt.Sprintf("status %d, problems %+v", code, problems)
		switch {
		case code != 1, !slices.ContainsFunc(problems, func(p status.Problem) bool { return p.Component == c && strings.Contains(p.String(), text) }):
			return all + " without " + text
		case slices.ContainsFunc(problems, func(p status.Problem) bool { return !expected(p) }):
			return all
		}
		for _, component := range status.Components {
			count := 0
			for _, p := range problems {
				if p.Component == component {
					count++
				}
			}
			if want, metrics := fmt.Sprintf("flanneld_problems{component=%q} %d\n", component, count), h.metrics(); !strings.Contains(metrics, want) || !strings.Contains(metrics, "flanneld_healthy 0\n") {
				return fmt.Sprintf("%s, and metrics without %q: %s", all, want, metrics)
			}
		}
		return ""
	})
	if h.page == nil {
		h.page = browser.Open(h.n.t.(*testing.T), h.passOn(h.dialSocket), 1280, 900, false)
	}
	h.page.Wait(fmt.Sprintf(`(() => {
		const has = (e, text) => e.textContent.includes(text), all = [...document.querySelectorAll('#problem-list li')];
		return has(document.querySelector('#health'), 'degraded') && all.some(li => has(li, %[1]q)) && all.every(li => has(li, %[1]q) || has(li, 'first mend'));
	})()`, text), noticed)
}

// Someone who looks at the page of a daemon sees hosts come, go, and be in trouble.
func TestPageOfADaemon(t *testing.T) {
	n := newNetwork(t, 0, vxlan, nil)
	h := n.addNode(lab.HostOptions{}, "-http-addr="+httpAddr)
	h.start()
	h.waitReady()
	b := browser.Open(t, h.reach(), 1280, 900, false)
	b.Wait("document.querySelector('#found').textContent === '0 other hosts'", soon)
	other := stranger("10.5.200.0/24", "192.168.0.200")
	has := func(state string) string {
		return fmt.Sprintf("document.querySelectorAll('#map g[data-subnet=%q].%s').length === 1", other.subnet, state)
	}
	n.putPeer(other)
	b.Wait(has("used")+"||"+has("gone"), soon)
	n.delete(other.key())
	if took := b.Wait(has("leaving"), soon); took > slow(2*time.Second) {
		t.Errorf("that a host left is seen after %s", took)
	}
	b.Wait("document.querySelector('#found').textContent === '0 other hosts'", time.Minute)

	n.put("subnets/10.5.201.0-24", "{")
	b.Wait("document.querySelector('#health').textContent === 'degraded' && document.querySelectorAll('#rows .unusable').length === 1", soon)
	n.delete("subnets/10.5.201.0-24")
	b.Wait("document.querySelector('#health').textContent === 'healthy'", soon)
	if problems := b.Problems(); len(problems) > 0 {
		t.Errorf("%q", problems)
	}
}
