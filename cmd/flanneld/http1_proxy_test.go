package main_test

import (
	"crypto/tls"
	"net"
	"net/http"
	"net/http/httputil"
	"net/netip"
	"net/url"
	"testing"
	"time"

	"flanneld/pkg/lab"
)

// What speaks no HTTP/2 has no version 3 of etcd's API: a network in version 2 is found
// behind proxies that do not.
func TestVersion2BehindHTTP1(t *testing.T) {
	t.Parallel()
	v := hostGW
	v.store = etcdV2
	n := newConfigured(t, v, nil)
	ca := must(lab.NewCA(t.TempDir(), "ca"))(t)
	files := must(ca.Server("proxy", lab.Valid, n.server.Addr))(t)
	cert := must(tls.LoadX509KeyPair(files.Cert, files.Key))(t)
	for i, c := range []struct {
		scheme    string
		protocols []string
	}{
		{"https", []string{"http/1.1"}}, // refuses to speak another
		{"https", nil},                  // has never heard of a choice
		{"http", nil},
	} {
		url := n.startHTTP1Proxy(uint16(2000+i), c.scheme, &tls.Config{Certificates: []tls.Certificate{cert}, NextProtos: c.protocols})
		h := n.addNode(lab.HostOptions{}, "-etcd-endpoints="+url, "-etcd-cafile="+ca.Cert)
		h.start()
		h.waitReady()
		h.waitLog("using version 2 of etcd's API: the network's configuration is there")
	}
	for _, h := range n.nodes {
		h.waitPeers(soon, h.others()...)
	}
}

// startHTTP1Proxy starts a proxy on etcd's host that passes on what HTTP/1.1 can say.
func (n *network) startHTTP1Proxy(port uint16, scheme string, config *tls.Config) string {
	n.t.Helper()
	addr := netip.AddrPortFrom(n.server.Addr, port)
	var listener net.Listener
	check(n.t, n.server.Do(func() (err error) {
		listener, err = net.Listen("tcp", addr.String())
		return err
	}))
	if scheme == "https" {
		listener = tls.NewListener(listener, config)
	}
	proxy := httputil.NewSingleHostReverseProxy(must(url.Parse(n.etcd.Endpoint()))(n.t))
	transport := &http.Transport{DialContext: n.server.DialContext}
	proxy.Transport = transport
	server := &http.Server{Handler: proxy, ReadHeaderTimeout: 5 * time.Second}
	go func() { _ = server.Serve(listener) }()
	n.t.Cleanup(func() {
		_ = server.Close()
		transport.CloseIdleConnections()
	})
	return scheme + "://" + addr.String()
}
