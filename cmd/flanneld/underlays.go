package main

import (
	"context"
	"fmt"
	"maps"
	"net/netip"

	"k8s.io/klog/v2"

	"flanneld/backend"
	"flanneld/network"
	"flanneld/pkg/ip"
	"flanneld/pkg/once"
	"flanneld/subnet"
)

// underlays has this host have an external interface in each family of a configuration, or
// returns why it has none yet. The keeper alone calls it.
func (d *daemon) underlays(ctx context.Context, c *subnet.Config, s subnet.Snapshot) error {
	d.mu.Lock()
	d.sought = c.Network()
	d.want()
	h := d.host
	d.mu.Unlock()
	for _, f := range c.Network().Families() {
		if h.Of(f).Iface != "" {
			continue
		}
		u, err := d.options.iface.Choose(ctx, d.machine, f, h)
		if err != nil {
			var known []netip.Addr
			if saved, err := d.options.saved(); err == nil {
				known = append(known, saved.Own.PublicIP.Of(f))
			}
			for l := range ownLeases(d.options, d.previous, s.Leases) {
				known = append(known, l.PublicIP.Of(f))
			}
			u, err = d.options.iface.Choose(ctx, d.machine, f, h, known...)
		}
		if err != nil {
			return fmt.Errorf("%s: %w", network.ExternalOf(f), err)
		}
		h.Set(f, u)
		d.found(f, u)
	}
	if h.V4.Iface != "" && h.V6.Iface != "" && h.V4.Iface != h.V6.Iface {
		if text := fmt.Sprintf("IPv4 packets leave by %s, and IPv6 packets by %s; -iface and -iface-ipv6 can name other interfaces", h.V4.Iface, h.V6.Iface); d.log.Event(text) {
			klog.Info(text)
		}
	}
	return nil
}

// found takes the external interface of a family that there was none of.
func (d *daemon) found(f ip.Family, u backend.Underlay) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.host.Of(f).Iface != "" {
		return // meanwhile
	}
	logUnderlay(f, u)
	d.host.Set(f, u)
	d.want()
}

// sawExternal takes the external interface of a family, and why it cannot be seen as it was.
func (d *daemon) sawExternal(f ip.Family, now backend.Underlay, unseen error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	switch was := d.host.Of(f); {
	case !d.wanted.Of(f).IsValid() && was.Iface == "":
		return // it is not any more
	case was.Iface == "":
		logUnderlay(f, now)
		fallthrough
	case was != now:
		d.host.Set(f, now)
		d.updateDesired()
		once.Wake(d.refresh)
	}
	d.publisher.update(func(facts *facts) {
		if c := facts.holding.Config; c != nil {
			facts.host = d.host.For(c.Network())
		}
		facts.unseen = maps.Clone(facts.unseen)
		facts.unseen[f] = unseen
	})
}
