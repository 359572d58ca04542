package kernel

import (
	"context"
	"errors"
	"fmt"
	"maps"

	"golang.org/x/sys/unix"

	"flanneld/pkg/state"
)

// Dump lists the host's devices whose names are ours, with their IPv4 addresses,
// permanent neighbours and forwarding databases; its routes, those of the main
// table with metric 0; and its nexthop objects.
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
			return nil, fmt.Errorf("listing what device %s has: %w", r.name, err)
		}
	}
	err = fill(ctx, have, state.KindRoute, func() error {
		return dumpRoutes(func(payload []byte) {
			if r, ok := decodeRoute(payload); ok && r.keyed() {
				add(have, r.entry(k.links))
			}
		})
	})
	if err != nil && !errors.Is(err, unix.ENOENT) { // no route was ever in that table
		return nil, fmt.Errorf("listing routes: %w", err)
	}
	err = fill(ctx, have, state.KindNexthop, func() error {
		return dumpNexthops(func(payload []byte) {
			if e, ok := decodeNexthop(payload, k.links); ok {
				have[e.Object.Key()] = e
			}
		})
	})
	if err != nil && !errors.Is(err, unix.EOPNOTSUPP) { // a kernel before 5.3
		return nil, fmt.Errorf("listing nexthops: %w", err)
	}
	return have, nil
}

// fill runs a dump that puts entries of a kind into have, until none is
// interrupted.
func fill(ctx context.Context, have state.Observed, kind state.Kind, dump func() error) error {
	first := true
	return uninterrupted(ctx, func() error {
		if !first {
			maps.DeleteFunc(have, func(k state.Key, _ state.Entry) bool { return k.Kind == kind })
		}
		first = false
		return dump()
	})
}

// dumpDevice puts a device of ours and what belongs to it into have.
func dumpDevice(ctx context.Context, r rawLink, links *links, have state.Observed) error {
	off, err := r.checksumOff()
	if err != nil {
		return err
	}
	have[state.LinkKey(r.name)] = r.entry(links, off)
	if r.foreign {
		return nil
	}
	err = uninterrupted(ctx, func() error {
		return dumpAddrs(unix.AF_INET, r.index, func(a rawAddr) {
			if e, ok := a.entry(links); ok && a.index == r.index {
				addAddr(have, e)
			}
		})
	})
	if err != nil {
		return err
	}
	err = uninterrupted(ctx, func() error {
		return dumpNeighs(r.index, func(n rawNeigh) {
			if e, ok := n.neigh(r.name); ok && e.Owner == state.Ours {
				have[e.Object.Key()] = e
			}
		})
	})
	if err != nil || r.kind != "vxlan" { // others have entries by themselves, none of ours
		return err
	}
	return uninterrupted(ctx, func() error {
		return dumpFDB(r.index, func(n rawNeigh) {
			if e, ok := n.fdb(r.name); ok && e.Owner == state.Ours {
				have[e.Object.Key()] = e
			}
		})
	})
}

// add puts e into have. Of several routes under one key, the kernel lists the one that
// it uses first. add keeps ours if it is there, and notes what is in front of it. What is
// behind is of no consequence.
func add(have state.Observed, e state.Entry) {
	k := e.Object.Key()
	was, there := have[k]
	switch {
	case !there:
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

// dumpRoutes calls f with each route of the main table, as a message's payload.
func dumpRoutes(f func([]byte)) error {
	header := [unix.SizeofRtMsg]byte{0: unix.AF_INET, 4: unix.RT_TABLE_MAIN}
	return dump(unix.RTM_GETROUTE, unix.RTM_NEWROUTE, header[:], f)
}

// dumpNexthops calls f with each nexthop object, as a message's payload.
func dumpNexthops(f func([]byte)) error {
	return dump(unix.RTM_GETNEXTHOP, unix.RTM_NEWNEXTHOP, make([]byte, sizeofNhmsg), f)
}
