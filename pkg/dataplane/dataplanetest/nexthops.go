package dataplanetest

import (
	"fmt"
	"net/netip"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"flanneld/pkg/dataplane"
	"flanneld/pkg/state"
)

// hop is a nexthop object.
type hop struct {
	via      netip.Addr
	dev      string
	onlink   bool
	protocol int
	since    time.Time // when it was last written
	step     bool      // ... by a step
}

func (h hop) nexthop(id uint32) state.Nexthop {
	return state.Nexthop{ID: id, Via: h.via, Dev: h.dev, Onlink: h.onlink}
}

// entry is what the nexthop is to the reconciler.
func (h hop) entry(id uint32) state.Entry {
	n := h.nexthop(id)
	text := fmt.Sprintf("%s proto %d", n, h.protocol)
	e := state.Entry{Object: n, Text: text}
	if !h.via.IsValid() {
		e.Object = unmanaged[state.Nexthop]{n, text}
	}
	if h.protocol == ProtoOurs {
		e.Owner, e.Text = state.Ours, ""
	}
	return e
}

// putNexthop writes a nexthop; one that is there only if it may be replaced.
// Routes that refer to it lead where it says from then on.
func (f *Fake) putNexthop(n Nexthop, replace bool) error {
	if err := f.onLink(n.Via, n.Dev, n.Onlink); err != nil {
		return err
	}
	if _, there := f.nexthops[n.ID]; there && !replace {
		return unix.EEXIST
	}
	f.nexthops[n.ID] = hop{via: n.Via, dev: n.Dev, onlink: n.Onlink, protocol: n.Protocol, since: time.Now()}
	f.tellNexthop(n.ID, false)
	var led []netip.Prefix
	refers := func(a alias) bool { return a.nexthop == n.ID }
	for dst, aliases := range f.routes {
		if slices.ContainsFunc(aliases, refers) {
			led = append(led, dst)
		}
	}
	slices.SortFunc(led, netip.Prefix.Compare)
	for _, dst := range led {
		for _, a := range f.routes[dst] {
			if refers(a) {
				f.tellRoute(dst, a, false)
			}
		}
	}
	return nil
}

// removeNexthop deletes a nexthop, whosever it is, and the routes that refer to
// it. Of those, the kernel tells nothing.
func (f *Fake) removeNexthop(id uint32) error {
	if _, there := f.nexthops[id]; !there {
		return unix.ENOENT
	}
	f.tellNexthop(id, true)
	delete(f.nexthops, id)
	f.drop(anyFamily, func(a alias) bool { return a.nexthop == id })
	return nil
}

// flushNexthops drops the nexthops on dev, and the routes that refer to them.
// The kernel tells nobody.
func (f *Fake) flushNexthops(dev string) {
	for id, h := range f.nexthops {
		if h.dev == dev {
			delete(f.nexthops, id)
		}
	}
	f.drop(anyFamily, func(a alias) bool {
		_, there := f.nexthops[a.nexthop]
		return a.nexthop != 0 && !there
	})
}

func (f *Fake) tellNexthop(id uint32, gone bool) {
	e := f.nexthops[id].entry(id)
	f.tell(dataplane.Event{Key: e.Object.Key(), Entry: e, Gone: gone, Paths: e.Owner != state.Ours})
}

// AddNexthop adds a nexthop of a number that is free.
func (f *Fake) AddNexthop(n Nexthop) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.putNexthop(n, false)
}

// ReplaceNexthop puts a nexthop in the place of the one of its number.
func (f *Fake) ReplaceNexthop(n Nexthop) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.putNexthop(n, true)
}

// DelNexthop deletes a nexthop.
func (f *Fake) DelNexthop(id uint32) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.removeNexthop(id)
}

// Nexthops returns all nexthops.
func (f *Fake) Nexthops() []Nexthop {
	f.mu.Lock()
	defer f.mu.Unlock()
	var all []Nexthop
	for id, h := range f.nexthops {
		all = append(all, Nexthop{h.nexthop(id), h.protocol})
	}
	return all
}
