package network

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"flanneld/backend"
	"flanneld/pkg/dataplane"
	"flanneld/pkg/state"
	"flanneld/subnet"
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

// oneLoop is a dataplane with its loop, on a clock that leaps.
func oneLoop(t *testing.T, d dataplane.Dataplane, then func(set func(Desired), ready func() bool)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		r := NewReconciler(func(Status) {}, Plane{Dataplane: d})
		ctx, cancel := context.WithCancel(t.Context())
		var g sync.WaitGroup
		g.Go(func() { _ = r.Run(ctx) })
		defer g.Wait()
		defer cancel()
		synctest.Wait()
		then(func(w Desired) {
			r.SetDesired(w)
			synctest.Wait()
		}, func() bool {
			synctest.Wait()
			select {
			case <-r.Ready():
				return true
			default:
				return false
			}
		})
	})
}

// What is desired otherwise by the time that a slow dataplane comes to it is left alone:
// a lease may have come for what was to be deleted, or have gone for what was to be made.
func TestOutdatedSteps(t *testing.T) {
	for name, config := range map[string]*subnet.Config{"the same configuration": testConfig, "another configuration": {}} {
		d := &slowPlane{wirePlane: wirePlane{have: make(state.Observed)}, takes: time.Minute}
		d.put(route(8, 8), state.Ours)
		d.put(route(9, 9), state.Ours)
		oneLoop(t, d, func(set func(Desired), _ func() bool) {
			set(desire(lease(1, 1), lease(2, 2)))
			time.Sleep(time.Second) // it is asked what is there
			then := desire(lease(2, 2), lease(9, 9))
			then.Config = config
			set(then)
			time.Sleep(time.Hour)
			synctest.Wait()
			want := []string{"adding " + route(2, 2).String(), "deleting " + route(8, 8).String()}
			if !slices.Equal(d.steps, want) {
				t.Errorf("%s: steps %q, want %q", name, d.steps, want)
			}
		})
	}
}

// A dataplane of which nothing could be tried, since another thing was desired by then, has
// not converged.
func TestOutdatedStepsAreNotTried(t *testing.T) {
	d := &slowPlane{wirePlane: wirePlane{have: make(state.Observed)}, takes: time.Minute}
	oneLoop(t, d, func(set func(Desired), ready func() bool) {
		set(desire(lease(1, 1)))
		time.Sleep(time.Second) // it is asked what is there
		set(desire(lease(1, 2)))
		time.Sleep(90 * time.Second) // and asked again
		if ready() {
			t.Error("ready before anything was tried")
		}
		time.Sleep(time.Hour)
		if !ready() {
			t.Error("not ready in the end")
		}
		if want := []string{"adding " + route(1, 2).String()}; !slices.Equal(d.steps, want) {
			t.Errorf("steps %q, want %q", d.steps, want)
		}
	})
}

// READY waits for what could not be had for want of an interface, and for nothing else that
// one of many peers needs.
func TestReadyWaitsForInterfaces(t *testing.T) {
	for _, err := range []error{errors.New("refused"), fmt.Errorf("eth0: %w", dataplane.ErrNoLink)} {
		d := &slowPlane{wirePlane: wirePlane{have: make(state.Observed)}, err: err}
		oneLoop(t, d, func(set func(Desired), ready func() bool) {
			set(desire(lease(1, 1)))
			time.Sleep(time.Minute)
			if want := !errors.Is(err, dataplane.ErrNoLink); ready() != want {
				t.Errorf("%v: ready %t", err, !want)
			}
			d.mu.Lock()
			d.err = nil
			d.mu.Unlock()
			time.Sleep(time.Minute)
			if !ready() {
				t.Errorf("%v: not ready in the end", err)
			}
		})
	}
}

// A daemon that ends while a dataplane is asked, or changed, has not converged.
func TestEndIsNotConvergence(t *testing.T) {
	for _, after := range []time.Duration{time.Second, 61 * time.Second} {
		synctest.Test(t, func(t *testing.T) {
			d := &slowPlane{wirePlane: wirePlane{have: make(state.Observed)}, takes: time.Minute}
			r := NewReconciler(func(s Status) {
				if s.Host != (backend.Host{}) {
					t.Errorf("after %s: status %+v", after, s)
				}
			}, Plane{Dataplane: d})
			ctx, cancel := context.WithTimeout(t.Context(), after)
			defer cancel()
			r.SetDesired(desire(lease(1, 1)))
			if err := r.Run(ctx); !errors.Is(err, context.DeadlineExceeded) {
				t.Error(err)
			}
			select {
			case <-r.Ready():
				t.Errorf("ready when it was ended after %s", after)
			default:
			}
		})
	}
}

// polledPlane is looked at when it says so, and says when a step is to be tried again.
type polledPlane struct {
	wirePlane
	due   time.Time
	later dataplane.Later // of steps, from the beginning on
	dumps int
	tried []time.Duration // when, since it began
	begin time.Time
}

func (p *polledPlane) Due() time.Time { return p.due }

func (p *polledPlane) Dump(ctx context.Context, want state.Set) (state.Observed, error) {
	p.dumps++
	if !time.Now().Before(p.due) {
		p.due = time.Now().Add(time.Minute)
	}
	return p.wirePlane.Dump(ctx, want)
}

func (p *polledPlane) Apply(ctx context.Context, ops []state.Op) []error {
	p.tried = append(p.tried, time.Since(p.begin))
	later := p.later
	if later.After -= time.Since(p.begin); later.After > 0 {
		return slices.Repeat([]error{later}, len(ops))
	}
	return p.wirePlane.Apply(ctx, ops)
}

// A dataplane that reports no changes is looked at when it is due. A step that is for later
// is tried then; one that was not tried also in each pass; and READY waits for one that
// could not be.
func TestPolledDataplane(t *testing.T) {
	const minute = time.Minute
	for name, c := range map[string]struct {
		later dataplane.Later
		want  []time.Duration
		ready bool
	}{
		"for later":    {dataplane.Later{After: 150 * time.Second}, []time.Duration{0, 150 * time.Second}, true},
		"not tried":    {dataplane.Later{After: 150 * time.Second, Untried: true}, []time.Duration{0, minute, 2 * minute, 150 * time.Second}, true},
		"not possible": {dataplane.Later{After: 150 * time.Second, Pending: true}, []time.Duration{0, minute, 2 * minute, 150 * time.Second}, false},
		"no failure":   {dataplane.Later{}, []time.Duration{0}, true},
	} {
		t.Run(name, func(t *testing.T) {
			p := &polledPlane{wirePlane: wirePlane{have: make(state.Observed)}, later: c.later}
			p.later.Err = errors.New("not now")
			oneLoop(t, p, func(set func(Desired), ready func() bool) {
				p.begin = time.Now()
				set(desire(lease(1, 1)))
				if got := ready(); got != c.ready {
					t.Errorf("ready: %t", got)
				}
				time.Sleep(3*minute + time.Second)
				if !ready() {
					t.Error("not ready in the end")
				}
				if !slices.Equal(p.tried, c.want) {
					t.Errorf("tried after %s, want %s", p.tried, c.want)
				}
				if p.dumps < 4 || p.dumps > 5 {
					t.Errorf("%d dumps", p.dumps)
				}
			})
		})
	}
}

// What a dataplane had converged to before there is another configuration does not count.
func TestReadyWithTheConfigurationInForce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		kernel := &wirePlane{have: make(state.Observed)}
		rules := &slowPlane{wirePlane: wirePlane{have: make(state.Observed)}, takes: time.Minute, err: dataplane.Later{Err: errors.New("no time"), Pending: true}}
		r := NewReconciler(func(Status) {}, Plane{Dataplane: kernel}, Plane{Dataplane: rules, Kinds: []state.Kind{state.KindMasquerade, state.KindForward}})
		ctx, cancel := context.WithCancel(t.Context())
		var g sync.WaitGroup
		g.Go(func() { _ = r.Run(ctx) })
		defer g.Wait()
		defer cancel()
		ready := func() bool {
			synctest.Wait()
			select {
			case <-r.Ready():
				return true
			default:
				return false
			}
		}
		w := rulesDesired(t, rulesConfig, Rules{})
		w.Host.V4.Up = true
		down := w
		down.Host.V4.Up = false
		r.SetDesired(down)
		time.Sleep(time.Hour)
		if ready() {
			t.Error("ready while the external interface is down")
		}
		// Nothing was wanted of the rules, and with another configuration there is.
		r.SetDesired(w)
		time.Sleep(time.Millisecond) // the kernel is at once as wanted
		other := *w.Config
		w.Config, w.Rules = &other, Rules{V4: allRules.V4, Forward: true}
		r.SetDesired(w)
		time.Sleep(3 * time.Hour)
		if ready() {
			t.Error("ready without the rules that the configuration asks for")
		}
		rules.mu.Lock()
		rules.err = nil
		rules.mu.Unlock()
		time.Sleep(3 * time.Hour)
		if !ready() {
			t.Error("not ready in the end")
		}
	})
}

// A dataplane that takes an hour for each answer, or cannot try yet, holds up READY and
// nothing else. Each has the objects of its kinds, and what is not wanted of them goes.
func TestOneDataplaneDoesNotWaitForAnother(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		network := netip.MustParsePrefix("10.5.0.0/16")
		rules := &slowPlane{wirePlane: wirePlane{have: make(state.Observed)}, takes: time.Hour, err: dataplane.Later{Err: errors.New("no time"), Pending: true}}
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
		w := rulesDesired(t, rulesConfig, Rules{V4: allRules.V4, Forward: true})
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
