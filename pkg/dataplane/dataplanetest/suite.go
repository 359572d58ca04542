package dataplanetest

import (
	"context"
	"errors"
	"testing"
	"time"

	"flanneld/pkg/dataplane"
	"flanneld/pkg/ip"
	"flanneld/pkg/state"
)

// Suite tests that a target does what its interface promises, as the kernel
// does it. fresh returns a target, and a hand on its host, which has no links.
func Suite(t *testing.T, fresh func(*testing.T) (dataplane.Dataplane, Host)) {
	for _, c := range []struct {
		name string
		test func(*fixture)
	}{
		{"Create", testCreate},
		{"CreateWhatIsThere", testCreateWhatIsThere},
		{"Replace", testReplace},
		{"ReplaceTakesFirst", testReplaceTakesFirst},
		{"Delete", testDelete},
		{"DeleteIsExact", testDeleteIsExact},
		{"DeleteOddOnes", testDeleteOddOnes},
		{"Batch", testBatch},
		{"BatchOfFailures", testBatchOfFailures},
		{"OffLink", testOffLink},
		{"Adopt", testAdopt},
		{"ForeignBlocks", testForeignBlocks},
		{"ForeignServes", testForeignServes},
		{"UnmarkedReplaced", testUnmarkedReplaced},
		{"ForeignBehind", testForeignBehind},
		{"OursBehindForeign", testOursBehindForeign},
		{"TwoOfOurs", testTwoOfOurs},
		{"OtherMetric", testOtherMetric},
		{"YieldingMetric", testYieldingMetric},
		{"LinkDown", testLinkDown},
		{"LinkRecreated", testLinkRecreated},
		{"LastAddressGone", testLastAddressGone},
		{"Nexthop", testNexthop},
		{"NexthopOffLink", testNexthopOffLink},
		{"NexthopReplaced", testNexthopReplaced},
		{"NexthopDeleted", testNexthopDeleted},
		{"NexthopForeign", testNexthopForeign},
		{"NexthopOdd", testNexthopOdd},
		{"NexthopLinkDown", testNexthopLinkDown},
		{"NexthopLinkRecreated", testNexthopLinkRecreated},
		{"NexthopLastAddressGone", testNexthopLastAddressGone},
		{"RouteToAndFromNexthop", testRouteToAndFromNexthop},
		{"RouteByNexthopAdopted", testRouteByNexthopAdopted},
		{"RouteByNexthopDeleteIsExact", testRouteByNexthopDeleteIsExact},
		{"RouteByUnknownNexthop", testRouteByUnknownNexthop},
		{"NexthopBatch", testNexthopBatch},
		{"NexthopEvents", testNexthopEvents},
		{"RouteEvents", testRouteEvents},
		{"LinkEvents", testLinkEvents},
		{"AddressEvents", testAddressEvents},
		{"DefaultRouteEvents", testDefaultRouteEvents},
		{"EventsLost", testEventsLost},
		{"WatchEnds", testWatchEnds},
		{"Device", testDevice},
		{"DeviceFeatures", testDeviceFeatures},
		{"DeviceAtOnce", testDeviceAtOnce},
		{"DeviceLower", testDeviceLower},
		{"DeviceAltered", testDeviceAltered},
		{"DeviceMTU", testDeviceMTU},
		{"DeviceReplaced", testDeviceReplaced},
		{"DeviceOfAnotherKind", testDeviceOfAnotherKind},
		{"DeviceTwice", testDeviceTwice},
		{"DevicesOfOthers", testDevicesOfOthers},
		{"DeviceDown", testDeviceDown},
		{"DeviceHindered", testDeviceHindered},
		{"DeviceDeleted", testDeviceDeleted},
		{"LowerDeleted", testLowerDeleted},
		{"LowerDown", testLowerDown},
		{"DeviceLastAddressGone", testDeviceLastAddressGone},
		{"Onlink", testOnlink},
		{"OnlinkOrNot", testOnlinkOrNot},
		{"DeviceAddr", testDeviceAddr},
		{"Neigh", testNeigh},
		{"NeighNotPermanent", testNeighNotPermanent},
		{"FDB", testFDB},
		{"FDBAppended", testFDBAppended},
		{"DeviceBatch", testDeviceBatch},
		{"FullDeviceReplaced", testFullDeviceReplaced},
		{"DeviceEvents", testDeviceEvents},
		{"DeviceAddrEvents", testDeviceAddrEvents},
		{"NeighEvents", testNeighEvents},
		{"FDBEvents", testFDBEvents},
		{"OtherDeviceEvents", testOtherDeviceEvents},
		{"OnlinkEvents", testOnlinkEvents},
		{"TUN", testTUN},
		{"TUNAltered", testTUNAltered},
		{"TUNMTU", testTUNMTU},
		{"TUNDown", testTUNDown},
		{"TUNHindered", testTUNHindered},
		{"TUNDeleted", testTUNDeleted},
		{"TUNOfAnotherProcess", testTUNOfAnotherProcess},
		{"TUNFound", testTUNFound},
		{"TUNWithoutAlias", testTUNWithoutAlias},
		{"TUNHeld", testTUNHeld},
		{"TUNInTheWay", testTUNInTheWay},
		{"TUNByAnotherName", testTUNByAnotherName},
		{"TUNEvents", testTUNEvents},
		{"ForeignTUNEvents", testForeignTUNEvents},
		{"DeviceRoute", testDeviceRoute},
		{"DeviceRouteOrNot", testDeviceRouteOrNot},
		{"DeviceRouteDeleted", testDeviceRouteDeleted},
		{"DeviceRouteAdopted", testDeviceRouteAdopted},
		{"DeviceRouteOfLink", testDeviceRouteOfLink},
		{"DeviceRouteEvents", testDeviceRouteEvents},
	} {
		t.Run(c.name, func(t *testing.T) {
			for _, family := range ip.Families[:1] {
				t.Run(family.String(), func(t *testing.T) {
					r := &fixture{T: t, addressing: addressing(family)}
					r.target, r.host = fresh(t)
					r.check(r.host.AddLink("eth0"))
					r.check(r.host.AddAddr("eth0", r.prefix("192.168.5.1/24")))
					r.dump()
					c.test(r)
				})
			}
		})
	}
}

// patience is how long to wait for what must come.
const patience = 20 * time.Second

// fixture is a host with one link, eth0, in 192.168.5.0/24, or what stands for that.
type fixture struct {
	*testing.T
	addressing
	target dataplane.Dataplane
	host   Host
}

// route is ours, or is as ours.
func (a addressing) route(dst, via string) state.Route {
	return state.Route{Dst: a.prefix(dst), Via: a.addr(via), Dev: "eth0"}
}

func marked(r state.Route, protocol int) Route { return Route{Route: r, Protocol: protocol} }

func create(o state.Object) state.Op { return state.Op{Verb: state.Create, Want: o} }
func remove(o state.Object) state.Op { return state.Op{Verb: state.Delete, Have: o} }
func replace(have, want state.Object) state.Op {
	return state.Op{Verb: state.Replace, Want: want, Have: have}
}

func (r *fixture) check(err error) {
	r.Helper()
	if err != nil {
		r.Fatal(err)
	}
}

func (r *fixture) dump() state.Observed {
	r.Helper()
	have, err := r.target.Dump(r.Context(), nil)
	r.check(err)
	return have
}

// apply takes steps that must succeed.
func (r *fixture) apply(ops ...state.Op) {
	r.Helper()
	for i, err := range r.target.Apply(r.Context(), ops) {
		if err != nil {
			r.Fatalf("%s: %v", ops[i], err)
		}
	}
}

// refused takes a step that must fail, in the way of want unless that is nil.
func (r *fixture) refused(op state.Op, want error) {
	r.Helper()
	err := r.target.Apply(r.Context(), []state.Op{op})[0]
	if err == nil || want != nil && !errors.Is(err, want) {
		r.Fatalf("%s: %v, want the error %v", op, err, want)
	}
}

// wantEntry checks that a dump holds, under the key of want, just what is
// there, and whose.
func (r *fixture) wantEntry(want state.Object, owner state.Owner, behind bool) {
	r.Helper()
	e, ok := r.dump()[want.Key()]
	if !ok {
		r.Fatalf("%s is not there", want)
	}
	if e.Object != want || e.Owner != owner || (e.Front != nil) != behind {
		r.Fatalf("there is %+v; want %s, owner %d, behind another: %v", e, want, owner, behind)
	}
}

func (r *fixture) wantNone(o state.Object) {
	r.Helper()
	if e, ok := r.dump()[o.Key()]; ok {
		r.Fatalf("there is %+v", e)
	}
}

// diff is what state.Diff makes of one desired state and a fresh dump.
func (r *fixture) diff(want state.Object) ([]state.Op, []state.Blocked) {
	r.Helper()
	k := want.Key()
	return state.Diff(state.Set{k: want}, r.dump(), []state.Key{k}, func(state.Object) bool { return false })
}

// watching is a watch under way.
type watching struct {
	*fixture
	events chan dataplane.Event
	stop   func() error
}

// watch returns once nothing escapes the watch.
func (r *fixture) watch() *watching {
	r.Helper()
	ctx, cancel := context.WithCancel(r.Context())
	w := &watching{fixture: r, events: make(chan dataplane.Event)}
	ready, ended := make(chan struct{}), make(chan error, 1)
	go func() {
		ended <- r.target.Watch(ctx, func() { close(ready) }, func(e dataplane.Event) {
			select {
			case w.events <- e:
			case <-ctx.Done():
			}
		})
	}()
	w.stop = func() error {
		cancel()
		select {
		case err := <-ended:
			ended <- err
			return err
		case <-time.After(patience):
			return errors.New("the watch does not end")
		}
	}
	r.Cleanup(func() { _ = w.stop() })
	select {
	case <-ready:
	case err := <-ended:
		r.Fatal(err)
	}
	return w
}

// expect waits for an event that fits.
func (w *watching) expect(what string, fits func(dataplane.Event) bool) {
	w.Helper()
	timeout := time.After(patience)
	for {
		select {
		case e := <-w.events:
			if fits(e) {
				return
			}
		case <-timeout:
			w.Fatalf("no event for %s", what)
		}
	}
}
