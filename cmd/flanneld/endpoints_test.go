package main_test

import (
	"context"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"net/http/httputil"
	"net/netip"
	"net/url"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"flanneld/pkg/lab"
)

// etcd is reached by all names that its own clients know it by.
func TestEndpointForms(t *testing.T) {
	inParallel(t, slowVariants, func(t *testing.T, v variant) {
		n := newLab(t, v)
		socket := "unix://" + filepath.Join(n.server.Dir, "etcd.sock")
		url := "http://" + netip.AddrPortFrom(n.server.Addr, 2379).String()
		n.startEtcd(lab.EtcdOptions{Args: []string{"--listen-client-urls=" + url + "," + socket}})
		n.put("config", n.config(nil))
		addr := n.server.Addr.String()
		for _, endpoint := range []string{addr + ":2379", addr, addr + ":1," + socket, socket} {
			h := n.addNode(lab.HostOptions{}, "-etcd-endpoints="+endpoint)
			h.start()
			h.waitReady()
		}
		for _, h := range n.nodes {
			h.waitPeers(soon, h.others()...)
		}
		lost := n.nodes[3]
		n.etcd.Kill()
		lost.waitLog(socket + ": ")
		check(t, n.etcd.Start(n.ctx))
		n.put("subnets/10.5.200.0-24", n.backend.lease(stranger("10.5.200.0/24", "192.168.0.200")))
		for _, h := range n.nodes {
			h.waitPeers(soon, append(h.others(), stranger("10.5.200.0/24", "192.168.0.200"))...)
		}
	})
}

// etcd is reached through the proxy that the environment names, which alone knows where
// etcd is.
func TestThroughHTTPProxy(t *testing.T) {
	inParallel(t, slowVariants, func(t *testing.T, v variant) {
		n := newConfigured(t, v, nil)
		p := n.startHTTPProxy("user", "secret", nil)
		for _, endpoint := range []string{"http://etcd.internal:2379", "etcd.internal:2379"} {
			h := n.addNode(lab.HostOptions{}, "-etcd-endpoints="+endpoint)
			h.env = []string{"HTTP_PROXY=" + p.url("user", "secret"), "HTTPS_PROXY=" + p.url("user", "secret")}
			h.start()
			h.waitReady()
		}
		direct := n.addNode(lab.HostOptions{})
		direct.env = []string{"HTTP_PROXY=" + p.url("user", "wrong"), "HTTPS_PROXY=" + p.url("user", "wrong"), "NO_PROXY=192.168.0.0/24"}
		direct.start()
		direct.waitReady()
		if c := p.refused.Load(); c != 0 {
			t.Errorf("the proxy had %d requests that NO_PROXY spares it", c)
		}
		for _, h := range n.nodes {
			h.waitPeers(soon, h.others()...)
		}
		wrong := n.addNode(lab.HostOptions{}, "-etcd-endpoints=http://etcd.internal:2379", "-etcd-api="+v.store.name[1:])
		wrong.env = []string{"HTTP_PROXY=" + p.url("user", "wrong"), "HTTPS_PROXY=" + p.url("user", "wrong")}
		wrong.start()
		wrong.waitLog("407")
		if v.store.name == etcdV3.name {
			wrong.waitLog("NO_PROXY=etcd.internal goes without")
		}
		if log := wrong.daemon.Log(); strings.Contains(log, "wrong") {
			t.Errorf("the log has the password:\n%s", log)
		}
	})
}

// In version 2 a proxy may be one of https. It is known by its own name, and not by etcd's.
func TestThroughHTTPSProxy(t *testing.T) {
	t.Parallel()
	v := hostGW
	v.store = etcdV2
	n := newConfigured(t, v, nil)
	ca := must(lab.NewCA(t.TempDir(), "ca"))(t)
	files := must(ca.Server("proxy", lab.Valid, n.server.Addr))(t)
	cert := must(tls.LoadX509KeyPair(files.Cert, files.Key))(t)
	p := n.startHTTPProxy("user", "secret", &tls.Config{Certificates: []tls.Certificate{cert}})
	h := n.addNode(lab.HostOptions{}, "-etcd-endpoints=http://etcd.internal:2379", "-etcd-api=2")
	h.env = []string{"HTTP_PROXY=" + strings.Replace(p.url("user", "secret"), "http:", "https:", 1), "SSL_CERT_FILE=" + ca.Cert}
	h.start()
	h.waitReady()
}

// A proxy that does not lead to etcd is named as what fails, and one that is not used is
// not asked.
func TestProxyDoesNotLead(t *testing.T) {
	t.Parallel()
	n := newLab(t, hostGW)
	n.startEtcd(lab.EtcdOptions{})
	f := &storeFailures{network: n}
	forbids := f.web(nil, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Server", "squid")
		http.Error(w, "no", http.StatusForbidden)
	})
	silent, addr := f.listen()
	go func() {
		for {
			c, err := silent.Accept()
			if err != nil {
				return
			}
			f.t.Cleanup(func() { _ = c.Close() })
		}
	}()
	resetting, resets := f.listen()
	go func() {
		for {
			c, err := resetting.Accept()
			if err != nil {
				return
			}
			_, _ = c.Read(make([]byte, 1))
			_ = c.Close() // of what it has not read, a reset tells
		}
	}()
	secure := strings.Replace(n.etcd.Endpoint(), "http:", "https:", 1)
	for name, c := range map[string]struct{ api, endpoint, env, want string }{
		"version 2, http":              {"2", n.etcd.Endpoint(), "HTTP_PROXY=" + forbids, ": this host's HTTP proxy refuses the request: 403 Forbidden"},
		"version 2, https":             {"2", secure, "HTTPS_PROXY=" + forbids, ": through the proxy " + forbids + `, which HTTPS_PROXY names: it answers "403 Forbidden" (correct HTTP_PROXY`},
		"version 3":                    {"3", n.etcd.Endpoint(), "HTTPS_PROXY=" + forbids, `goes without): it answers "403 Forbidden" (correct HTTP_PROXY`},
		"version 3, silent":            {"3", n.etcd.Endpoint(), "HTTPS_PROXY=http://" + addr, "goes without): it does not answer (correct HTTP_PROXY"},
		"version 3, reset":             {"3", n.etcd.Endpoint(), "HTTPS_PROXY=http://" + resets, "goes without): connection reset by peer (correct HTTP_PROXY"},
		"version 3, proxy of others":   {"3", "http://" + addr, "HTTP_PROXY=" + forbids, ": no answer within 5s"},
		"version 2, no proxy for etcd": {"2", "http://" + addr, "HTTPS_PROXY=" + forbids, ": no answer within 5s"},
	} {
		h := n.addNode(lab.HostOptions{}, "-etcd-api="+c.api, "-etcd-endpoints="+c.endpoint)
		h.env = []string{c.env}
		h.start()
		defer func() {
			n.wait(4*soon, name+": "+c.want, func() string {
				if log := h.daemon.Log(); !strings.Contains(log, c.want) {
					return "the log is:\n" + log
				}
				return ""
			})
		}()
	}
}

type httpProxy struct {
	addr    netip.AddrPort
	refused atomic.Int64
}

func (p *httpProxy) url(user, password string) string {
	return (&url.URL{Scheme: "http", User: url.UserPassword(user, password), Host: p.addr.String()}).String()
}

// startHTTPProxy starts a proxy on etcd's host, for the user with this password, of https
// if there is a config. It takes etcd.internal for the host of etcd.
func (n *network) startHTTPProxy(user, password string, config *tls.Config) *httpProxy {
	n.t.Helper()
	p := &httpProxy{addr: netip.AddrPortFrom(n.server.Addr, 3128)}
	dial := func(ctx context.Context, network, addr string) (net.Conn, error) {
		return n.server.DialContext(ctx, network, strings.Replace(addr, "etcd.internal", n.server.Addr.String(), 1))
	}
	transport := &http.Transport{DialContext: dial}
	plain := &httputil.ReverseProxy{Rewrite: func(*httputil.ProxyRequest) {}, Transport: transport, FlushInterval: -1}
	server := &http.Server{ReadHeaderTimeout: 5 * time.Second, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		given := &http.Request{Header: http.Header{"Authorization": r.Header["Proxy-Authorization"]}}
		if u, pw, ok := given.BasicAuth(); !ok || u != user || pw != password {
			p.refused.Add(1)
			http.Error(w, "who are you?", http.StatusProxyAuthRequired)
			return
		}
		if r.Method != http.MethodConnect {
			plain.ServeHTTP(w, r)
			return
		}
		to, err := dial(r.Context(), "tcp", r.Host)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadGateway)
			return
		}
		defer to.Close()
		from, buf, err := http.NewResponseController(w).Hijack()
		if err != nil {
			return
		}
		defer from.Close()
		_, _ = io.WriteString(from, "HTTP/1.1 200 Connection established\r\n\r\n")
		go func() {
			_, _ = io.Copy(to, buf)
			_ = to.Close()
		}()
		_, _ = io.Copy(from, to)
	})}
	var listener net.Listener
	check(n.t, n.server.Do(func() (err error) {
		listener, err = net.Listen("tcp", p.addr.String())
		return err
	}))
	if config != nil {
		listener = tls.NewListener(listener, config)
	}
	go func() { _ = server.Serve(listener) }()
	n.t.Cleanup(func() {
		_ = server.Close()
		transport.CloseIdleConnections()
	})
	return p
}
