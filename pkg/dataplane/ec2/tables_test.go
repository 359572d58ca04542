package ec2

import (
	"net/netip"
	"slices"
	"testing"
	"time"

	"flanneld/pkg/lab/fakeaws"
	"flanneld/pkg/state"
)

// Many tables come in few calls, and one that is not there is no matter to the others.
func TestManyTables(t *testing.T) {
	inWorld(t, func(w *world) {
		const none = "rtb-0123456789abcdef0"
		names := []string{none}
		var tables []*fakeaws.RouteTable
		for range pageSize + 5 {
			tables = append(tables, w.vpc.AddRouteTable())
			names = append(names, tables[len(tables)-1].ID)
		}
		w.SetLimit(fakeaws.Mutating, fakeaws.Limit{Burst: 1000, Refill: 1000})
		w.desire(names...)
		w.run(pauseFirst / 2)
		if n := len(w.Calls("DescribeRouteTables")); n != 2 {
			t.Errorf("%d calls for two pages", n)
		}
		if len(w.failures()) != 1 || w.failures()[state.CloudRoute{Table: none, Dst: ownDst}.Key()] == nil {
			t.Errorf("failures: %v", w.failures())
		}
		for _, table := range tables {
			w.wantRoute(table, ownDst, w.a.Interface())
		}
	})
}

// A filter has no more values than EC2 takes.
func TestFilterValues(t *testing.T) {
	inWorld(t, func(w *world) {
		var names []string
		for range filterValues + 1 {
			names = append(names, w.vpc.AddRouteTable().ID)
		}
		w.SetLimit(fakeaws.Mutating, fakeaws.Limit{Burst: 1000, Refill: 1000})
		w.desire(names...)
		w.run(pauseFirst / 2)
		w.wantFailures(nil)
		for _, c := range w.Calls("DescribeRouteTables") {
			if c.Form.Has("Filter.1.Value.201") {
				t.Error("a filter has too many values")
			}
		}
	})
}

// A table that the configuration has from now on is looked at at once.
func TestNewTable(t *testing.T) {
	inWorld(t, func(w *world) {
		w.run(time.Minute + 50*time.Second)
		w.desire(w.vpc.Main.ID, w.table.ID)
		w.pass()
		w.wantFailures(nil)
		w.wantRoute(w.table, ownDst, w.a.Interface())
	})
}

// A table that the configuration has no more is left as it is.
func TestFormerTable(t *testing.T) {
	inWorld(t, func(w *world) {
		w.desire(w.vpc.Main.ID, w.table.ID)
		w.run(time.Minute)
		w.desire(w.vpc.Main.ID)
		w.run(3 * time.Minute)
		w.wantFailures(nil)
		w.wantRoute(w.table, ownDst, w.a.Interface())
		if calls := w.Calls("DeleteRoute"); len(calls) != 0 {
			t.Errorf("%v", calls)
		}
	})
}

// A table's own route is not to be changed, wherever it leads.
func TestLocalRoute(t *testing.T) {
	inWorld(t, func(w *world) {
		r := state.CloudRoute{Table: w.vpc.Main.ID, Dst: w.vpc.Prefix, Host: w.a.Interface().Addr}
		w.want[r.Key()] = r
		w.run(3 * time.Minute)
		w.wantFailures(map[state.Kind]string{state.KindCloudRoute: "in its place is something that is not ours, to be removed by hand: route 10.0.0.0/16 to local in route table " + w.vpc.Main.ID})
		if calls := w.Calls("ReplaceRoute"); len(calls) != 0 {
			t.Errorf("%v", calls)
		}
	})
}

// What leads nowhere, and never led to a host, is of others.
func TestOtherBlackhole(t *testing.T) {
	inWorld(t, func(w *world) {
		w.pass()
		w.stop()
		lost := netip.MustParsePrefix("10.1.7.0/24")
		w.saw(w.vpc.Main.ID, &table{id: w.vpc.Main.ID, routes: map[netip.Prefix]route{lost: {other: "nat-0123456789abcdef0", blackhole: true}}})
		k := state.CloudRoute{Table: w.vpc.Main.ID, Dst: lost}.Key()
		if e, there := w.have()[k]; there {
			t.Errorf("%+v", e)
		}
	})
}

// What was seen of a table that is gone does not count any more.
func TestTableDeleted(t *testing.T) {
	inWorld(t, func(w *world) {
		table := w.vpc.AddRouteTable()
		w.desire(table.ID, w.vpc.Main.ID)
		w.run(time.Minute)
		w.wantFailures(nil)
		w.check(table.Delete())
		w.run(2 * time.Minute)
		w.wantFailures(map[state.Kind]string{state.KindCloudRoute: "route table " + table.ID + " is not known: there is no route table " + table.ID + " in this region"})
		w.check(w.vpc.Main.DeleteRoute(ownDst.String()))
		w.run(2 * time.Minute)
		w.wantRoute(w.vpc.Main, ownDst, w.a.Interface())
		if writes := w.Calls("CreateRoute", "ReplaceRoute", "DeleteRoute"); len(writes) != 3 {
			t.Errorf("%v", writes)
		}
	})
}

// The host's own table may be deleted, and its subnet then have another one.
func TestOwnTableDeleted(t *testing.T) {
	inWorld(t, func(w *world) {
		table, subnet := w.vpc.AddRouteTable(), w.a.Interface().Subnet
		w.check(table.Associate(subnet))
		w.desire("")
		w.run(time.Minute)
		w.wantFailures(nil)
		subnet.Dissociate()
		w.check(table.Delete())
		w.run(3 * time.Minute)
		w.wantFailures(nil)
		w.wantRoute(w.vpc.Main, ownDst, w.a.Interface())
	})
}

// EC2 does not let a table lead to another VPC.
func TestTableOfOtherVPC(t *testing.T) {
	inWorld(t, func(w *world) {
		other, err := w.AddVPC("10.7.0.0/16")
		w.check(err)
		w.desire(other.Main.ID, w.vpc.Main.ID)
		w.run(20 * time.Minute)
		w.wantFailures(map[state.Kind]string{state.KindCloudRoute: "CreateRoute on " + other.Main.ID +
			": InvalidParameterValue: route table " + other.Main.ID + " and interface " + w.a.Interface().ID + " belong to different networks"})
		w.wantRoute(w.vpc.Main, ownDst, w.a.Interface())
		if n := len(w.Calls("CreateRoute")); n < 10 || n > 40 {
			t.Errorf("%d calls in 20 minutes", n)
		}
	})
}

// Routes that are no routes to an IPv4 network, or come by themselves, are no obstacle
// and stay.
func TestOtherRoutes(t *testing.T) {
	inWorld(t, func(w *world) {
		w.check(w.vpc.Main.AddEndpoint("pl-0123456789abcdef0", "vpce-0123456789abcdef0"))
		w.check(w.vpc.Main.Propagate(ownDst.String(), "vgw-0123456789abcdef0"))
		w.check(w.vpc.Main.Propagate("10.1.9.0/24", "vgw-0123456789abcdef0"))
		before := w.vpc.Main.Routes()
		w.run(3 * time.Minute)
		w.wantFailures(nil)
		after := w.vpc.Main.Routes()
		if len(after) != len(before)+1 || !slices.Equal(after[:len(before)], before) || after[len(before)].InterfaceID != w.a.Interface().ID {
			t.Errorf("%+v, before %+v", after, before)
		}
		w.peer(w.vpc.Main.ID) // what is propagated is no route of a host
		w.check(w.vpc.Main.Propagate(peerDst.String(), "vgw-0123456789abcdef0"))
		w.run(absentFor + 3*time.Minute)
		if len(w.failures()) != 1 {
			t.Errorf("failures: %v", w.failures())
		}
	})
}

// A route that leads to another interface of this instance is put right, and another
// destination's is not this daemon's business.
func TestOtherInterface(t *testing.T) {
	inWorld(t, func(w *world) {
		second, err := w.a.Attach(w.a.Interface().Subnet, w.a.Interface().Addr.Next().Next().Next())
		w.check(err)
		w.check(w.vpc.Main.CreateRoute(ownDst.String(), second.ID))
		w.check(w.vpc.Main.CreateRoute("10.1.7.0/24", second.ID))
		w.run(3 * time.Minute)
		w.wantFailures(nil)
		w.wantRoute(w.vpc.Main, ownDst, w.a.Interface())
		w.wantRoute(w.vpc.Main, netip.MustParsePrefix("10.1.7.0/24"), second)
		if writes := w.Calls("CreateRoute", "ReplaceRoute", "DeleteRoute"); len(writes) != 1 || writes[0].Action != "ReplaceRoute" {
			t.Errorf("%v", writes)
		}
	})
}

// A route of this host's, for a subnet that it has no more, goes.
func TestFormerSubnet(t *testing.T) {
	inWorld(t, func(w *world) {
		w.check(w.vpc.Main.CreateRoute("10.1.7.0/24", w.a.Interface().ID))
		w.check(w.vpc.Main.CreateRoute("10.9.0.0/24", w.a.Interface().ID))
		w.run(3 * time.Minute)
		w.wantFailures(nil)
		if writes := w.Calls("DeleteRoute"); len(writes) != 1 || writes[0].Form.Get("DestinationCidrBlock") != "10.1.7.0/24" {
			t.Errorf("%v", writes)
		}
	})
}
