package main

import (
	"context"
	"time"

	"k8s.io/klog/v2"

	"flanneld/pkg/target"
)

// findInterface waits for the external interface and its address.
func (d *daemon) findInterface(ctx context.Context) error {
	var said string
	for {
		host, err := d.options.iface.Choose(ctx, d.machine)
		if err == nil {
			klog.Infof("using interface %s with address %s and MTU %d; other hosts reach this one at %s", host.Iface, host.Addr, host.MTU, host.PublicIP)
			d.host = host
			return nil
		}
		if err.Error() != said {
			said = err.Error()
			klog.Warningf("waiting for the external interface: %s", said)
			d.systemd.status("waiting for the external interface: " + said)
		}
		if err := sleep(ctx, retryPause); err != nil {
			return err
		}
	}
}

// watchMachine passes the kernel's notifications on, for as long as ctx lasts.
func (d *daemon) watchMachine(ctx context.Context) error {
	for {
		// Whatever passed before the watch was there is to be looked at.
		ready := func() { d.event(target.Event{Lost: true}) }
		err := d.target.Watch(ctx, ready, d.event)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		klog.Errorf("watching the kernel, trying again: %v", err)
		if err := sleep(ctx, retryPause); err != nil {
			return err
		}
	}
}

// event takes a hint from the kernel.
func (d *daemon) event(e target.Event) {
	d.mu.Lock()
	external := e.Lost || e.Iface != "" && (e.Iface == d.host.Iface || d.lostSight != "")
	if e.Lost || e.Iface != "" && (d.podsIface == "" || e.Iface == d.podsIface) {
		poke(d.filters)
	}
	d.mu.Unlock()
	if external {
		poke(d.look)
	}
	if e.Lost || e.Iface != "" {
		poke(d.readdressed)
	}
	if e.Lost || e.Forwarding || e.Iface != "" {
		poke(d.passages)
	}
	d.reconciler.Hint(e)
	if d.paths != nil && (e.Paths || e.Lost || e.Iface != "") {
		d.paths.Rerouted()
	}
}

const (
	// followPause lets the events of one change come in before it is looked at.
	followPause = 10 * time.Millisecond
	// addressPause is how long another address must be the interface's before
	// the peers are told to send there: many changes take one away and bring it
	// back.
	addressPause = 500 * time.Millisecond
)

// follow keeps what is known of the external interface right.
func (d *daemon) follow(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-d.look:
		}
		if err := sleep(ctx, followPause); err != nil {
			return err
		}
		d.mu.Lock()
		before := d.host
		d.mu.Unlock()
		d.reconnect()
		now, err := d.options.iface.Follow(ctx, d.machine, before)
		if err == nil && now.Addr != before.Addr {
			if err := sleep(ctx, addressPause); err != nil {
				return err
			}
			now, err = d.options.iface.Follow(ctx, d.machine, before)
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		d.mu.Lock()
		d.sawInterface(err)
		now.Nexthops, now.TUN, now.Links = d.host.Nexthops, d.host.TUN, d.host.Links
		if now != d.host {
			klog.Infof("the external interface is %s now, with address %s and MTU %d", now.Iface, now.Addr, now.MTU)
			d.host = now
			d.wish()
			poke(d.passages)
			poke(d.refresh)
		}
		d.mu.Unlock()
		poke(d.publish)
		if err != nil { // it may have been the look itself that failed
			time.AfterFunc(retryPause, func() { poke(d.look) })
		}
	}
}

// sawInterface takes why the external interface cannot be seen as it was, or
// nil. The caller holds d.mu.
func (d *daemon) sawInterface(err error) {
	var why string
	if err != nil {
		why = err.Error()
	}
	switch {
	case why == d.lostSight:
	case why != "":
		klog.Errorf("the external interface: %v", err)
	default:
		klog.Info("the external interface is there again")
	}
	d.lostSight = why
}

// poke fills a slot that may be full already.
func poke(slot chan struct{}) {
	select {
	case slot <- struct{}{}:
	default:
	}
}
