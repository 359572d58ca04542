package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"flanneld/backend"
	"flanneld/pkg/dataplane/kernel"
	"flanneld/pkg/ip"
	"flanneld/pkg/once"
	"flanneld/pkg/printable"
	"flanneld/pkg/state"
	"flanneld/subnet"
)

// prepare makes the backend that a configuration names, and what it wants our
// lease to say.
func (d *daemon) prepare(ctx context.Context, c *subnet.Config, s subnet.Snapshot) (subnet.Attrs, []netip.Prefix, error) {
	b, err := backends.New(c)
	if err != nil {
		return subnet.Attrs{}, nil, err
	}
	if err := d.underlays(ctx, c, s); err != nil {
		return subnet.Attrs{}, nil, err
	}
	if err := d.try(ctx, c, b); err != nil {
		return subnet.Attrs{}, nil, err
	}
	device, err := d.prepareDevice(ctx, c, b)
	if err != nil {
		return subnet.Attrs{}, nil, err
	}
	ifaces, err := d.machine.Interfaces(ctx)
	if err != nil {
		return subnet.Attrs{}, nil, err
	}
	was := d.lastLease(s.Own)
	d.mu.Lock()
	rules := d.prepared.rules // also while there is no lease, so that it is logged once
	d.mu.Unlock()
	if d.rules.chosen(c, rules) { // a program of iptables that hangs holds up nothing else
		once.Wake(d.rules.again)
	} else {
		rules = d.rules.choose(ctx, c, rules, false)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.host.Prepared = device
	host := d.host.For(c.Network())
	if d.addresses.Take(ifaces) {
		d.updateDesired()
	}
	if a := s.Own; a != nil {
		d.external.Request(a.Requested)
		for _, f := range c.Network().Families() {
			if asked := a.Requested.Of(f); asked.IsValid() {
				u := host.Of(f)
				u.PublicIP = asked // before it was looked which interface has it
				host.Set(f, u)
			}
			if err := d.reachedAt(a, f, ifaces); err != nil {
				return subnet.Attrs{}, nil, err
			}
		}
	}
	if err := checkMTU(c, b, host); err != nil {
		return subnet.Attrs{}, nil, err
	}
	attrs, err := b.Attrs(host, d.past(b, host, ifaces, s, was))
	if err != nil {
		return subnet.Attrs{}, nil, err
	}
	attrs.Machine = d.options.source().host(d.options)
	if a := s.Own; a != nil {
		for _, f := range c.Network().Families() {
			if instead := a.Overwrite.Of(f); instead.IsValid() {
				attrs.PublicIP = attrs.PublicIP.With(f, instead)
			}
		}
	}
	d.prepared = setup{c, b, rules}
	return attrs, c.Local(host.Addrs(), host.Net()), nil
}

// checkMTU returns why the MTU is too small for a configuration. Where the interface's is large
// enough for IPv4, IPv6 is what the host lacks.
func checkMTU(c *subnet.Config, b backend.Backend, h backend.Host) error {
	err := backend.CheckMTU(c, b, h)
	four := h.For(ip.Subnet{V4: c.V4.Network})
	if err == nil || errors.As(err, new(*subnet.ConfigError)) || four.V4.Iface == "" || backend.CheckMTU(c, b, four) != nil {
		return err
	}
	return subnet.Lacking{Family: ip.V6, Why: err}
}

// reachedAt reports why this host would not be reached at the address that someone asks for in
// the store, if so. Where an option names the interface it may be one that a NAT translates, as
// that of -public-ip may be.
func (d *daemon) reachedAt(a *subnet.Assignment, f ip.Family, ifaces []kernel.Interface) error {
	asked, suffix := a.Requested.Of(f), ""
	if f == ip.V6 {
		suffix = "v6"
	}
	has := func(i kernel.Interface) bool {
		return slices.ContainsFunc(i.Addrs, func(have kernel.Address) bool { return have.Prefix.Addr() == asked })
	}
	if !asked.IsValid() || d.options.iface.Explicit(f) || slices.ContainsFunc(ifaces, has) {
		return nil
	}
	return fmt.Errorf("the Node %s asks, by its annotation node-public-ip%s, for the address %s, which no interface of this host has: add it to one, or correct the annotation; for an address that a NAT translates there is public-ip%s-overwrite",
		printable.Name(a.Host), suffix, asked, suffix)
}

// try reports why this host would not have what a changed configuration asks for. Of a family that
// our lease is not of yet, what is asked for does not depend on the subnet.
func (d *daemon) try(ctx context.Context, c *subnet.Config, b backend.Backend) error {
	d.mu.Lock()
	had, was, own, h := d.holding.Config, d.current.backend, d.holding.Own, d.host
	d.mu.Unlock()
	if own == nil || c == had {
		return nil
	}
	next := *own
	for _, f := range c.Families() {
		if !next.Subnet.Of(f).IsValid() {
			next.Subnet = next.Subnet.With(f, c.Of(f).Network)
		}
	}
	return d.reconciler.Try(ctx, was.Local(h.For(had.Network()), had.Network(), own), b.Local(h.For(c.Network()), c.Network(), &next))
}

// prepareDevice returns the device that the backend has made on this host; for as long as
// this process runs, it is the same. The keeper alone calls it.
func (d *daemon) prepareDevice(ctx context.Context, c *subnet.Config, b backend.Backend) (string, error) {
	d.mu.Lock()
	has, former := d.host.Prepared, d.networks.all
	d.mu.Unlock()
	p, ok := b.(backend.Preparer)
	if !ok || has != "" {
		return has, nil
	}
	return p.Prepare(ctx, c.Network(), former)
}

// past finds what there is of this host's end of the overlay. What a lease of
// ours says while we run holds, whatever may have happened to the device. The
// caller holds d.mu.
func (d *daemon) past(b backend.Backend, h backend.Host, ifaces []kernel.Interface, s subnet.Snapshot, was subnet.Attrs) backend.Past {
	if d.holding.Own != nil {
		return backend.Past{Lease: d.holding.Own.Attrs}
	}
	p := backend.Past{MACs: make(map[string]state.MAC)}
	for _, f := range ip.Families {
		for _, i := range ifaces {
			if i.Name == b.Device(h, f) && i.VXLAN {
				p.MACs[i.Name] = i.MAC
			}
		}
	}
	if s.Own != nil {
		p.Lease, p.Others = was, slices.DeleteFunc(slices.Clone(s.Leases), func(l *subnet.Lease) bool { return l.Machine == s.Own.Host })
		return p
	}
	for _, l := range s.Leases {
		if !l.PublicIP.Matches(h.PublicIP()) {
			p.Others = append(p.Others, l)
		} else if p.Lease == (subnet.Attrs{}) || l.Subnet == d.previous {
			p.Lease = l.Attrs
		}
	}
	return p
}

// lastLease returns what a store that knows this host by name says of it; or else, as that may
// have been made anew, what this host has saved. The keeper alone calls it.
func (d *daemon) lastLease(own *subnet.Assignment) subnet.Attrs {
	switch {
	case own == nil:
	case own.Published.BackendData != "" || own.Published.BackendV6Data != "":
		return own.Published
	case d.saved != nil:
		if s, err := d.saved(); err == nil {
			return s.Own.Attrs
		}
	}
	return subnet.Attrs{}
}
