// Package conns keeps the connections of a client together, so that those can
// be dropped that can't come back to this host any more.
package conns

import (
	"context"
	"net"
	"net/netip"
	"sync"
)

// Set is the connections that were made by its Dial and not closed since. The
// zero Set is empty.
type Set struct {
	mu   sync.Mutex
	open map[*conn]struct{}
}

// conn is a connection that leaves its set when it is closed.
type conn struct {
	net.Conn
	set *Set
}

func (c *conn) Close() error {
	c.set.mu.Lock()
	delete(c.set.open, c)
	c.set.mu.Unlock()
	return c.Conn.Close()
}

// Dial returns the dialer's DialContext, whose connections join the set.
func (s *Set) Dial(d *net.Dialer) func(ctx context.Context, network, addr string) (net.Conn, error) {
	return func(ctx context.Context, network, addr string) (net.Conn, error) {
		plain, err := d.DialContext(ctx, network, addr)
		if err != nil {
			return nil, err
		}
		c := &conn{plain, s}
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.open == nil {
			s.open = make(map[*conn]struct{})
		}
		s.open[c] = struct{}{}
		return c, nil
	}
}

// DropStale closes the connections whose own address this host no longer has:
// no answer will come to them, and it takes long for TCP to notice.
func (s *Set) DropStale() {
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		return // TCP will notice
	}
	have := make(map[netip.Addr]bool)
	for _, a := range addrs {
		if n, ok := a.(*net.IPNet); ok {
			if ip, ok := netip.AddrFromSlice(n.IP); ok {
				have[ip.Unmap()] = true
			}
		}
	}
	s.mu.Lock()
	var stale []*conn
	for c := range s.open {
		local, ok := c.LocalAddr().(*net.TCPAddr)
		if ok && !have[local.AddrPort().Addr().Unmap().WithZone("")] && !local.IP.IsLoopback() {
			stale = append(stale, c)
		}
	}
	s.mu.Unlock()
	for _, c := range stale {
		_ = c.Close()
	}
}
