package tunnels

import (
	"context"
	"maps"
	"sync"

	"golang.org/x/sync/errgroup"

	"flanneld/pkg/dataplane"
	"flanneld/pkg/state"
)

// above is tunnels and what has their devices.
type above struct {
	dataplane.Dataplane
	tunnels *Dataplane
}

// Above returns the tunnels and the dataplane that has their devices as one dataplane: tunnels
// begin when there is a device, and routes to it come after that.
func (t *Dataplane) Above(below dataplane.Dataplane) dataplane.Dataplane { return above{below, t} }

// Dump implements dataplane.Dataplane.
func (a above) Dump(ctx context.Context, want state.Set) (state.Observed, error) {
	have, err := a.Dataplane.Dump(ctx, want)
	if err != nil {
		return nil, err
	}
	tunnels, err := a.tunnels.Dump(ctx, want)
	maps.Copy(have, tunnels)
	return have, err
}

// Apply implements dataplane.Dataplane.
func (a above) Apply(ctx context.Context, ops []state.Op) []error {
	errs := make([]error, 0, len(ops))
	for len(ops) > 0 {
		where, row := a.Dataplane, 1
		ours := isOurs(ops[0])
		if ours {
			where = a.tunnels
		}
		for row < len(ops) && isOurs(ops[row]) == ours {
			row++
		}
		errs = append(errs, where.Apply(ctx, ops[:row])...)
		ops = ops[row:]
	}
	return errs
}

// Try implements dataplane.Trier.
func (a above) Try(ctx context.Context, before, after []state.Object) error {
	if t, ok := a.Dataplane.(dataplane.Trier); ok {
		if err := t.Try(ctx, before, after); err != nil {
			return err
		}
	}
	return a.tunnels.Try(ctx, before, after)
}

func isOurs(op state.Op) bool {
	k := op.Kind()
	return k == state.KindTunnel || k == state.KindTunnelPeer
}

// Watch implements dataplane.Dataplane.
func (a above) Watch(ctx context.Context, ready func(), emit func(dataplane.Event)) error {
	g, ctx := errgroup.WithContext(ctx)
	var one sync.Mutex // emit is not called by two at once
	serial := func(e dataplane.Event) {
		one.Lock()
		defer one.Unlock()
		emit(e)
	}
	watched := make(chan struct{})
	g.Go(func() error { return a.tunnels.Watch(ctx, func() { close(watched) }, serial) })
	<-watched // at once
	g.Go(func() error { return a.Dataplane.Watch(ctx, ready, serial) })
	return g.Wait()
}
