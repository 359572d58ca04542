// Package kernel keeps objects in the network stack of the namespace it runs
// in, by netlink. It is the only package of the daemon that speaks netlink.
package kernel

import (
	"context"
	"errors"
	"fmt"
	"maps"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"flanneld/pkg/state"
	"flanneld/pkg/target"
)

// Kernel is the kernel as a target.
type Kernel struct {
	links *links // as of the last dump
}

// New returns the kernel of the network namespace of the calling process.
func New() *Kernel { return &Kernel{links: &links{}} }

// links are the interfaces of the host.
type links struct {
	byIndex map[int]string
	byName  map[string]link
}

type link struct {
	index int
	up    bool
}

// name of the interface with the given index; empty if there is none.
func (l *links) name(index int) string { return l.byIndex[index] }

// find returns the index of the interface called name, if a route can go there.
func (l *links) find(name string) (int, error) {
	switch dev, ok := l.byName[name]; {
	case !ok:
		return 0, noLink("there is no interface " + name)
	case !dev.up:
		return 0, noLink("interface " + name + " is down")
	default:
		return dev.index, nil
	}
}

// noLink is a target.ErrNoLink that says more.
type noLink string

func (e noLink) Error() string { return string(e) }

func (e noLink) Is(err error) bool { return err == target.ErrNoLink }

// uninterrupted runs a dump until no change of the kernel's tables came between
// its parts, a few times at most.
func uninterrupted(ctx context.Context, dump func() error) error {
	var err error
	for range 5 {
		if err = dump(); !errors.Is(err, netlink.ErrDumpInterrupted) || ctx.Err() != nil {
			return err
		}
	}
	return fmt.Errorf("%w: %w", target.ErrIncomplete, err)
}

func listLinks(ctx context.Context) ([]netlink.Link, error) {
	var list []netlink.Link
	err := uninterrupted(ctx, func() (err error) {
		list, err = netlink.LinkList()
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("listing interfaces: %w", err)
	}
	return list, nil
}

// Dump lists the host's routes, those of the main table with metric 0, and its
// nexthop objects.
func (k *Kernel) Dump(ctx context.Context) (state.Have, error) {
	list, err := listLinks(ctx)
	if err != nil {
		return nil, err
	}
	k.links = &links{byIndex: make(map[int]string, len(list)), byName: make(map[string]link, len(list))}
	for _, l := range list {
		a := l.Attrs()
		k.links.byIndex[a.Index] = a.Name
		k.links.byName[a.Name] = link{a.Index, a.RawFlags&unix.IFF_UP != 0}
	}
	var have state.Have
	err = uninterrupted(ctx, func() error {
		have = make(state.Have)
		return dumpRoutes(func(payload []byte) {
			if r, ok := decodeRoute(payload); ok && r.keyed() {
				add(have, r.entry(k.links))
			}
		})
	})
	if err != nil && !errors.Is(err, unix.ENOENT) { // no route was ever in that table
		return nil, fmt.Errorf("listing routes: %w", err)
	}
	nexthops := make(state.Have)
	err = uninterrupted(ctx, func() error {
		clear(nexthops)
		return dumpNexthops(func(payload []byte) {
			if e, ok := decodeNexthop(payload, k.links); ok {
				nexthops[e.Object.Key()] = e
			}
		})
	})
	if err != nil && !errors.Is(err, unix.EOPNOTSUPP) { // a kernel before 5.3
		return nil, fmt.Errorf("listing nexthops: %w", err)
	}
	maps.Copy(have, nexthops)
	return have, nil
}

// HasNexthops reports whether the kernel knows nexthop objects: it does since
// version 5.3.
func (k *Kernel) HasNexthops() bool { return dumpNexthops(func([]byte) {}) == nil }

// add puts e into have. Of several routes under one key, which the kernel uses
// in the order in which it lists them, it keeps ours if it is there, and notes
// whether there are others.
func add(have state.Have, e state.Entry) {
	k := e.Object.Key()
	was, there := have[k]
	switch {
	case !there:
	case was.Owner == state.Ours && e.Owner == state.Ours:
		// Someone appended a route with our mark. Whichever is wanted, this one
		// goes first: a kernel replaces none by one that is further behind.
		e.Object = otherRoute{routeOf(e.Object), "a second " + e.Object.String()}
		e.Beside = was.Object.String()
	case was.Owner == state.Ours:
		was.Beside = e.Text
		e = was
	case e.Owner == state.Ours:
		e.Beside = was.Text
	default:
		e = was
	}
	have[k] = e
}

// dumpRoutes calls f with each route of the main table, as a message's payload.
func dumpRoutes(f func([]byte)) error {
	msg := &nl.RtMsg{}
	msg.Family = unix.AF_INET
	msg.Table = unix.RT_TABLE_MAIN
	return dump(unix.RTM_GETROUTE, unix.RTM_NEWROUTE, msg.Serialize(), f)
}

// dumpNexthops calls f with each nexthop object, as a message's payload.
func dumpNexthops(f func([]byte)) error {
	return dump(unix.RTM_GETNEXTHOP, unix.RTM_NEWNEXTHOP, make([]byte, sizeofNhmsg), f)
}

func dump(request int, answer uint16, header []byte, f func([]byte)) error {
	s, err := nl.Subscribe(unix.NETLINK_ROUTE)
	if err != nil {
		return err
	}
	defer s.Close()
	timeout := unix.NsecToTimeval(answerTimeout.Nanoseconds())
	if err := s.SetReceiveTimeout(&timeout); err != nil {
		return err
	}
	// With strict checking the kernel leaves out the other tables. A kernel
	// before 4.20 can't, and sends them all; decodeRoute looks itself.
	_ = unix.SetsockoptInt(s.GetFd(), unix.SOL_NETLINK, unix.NETLINK_GET_STRICT_CHK, 1)
	req := nl.NewNetlinkRequest(request, unix.NLM_F_DUMP)
	req.AddRawData(header)
	req.Sockets = map[int]*nl.SocketHandle{unix.NETLINK_ROUTE: {Socket: s}}
	return req.ExecuteIter(unix.NETLINK_ROUTE, answer, func(payload []byte) bool {
		f(payload)
		return true
	})
}
