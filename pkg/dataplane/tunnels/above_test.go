package tunnels

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"testing"
	"time"

	"flanneld/pkg/dataplane"
	"flanneld/pkg/state"
)

// devices is a target that notes what it is asked for.
type devices struct {
	have state.Observed
	err  error // of Dump and Watch
	ops  []state.Op
	emit chan dataplane.Event
}

func (d *devices) Dump(context.Context, state.Set) (state.Observed, error) { return d.have, d.err }

func (d *devices) Apply(_ context.Context, ops []state.Op) []error {
	d.ops = append(d.ops, ops...)
	return slices.Repeat([]error{errors.New("refused")}, len(ops))
}

func (d *devices) Watch(ctx context.Context, ready func(), emit func(dataplane.Event)) error {
	if d.err != nil {
		return d.err
	}
	ready()
	for {
		select {
		case e := <-d.emit:
			emit(e)
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// Each step goes to where its object is, in order, and each error to its step. What is
// below, and whatever happens to it, is seen as well.
func TestAbove(t *testing.T) {
	device := state.TUN{Name: "flannel0"}
	peer := state.TunnelPeer{Dev: "flannel0", Subnet: netip.MustParsePrefix("10.1.2.0/24")}
	below := &devices{have: state.Observed{device.Key(): {Object: device, Owner: state.Ours}}, emit: make(chan dataplane.Event)}
	all := New().Above(below)
	var ops []state.Op
	for _, o := range []state.Object{device, peer, device, device, peer} {
		ops = append(ops, state.Op{Verb: state.Delete, Have: o})
	}
	for i, err := range all.Apply(t.Context(), ops) {
		if refused := ops[i].Have == state.Object(device); (err != nil) != refused {
			t.Errorf("step %d: %v", i, err)
		}
	}
	if len(below.ops) != 3 {
		t.Errorf("steps below: %v", below.ops)
	}
	if have, err := all.Dump(t.Context(), nil); err != nil || have[device.Key()].Object != state.Object(device) {
		t.Errorf("%v, %v", have, err)
	}

	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	ready, events, ended := make(chan struct{}), make(chan dataplane.Event, 1), make(chan error, 1)
	go func() { ended <- all.Watch(ctx, func() { close(ready) }, func(e dataplane.Event) { events <- e }) }()
	<-ready
	below.emit <- dataplane.Event{Iface: "eth0"}
	select {
	case e := <-events:
		if e.Iface != "eth0" {
			t.Errorf("%+v", e)
		}
	case <-time.After(10 * time.Second):
		t.Error("no event")
	}
	cancel()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Error(err)
	}

	below.err = dataplane.ErrIncomplete
	if have, err := all.Dump(t.Context(), nil); !errors.Is(err, below.err) || have != nil {
		t.Errorf("%v, %v", have, err)
	}
	if err := all.Watch(t.Context(), func() { t.Error("ready") }, func(dataplane.Event) {}); !errors.Is(err, below.err) {
		t.Error(err)
	}
}
