package conns

import (
	"net"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// userTimeout is how long the peer may leave data unacknowledged.
const userTimeout = 20 * time.Second

// NewDialer returns a dialer of connections that may be idle for long, but not if they were
// cut without a word. Connecting takes no longer than timeout.
func NewDialer(timeout time.Duration) *net.Dialer {
	return &net.Dialer{
		Timeout:         timeout,
		KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: 5 * time.Second, Interval: 5 * time.Second, Count: 3},
		Control: func(network, _ string, c syscall.RawConn) error {
			if network == "unix" {
				return nil
			}
			var err error
			if e := c.Control(func(fd uintptr) {
				err = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(userTimeout.Milliseconds()))
			}); e != nil {
				return e
			}
			return os.NewSyscallError("setsockopt TCP_USER_TIMEOUT", err)
		},
	}
}
