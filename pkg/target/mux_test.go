package target_test

import (
	"context"
	"errors"
	"maps"
	"net/netip"
	"slices"
	"testing"
	"testing/synctest"

	"flanneld/pkg/state"
	"flanneld/pkg/target"
)

// part is a target that remembers what it is told.
type part struct {
	have    state.Have
	err     error // of each dump and step
	applied []state.Op
	begin   chan struct{} // the watch is ready when this is closed
	events  chan target.Event
}

func (p *part) Dump(context.Context) (state.Have, error) { return maps.Clone(p.have), p.err }

func (p *part) Apply(_ context.Context, ops []state.Op) []error {
	p.applied = append(p.applied, ops...)
	return slices.Repeat([]error{p.err}, len(ops))
}

func (p *part) Watch(ctx context.Context, ready func(), emit func(target.Event)) error {
	select {
	case <-p.begin:
		ready()
	case <-ctx.Done():
	}
	for {
		select {
		case e := <-p.events:
			emit(e)
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// expecter is one that has to be told what is wanted.
type expecter struct {
	part
	want state.Set
}

func (e *expecter) Expect(want state.Set) { e.want = want }

var (
	dst   = netip.MustParsePrefix("10.1.5.0/24")
	route = state.Route{Dst: dst, Dev: "eth0"}
	cloud = state.CloudRoute{Table: "rtb-1", Dst: dst}
	peer  = state.CloudPeer{Table: "rtb-1", Dst: dst}
	rule  = state.Forward{Network: dst}
)

func create(o state.Object) state.Op { return state.Op{Verb: state.Create, Want: o} }

func TestMuxExpect(t *testing.T) {
	var rest, second expecter
	m := target.Mux{Rest: &rest, Parts: []target.Part{{Target: new(part)}, {Target: &second}}}
	want := state.Set{route.Key(): route, cloud.Key(): cloud}
	m.Expect(want)
	if !maps.Equal(rest.want, want) || !maps.Equal(second.want, want) {
		t.Errorf("expected %v and %v", rest.want, second.want)
	}
}

// mux is one with the kinds of three targets.
func mux() (m target.Mux, rest, clouds, rules *part) {
	rest, clouds, rules = new(part), new(part), new(part)
	for _, p := range []*part{rest, clouds, rules} {
		p.begin, p.events = make(chan struct{}), make(chan target.Event)
	}
	return target.Mux{Rest: rest, Parts: []target.Part{
		{Target: clouds, Kinds: []state.Kind{state.KindCloudRoute, state.KindCloudPeer}},
		{Target: rules, Kinds: []state.Kind{state.KindForward}},
	}}, rest, clouds, rules
}

func TestMuxDump(t *testing.T) {
	m, rest, clouds, _ := mux()
	rest.have = state.Have{route.Key(): {Object: route}}
	clouds.have = state.Have{cloud.Key(): {Object: cloud, Owner: state.Ours}}
	have, err := m.Dump(t.Context())
	if err != nil || len(have) != 2 || have[route.Key()] != rest.have[route.Key()] || have[cloud.Key()] != clouds.have[cloud.Key()] {
		t.Errorf("%v, %v", have, err)
	}
	for _, p := range []*part{rest, clouds} {
		p.err = target.ErrIncomplete
		if have, err := m.Dump(t.Context()); !errors.Is(err, target.ErrIncomplete) || have != nil {
			t.Errorf("%v, %v", have, err)
		}
		p.err = nil
	}
}

// Each step goes where its kind is held, in the order of all.
func TestMuxApply(t *testing.T) {
	m, rest, clouds, rules := mux()
	clouds.err = errors.New("no")
	ops := []state.Op{create(route), create(cloud), create(peer), create(rule), {Verb: state.Delete, Have: route}}
	errs := m.Apply(t.Context(), ops)
	if !slices.Equal(errs, []error{nil, clouds.err, clouds.err, nil, nil}) {
		t.Errorf("%v", errs)
	}
	if !slices.Equal(rest.applied, []state.Op{ops[0], ops[4]}) || !slices.Equal(clouds.applied, ops[1:3]) || !slices.Equal(rules.applied, ops[3:4]) {
		t.Errorf("%v; %v; %v", rest.applied, clouds.applied, rules.applied)
	}
}

// The watch is ready when all are, and has the events of all.
func TestMuxWatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, rest, clouds, rules := mux()
		ctx, cancel := context.WithCancel(t.Context())
		ready := make(chan struct{})
		events := make(chan target.Event, 10)
		ended := make(chan error)
		go func() { ended <- m.Watch(ctx, func() { close(ready) }, func(e target.Event) { events <- e }) }()
		for _, p := range []*part{rest, clouds, rules} {
			synctest.Wait()
			select {
			case <-ready:
				t.Error("ready before all are")
			default:
			}
			close(p.begin)
		}
		<-ready
		for _, p := range []*part{rest, clouds, rules} {
			p.events <- target.Event{Key: route.Key()}
			if e := <-events; e.Key != route.Key() {
				t.Errorf("%+v", e)
			}
		}
		cancel()
		if err := <-ended; !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	})
}
