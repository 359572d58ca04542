package nfdump

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"flanneld/pkg/once"
)

// watchBuffer holds what the kernel tells faster than it is read, in bytes: one
// change may be of thousands of rules.
const watchBuffer = 4 << 20

// Watch calls ready once it sees changes of nf_tables, and then changed after those that are
// about something, and after some were lost, until ctx ends. It returns nil if the kernel has
// no netfilter that could change. With no about, each change is one, and messages are taken
// off the socket without a look at them. It rests for pause after a call.
func Watch(ctx context.Context, pause time.Duration, ready, changed func(), about func(what uint16, m Message) bool) error {
	c, err := Dial()
	if errors.Is(err, ErrAbsent) {
		return nil
	}
	if err == nil {
		err = errors.Join(unix.SetNonblock(c.fd, true), unix.SetsockoptInt(c.fd, unix.SOL_NETLINK, unix.NETLINK_ADD_MEMBERSHIP, unix.NFNLGRP_NFTABLES))
		if unix.SetsockoptInt(c.fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, watchBuffer) != nil {
			_ = unix.SetsockoptInt(c.fd, unix.SOL_SOCKET, unix.SO_RCVBUF, watchBuffer) // as far as allowed
		}
	}
	if err != nil {
		if c != nil {
			c.Close()
		}
		return fmt.Errorf("subscribing to changes of nf_tables: %w", err)
	}
	socket := os.NewFile(uintptr(c.fd), "nf_tables")
	defer socket.Close()
	raw, err := socket.SyscallConn()
	if err != nil {
		return fmt.Errorf("subscribing to changes of nf_tables: %w", err)
	}
	defer context.AfterFunc(ctx, func() { _ = socket.Close() })()
	ready()
	size := nfAnswer
	if about == nil {
		size = 1
	}
	b := make([]byte, size)
	for {
		var failed error
		some := false
		err := raw.Read(func(fd uintptr) bool {
			for read := false; ; read = true {
				n, _, err := unix.Recvfrom(int(fd), b, unix.MSG_DONTWAIT)
				switch {
				case err == nil:
					some = some || about == nil || anyMessage(b[:n], about)
				case errors.Is(err, unix.ENOBUFS):
					some = true
				case errors.Is(err, unix.EAGAIN):
					return read
				case !errors.Is(err, unix.EINTR):
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
		if some {
			changed()
			if err := once.Sleep(ctx, pause); err != nil {
				return err
			}
		}
	}
}

// anyMessage reports whether one of the messages is about something.
func anyMessage(b []byte, about func(what uint16, m Message) bool) bool {
	const header = unix.SizeofNlMsghdr
	for len(b) >= header+nfgenmsg {
		n := int(binary.NativeEndian.Uint32(b))
		if n < header+nfgenmsg || n > len(b) {
			return true // nobody knows
		}
		typ := binary.NativeEndian.Uint16(b[4:])
		if typ>>8 == unix.NFNL_SUBSYS_NFTABLES && about(typ&0xff, Message{b[header], b[header+nfgenmsg : n]}) {
			return true
		}
		b = b[min((n+3)&^3, len(b)):]
	}
	return false
}
