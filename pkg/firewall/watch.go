package firewall

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// watchPause is how long changes may pile up before they are taken off the socket: of what
// the kernel tells about each, no more is of interest than that there is some.
const watchPause = 100 * time.Millisecond

// Watch calls changed after changes of any rule in nf_tables, and whenever there may have
// been some, until ctx ends. It returns nil if the kernel has no netfilter that could
// change. ip_tables tells nobody of changes.
func Watch(ctx context.Context, changed func()) error {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_NETFILTER)
	if errors.Is(err, unix.EPROTONOSUPPORT) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("opening a socket for changes of nf_tables: %w", err)
	}
	socket := os.NewFile(uintptr(fd), "nf_tables")
	defer socket.Close()
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err == nil {
		err = unix.SetsockoptInt(fd, unix.SOL_NETLINK, unix.NETLINK_ADD_MEMBERSHIP, unix.NFNLGRP_NFTABLES)
		if err != nil {
			return fmt.Errorf("subscribing to changes of nf_tables: %w", err)
		}
	}
	raw, err := socket.SyscallConn()
	if err != nil {
		return fmt.Errorf("subscribing to changes of nf_tables: %w", err)
	}
	defer context.AfterFunc(ctx, func() { _ = socket.Close() })()
	changed() // what was before is not known
	for {
		var failed error
		err := raw.Read(func(fd uintptr) bool {
			some := false
			for {
				_, _, err := unix.Recvfrom(int(fd), make([]byte, 1), unix.MSG_DONTWAIT)
				switch {
				case err == nil, errors.Is(err, unix.ENOBUFS), errors.Is(err, unix.EINTR):
					some = true
				case errors.Is(err, unix.EAGAIN):
					return some
				default:
					failed = err
					return true
				}
			}
		})
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err = errors.Join(err, failed); err != nil {
			return fmt.Errorf("reading changes of nf_tables: %w", err)
		}
		changed()
		pause := time.NewTimer(watchPause)
		select {
		case <-ctx.Done():
		case <-pause.C:
		}
		pause.Stop()
	}
}
