package network

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"flanneld/pkg/dataplane"
	"flanneld/pkg/state"
)

// slowPlane is a dataplane that takes its time for each answer.
type slowPlane struct {
	wirePlane
	takes time.Duration
	err   error // of steps
}

func (s *slowPlane) wait(ctx context.Context) error {
	s.mu.Lock()
	timer := time.NewTimer(s.takes)
	s.mu.Unlock()
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}

func (s *slowPlane) Dump(ctx context.Context, want state.Set) (state.Observed, error) {
	if err := s.wait(ctx); err != nil {
		return nil, err
	}
	return s.wirePlane.Dump(ctx, want)
}

func (s *slowPlane) Apply(ctx context.Context, ops []state.Op) []error {
	if err := s.wait(ctx); err != nil {
		return slices.Repeat([]error{err}, len(ops))
	}
	s.mu.Lock()
	err := s.err
	s.mu.Unlock()
	if err != nil {
		return slices.Repeat([]error{err}, len(ops))
	}
	return s.wirePlane.Apply(ctx, ops)
}

// A dataplane that takes an hour for each answer, or cannot try yet, holds up READY and
// nothing else. Each has the objects of its kinds, and what is not wanted of them goes.
func TestOneDataplaneDoesNotWaitForAnother(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		network := netip.MustParsePrefix("10.5.0.0/16")
		rules := &slowPlane{wirePlane: wirePlane{have: make(state.Observed)}, takes: time.Hour, err: fmt.Errorf("no time: %w", dataplane.ErrPending)}
		kernel := &wirePlane{have: make(state.Observed)}
		old := state.Forward{Backend: state.IPTablesNFT, Network: network}
		rules.put(old, state.Ours)
		kernel.put(route(9, 9), state.Ours)
		var mu sync.Mutex
		var status Status
		r := NewReconciler(func(s Status) {
			mu.Lock()
			defer mu.Unlock()
			status = s
		}, Plane{Dataplane: kernel}, Plane{Dataplane: rules, Kinds: []state.Kind{state.KindMasquerade, state.KindForward}})
		ctx, cancel := context.WithCancel(t.Context())
		var g sync.WaitGroup
		g.Go(func() { _ = r.Run(ctx) })
		defer g.Wait()
		defer cancel()
		w := rulesDesired(t, rulesConfig, Rules{Backend: state.NFTables, Forward: true})
		steps := func(d *wirePlane, want ...string) {
			t.Helper()
			synctest.Wait()
			d.mu.Lock()
			defer d.mu.Unlock()
			if !slices.Equal(d.steps, want) {
				t.Errorf("steps %q, want %q", d.steps, want)
			}
			d.steps = nil
		}
		ready := func(want bool) {
			t.Helper()
			synctest.Wait()
			select {
			case <-r.Ready():
				if !want {
					t.Error("ready")
				}
			default:
				if want {
					t.Error("not ready")
				}
			}
		}
		r.SetDesired(w)
		steps(kernel, "adding "+route(1, 1).String(), "deleting "+route(9, 9).String())
		for i := range 3 { // while the rules are asked for
			w.Peers = append(slices.Clone(w.Peers), lease(2+i, 2+i))
			r.SetDesired(w)
			steps(kernel, "adding "+route(2+i, 2+i).String())
			time.Sleep(time.Minute)
		}
		ready(false)
		time.Sleep(2 * time.Hour) // and they could not be tried
		ready(false)
		steps(&rules.wirePlane)

		rules.mu.Lock()
		rules.takes, rules.err = time.Minute, nil
		rules.mu.Unlock()
		time.Sleep(12 * time.Hour)
		ready(true)
		want := state.Forward{Backend: state.NFTables, Network: network}
		steps(&rules.wirePlane, "adding "+want.String(), "deleting "+old.String())
		mu.Lock()
		defer mu.Unlock()
		if want := (Status{Wanted: 5, Host: w.Host}); status != want {
			t.Errorf("status %+v, want %+v", status, want)
		}
	})
}
