package main

import (
	"context"
	"fmt"
	"maps"
	"net/netip"
	"slices"

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
	if c != d.holding.Config { // what is in force is followed anyway, and what is refused goes on being sought
		d.sought = c.Network()
	}
	d.want()
	h := d.host
	d.mu.Unlock()
	families := c.Network().Families()
	absent := make(map[ip.Family]error)
	for _, f := range families {
		if h.Of(f).Iface != "" {
			continue
		}
		u, err := d.options.iface.Choose(ctx, d.machine, f, h)
		if err != nil {
			u, err = d.options.iface.Choose(ctx, d.machine, f, h, inFamily(d.former(s.Leases), f)...)
		}
		if err != nil {
			absent[f] = fmt.Errorf("%s: %w", network.ExternalOf(f), err)
			continue
		}
		logUnderlay(f, u)
		h.Set(f, u)
		d.found(f, u)
	}
	for _, f := range families {
		why := absent[f]
		switch {
		case why == nil:
			continue
		case len(absent) == len(families):
			return why
		}
		// Of a host that was there with the address that it has, and with one of this family, others
		// know both. It goes on as a host does that loses an address while it runs.
		former := slices.DeleteFunc(d.former(s.Leases), func(a ip.Addrs) bool { return !a.Matches(h.PublicIP()) })
		known := inFamily(former, f)
		if len(known) == 0 {
			return subnet.Lacking{Family: f, Why: why}
		}
		u, err := d.options.iface.ChooseLost(ctx, d.machine, f, h, known[0])
		if err != nil {
			return subnet.Lacking{Family: f, Why: why}
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

// former returns the addresses by which this host was reached, as what was saved and its leases say.
// Machines made from one image may have one ID: some may be others'.
func (d *daemon) former(leases []*subnet.Lease) (former []ip.Addrs) {
	if saved, err := d.options.saved(); err == nil {
		former = append(former, saved.Own.PublicIP)
	}
	for l := range ownLeases(d.options, d.previous, leases) {
		former = append(former, l.PublicIP)
	}
	return former
}

// inFamily returns the addresses of a family.
func inFamily(all []ip.Addrs, f ip.Family) (addrs []netip.Addr) {
	for _, a := range all {
		if a := a.Of(f); a.IsValid() {
			addrs = append(addrs, a)
		}
	}
	return addrs
}

// found takes the external interface of a family that there was none of.
func (d *daemon) found(f ip.Family, u backend.Underlay) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.host.Of(f).Iface != "" {
		return // meanwhile
	}
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
