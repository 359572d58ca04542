package conns

import (
	"net"
	"testing"
	"time"
)

// elsewhere is a connection from an address that this host does not have.
type elsewhere struct{ net.Conn }

func (elsewhere) LocalAddr() net.Addr { return &net.TCPAddr{IP: net.IPv4(192, 0, 2, 1), Port: 7} }

func TestDropStale(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	var s Set
	dial := s.Dial(&net.Dialer{Timeout: time.Second})
	var list []*conn
	for range 3 {
		c, err := dial(t.Context(), "tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = c.Close() }()
		list = append(list, c.(*conn))
	}
	if len(s.open) != 3 {
		t.Fatalf("%d connections", len(s.open))
	}
	s.DropStale()
	if len(s.open) != 3 {
		t.Fatalf("%d connections are left, all good", len(s.open))
	}
	list[1].Conn = elsewhere{list[1].Conn}
	s.DropStale()
	if _, there := s.open[list[1]]; len(s.open) != 2 || there {
		t.Errorf("left are %v", s.open)
	}
	if _, err := list[1].Write([]byte("x")); err == nil {
		t.Error("the stale connection is still open")
	}
	if _, err := list[0].Write([]byte("x")); err != nil {
		t.Errorf("the good connection: %v", err)
	}
	if err := list[0].Close(); err != nil || len(s.open) != 1 {
		t.Errorf("closed: %v, left are %v", err, s.open)
	}
}
