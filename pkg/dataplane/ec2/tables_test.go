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
	withFixture(t, func(f *fixture) {
		const none = "rtb-0123456789abcdef0"
		names := []string{none}
		var tables []*fakeaws.RouteTable
		for range pageSize + 5 {
			tables = append(tables, f.vpc.AddRouteTable())
			names = append(names, tables[len(tables)-1].ID)
		}
		f.SetLimit(fakeaws.Mutating, fakeaws.Limit{Burst: 1000, Refill: 1000})
		f.desire(names...)
		f.run(pauseFirst / 2)
		if n := len(f.Calls("DescribeRouteTables")); n != 2 {
			t.Errorf("%d calls for two pages", n)
		}
		if len(f.failures()) != 1 || f.failures()[state.CloudRoute{Table: none, Dst: ownDst}.Key()] == nil {
			t.Errorf("failures: %v", f.failures())
		}
		for _, table := range tables {
			f.wantRoute(table, ownDst, f.a.Interface())
		}
	})
}

// A filter has no more values than EC2 takes.
func TestFilterValues(t *testing.T) {
	withFixture(t, func(f *fixture) {
		var names []string
		for range filterValues + 1 {
			names = append(names, f.vpc.AddRouteTable().ID)
		}
		f.SetLimit(fakeaws.Mutating, fakeaws.Limit{Burst: 1000, Refill: 1000})
		f.desire(names...)
		f.run(pauseFirst / 2)
		f.wantFailures(nil)
		for _, c := range f.Calls("DescribeRouteTables") {
			if c.Form.Has("Filter.1.Value.201") {
				t.Error("a filter has too many values")
			}
		}
	})
}

// A table that the configuration has from now on is looked at at once.
func TestNewTable(t *testing.T) {
	withFixture(t, func(f *fixture) {
		f.run(time.Minute + 50*time.Second)
		f.desire(f.vpc.Main.ID, f.table.ID)
		f.pass()
		f.wantFailures(nil)
		f.wantRoute(f.table, ownDst, f.a.Interface())
	})
}

// A table that the configuration has no more is left as it is.
func TestFormerTable(t *testing.T) {
	withFixture(t, func(f *fixture) {
		f.desire(f.vpc.Main.ID, f.table.ID)
		f.run(time.Minute)
		f.desire(f.vpc.Main.ID)
		f.run(3 * time.Minute)
		f.wantFailures(nil)
		f.wantRoute(f.table, ownDst, f.a.Interface())
		if calls := f.Calls("DeleteRoute"); len(calls) != 0 {
			t.Errorf("%v", calls)
		}
	})
}

// A table's own route is not to be changed, wherever it leads.
func TestLocalRoute(t *testing.T) {
	withFixture(t, func(f *fixture) {
		r := state.CloudRoute{Table: f.vpc.Main.ID, Dst: networks[family], Host: f.addr()}
		f.want[r.Key()] = r
		f.run(3 * time.Minute)
		f.wantFailures(map[state.Kind]string{state.KindCloudRoute: "in its place is something that is not ours, to be removed by hand: route " + networks[family].String() + " to local in route table " + f.vpc.Main.ID})
		if calls := f.Calls("ReplaceRoute"); len(calls) != 0 {
			t.Errorf("%v", calls)
		}
	})
}

// What leads nowhere, and never led to a host, is of others.
func TestOtherBlackhole(t *testing.T) {
	withFixture(t, func(f *fixture) {
		f.pass()
		f.stop()
		lost := prefix("10.1.7.0/24")
		f.saw(f.vpc.Main.ID, &table{id: f.vpc.Main.ID, routes: map[netip.Prefix]route{lost: {other: "nat-0123456789abcdef0", blackhole: true}}})
		k := state.CloudRoute{Table: f.vpc.Main.ID, Dst: lost}.Key()
		if e, there := f.have()[k]; there {
			t.Errorf("%+v", e)
		}
	})
}

// What was seen of a table that is gone does not count any more.
func TestTableDeleted(t *testing.T) {
	withFixture(t, func(f *fixture) {
		table := f.vpc.AddRouteTable()
		f.desire(table.ID, f.vpc.Main.ID)
		f.run(time.Minute)
		f.wantFailures(nil)
		f.check(table.Delete())
		f.run(2 * time.Minute)
		f.wantFailures(map[state.Kind]string{state.KindCloudRoute: "route table " + table.ID + " is not known: there is no route table " + table.ID + " in this region"})
		f.check(f.vpc.Main.DeleteRoute(ownDst.String()))
		f.run(2 * time.Minute)
		f.wantRoute(f.vpc.Main, ownDst, f.a.Interface())
		if writes := f.Calls("CreateRoute", "ReplaceRoute", "DeleteRoute"); len(writes) != 3 {
			t.Errorf("%v", writes)
		}
	})
}

// The host's own table may be deleted, and its subnet then have another one.
func TestOwnTableDeleted(t *testing.T) {
	withFixture(t, func(f *fixture) {
		table, subnet := f.vpc.AddRouteTable(), f.a.Interface().Subnet
		f.check(table.Associate(subnet))
		f.desire("")
		f.run(time.Minute)
		f.wantFailures(nil)
		subnet.Dissociate()
		f.check(table.Delete())
		f.run(3 * time.Minute)
		f.wantFailures(nil)
		f.wantRoute(f.vpc.Main, ownDst, f.a.Interface())
	})
}

// EC2 does not let a table lead to another VPC.
func TestTableOfOtherVPC(t *testing.T) {
	withFixture(t, func(f *fixture) {
		other, err := f.AddVPC("10.7.0.0/16")
		f.check(err)
		f.desire(other.Main.ID, f.vpc.Main.ID)
		f.run(20 * time.Minute)
		f.wantFailures(map[state.Kind]string{state.KindCloudRoute: "CreateRoute on " + other.Main.ID +
			": InvalidParameterValue: route table " + other.Main.ID + " and interface " + f.a.Interface().ID + " belong to different networks"})
		f.wantRoute(f.vpc.Main, ownDst, f.a.Interface())
		if n := len(f.Calls("CreateRoute")); n < 10 || n > 40 {
			t.Errorf("%d calls in 20 minutes", n)
		}
	})
}

// Routes that are no routes to an IPv4 network, or come by themselves, are no obstacle
// and stay.
func TestOtherRoutes(t *testing.T) {
	withFixture(t, func(f *fixture) {
		f.check(f.vpc.Main.AddEndpoint("pl-0123456789abcdef0", "vpce-0123456789abcdef0"))
		f.check(f.vpc.Main.Propagate(ownDst.String(), "vgw-0123456789abcdef0"))
		f.check(f.vpc.Main.Propagate(cidr("10.1.9.0/24"), "vgw-0123456789abcdef0"))
		before := f.vpc.Main.Routes()
		f.run(3 * time.Minute)
		f.wantFailures(nil)
		after := f.vpc.Main.Routes()
		if len(after) != len(before)+1 || !slices.Equal(after[:len(before)], before) || after[len(before)].InterfaceID != f.a.Interface().ID {
			t.Errorf("%+v, before %+v", after, before)
		}
		f.peer(f.vpc.Main.ID) // what is propagated is no route of a host
		f.check(f.vpc.Main.Propagate(peerDst.String(), "vgw-0123456789abcdef0"))
		f.run(absentFor + 3*time.Minute)
		if len(f.failures()) != 1 {
			t.Errorf("failures: %v", f.failures())
		}
	})
}

// A route that leads to another interface of this instance is put right, and another
// destination's is not this daemon's business.
func TestOtherInterface(t *testing.T) {
	withFixture(t, func(f *fixture) {
		second, err := f.a.Attach(f.a.Interface().Subnet, f.a.Interface().Addr.Next().Next().Next())
		f.check(err)
		f.check(f.vpc.Main.CreateRoute(ownDst.String(), second.ID))
		f.check(f.vpc.Main.CreateRoute(cidr("10.1.7.0/24"), second.ID))
		f.run(3 * time.Minute)
		f.wantFailures(nil)
		f.wantRoute(f.vpc.Main, ownDst, f.a.Interface())
		f.wantRoute(f.vpc.Main, prefix("10.1.7.0/24"), second)
		if writes := f.Calls("CreateRoute", "ReplaceRoute", "DeleteRoute"); len(writes) != 1 || writes[0].Action != "ReplaceRoute" {
			t.Errorf("%v", writes)
		}
	})
}

// A route of this host's, for a subnet that it has no more, goes.
func TestFormerSubnet(t *testing.T) {
	withFixture(t, func(f *fixture) {
		f.check(f.vpc.Main.CreateRoute(cidr("10.1.7.0/24"), f.a.Interface().ID))
		f.check(f.vpc.Main.CreateRoute(cidr("10.9.0.0/24"), f.a.Interface().ID))
		f.run(3 * time.Minute)
		f.wantFailures(nil)
		if writes := f.Calls("DeleteRoute"); len(writes) != 1 || writes[0].Form.Get(destinationKey()) != cidr("10.1.7.0/24") {
			t.Errorf("%v", writes)
		}
	})
}
