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
		ifaces, err := d.machine.Interfaces(ctx)
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case err == nil:
			d.notices.Over("forwarding")
			d.obstacles.report("passages", closedPassages(ifaces, d.machine.Forwards(), b, host, own.Subnet.V4))
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
func closedPassages(ifaces []kernel.Interface, hostForwards bool, b backend.Backend, host backend.Host, own netip.Prefix) []network.Obstacle {
	var obstacles []network.Obstacle
	var closed []string
	entrances := 0
	device := b.Device(host)
	hasPods := func(i kernel.Interface) bool {
		return slices.ContainsFunc(i.Addrs, func(a kernel.Address) bool { return own.Contains(a.Prefix.Addr()) })
	}
	elsewhere := slices.ContainsFunc(ifaces, func(i kernel.Interface) bool { return i.Up && i.Name != device && hasPods(i) })
	for _, i := range ifaces {
		if i.Name == host.Iface && i.NoCarrier {
			o := network.Obstacle{Subject: i.Name, Problem: "it has no carrier: no packet leaves this host or comes in"}
			if i.ProtoDown {
				o.Remedy = "ip link set " + printable.Word(i.Name) + " protodown off"
			}
			obstacles = append(obstacles, o)
		}
		pods := hasPods(i)
		if pods && !i.Up && !elsewhere {
			obstacles = append(obstacles, network.Obstacle{
				Subject: i.Name, Problem: "it is down, and the pods are behind it", Remedy: "ip link set " + printable.Word(i.Name) + " up",
			})
		}
		if !pods && i.Name != device && (i.Name != host.Iface || !b.Unencapsulated()) {
			continue
		}
		entrances++
		if !i.Forwards {
			closed = append(closed, i.Name)
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
