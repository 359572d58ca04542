package network

import (
	"context"
	"net/netip"
	"slices"
	"sync"
	"time"

	"k8s.io/klog/v2"

	"flanneld/pkg/dataplane"
	"flanneld/pkg/dataplane/kernel"
	"flanneld/pkg/once"
)

// addressDebounce bounds how often this host's addresses are listed: hundreds of
// interfaces may change at once.
const addressDebounce = time.Second

// Addresses are those of all interfaces of this host: none of them is another host's.
type Addresses struct {
	view    View
	changed func()
	look    chan struct{}

	mu  sync.Mutex
	all []netip.Prefix
}

// NewAddresses returns Addresses that know of none. They call changed, from Run, when there
// are others.
func NewAddresses(view View, changed func()) *Addresses {
	return &Addresses{view: view, changed: changed, look: make(chan struct{}, 1)}
}

// All returns the addresses, with the lengths of their networks.
func (a *Addresses) All() []netip.Prefix {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.all
}

// Event takes an event of the kernel.
func (a *Addresses) Event(e dataplane.Event) {
	if e.Lost || e.Iface != "" {
		once.Wake(a.look)
	}
}

// Run keeps the addresses right until ctx ends, and returns ctx.Err().
func (a *Addresses) Run(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-a.look:
		}
		if err := once.Sleep(ctx, addressDebounce); err != nil {
			return err
		}
		ifaces, err := a.view.Interfaces(ctx)
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case err != nil:
			klog.V(1).Infof("listing this host's addresses, trying again: %v", err)
			once.Wake(a.look)
		case a.Take(ifaces):
			a.changed()
		}
	}
}

// Take takes the addresses of all interfaces, and reports whether there are others than
// before. With each container comes an address that is known on its link only, or one that
// all others have, too.
func (a *Addresses) Take(ifaces []kernel.Interface) (changed bool) {
	var all []netip.Prefix
	for _, i := range ifaces {
		for _, has := range i.Addrs {
			if addr := has.Prefix.Addr(); addr.Is4() || !addr.IsLinkLocalUnicast() {
				all = append(all, has.Prefix)
			}
		}
	}
	slices.SortFunc(all, netip.Prefix.Compare)
	all = slices.Compact(all)
	a.mu.Lock()
	defer a.mu.Unlock()
	changed = !slices.Equal(all, a.all)
	a.all = all
	return changed
}
