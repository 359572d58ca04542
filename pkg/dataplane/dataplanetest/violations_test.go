package dataplanetest

import (
	"errors"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"flanneld/pkg/dataplane"
	"flanneld/pkg/state"
)

// What goes to a host by a device needs a neighbour and an FDB entry, all the
// time; but for what failed, and what is not known yet.
func TestFakeOverlayViolations(t *testing.T) {
	p := v4.peerOf(0)
	refusal := errors.New("no")
	for _, c := range []struct {
		name       string
		does       func(*fixture, *Fake)
		violations int
	}{
		{"in order", func(r *fixture, _ *Fake) {
			r.apply(creations(p.objects()...)...)
			r.apply(replace(p.route, p.plain()), remove(p.nexthop))
			r.apply(remove(p.plain()), remove(p.fdb), remove(p.neigh))
		}, 0},
		{"no neighbour", func(r *fixture, _ *Fake) { r.apply(create(p.fdb), create(p.nexthop)) }, 1},
		{"no FDB entry", func(r *fixture, _ *Fake) { r.apply(create(p.neigh), create(p.plain())) }, 1},
		{"none for the route by nexthop", func(r *fixture, _ *Fake) {
			r.apply(create(p.neigh), create(p.nexthop), create(p.route))
		}, 2},
		{"a neighbour deleted too early", func(r *fixture, _ *Fake) {
			r.apply(creations(p.objects()...)...)
			r.apply(remove(p.neigh))
		}, 1},
		{"an FDB entry deleted too early", func(r *fixture, _ *Fake) {
			r.apply(create(p.neigh), create(p.fdb), create(p.plain()))
			time.Sleep(time.Second)
			r.apply(remove(p.fdb), create(p.fdb))
		}, 1},
		{"another neighbour's", func(r *fixture, _ *Fake) {
			q := p.neigh
			q.MAC[5]++
			r.apply(creations(p.objects()...)...)
			r.apply(replace(p.neigh, q), create(state.FDB{Dev: q.Dev, MAC: q.MAC, Dst: p.fdb.Dst}), remove(p.fdb))
		}, 0},
		{"the neighbour failed", func(r *fixture, f *Fake) {
			f.Refuse(p.neigh.Key(), refusal)
			r.refused(create(p.neigh), refusal)
			r.apply(create(p.fdb), create(p.nexthop), create(p.route))
		}, 0},
		{"the route's end failed", func(r *fixture, f *Fake) {
			r.apply(creations(p.objects()...)...)
			f.Refuse(p.route.Key(), refusal)
			r.refused(remove(p.route), refusal)
			r.apply(remove(p.fdb), remove(p.neigh))
		}, 0},
		{"lost just now", func(r *fixture, f *Fake) {
			r.apply(create(p.neigh), create(p.fdb))
			r.check(f.SetMAC("flannel.1", state.MAC{2, 1}))
			r.apply(create(p.nexthop))
		}, 0},
		{"lost long ago", func(r *fixture, f *Fake) {
			r.apply(create(p.neigh), create(p.fdb))
			r.check(f.SetMAC("flannel.1", state.MAC{2, 1}))
			time.Sleep(time.Second)
			r.apply(create(p.nexthop))
		}, 1},
		{"a learned neighbour deleted", func(r *fixture, f *Fake) {
			r.check(f.AddNeigh(p.neigh, false))
			time.Sleep(time.Second)
			r.apply(remove(p.neigh))
		}, 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := NewFake()
				r := &fixture{T: t, target: f, host: f}
				r.check(f.AddLink("eth0"))
				r.dump()
				r.apply(create(v4.device()))
				c.does(r, f)
				if v := f.Violations(); len(v) != c.violations {
					t.Errorf("violations: %q, want %d", v, c.violations)
				}
			})
		})
	}
}

// The faults do to devices, and what is on them, what they do to routes.
func TestFakeFaults(t *testing.T) {
	f := NewFake()
	r := &fixture{T: t, target: f, host: f}
	r.check(f.AddLink("eth0"))
	r.dump()
	p := v4.peerOf(0)
	all := append([]state.Object{v4.device(), v4.deviceAddr()}, p.objects()...)
	rnd := rand.New(rand.NewPCG(1, 2))
	for _, o := range all {
		f.SetFaults(Faults{Rand: rnd, Refuse: 1})
		r.refused(create(o), nil)
		f.SetFaults(Faults{Rand: rnd, LoseAnswer: 1})
		r.refused(create(o), errAnswerLost)
		f.SetFaults(Faults{})
		r.wantThere(o)
	}
	if got := f.Devices(); !slices.Equal(got, []state.VXLAN{v4.device()}) {
		t.Errorf("devices: %v", got)
	}
	if got := f.DeviceAddrs("flannel.1"); !slices.Equal(got, []netip.Prefix{v4.deviceAddr().Prefix}) {
		t.Errorf("addresses: %v", got)
	}
	if got := f.Neighs("flannel.1"); !slices.Equal(got, []state.Neigh{p.neigh}) {
		t.Errorf("neighbours: %v", got)
	}
	if got := f.FDBs("flannel.1"); !slices.Equal(got, []state.FDB{p.fdb}) {
		t.Errorf("FDB entries: %v", got)
	}
	w := r.watch()
	f.SetFaults(Faults{Rand: rnd, LoseEvent: 1})
	for _, o := range slices.Backward(all) {
		r.apply(remove(o))
		w.expect("a loss", func(e dataplane.Event) bool { return e.Lost })
	}
	f.SetFaults(Faults{Rand: rnd, Interrupt: 1})
	if _, err := f.Dump(t.Context(), nil); !errors.Is(err, dataplane.ErrIncomplete) {
		t.Error(err)
	}
}

// The same history, told twice, is the same.
func TestFakeIsDeterministic(t *testing.T) {
	var told [2][]dataplane.Event
	for i := range told {
		synctest.Test(t, func(t *testing.T) {
			f := NewFake()
			r := &fixture{T: t, target: f, host: f}
			w := &watch{more: make(chan struct{}, 1)}
			f.setWatch(w)
			r.check(f.AddLink("eth0"))
			r.dump()
			r.apply(create(v4.device()), create(v4.deviceAddr()))
			f.SetFaults(Faults{Rand: rand.New(rand.NewPCG(1, 2)), Refuse: 0.1})
			for n := range 30 {
				f.Apply(t.Context(), creations(v4.peerOf(n).objects()...))
			}
			r.check(f.SetMAC("flannel.1", state.MAC{2, 1}))
			r.check(f.DelLink("eth0"))
			told[i] = append(w.queue, dataplane.Event{Lost: w.lost})
		})
	}
	if !slices.Equal(told[0], told[1]) {
		t.Errorf("first %v, then %v", told[0], told[1])
	}
}
