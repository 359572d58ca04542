package main

import (
	"context"
	"net/netip"
	"slices"
	"strings"
	"time"

	"k8s.io/klog/v2"

	"flanneld/backend"
	"flanneld/network"
	"flanneld/pkg/dataplane/kernel"
	"flanneld/pkg/once"
	"flanneld/pkg/printable"
)

// passagePause is how long at least it is from one look at the interfaces to the next:
// containers that come and go bring many changes.
const passagePause = 500 * time.Millisecond

// followPassages reports what keeps this host, or interfaces that are not ours, from
// passing packets on.
func (d *daemon) followPassages(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-d.passages:
		}
		if err := once.Sleep(ctx, passagePause); err != nil {
			return err
		}
		d.mu.Lock()
		b, host, own := d.backend, d.host, d.holding.Own
		d.mu.Unlock()
		if own == nil {
			continue
		}
		all, hostForwards, err := d.machine.Passages(ctx)
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case err == nil:
			d.notices.Over("forwarding")
			d.obstacles.report("passages", closedPassages(all, hostForwards, b, host, own.Subnet.V4))
			continue
		case d.notices.State("forwarding", err.Error()):
			klog.Warningf("whether this host forwards packets is not known: %v", err)
		}
		time.AfterFunc(retryPause, func() { once.Wake(d.passages) })
	}
}

// closedPassages returns what keeps packets of the overlay from passing through the
// host. They come in by the interface that pods are behind and, from other hosts, by the
// backend's device or the external interface.
func closedPassages(all []kernel.Passage, hostForwards bool, b backend.Backend, host backend.Host, own netip.Prefix) []network.Obstacle {
	var obstacles []network.Obstacle
	var closed []string
	entrances := 0
	device := b.Device(host)
	hasPods := func(p kernel.Passage) bool {
		return slices.ContainsFunc(p.Addrs, func(a netip.Prefix) bool { return own.Contains(a.Addr()) })
	}
	elsewhere := slices.ContainsFunc(all, func(p kernel.Passage) bool { return p.Up && p.Name != device && hasPods(p) })
	for _, p := range all {
		if p.Name == host.Iface && !p.Carrier {
			o := network.Obstacle{Subject: p.Name, Problem: "it has no carrier: no packet leaves this host or comes in"}
			if p.ProtoDown {
				o.Remedy = "ip link set " + printable.Word(p.Name) + " protodown off"
			}
			obstacles = append(obstacles, o)
		}
		pods := hasPods(p)
		if pods && !p.Up && !elsewhere {
			obstacles = append(obstacles, network.Obstacle{
				Subject: p.Name, Problem: "it is down, and the pods are behind it", Remedy: "ip link set " + printable.Word(p.Name) + " up",
			})
		}
		if !pods && p.Name != device && (p.Name != host.Iface || !b.Unencapsulated()) {
			continue
		}
		entrances++
		if !p.Forwards {
			closed = append(closed, p.Name)
		}
	}
	switch {
	case !hostForwards && (len(closed) > 0 || entrances == 0):
		obstacles = append(obstacles, network.Obstacle{
			Subject: own.String(),
			Problem: "this host forwards no packets: net.ipv4.ip_forward is 0",
			Remedy:  "sysctl -w net.ipv4.ip_forward=1",
		})
	case hostForwards:
		for _, name := range closed {
			setting := "net.ipv4.conf." + strings.ReplaceAll(name, ".", "/") + ".forwarding"
			obstacles = append(obstacles, network.Obstacle{
				Subject: name,
				Problem: "packets that come in there are not forwarded: " + setting + " is 0",
				Remedy:  "sysctl -w " + printable.Word(setting+"=1"),
			})
		}
	}
	return obstacles
}
