package kernel

import (
	"context"
	"errors"
	"fmt"
	"maps"

	"golang.org/x/sys/unix"

	"flanneld/pkg/ip"
	"flanneld/pkg/state"
)

// Dump lists the host's devices whose names are ours, with their addresses,
// permanent neighbours and forwarding databases; its routes, those of the main
// table with a metric that ours have; and its nexthop objects.
func (k *Kernel) Dump(ctx context.Context, _ state.Set) (state.Observed, error) {
	all, ours, err := listLinks(ctx)
	if err != nil {
		return nil, err
	}
	if err := k.deleteTrial(all); err != nil {
		return nil, fmt.Errorf("deleting the device %s: %w", trialName, err)
	}
	k.links = all
	have := make(state.Observed)
	for _, r := range ours {
		err := dumpDevice(ctx, r, k.links, have)
		if errors.Is(err, unix.ENODEV) { // gone since, with all that it had
			maps.DeleteFunc(have, func(k state.Key, _ state.Entry) bool { return k.Scope == r.name })
			delete(k.links.byName, r.name)
			delete(k.links.byIndex, r.index)
		} else if err != nil {
			return nil, fmt.Errorf("device %s: %w", r.name, err)
		}
	}
	for _, f := range ip.Families {
		isRoute := func(k state.Key) bool { return k.Kind == state.KindRoute && ip.FamilyOf(k.Prefix.Addr()) == f }
		err := fill(ctx, have, mainRoutes(f), isRoute, func(payload []byte) {
			if r, ok := decodeRoute(payload); ok && r.keyed() && ip.FamilyOf(r.dst.Addr()) == f {
				add(have, r.entry(k.links))
			}
		})
		if err != nil && !noTable(err) {
			return nil, err
		}
	}
	err = fill(ctx, have, nexthops, func(k state.Key) bool { return k.Kind == state.KindNexthop }, func(payload []byte) {
		if e, ok := decodeNexthop(payload, k.links); ok {
			have[e.Object.Key()] = e
		}
	})
	if err != nil && !errors.Is(err, unix.EOPNOTSUPP) { // a kernel before 5.3
		return nil, err
	}
	return have, nil
}

// fill dumps a table, of which f puts entries into have, with keys that are of it.
func fill(ctx context.Context, have state.Observed, t table, of func(state.Key) bool, f func([]byte)) error {
	return t.dump(ctx, func() {
		maps.DeleteFunc(have, func(k state.Key, _ state.Entry) bool { return of(k) })
	}, f)
}

// noTable reports whether a listing failed for there is nothing: no route was ever in the
// table, or the kernel has no such family.
func noTable(err error) bool {
	return errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.EAFNOSUPPORT)
}

// dumpDevice puts a device of ours and what belongs to it into have.
func dumpDevice(ctx context.Context, r rawLink, links *links, have state.Observed) error {
	off, err := r.checksumOff()
	if err != nil {
		return fmt.Errorf("asking about its checksums: %w", err)
	}
	have[state.LinkKey(r.name)] = r.entry(links, off)
	if r.foreign {
		return nil
	}
	on := func(kind state.Kind) func(state.Key) bool {
		return func(k state.Key) bool { return k.Kind == kind && k.Scope == r.name }
	}
	err = fill(ctx, have, addrs(r.index), on(state.KindAddr), func(payload []byte) {
		if a, ok := decodeAddr(payload); ok && a.index == r.index {
			if e, ok := a.entry(links); ok {
				addAddr(have, e)
			}
		}
	})
	if err != nil {
		return err
	}
	entries := func(t table, kind state.Kind, entry func(rawNeigh, string) (state.Entry, bool)) error {
		return fill(ctx, have, t, on(kind), func(payload []byte) {
			if n, ok := decodeNeigh(payload); ok && n.ifindex == r.index {
				if e, ok := entry(n, r.name); ok && e.Owner == state.Ours {
					have[e.Object.Key()] = e
				}
			}
		})
	}
	err = entries(neighs(r.index), state.KindNeigh, rawNeigh.neigh)
	if err != nil || r.kind != "vxlan" { // others have entries by themselves, none of ours
		return err
	}
	return entries(fdb(r.index), state.KindFDB, rawNeigh.fdb)
}

// add puts e into have. Of several routes under one key, the kernel lists the one that
// it uses first. add keeps ours if it is there, and notes what is in front of it. What is
// behind is of no consequence.
func add(have state.Observed, e state.Entry) {
	k := e.Object.Key()
	was, there := have[k]
	switch {
	case !there:
	case was.Owner == e.Owner && was.Object == e.Object:
		// An IPv6 kernel lists a route again if others come while it lists them.
	case was.Owner == state.Ours && e.Owner == state.Ours:
		// Someone appended a route with our mark. Whichever is wanted, this one
		// goes first: a kernel replaces none by one that is further behind.
		e.Object = unmanaged{Object: as[state.Route](e.Object), text: "a second " + e.Object.String()}
		e.Front = &was
	case was.Owner == state.Ours:
		e = was
	case e.Owner == state.Ours:
		e.Front = &was
	default:
		e = was
	}
	have[k] = e
}

// mainRoutes are a family's routes of the main table. A kernel before 4.20 lists those of all,
// and one without IPv6 those of IPv4 in its place.
func mainRoutes(f ip.Family) table {
	return table{"routes", unix.RTM_GETROUTE, []byte{unix.SizeofRtMsg - 1: 0, 0: numberOf(f), 4: unix.RT_TABLE_MAIN}}
}

// nexthops are all nexthop objects.
var nexthops = table{"nexthops", unix.RTM_GETNEXTHOP, make([]byte, sizeofNhmsg)}
