package fakeaws

import (
	"context"
	"net"
	"net/http"
	"syscall"

	"golang.org/x/sys/unix"
)

// defaultHops is the time to live of answers without a limit.
const defaultHops = 64

type connKey struct{}

// keepConn lets a handler get at its connection.
func keepConn(ctx context.Context, conn net.Conn) context.Context {
	return context.WithValue(ctx, connKey{}, conn)
}

// limitHops sets the time to live of what is sent from now on as an answer to the
// request, if that came by a socket.
func limitHops(r *http.Request, hops int) {
	conn, ok := r.Context().Value(connKey{}).(syscall.Conn)
	if !ok {
		return
	}
	if raw, err := conn.SyscallConn(); err == nil {
		_ = raw.Control(func(fd uintptr) { _ = unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_TTL, hops) })
	}
}

// bindTo makes a listener that hears one interface only, or all for an empty
// name.
func bindTo(dev string) func(network, address string, c syscall.RawConn) error {
	return func(_, _ string, c syscall.RawConn) (err error) {
		if dev == "" {
			return nil
		}
		if controlErr := c.Control(func(fd uintptr) { err = unix.BindToDevice(int(fd), dev) }); controlErr != nil {
			return controlErr
		}
		return err
	}
}
