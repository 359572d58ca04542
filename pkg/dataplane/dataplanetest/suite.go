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
	const v4, v6 = ip.V4, ip.V6
	for _, c := range []struct {
		name string
		test func(*fixture)
		only ip.Family // 0 for both
	}{
		{"Create", testCreate, 0},
		{"CreateWhatIsThere", testCreateWhatIsThere, 0},
		{"Replace", testReplace, 0},
		{"ReplaceTakesFirst", testReplaceTakesFirst, v4},
		{"Delete", testDelete, 0},
		{"DeleteIsExact", testDeleteIsExact, 0},
		{"DeleteOddOnes", testDeleteOddOnes, v4},
		{"Batch", testBatch, 0},
		{"BatchOfFailures", testBatchOfFailures, 0},
		{"OffLink", testOffLink, 0},
		{"Adopt", testAdopt, 0},
		{"ForeignBlocks", testForeignBlocks, 0},
		{"ForeignServes", testForeignServes, 0},
		{"UnmarkedReplaced", testUnmarkedReplaced, 0},
		{"ForeignBehind", testForeignBehind, v4},
		{"OursBehindForeign", testOursBehindForeign, v4},
		{"TwoOfOurs", testTwoOfOurs, v4},
		{"Siblings", testSiblings, v6},
		{"SiblingsOfOthers", testSiblingsOfOthers, v6},
		{"DeviceRouteSecond", testDeviceRouteSecond, v6},
		{"OtherMetric", testOtherMetric, 0},
		{"YieldingMetric", testYieldingMetric, 0},
		{"LinkDown", testLinkDown, 0},
		{"LinkDownEvents", testLinkDownEvents, v6},
		{"LinkRecreated", testLinkRecreated, 0},
		{"LastAddressGone", testLastAddressGone, 0},
		{"Nexthop", testNexthop, 0},
		{"NexthopOffLink", testNexthopOffLink, 0},
		{"NexthopReplaced", testNexthopReplaced, 0},
		{"NexthopDeleted", testNexthopDeleted, 0},
		{"NexthopForeign", testNexthopForeign, 0},
		{"NexthopOdd", testNexthopOdd, 0},
		{"NexthopLinkDown", testNexthopLinkDown, 0},
		{"NexthopLinkRecreated", testNexthopLinkRecreated, 0},
		{"NexthopLastAddressGone", testNexthopLastAddressGone, v4},
		{"RouteToAndFromNexthop", testRouteToAndFromNexthop, 0},
		{"RouteByNexthopAdopted", testRouteByNexthopAdopted, 0},
		{"RouteByNexthopDeleteIsExact", testRouteByNexthopDeleteIsExact, v4},
		{"RouteByUnknownNexthop", testRouteByUnknownNexthop, 0},
		{"NexthopBatch", testNexthopBatch, 0},
		{"NexthopEvents", testNexthopEvents, v4},
		{"RouteEvents", testRouteEvents, 0},
		{"LinkEvents", testLinkEvents, 0},
		{"AddressEvents", testAddressEvents, 0},
		{"DefaultRouteEvents", testDefaultRouteEvents, 0},
		{"EventsLost", testEventsLost, 0},
		{"WatchEnds", testWatchEnds, 0},
		{"Device", testDevice, 0},
		{"DeviceFeatures", testDeviceFeatures, 0},
		{"DeviceAtOnce", testDeviceAtOnce, 0},
		{"DeviceLower", testDeviceLower, 0},
		{"DeviceAltered", testDeviceAltered, 0},
		{"DeviceMTU", testDeviceMTU, 0},
		{"DeviceReplaced", testDeviceReplaced, 0},
		{"DeviceOfAnotherKind", testDeviceOfAnotherKind, 0},
		{"DeviceTwice", testDeviceTwice, 0},
		{"DevicesOfOthers", testDevicesOfOthers, 0},
		{"DeviceDown", testDeviceDown, 0},
		{"DeviceHindered", testDeviceHindered, 0},
		{"DeviceDeleted", testDeviceDeleted, 0},
		{"LowerDeleted", testLowerDeleted, 0},
		{"LowerDown", testLowerDown, 0},
		{"DeviceLastAddressGone", testDeviceLastAddressGone, 0},
		{"Onlink", testOnlink, 0},
		{"OnlinkOrNot", testOnlinkOrNot, 0},
		{"DeviceAddr", testDeviceAddr, 0},
		{"DeviceAddrLength", testDeviceAddrLength, v6},
		{"DeviceAddrOfKernel", testDeviceAddrOfKernel, 0},
		{"GatewayElsewhere", testGatewayElsewhere, 0},
		{"DeviceWithoutIPv6", testDeviceWithoutIPv6, v6},
		{"DeviceSmall", testDeviceSmall, v6},
		{"Neigh", testNeigh, 0},
		{"NeighNotPermanent", testNeighNotPermanent, 0},
		{"FDB", testFDB, 0},
		{"FDBAppended", testFDBAppended, 0},
		{"DeviceBatch", testDeviceBatch, 0},
		{"FullDeviceReplaced", testFullDeviceReplaced, 0},
		{"DeviceEvents", testDeviceEvents, 0},
		{"DeviceAddrEvents", testDeviceAddrEvents, 0},
		{"NeighEvents", testNeighEvents, 0},
		{"FDBEvents", testFDBEvents, 0},
		{"OtherDeviceEvents", testOtherDeviceEvents, 0},
		{"OnlinkEvents", testOnlinkEvents, 0},
		{"TUN", testTUN, 0},
		{"TUNAltered", testTUNAltered, 0},
		{"TUNMTU", testTUNMTU, 0},
		{"TUNDown", testTUNDown, 0},
		{"TUNHindered", testTUNHindered, 0},
		{"TUNDeleted", testTUNDeleted, 0},
		{"TUNOfAnotherProcess", testTUNOfAnotherProcess, 0},
		{"TUNFound", testTUNFound, 0},
		{"TUNWithoutAlias", testTUNWithoutAlias, 0},
		{"TUNHeld", testTUNHeld, 0},
		{"TUNInTheWay", testTUNInTheWay, 0},
		{"TUNByAnotherName", testTUNByAnotherName, 0},
		{"TUNEvents", testTUNEvents, 0},
		{"ForeignTUNEvents", testForeignTUNEvents, 0},
		{"DeviceRoute", testDeviceRoute, 0},
		{"DeviceRouteOrNot", testDeviceRouteOrNot, 0},
		{"DeviceRouteDeleted", testDeviceRouteDeleted, v4},
		{"DeviceRouteAdopted", testDeviceRouteAdopted, 0},
		{"DeviceRouteOfLink", testDeviceRouteOfLink, v4},
		{"DeviceRouteEvents", testDeviceRouteEvents, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			for _, family := range ip.Families {
				if c.only != 0 && c.only != family {
					continue
				}
				t.Run(family.String(), func(t *testing.T) {
					r := &fixture{T: t, Addressing: Addressing(family)}
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
	Addressing
	target dataplane.Dataplane
	host   Host
}

// route is ours, or is as ours.
func (a Addressing) route(dst, via string) state.Route {
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
