package dataplanetest

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"flanneld/pkg/dataplane"
	"flanneld/pkg/ip"
	"flanneld/pkg/state"
)

// alias is one of the routes to a destination.
type alias struct {
	via      netip.Addr // without nexthop
	dev      string     // without nexthop
	onlink   bool       // without nexthop
	link     bool       // without via or nexthop: its scope is that of the link
	nexthop  uint32
	protocol int
	metric   uint32
}

// route is the alias as it is listed.
func (f *Fake) route(dst netip.Prefix, a alias) Route {
	r := state.Route{Dst: dst, Via: a.via, Dev: a.dev, Onlink: a.onlink, Nexthop: a.nexthop, Metric: a.metric}
	if h, ok := f.nexthops[a.nexthop]; ok {
		r.Via, r.Dev, r.Onlink = h.via, h.dev, h.onlink
	}
	return Route{Route: r, Protocol: a.protocol, ScopeLink: a.link}
}

// entry is what the alias is to the reconciler.
func (f *Fake) entry(dst netip.Prefix, a alias) state.Entry {
	r := f.route(dst, a).Route
	text := strings.TrimPrefix(fmt.Sprintf("%s proto %d", r, a.protocol), "route ")
	if a.link {
		text += " scope link"
	}
	if r.Nexthop != 0 {
		text += fmt.Sprintf(" nhid %d", r.Nexthop)
	}
	plain := !a.link
	if len(f.siblings(dst, a)) > 1 {
		plain = false
		text += " multipath"
		r.Via, r.Dev, r.Onlink = netip.Addr{}, "", false // it has several
	}
	dev := f.links[r.Dev]
	ours := a.protocol == ProtoOurs && (dev == nil || !dev.foreign(r.Dev)) // else of whoever has the device
	e := state.Entry{Object: r, Text: text}
	if !plain {
		e.Object = unmanaged[state.Route]{r, text}
	}
	switch {
	case ours && plain:
		return state.Entry{Object: r, Owner: state.Ours}
	case ours:
		e.Owner = state.Ours
	case a.protocol == ProtoBoot:
		e.Owner = state.Adoptable
	}
	return e
}

// The ways to put a route among those of the same destination and metric.
type insertion int

const (
	first   insertion = iota // but not if there is any
	last                     // behind those that there are
	inPlace                  // of the first, if there is any
)

// insert adds a route as the kernel does, and returns the one that it took the
// place of.
func (f *Fake) insert(dst netip.Prefix, a alias, how insertion) (replaced *alias, err error) {
	if dst != dst.Masked() {
		return nil, unix.EINVAL
	}
	if err := f.reachable(a, dst.Addr().Is6()); err != nil {
		return nil, err
	}
	all := f.routes[dst]
	from := slices.IndexFunc(all, func(b alias) bool { return b.metric >= a.metric })
	if from < 0 {
		from = len(all)
	}
	to := from
	for to < len(all) && all[to].metric == a.metric {
		to++
	}
	same := slices.Index(all[from:to], a)
	v6 := dst.Addr().Is6()
	switch {
	case how == first && from < to:
		return nil, unix.EEXIST
	case how == inPlace && from < to:
		if same == 0 && !v6 {
			return nil, nil // no change, and no event
		}
		if same > 0 && !v6 {
			return nil, unix.EEXIST
		}
		gone := f.replaced(dst, all[from:to], a)
		at := slices.Index(all, gone[0])
		f.setRoutes(dst, slices.Insert(without(all, gone), at, a))
		f.tellRoute(dst, a, false)
		return &gone[0], nil
	case same >= 0:
		return nil, unix.EEXIST
	}
	at := from
	if how == last {
		at = to
	}
	f.setRoutes(dst, slices.Insert(slices.Clone(all), at, a))
	f.tellRoute(dst, a, false)
	return nil, nil
}

// reachable returns why no route can go where a goes; nil if it can.
func (f *Fake) reachable(a alias, v6 bool) error {
	if a.nexthop != 0 {
		if _, ok := f.nexthops[a.nexthop]; !ok {
			return unix.EINVAL
		}
		return nil
	}
	if !a.via.IsValid() && a.onlink && !v6 || a.via.IsValid() && a.link {
		return unix.EINVAL
	}
	return f.onLink(a.via, a.dev, a.onlink)
}

// onLink returns why no gateway can be at via on dev; nil if one can. With
// onlink, whoever asks vouches for it.
func (f *Fake) onLink(via netip.Addr, dev string, onlink bool) error {
	l := f.links[dev]
	switch {
	case l == nil:
		return unix.ENODEV
	case !l.up:
		return unix.ENETDOWN
	case !via.IsValid():
		return nil
	}
	if onlink {
		for _, l := range f.links {
			if l.has(via) {
				return unix.EINVAL
			}
		}
		return nil
	}
	for _, p := range l.addrs {
		if p.Contains(via) {
			return nil
		}
	}
	return Addressing(ip.FamilyOf(via)).offLink()
}

// remove deletes the first route to dst that fits, with its siblings if it is named as one
// with several hops.
func (f *Fake) remove(dst netip.Prefix, is alias, fits func(alias) bool) error {
	i := slices.IndexFunc(f.routes[dst], fits)
	if i < 0 {
		return unix.ESRCH
	}
	gone := f.routes[dst][i : i+1]
	if is.dev == "" && is.nexthop == 0 {
		gone = f.siblings(dst, gone[0])
	}
	a := gone[0]
	f.setRoutes(dst, without(f.routes[dst], gone))
	f.tellRoute(dst, a, true)
	return nil
}

func (f *Fake) setRoutes(dst netip.Prefix, aliases []alias) {
	if len(aliases) == 0 {
		delete(f.routes, dst)
		return
	}
	if was := f.routes[dst]; len(was) == 0 || was[0] != aliases[0] {
		f.since[dst] = time.Now()
	}
	f.routes[dst] = aliases
}

// flush drops all routes of a family that go out of dev, but those by nexthop objects.
func (f *Fake) flush(dev string, family func(ip.Family) bool) {
	f.drop(family, func(a alias) bool { return a.dev == dev })
}

// drop drops the routes that fit, to what is of a family. IPv4 tells nobody.
func (f *Fake) drop(family func(ip.Family) bool, fits func(alias) bool) {
	var led []netip.Prefix
	for dst, aliases := range f.routes {
		if family(ip.FamilyOf(dst.Addr())) && slices.ContainsFunc(aliases, fits) {
			led = append(led, dst)
		}
	}
	slices.SortFunc(led, netip.Prefix.Compare)
	for _, dst := range led {
		for _, a := range f.routes[dst] {
			if !fits(a) {
				continue
			}
			f.setRoutes(dst, without(f.routes[dst], []alias{a}))
			if dst.Addr().Is6() {
				f.tellRoute(dst, a, true)
			}
		}
	}
}

func anyFamily(ip.Family) bool { return true }

func only(f ip.Family) func(ip.Family) bool { return func(g ip.Family) bool { return f == g } }

func (f *Fake) tellRoute(dst netip.Prefix, a alias, gone bool) {
	e := dataplane.Event{Defaults: dst.Bits() == 0, Paths: a.protocol != ProtoOurs}
	if a.metric <= state.YieldingMetric {
		e.Entry = f.entry(dst, a)
		e.Key = e.Entry.Object.Key()
		e.Gone = gone
	}
	f.tell(e)
}

func (f *Fake) put(r Route, how insertion) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	_, err := f.insert(r.Dst, aliasOf(r), how)
	return err
}

func aliasOf(r Route) alias {
	if r.Nexthop != 0 {
		return alias{nexthop: r.Nexthop, protocol: r.Protocol, metric: r.Metric}
	}
	return alias{via: r.Via, dev: r.Dev, onlink: r.Onlink, link: r.ScopeLink, protocol: r.Protocol, metric: r.Metric}
}

// fits returns what tells a route that the kernel takes for is: it does not look
// whether that is onlink, nor, if is names no gateway, whether that has one.
func (is alias) fits() func(alias) bool {
	return func(a alias) bool {
		a.onlink = is.onlink
		if !is.via.IsValid() {
			a.via = is.via
		}
		if is.dev == "" && is.nexthop == 0 {
			a.dev = is.dev
		}
		return a == is
	}
}

// AddRoute adds a route to a destination that has none of that metric.
func (f *Fake) AddRoute(r Route) error { return f.put(r, first) }

// AppendRoute adds a route behind others.
func (f *Fake) AppendRoute(r Route) error { return f.put(r, last) }

// ReplaceRoute puts a route in the place of the first to its destination.
func (f *Fake) ReplaceRoute(r Route) error { return f.put(r, inPlace) }

// DelRoute deletes this route, or what the kernel takes for it.
func (f *Fake) DelRoute(r Route) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.remove(r.Dst, aliasOf(r), aliasOf(r).fits())
}
