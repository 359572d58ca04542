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
)

// addressDebounce bounds how often this host's addresses are listed: hundreds of
// interfaces may change at once.
const addressDebounce = time.Second

// Addresses are those of all interfaces of this host: none of them is another host's.
type Addresses struct {
	lookout
	view    View
	changed func()

	mu  sync.Mutex
	all []netip.Prefix
}

// NewAddresses returns Addresses that know of none. They call changed, from Run, when there
// are others.
func NewAddresses(view View, changed func()) *Addresses {
	return &Addresses{view: view, changed: changed, lookout: lookout{
		woken: make(chan struct{}, 1), quiet: addressDebounce, longest: addressDebounce, retry: addressDebounce,
		logf: klog.V(1).Infof, failed: "listing this host's addresses, trying again: %v",
	}}
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
		a.wake()
	}
}

// Run keeps the addresses right until ctx ends, and returns ctx.Err().
func (a *Addresses) Run(ctx context.Context) error {
	return a.run(ctx, func(ctx context.Context) (rest time.Duration, err error) {
		ifaces, err := a.view.Interfaces(ctx)
		if err == nil && a.Take(ifaces) {
			a.changed()
		}
		return 0, err
	})
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
