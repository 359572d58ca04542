package main

import (
	"context"
	"fmt"
	"net"
	"slices"
	"time"

	"flanneld/backend"
	"flanneld/pkg/dataplane/kernel"
	"flanneld/pkg/state"
	"flanneld/subnet"
)

// vxlanTrier is a host that can tell whether it would make a device.
type vxlanTrier interface {
	TryVXLAN(ctx context.Context, v state.VXLAN) error
}

// trial is the last one that failed. It makes a device, if only for a moment, which the
// whole host is notified of; so the same is tried ever more rarely.
type trial struct {
	device state.VXLAN
	err    error
	pause  time.Duration
	next   time.Time
}

// trialMost is the longest pause between two trials of the same device.
const trialMost = time.Minute

func (t *trial) of(v state.VXLAN, try func() error) error {
	if t.device != v {
		*t = trial{device: v}
	}
	if t.err != nil && time.Now().Before(t.next) {
		return t.err
	}
	t.err = try()
	t.pause = min(max(2*t.pause, retryPause), trialMost)
	t.next = time.Now().Add(t.pause)
	return t.err
}

// try reports why the kernel refuses, for what others have on this host, the device or the
// socket that a changed configuration asks for. What there is goes before the new comes, so
// it would be missed then.
func (d *daemon) try(ctx context.Context, c *subnet.Config, b backend.Backend) error {
	d.mu.Lock()
	had, was, own, h := d.holding.Config, d.backend, d.holding.Own, d.host
	d.mu.Unlock()
	if own == nil || c == had {
		return nil
	}
	var device state.VXLAN
	var tunnel state.Tunnel
	for _, o := range was.Local(h, had.Network(), own) {
		switch o := o.(type) {
		case state.VXLAN:
			device = o
		case state.Tunnel:
			tunnel = o
		}
	}
	for _, o := range b.Local(h, c.Network(), own) {
		switch o := o.(type) {
		case state.VXLAN:
			trier, ok := d.machine.(vxlanTrier)
			// With another GBP on the same port, ours would be in the way itself.
			same := o.Port == device.Port && (o.VNI == device.VNI || o.GBP != device.GBP)
			if !ok || same || device.Name == "" {
				continue
			}
			ifaces, err := d.machine.Interfaces(ctx)
			if err != nil {
				return err
			}
			if o.Name != device.Name && slices.ContainsFunc(ifaces, func(i kernel.Interface) bool { return i.Name == o.Name }) {
				continue // what bears its name is made over
			}
			if err := d.trial.of(o, func() error { return trier.TryVXLAN(ctx, o) }); err != nil {
				return fmt.Errorf("%s cannot be made: %w", o, err)
			}
		case state.Tunnel:
			if o.Local == tunnel.Local || !tunnel.Local.IsValid() {
				continue
			}
			conn, err := net.ListenUDP("udp4", net.UDPAddrFromAddrPort(o.Local))
			if err != nil {
				return fmt.Errorf("the UDP port %d cannot be had: %w", o.Local.Port(), err)
			}
			_ = conn.Close()
		}
	}
	return nil
}
