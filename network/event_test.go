package network

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"flanneld/pkg/dataplane"
	"flanneld/pkg/state"
	"flanneld/subnet"
)

// eventPlane is a dataplane whose events a test sends.
type eventPlane struct {
	wirePlane
	emit  func(dataplane.Event)
	dumps int
	tries int // of steps
	// tried, if set, is called after each try with what it was about.
	tried func(op state.Op)
}

func (d *eventPlane) Dump(ctx context.Context, want state.Set) (state.Observed, error) {
	d.mu.Lock()
	d.dumps++
	d.mu.Unlock()
	return d.wirePlane.Dump(ctx, want)
}

func (d *eventPlane) Apply(ctx context.Context, ops []state.Op) []error {
	errs := d.wirePlane.Apply(ctx, ops)
	d.mu.Lock()
	d.tries += len(ops)
	tried := d.tried
	d.mu.Unlock()
	if tried != nil {
		for _, op := range ops {
			tried(op)
		}
	}
	return errs
}

func (d *eventPlane) Watch(ctx context.Context, ready func(), emit func(dataplane.Event)) error {
	d.mu.Lock()
	d.emit = emit
	d.mu.Unlock()
	return d.wirePlane.Watch(ctx, ready, emit)
}

// counts returns how often it was dumped, and how many steps were tried.
func (d *eventPlane) counts() (dumps, tries int) {
	synctest.Wait()
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.dumps, d.tries
}

func withEventPlane(t *testing.T, f func(t *testing.T, d *eventPlane, r *Reconciler)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		d := &eventPlane{wirePlane: wirePlane{have: make(state.Observed), refused: make(map[state.Key]bool)}}
		r := NewReconciler(func(Status) {}, Plane{Dataplane: d})
		ctx, cancel := context.WithCancel(t.Context())
		var g sync.WaitGroup
		g.Go(func() {
			if err := r.Run(ctx); !errors.Is(err, context.Canceled) {
				t.Error(err)
			}
		})
		defer g.Wait()
		defer cancel()
		synctest.Wait()
		f(t, d, r)
	})
}

// A device that cannot be had comes and goes with each try, which is no reason to try again.
func TestBrokenDeviceIsTriedEverMoreRarely(t *testing.T) {
	withEventPlane(t, func(t *testing.T, d *eventPlane, r *Reconciler) {
		device := state.LinkKey("wire0")
		d.refused[device] = true
		d.tried = func(op state.Op) {
			if op.Key() == device {
				d.emit(dataplane.Event{Key: device, Iface: "wire0", Gone: true})
			}
		}
		r.SetDesired(wireDesired("s"))
		time.Sleep(5 * time.Minute)
		if _, tries := d.counts(); tries < 10 || tries > 30 {
			t.Errorf("it was tried %d times in 5 minutes", tries)
		}
	})
}

// What could not be had is tried at once after events were lost, for what it waits for may be
// there by now, and under another configuration.
func TestFailuresAreTriedAgainAtOnce(t *testing.T) {
	for name, then := range map[string]func(*eventPlane, *Reconciler){
		"events were lost": func(d *eventPlane, _ *Reconciler) { d.emit(dataplane.Event{Lost: true}) },
		"another configuration": func(_ *eventPlane, r *Reconciler) {
			w := desire(lease(1, 1))
			w.Config = &subnet.Config{}
			r.SetDesired(w)
		},
	} {
		withEventPlane(t, func(t *testing.T, d *eventPlane, r *Reconciler) {
			d.refused[route(1, 1).Key()] = true
			r.SetDesired(desire(lease(1, 1)))
			time.Sleep(10 * time.Minute)
			for _, before := d.counts(); ; time.Sleep(time.Second) { // until there is a long pause ahead
				if _, tries := d.counts(); tries > before {
					break
				}
			}
			d.mu.Lock()
			clear(d.refused)
			d.mu.Unlock()
			then(d, r)
			time.Sleep(time.Second)
			d.counts()
			if want := []string{"adding " + route(1, 1).String()}; !slices.Equal(d.steps, want) {
				t.Errorf("%s: steps %q, want %q", name, d.steps, want)
			}
		})
	}
}

// What is left in a network goes as soon as that is ours alone: another daemon has left it.
func TestAnotherNetworkIsOurs(t *testing.T) {
	withEventPlane(t, func(t *testing.T, d *eventPlane, r *Reconciler) {
		other := netip.MustParsePrefix("172.30.0.0/16")
		left := state.Route{Dst: netip.MustParsePrefix("172.30.1.0/24"), Via: peerAddr(2), Dev: "eth0"}
		d.put(left, state.Ours)
		w := desire(lease(1, 1))
		want := []string{"adding " + route(1, 1).String()}
		for range 2 {
			r.SetDesired(w)
			time.Sleep(time.Second)
			d.counts()
			if !slices.Equal(d.steps, want) {
				t.Errorf("steps %q, want %q", d.steps, want)
			}
			w.Networks = append(slices.Clone(w.Networks), other)
			want = append(want, "deleting "+left.String())
		}
	})
}

// What another daemon does in its own network is no reason for a look, though it bears the
// same mark.
func TestEventsOfAnotherDaemon(t *testing.T) {
	withEventPlane(t, func(t *testing.T, d *eventPlane, r *Reconciler) {
		r.SetDesired(desire(lease(1, 1)))
		time.Sleep(time.Second)
		looksAfter := func(dst string) int {
			before, _ := d.counts()
			o := state.Route{Dst: netip.MustParsePrefix(dst), Via: peerAddr(2), Dev: "eth0"}
			d.emit(dataplane.Event{Key: o.Key(), Entry: state.Entry{Object: o, Owner: state.Ours}})
			time.Sleep(time.Second)
			after, _ := d.counts()
			return after - before
		}
		if n := looksAfter("172.30.1.0/24"); n != 0 {
			t.Errorf("%d looks after another daemon's route", n)
		}
		if n := looksAfter("10.9.9.0/24"); n != 1 {
			t.Errorf("%d looks after a route that nobody wants", n)
		}
	})
}
