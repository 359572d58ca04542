package etcdv3

import (
	"bufio"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"time"

	"flanneld/subnet/etcd"
)

// connect makes a connection to a server at addr: to its socket, or through the proxy that
// the environment names, or directly. gRPC, and so each client of version 3, goes through
// the proxy that HTTPS_PROXY names, with and without TLS.
func connect(ctx context.Context, dial etcd.DialFunc, s etcd.Server, addr string) (net.Conn, error) {
	if s.Socket != "" {
		return dial(ctx, "unix", s.Socket)
	}
	proxy, err := http.ProxyFromEnvironment(&http.Request{URL: &url.URL{Scheme: "https", Host: addr}})
	switch {
	case err != nil:
		return nil, &etcd.ProxyError{Proxy: "reading HTTPS_PROXY", Err: err}
	case proxy == nil:
		return dial(ctx, "tcp", addr)
	case proxy.Scheme != "http":
		return nil, &etcd.ProxyError{
			Proxy: fmt.Sprintf("the proxy %s, which HTTPS_PROXY names (NO_PROXY=%s goes without)", proxy.Redacted(), s.URL.Hostname()),
			Err:   errors.New("it is not one of http"),
		}
	}
	c, err := throughProxy(ctx, dial, proxy, addr)
	if err != nil {
		return nil, &etcd.ProxyError{
			Proxy: fmt.Sprintf("through the proxy %s, which HTTPS_PROXY names (NO_PROXY=%s goes without)", proxy.Redacted(), s.URL.Hostname()),
			Err:   err,
		}
	}
	return c, nil
}

// errSilent is of a proxy that takes too long to make a connection.
var errSilent = errors.New("it does not answer")

// throughProxy has a proxy make a connection to addr.
func throughProxy(ctx context.Context, dial etcd.DialFunc, proxy *url.URL, addr string) (net.Conn, error) {
	c, err := dial(ctx, "tcp", etcd.Address(proxy))
	if err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { _ = c.SetDeadline(time.Unix(1, 0)) })
	tunnel, err := askTunnel(c, proxy, addr)
	if !stop() {
		err = errSilent
	}
	if err != nil {
		_ = c.Close()
		return nil, err
	}
	return tunnel, nil
}

// askTunnel asks the proxy at the other end of c for a connection to addr, which c is then.
func askTunnel(c net.Conn, proxy *url.URL, addr string) (net.Conn, error) {
	req := &http.Request{Method: http.MethodConnect, URL: &url.URL{Host: addr}, Host: addr, Header: http.Header{"User-Agent": {"flanneld"}}}
	if u := proxy.User; u != nil {
		password, _ := u.Password()
		req.Header.Set("Proxy-Authorization", "Basic "+base64.StdEncoding.EncodeToString([]byte(u.Username()+":"+password)))
	}
	if err := req.Write(c); err != nil {
		return nil, err
	}
	r := bufio.NewReader(c)
	resp, err := http.ReadResponse(r, req)
	if err != nil {
		return nil, fmt.Errorf("its answer is not HTTP: %w", err)
	}
	_ = resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("it answers %.100q", resp.Status)
	}
	return buffered{c, r}, nil // the server may have begun to speak
}

// buffered is a connection of which something has been read already.
type buffered struct {
	net.Conn
	r *bufio.Reader
}

func (b buffered) Read(p []byte) (int, error) { return b.r.Read(p) }
