package main

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"k8s.io/klog/v2"

	"flanneld/backend/udp"
	"flanneld/pkg/dataplane/kernel"
	"flanneld/pkg/once"
	"flanneld/subnet"
)

// addressDebounce bounds how often this host's addresses are listed: hundreds of
// interfaces may change at once.
const addressDebounce = time.Second

// followAddresses keeps what is known of all addresses of this host right: none of them
// is another host's.
func (d *daemon) followAddresses(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-d.readdressed:
		}
		if err := once.Sleep(ctx, addressDebounce); err != nil {
			return err
		}
		ifaces, err := d.machine.Interfaces(ctx)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil {
			klog.V(1).Infof("listing this host's addresses, trying again: %v", err)
			once.Wake(d.readdressed)
			continue
		}
		d.mu.Lock()
		if d.sawAddresses(ifaces) {
			d.updateDesired()
		}
		d.mu.Unlock()
	}
}

// sawAddresses takes the addresses of all interfaces, and reports whether there are
// others than before. With each container comes an address that is known on its link only,
// or one that all others have, too. The caller holds d.mu.
func (d *daemon) sawAddresses(ifaces []kernel.Interface) (changed bool) {
	var all []netip.Prefix
	for _, i := range ifaces {
		for _, a := range i.Addrs {
			if addr := a.Prefix.Addr(); addr.Is4() || !addr.IsLinkLocalUnicast() {
				all = append(all, a.Prefix)
			}
		}
	}
	slices.SortFunc(all, netip.Prefix.Compare)
	all = slices.Compact(all)
	changed = !slices.Equal(all, d.addrs)
	d.addrs = all
	return changed
}

// hostsInside says what does not work on this host because Network holds its own network,
// or a part of that; nothing if it does not.
func (d *daemon) hostsInside(c *subnet.Config) string {
	network, link := c.V4.Network, d.host.Net.V4
	if !network.Overlaps(link) {
		return ""
	}
	text := fmt.Sprintf("Network %s overlaps %s, the network of %s: what pods send there keeps its source, also with -ip-masq, so machines there that run no flanneld cannot answer; and no subnet of a host should hold the address of such a machine, which SubnetMin and SubnetMax can prevent",
		network, link, d.host.Iface)
	if c.BackendType == udp.Type.Name {
		text += fmt.Sprintf("; whatever else is in %s cannot be reached but through the tunnel", network)
	}
	return text
}
