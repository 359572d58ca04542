package dataplanetest

import (
	"bytes"
	"maps"
	"net/netip"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"flanneld/pkg/dataplane"
	"flanneld/pkg/ip"
	"flanneld/pkg/state"
)

// neigh is a neighbour entry.
type neigh struct {
	mac       state.MAC
	permanent bool
	since     time.Time // when someone else wrote it; zero if a step did
}

// entry is what the neighbour is to the reconciler.
func (n neigh) entry(dev string, a netip.Addr) state.Entry {
	o := state.Neigh{Dev: dev, Addr: a, MAC: n.mac}
	if !n.permanent {
		text := o.String() + " reachable"
		return state.Entry{Object: unmanaged[state.Neigh]{o, text}, Text: text}
	}
	return state.Entry{Object: o, Owner: state.Ours}
}

// putNeigh writes a neighbour, whatever is there.
func (f *Fake) putNeigh(dev string, a netip.Addr, n neigh) error {
	l := f.links[dev]
	if l == nil {
		return unix.ENODEV
	}
	was, there := l.neighs[a]
	l.neighs[a] = n
	if !there || was.mac != n.mac || was.permanent != n.permanent {
		f.tellNeigh(dev, a, n, false)
	}
	if !n.permanent {
		f.forget(state.NeighKey(dev, a))
	}
	return nil
}

// removeNeigh deletes a neighbour. Before its end the kernel tells that it is of
// no use any more.
func (f *Fake) removeNeigh(dev string, a netip.Addr) error {
	l := f.links[dev]
	if l == nil {
		return unix.ENODEV
	}
	n, there := l.neighs[a]
	if !there {
		return unix.ENOENT
	}
	delete(l.neighs, a)
	f.forget(state.NeighKey(dev, a))
	n.permanent = false
	f.tellNeigh(dev, a, n, false)
	f.tellNeigh(dev, a, n, true)
	return nil
}

// flushNeighs drops the neighbours of a link, the permanent ones too.
func (f *Fake) flushNeighs(dev string) { f.flushFamilyNeighs(dev, anyFamily) }

func (f *Fake) flushFamilyNeighs(dev string, family func(ip.Family) bool) {
	l := f.links[dev]
	for _, a := range slices.SortedFunc(maps.Keys(l.neighs), netip.Addr.Compare) {
		if !family(ip.FamilyOf(a)) {
			continue
		}
		n := l.neighs[a]
		delete(l.neighs, a)
		f.forget(state.NeighKey(dev, a))
		f.tellNeigh(dev, a, n, true)
	}
}

func (f *Fake) tellNeigh(dev string, a netip.Addr, n neigh, gone bool) {
	if f.ours(dev) {
		f.tell(dataplane.Event{Key: state.NeighKey(dev, a), Entry: n.entry(dev, a), Gone: gone})
	}
}

// putFDB writes an FDB entry, whatever is there.
func (f *Fake) putFDB(d state.FDB) error {
	l := f.links[d.Dev]
	switch {
	case l == nil:
		return unix.ENODEV
	case l.vxlan == nil:
		return unix.EOPNOTSUPP
	case d.Dst.Is4() != l.vxlan.Local.Is4():
		return unix.EAFNOSUPPORT
	case l.fdb[d.MAC] == d.Dst:
		return nil
	}
	l.fdb[d.MAC] = d.Dst
	f.tellFDB(d, false)
	return nil
}

// removeFDB deletes exactly this FDB entry. The kernel is silent if there is
// one to elsewhere.
func (f *Fake) removeFDB(d state.FDB) error {
	l := f.links[d.Dev]
	if l == nil {
		return unix.ENODEV
	}
	switch dst, there := l.fdb[d.MAC]; {
	case !there:
		return unix.ENOENT
	case dst != d.Dst:
		return nil
	}
	delete(l.fdb, d.MAC)
	f.forget(d.Key())
	f.tellFDB(d, true)
	return nil
}

func (f *Fake) flushFDB(dev string) {
	for _, d := range f.fdbs(dev) {
		_ = f.removeFDB(d) // it is there
	}
}

func (f *Fake) tellFDB(d state.FDB, gone bool) {
	if f.ours(d.Dev) {
		f.tell(dataplane.Event{Key: d.Key(), Entry: state.Entry{Object: d, Owner: state.Ours}, Gone: gone})
	}
}

// AddNeigh writes a neighbour over whatever is there.
func (f *Fake) AddNeigh(n state.Neigh, permanent bool) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.putNeigh(n.Dev, n.Addr, neigh{n.MAC, permanent, time.Now()})
}

// DelNeigh deletes a neighbour.
func (f *Fake) DelNeigh(dev string, a netip.Addr) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.removeNeigh(dev, a)
}

// AddFDB writes an FDB entry over whatever is there.
func (f *Fake) AddFDB(d state.FDB) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.putFDB(d)
}

// AppendFDB writes an FDB entry if there is none: a kernel keeps more than one
// destination for broadcasts only, and says nothing of that.
func (f *Fake) AppendFDB(d state.FDB) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if l := f.links[d.Dev]; l != nil && l.fdb[d.MAC].IsValid() {
		return nil
	}
	return f.putFDB(d)
}

// DelFDB deletes an FDB entry.
func (f *Fake) DelFDB(d state.FDB) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.removeFDB(d)
}

// Neighs returns the permanent neighbours of a link, by address.
func (f *Fake) Neighs(dev string) []state.Neigh {
	f.mu.Lock()
	defer f.mu.Unlock()
	l := f.links[dev]
	if l == nil {
		return nil
	}
	var all []state.Neigh
	for _, a := range slices.SortedFunc(maps.Keys(l.neighs), netip.Addr.Compare) {
		if n := l.neighs[a]; n.permanent {
			all = append(all, state.Neigh{Dev: dev, Addr: a, MAC: n.mac})
		}
	}
	return all
}

// FDBs returns the FDB entries of a link, by MAC address.
func (f *Fake) FDBs(dev string) []state.FDB {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.fdbs(dev)
}

func (f *Fake) fdbs(dev string) []state.FDB {
	l := f.links[dev]
	if l == nil {
		return nil
	}
	var all []state.FDB
	for m, dst := range l.fdb {
		all = append(all, state.FDB{Dev: dev, MAC: m, Dst: dst})
	}
	slices.SortFunc(all, func(a, b state.FDB) int { return bytes.Compare(a.MAC[:], b.MAC[:]) })
	return all
}
