package kernel

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"golang.org/x/sys/unix"

	"flanneld/pkg/dataplane"
	"flanneld/pkg/ip"
	"flanneld/pkg/state"
)

// watchBuffer holds notifications that come faster than they are read, in bytes.
const watchBuffer = 4 << 20

// groupsOf are the notifications of a family about routes, routing rules and the settings of
// interfaces. A router has hundreds of thousands of routes.
var groupsOf = map[ip.Family][]uint{
	ip.V4: {unix.RTNLGRP_IPV4_ROUTE, unix.RTNLGRP_IPV4_RULE, unix.RTNLGRP_IPV4_NETCONF},
	ip.V6: {unix.RTNLGRP_IPV6_ROUTE, unix.RTNLGRP_IPV6_RULE, unix.RTNLGRP_IPV6_NETCONF},
}

// Follow has Watch tell of routes, routing rules and settings in no families but these; it does
// in all before the first call. If there are others than before, Watch says that events were lost.
func (k *Kernel) Follow(families []ip.Family) {
	k.following.Lock()
	defer k.following.Unlock()
	if !slices.Equal(k.families, families) {
		k.families = families
		k.again()
	}
}

// Watch listens to the kernel's notifications about links, addresses,
// their settings, neighbours, forwarding databases, nexthops, routes and routing rules.
func (k *Kernel) Watch(ctx context.Context, ready func(), emit func(dataplane.Event)) error {
	for {
		k.following.Lock()
		listening, again := context.WithCancel(ctx)
		families := k.families
		k.again = again
		k.following.Unlock()
		err := k.listen(listening, families, ready, emit)
		others := listening.Err() != nil
		again()
		if ctx.Err() != nil || !others && !errors.Is(err, unix.ENOBUFS) {
			return err
		}
		// A socket that was overrun drops what comes, without a further error, until all
		// that it holds is read. A new one misses nothing.
		ready = func() { emit(dataplane.Event{Lost: true}) }
	}
}

func (k *Kernel) listen(ctx context.Context, families []ip.Family, ready func(), emit func(dataplane.Event)) error {
	groups := []uint{unix.RTNLGRP_LINK, unix.RTNLGRP_NEIGH, unix.RTNLGRP_NEXTHOP, unix.RTNLGRP_IPV4_IFADDR, unix.RTNLGRP_IPV6_IFADDR}
	for _, f := range families {
		groups = append(groups, groupsOf[f]...)
	}
	s, err := open(groups...)
	if err != nil {
		return fmt.Errorf("subscribing to the kernel's notifications: %w", err)
	}
	defer s.close()
	defer context.AfterFunc(ctx, s.close)()
	if s.set(unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, watchBuffer) != nil {
		_ = s.set(unix.SOL_SOCKET, unix.SO_RCVBUF, watchBuffer) // as far as allowed; overruns are survived
	}
	// Names of interfaces as the notifications themselves have them.
	w := watcher{k: k, emit: emit, links: make(map[int]rawLink)}
	if w.names, _, err = listLinks(ctx); err != nil {
		return err
	}
	ready()
	for {
		b, err := s.receive()
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case err != nil:
			return fmt.Errorf("reading the kernel's notifications: %w", err)
		}
		for m := range messages(b) {
			w.take(m)
		}
	}
}

// watcher turns notifications into events.
type watcher struct {
	k     *Kernel
	names *links
	links map[int]rawLink // as last notified, by index
	emit  func(dataplane.Event)
}

func (w watcher) take(m message) {
	switch m.typ {
	case unix.RTM_NEWLINK, unix.RTM_DELLINK:
		// A port that leaves a bridge is notified as a link that is gone, in the
		// bridge's own address family.
		if r, ok := decodeLink(m.data); ok && m.data[0] != unix.AF_BRIDGE {
			w.link(r, m.typ == unix.RTM_DELLINK)
		}
	case unix.RTM_NEWADDR, unix.RTM_DELADDR:
		r, ok := decodeAddr(m.data)
		if !ok {
			return
		}
		e := dataplane.Event{Iface: w.names.name(r.index)}
		if entry, ok := r.entry(w.names); ok {
			e.Key, e.Entry, e.Gone = entry.Object.Key(), entry, m.typ == unix.RTM_DELADDR
		}
		w.emit(e)
	case unix.RTM_NEWNETCONF:
		w.settings(m)
	case unix.RTM_NEWNEIGH, unix.RTM_DELNEIGH:
		w.neigh(m)
	case unix.RTM_NEWNEXTHOP, unix.RTM_DELNEXTHOP:
		if e, ok := decodeNexthop(m.data, w.names); ok {
			w.emit(dataplane.Event{Key: e.Object.Key(), Entry: e, Gone: m.typ == unix.RTM_DELNEXTHOP, Paths: e.Owner != state.Ours})
		}
	case unix.RTM_NEWROUTE, unix.RTM_DELROUTE:
		r, ok := decodeRoute(m.data)
		if !ok {
			return
		}
		e := dataplane.Event{Defaults: r.dst.Bits() == 0, Paths: r.protocol != RouteProtocol || r.table != unix.RT_TABLE_MAIN}
		if r.keyed() {
			e.Entry = r.entry(w.names)
			e.Key = e.Entry.Object.Key()
			e.Gone = m.typ == unix.RTM_DELROUTE
		}
		if e.Defaults || e.Paths || r.keyed() {
			w.emit(e)
		}
	case unix.RTM_NEWRULE, unix.RTM_DELRULE:
		w.emit(dataplane.Event{Paths: true})
	}
}

// link reports one whose name was, or is, r's. What is renamed is notified
// once, and two names have changed.
func (w watcher) link(r rawLink, gone bool) {
	was, known := w.names.byIndex[r.index]
	before := w.links[r.index]
	w.names.byIndex[r.index], w.links[r.index] = r.name, r
	if gone {
		delete(w.names.byIndex, r.index)
		delete(w.links, r.index)
	}
	if !gone && before == r && !state.IsDeviceName(r.name) {
		return // such as that a device was put on top of it
	}
	if known && was != r.name {
		w.lostLink(was)
	}
	if gone {
		w.lostLink(r.name)
		return
	}
	w.reportLink(r.name)
}

// lostLink reports that a link is gone, or has another name. What was on it is gone, too,
// even if there is another one of the name by now.
func (w watcher) lostLink(name string) {
	e := dataplane.Event{Iface: name}
	if state.IsDeviceName(name) {
		delete(w.names.byName, name)
		e.Key, e.Gone = state.LinkKey(name), true
	}
	w.emit(e)
}

// reportLink reports that something happened to a link. Of a device of ours it reports
// what that is now: the notification does not have it all, and is late where this program
// itself changes the device.
func (w watcher) reportLink(name string) {
	e := dataplane.Event{Iface: name}
	if state.IsDeviceName(name) {
		entry, there, err := w.k.now(name, w.names)
		if err != nil {
			e.Lost = true // find out by a look at everything
		} else {
			e.Key, e.Entry, e.Gone = state.LinkKey(name), entry, !there
			w.names.byName[name] = link{foreign: there && entry.Owner == state.Foreign}
		}
	}
	w.emit(e)
}

// now returns what the device of ours is, once it is not being changed by this
// program itself.
func (k *Kernel) now(name string, names *links) (e state.Entry, there bool, err error) {
	k.devices.Lock()
	defer k.devices.Unlock()
	r, ok, err := lookUp(name)
	if !ok || err != nil {
		return state.Entry{}, false, err
	}
	off, err := r.checksumOff()
	if errors.Is(err, unix.ENODEV) {
		return state.Entry{}, false, nil
	}
	return r.entry(names, off), true, err
}

const (
	netconfIfindex    = 1 // NETCONFA_IFINDEX
	netconfForwarding = 2 // NETCONFA_FORWARDING
	netconfRPFilter   = 3 // NETCONFA_RP_FILTER
)

// settings reports a change of an interface's settings, which is no change of the link to
// the kernel. In IPv6 an interface has no say in whether packets are forwarded.
func (w watcher) settings(m message) {
	if len(m.data) < unix.NLMSG_ALIGNTO {
		return
	}
	index, forwarding, source := 0, false, false
	for typ, data := range attrs(m.data[unix.NLMSG_ALIGNTO:]) {
		switch typ {
		case netconfIfindex:
			index = int(int32(u32(data)))
		case netconfForwarding:
			forwarding = true
		case netconfRPFilter:
			source = true
		}
	}
	if !forwarding {
		if source {
			w.emit(dataplane.Event{Paths: true})
		}
		return
	}
	if name := w.names.name(index); state.IsDeviceName(name) && m.data[0] == unix.AF_INET {
		w.reportLink(name)
	}
	w.emit(dataplane.Event{Forwarding: true})
}

func (w watcher) neigh(m message) {
	if len(m.data) < unix.SizeofNdMsg {
		return
	}
	dev := w.names.name(int(native.Uint32(m.data[4:])))
	if !w.names.ours(dev) {
		return // there may be thousands
	}
	r, ok := decodeNeigh(m.data)
	if !ok {
		return
	}
	e, ok := r.neigh(dev)
	if r.family == unix.AF_BRIDGE {
		e, ok = r.fdb(dev)
	}
	if ok {
		w.emit(dataplane.Event{Key: e.Object.Key(), Entry: e, Gone: m.typ == unix.RTM_DELNEIGH})
	}
}
