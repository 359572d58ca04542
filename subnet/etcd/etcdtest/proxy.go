package etcdtest

import (
	"context"
	"errors"
	"io"
	"net"
	"net/url"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// Proxy forwards TCP connections to a server, for as long as it likes.
type Proxy struct {
	URL         string
	DropAnswers atomic.Bool // close a connection instead of passing on an answer
	Stalled     atomic.Bool // swallow everything, of new connections too

	dial     func(context.Context) (net.Conn, error)
	listener net.Listener
	mu       sync.Mutex
	conns    []net.Conn
	ended    bool
	wg       sync.WaitGroup
}

// NewProxy starts a proxy before a server. It ends with the test.
func NewProxy(t testing.TB, s *Server) *Proxy {
	t.Helper()
	u, err := url.Parse(s.URL)
	if err != nil {
		t.Fatal(err)
	}
	return NewProxyTo(t, u.Scheme, func(ctx context.Context) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "tcp", u.Host)
	})
}

// NewProxyTo is NewProxy before a server of any kind, which dial connects to.
func NewProxyTo(t testing.TB, scheme string, dial func(context.Context) (net.Conn, error)) *Proxy {
	t.Helper()
	l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &Proxy{URL: scheme + "://" + l.Addr().String(), dial: dial, listener: l}
	p.wg.Go(p.accept)
	t.Cleanup(func() {
		_ = l.Close()
		p.mu.Lock()
		p.ended = true
		p.mu.Unlock()
		p.Cut()
		p.wg.Wait()
	})
	return p
}

func (p *Proxy) accept() {
	for {
		c, err := p.listener.Accept()
		if err != nil {
			return
		}
		s, err := p.dial(context.Background())
		if err != nil {
			_ = c.Close()
			continue
		}
		p.mu.Lock()
		p.conns = append(p.conns, c, s)
		ended := p.ended
		p.mu.Unlock()
		if ended { // it was accepted just before
			p.Cut()
		}
		p.wg.Go(func() { p.copy(s, c, false) })
		p.wg.Go(func() { p.copy(c, s, true) })
	}
}

func (p *Proxy) copy(to, from net.Conn, answers bool) {
	defer to.Close()
	defer from.Close()
	b := make([]byte, 32<<10)
	for {
		n, err := from.Read(b)
		if n > 0 && !p.Stalled.Load() {
			if answers && p.DropAnswers.Load() {
				time.Sleep(100 * time.Millisecond) // in HTTP/2 the first answer comes before the request is complete
				return
			}
			if _, err := to.Write(b[:n]); err != nil {
				return
			}
		}
		if err != nil {
			if errors.Is(err, io.EOF) && p.Stalled.Load() {
				time.Sleep(10 * time.Millisecond) // until it is cut
				continue
			}
			return
		}
	}
}

// Cut closes all connections.
func (p *Proxy) Cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range p.conns {
		_ = c.Close()
	}
	p.conns = nil
}
