package netfilter

import (
	"context"
	"errors"
	"fmt"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"flanneld/pkg/nfdump"
)

// watchBuffer holds what the kernel tells faster than it is read, in bytes: one
// change may be of thousands of rules.
const watchBuffer = 4 << 20

// watch implements way.
func (nftables) watch(ctx context.Context, ready, changed func()) error {
	return watchNF(ctx, ready, changed, isOurs)
}

// watchNF calls changed after each change of which a message is about what matters.
func watchNF(ctx context.Context, ready, changed func(), about func(netlink.Message) bool) error {
	for {
		err := listen(ctx, ready, changed, about)
		if ctx.Err() != nil || !errors.Is(err, unix.ENOBUFS) {
			return err
		}
		ready = changed // what was missed may be anything
	}
}

// listen is watchNF until messages are lost. A change, however large, is told
// message by message, and then by its number.
func listen(ctx context.Context, ready, changed func(), about func(netlink.Message) bool) error {
	c, err := netlink.Dial(unix.NETLINK_NETFILTER, nil)
	if err == nil {
		defer c.Close()
		err = c.JoinGroup(unix.NFNLGRP_NFTABLES)
	}
	if errors.Is(err, unix.EPROTONOSUPPORT) {
		return nil // the kernel has no netfilter that could change
	}
	if err != nil {
		return fmt.Errorf("subscribing to changes of nf_tables: %w", err)
	}
	defer context.AfterFunc(ctx, func() { _ = c.Close() })()
	if raw, err := c.SyscallConn(); err == nil {
		_ = raw.Control(func(fd uintptr) {
			if unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, watchBuffer) != nil {
				_ = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUF, watchBuffer) // as far as allowed
			}
		})
	}
	ready()
	ours := false
	for {
		messages, err := c.Receive()
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case err != nil:
			return fmt.Errorf("reading changes of nf_tables: %w", err)
		}
		for _, m := range messages {
			if m.Header.Type != unix.NFNL_SUBSYS_NFTABLES<<8|unix.NFT_MSG_NEWGEN {
				ours = ours || about(m)
			} else if ours {
				ours = false
				changed()
			}
		}
	}
}

// nfHeader is how long what a message of nf_tables begins with is: its family, and more.
const nfHeader = 4

// isOurs reports whether a message is about a table of ours, or what is in it. All
// messages have the table's name in the same attribute.
func isOurs(m netlink.Message) bool {
	if m.Header.Type>>8 != unix.NFNL_SUBSYS_NFTABLES || len(m.Data) < nfHeader {
		return false
	}
	a, err := nfdump.Attributes(m.Data[nfHeader:])
	return err == nil && isOurTable(m.Data[0], a.Text(unix.NFTA_TABLE_NAME))
}
