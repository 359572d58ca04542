package kernel

import (
	"context"
	"errors"
	"fmt"
	"syscall"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"flanneld/pkg/target"
)

// watchBuffer holds what the kernel tells faster than it is read, in bytes.
const watchBuffer = 4 << 20

// Watch listens to the kernel's notifications about links, addresses and
// routes.
func (k *Kernel) Watch(ctx context.Context, ready func(), emit func(target.Event)) error {
	for {
		err := k.listen(ctx, ready, emit)
		if ctx.Err() != nil || !errors.Is(err, unix.ENOBUFS) {
			return err
		}
		// A socket that was overrun goes on to drop what comes, and does not
		// say so again, until all it holds is read. A new one misses nothing.
		ready = func() { emit(target.Event{Lost: true}) }
	}
}

func (k *Kernel) listen(ctx context.Context, ready func(), emit func(target.Event)) error {
	s, err := nl.Subscribe(unix.NETLINK_ROUTE, unix.RTNLGRP_LINK, unix.RTNLGRP_IPV4_IFADDR, unix.RTNLGRP_IPV4_ROUTE, rtnlgrpNexthop)
	if err != nil {
		return fmt.Errorf("subscribing to the kernel's notifications: %w", err)
	}
	defer s.Close()
	defer context.AfterFunc(ctx, s.Close)()
	if s.SetReceiveBufferSize(watchBuffer, true) != nil {
		_ = s.SetReceiveBufferSize(watchBuffer, false) // as far as allowed; overruns are survived
	}
	// Names of interfaces as told by the notifications themselves.
	names := &links{byIndex: make(map[int]string)}
	list, err := listLinks(ctx)
	if err != nil {
		return err
	}
	for _, l := range list {
		names.byIndex[l.Attrs().Index] = l.Attrs().Name
	}
	ready()
	for {
		msgs, _, err := s.Receive()
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case errors.Is(err, unix.EINTR), errors.Is(err, unix.EAGAIN):
			continue
		case err != nil:
			return fmt.Errorf("reading the kernel's notifications: %w", err)
		}
		for _, m := range msgs {
			if e, ok := event(m, names); ok {
				emit(e)
			}
		}
	}
}

// event turns a notification into an Event.
func event(m syscall.NetlinkMessage, names *links) (target.Event, bool) {
	switch m.Header.Type {
	case unix.RTM_NEWLINK, unix.RTM_DELLINK:
		// A port that leaves a bridge is notified as a link that is gone, in the
		// bridge's own address family.
		if len(m.Data) < unix.SizeofIfInfomsg || m.Data[0] == unix.AF_BRIDGE {
			break
		}
		index := int(int32(native.Uint32(m.Data[4:])))
		// What is renamed is notified under its old name: that one is gone.
		e := target.Event{Iface: names.byIndex[index]}
		for typ, data := range attrs(m.Data[unix.SizeofIfInfomsg:]) {
			if typ == unix.IFLA_IFNAME {
				names.byIndex[index] = unix.ByteSliceToString(data)
			}
		}
		if e.Iface == "" {
			e.Iface = names.byIndex[index]
		}
		if m.Header.Type == unix.RTM_DELLINK {
			delete(names.byIndex, index)
		}
		return e, true
	case unix.RTM_NEWADDR, unix.RTM_DELADDR:
		if len(m.Data) >= unix.SizeofIfAddrmsg {
			return target.Event{Iface: names.byIndex[int(native.Uint32(m.Data[4:]))]}, true
		}
	case unix.RTM_NEWNEXTHOP, unix.RTM_DELNEXTHOP:
		if e, ok := decodeNexthop(m.Data, names); ok {
			return target.Event{Key: e.Object.Key(), Entry: e, Gone: m.Header.Type == unix.RTM_DELNEXTHOP}, true
		}
	case unix.RTM_NEWROUTE, unix.RTM_DELROUTE:
		r, ok := decodeRoute(m.Data)
		if !ok {
			break
		}
		e := target.Event{Defaults: r.dst.Bits() == 0}
		if r.keyed() {
			e.Entry = r.entry(names)
			e.Key = e.Entry.Object.Key()
			e.Gone = m.Header.Type == unix.RTM_DELROUTE
		}
		return e, true
	}
	return target.Event{}, false
}
