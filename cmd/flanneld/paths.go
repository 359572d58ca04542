package main

import (
	"context"

	"flanneld/network"
	"flanneld/subnet"
)

// newPaths returns what asks the kernel which way packets take; nil if the machine cannot
// tell.
func newPaths(d *daemon, machine host) *network.Paths {
	view, ok := machine.(network.PathView)
	if !ok {
		return nil
	}
	report := func(now []network.Obstacle) { d.obstacles.report("paths", now) }
	return network.NewPaths(view, report, func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		if !d.stopped {
			d.updateDesired()
		}
	})
}

// checkPaths checks which way packets take, once all is in place.
func (d *daemon) checkPaths(ctx context.Context) error {
	if d.paths == nil {
		return nil
	}
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-d.reconciler.Ready():
	}
	return d.paths.Run(ctx)
}

// learnPaths asks the kernel about the hosts of leases before the backend has to know.
func (d *daemon) learnPaths(ctx context.Context, h subnet.Holding) {
	if d.paths == nil {
		return
	}
	d.mu.Lock()
	b, from := d.backend, d.host.Addr.V4
	if h.Config == d.prepared.config {
		b = d.prepared.backend
	}
	d.mu.Unlock()
	d.paths.Learn(ctx, b, from, h.Snapshot.Leases)
}
