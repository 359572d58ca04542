package main_test

import (
	"context"
	"net"
	"net/netip"
	"sync"
	"time"

	"flanneld/pkg/lab"
)

// proxy stands between daemons and etcd, or the Kubernetes API, on that one's host, and can do to their
// connections what networks do.
type proxy struct {
	listener net.Listener
	dial     func(context.Context) (net.Conn, error)

	mu     sync.Mutex
	delay  time.Duration // of each answer
	silent bool          // nothing passes, and nobody is told
	conns  map[net.Conn]bool
	pass   chan struct{} // closed while data may pass
}

// startProxy listens on a port of etcd's host until the test ends.
func (n *network) startProxy(port uint16) (*proxy, string) {
	n.t.Helper()
	return n.startProxyOn(n.server, port)
}

// startProxyOn is startProxy for the etcd of another host.
func (n *network) startProxyOn(server *lab.Host, port uint16) (*proxy, string) {
	n.t.Helper()
	p, addr := n.startProxyTo(server, port, 2379)
	return p, "http://" + addr
}

// startProxyTo listens on a port of a host, in the place of another one, until the test ends.
func (n *network) startProxyTo(server *lab.Host, port, to uint16) (p *proxy, at string) {
	n.t.Helper()
	addr := netip.AddrPortFrom(server.Addr, port)
	p = &proxy{conns: make(map[net.Conn]bool), pass: make(chan struct{})}
	close(p.pass)
	behind := netip.AddrPortFrom(server.Addr, to).String()
	p.dial = func(ctx context.Context) (net.Conn, error) { return server.DialContext(ctx, "tcp", behind) }
	check(n.t, server.Do(func() (err error) {
		p.listener, err = net.Listen("tcp", addr.String())
		return err
	}))
	go p.serve()
	n.t.Cleanup(func() {
		_ = p.listener.Close()
		p.let(true)
		p.reset()
	})
	return p, addr.String()
}

func (p *proxy) serve() {
	for {
		client, err := p.listener.Accept()
		if err != nil {
			return
		}
		go p.forward(client)
	}
}

func (p *proxy) forward(client net.Conn) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	server, err := p.dial(ctx)
	cancel()
	if err != nil {
		_ = client.Close()
		return
	}
	p.mu.Lock()
	p.conns[client], p.conns[server] = true, true
	p.mu.Unlock()
	var both sync.WaitGroup
	both.Go(func() { p.copy(server, client, false) })
	both.Go(func() { p.copy(client, server, true) })
	both.Wait()
	p.mu.Lock()
	delete(p.conns, client)
	delete(p.conns, server)
	p.mu.Unlock()
}

func (p *proxy) copy(to, from net.Conn, answers bool) {
	defer to.Close()
	defer from.Close()
	buf := make([]byte, 64<<10)
	for {
		k, err := from.Read(buf)
		p.mu.Lock()
		pass, delay := p.pass, p.delay
		p.mu.Unlock()
		<-pass
		if answers && delay > 0 {
			time.Sleep(delay)
		}
		if _, werr := to.Write(buf[:k]); err != nil || werr != nil {
			return
		}
	}
}

// slow delays each answer.
func (p *proxy) slow(delay time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.delay = delay
}

// let says whether anything passes.
func (p *proxy) let(pass bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if pass == !p.silent {
		return
	}
	p.silent = !pass
	if pass {
		close(p.pass)
	} else {
		p.pass = make(chan struct{})
	}
}

// reset breaks all connections, as a firewall does that sends RST.
func (p *proxy) reset() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for c := range p.conns {
		if t, ok := c.(*net.TCPConn); ok {
			_ = t.SetLinger(0)
		}
		_ = c.Close()
	}
}
