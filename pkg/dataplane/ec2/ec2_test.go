package ec2

import (
	"testing"
	"testing/synctest"
	"time"

	"flanneld/pkg/state"
)

// What is right is left alone, also by a daemon that was started again.
func TestStart(t *testing.T) {
	withFixture(t, func(f *fixture) {
		f.pass()
		f.wantFailures(nil)
		f.wantRoute(f.vpc.Main, ownDst, f.a.Interface())
		if f.a.Interface().SourceDestCheck() {
			t.Error("the check is still on")
		}
		f.wantCalls("DescribeRouteTables", "DescribeNetworkInterfaceAttribute", "ModifyNetworkInterfaceAttribute", "CreateRoute")
		f.pass()
		f.wantCalls()
		time.Sleep(again) // EC2 is to have the last word
		synctest.Wait()
		f.wantCalls("DescribeRouteTables")
		f.start(f.a)
		f.pass()
		f.wantCalls("DescribeRouteTables", "DescribeNetworkInterfaceAttribute")
	})
}

// Nothing is asked where nothing is wanted.
func TestIdle(t *testing.T) {
	withFixture(t, func(f *fixture) {
		f.want = state.Set{}
		f.run(time.Hour)
		f.wantCalls()
		f.desire(f.vpc.Main.ID)
		f.run(time.Minute)
		f.want = state.Set{} // as with another backend
		f.pass()
		f.ForgetCalls()
		f.run(time.Hour)
		f.wantCalls()
	})
}

// Another subnet, and the first one again, is no conflict.
func TestToAndFro(t *testing.T) {
	withFixture(t, func(f *fixture) {
		wanted, before := []state.Set{f.want, {}}, f.vpc.Main.Routes()
		host := f.addr()
		for _, o := range []state.Object{state.CloudInterface{Host: host}, state.CloudRoute{Table: f.vpc.Main.ID, Dst: peerDst, Host: host}} {
			wanted[1][o.Key()] = o
		}
		for i := range 6 * conflictAfter {
			f.want = wanted[i%2]
			f.run(2 * time.Minute)
			f.wantFailures(nil)
			if routes := f.vpc.Main.Routes(); len(routes) != len(before)+1 || routes[len(before)].InterfaceID != f.a.Interface().ID {
				t.Fatalf("%+v", routes)
			}
		}
	})
}

// All tables are looked at in one call a minute; now and then there is one more to find
// out which is the host's own.
func TestSteadyState(t *testing.T) {
	for name, c := range map[string]struct {
		tables func(*fixture) []string
		most   int
	}{
		"named": {func(f *fixture) []string { return []string{f.vpc.Main.ID, f.table.ID} }, 60},
		"own":   {func(*fixture) []string { return []string{""} }, 60 + 6},
	} {
		t.Run(name, func(t *testing.T) {
			withFixture(t, func(f *fixture) {
				f.desire(c.tables(f)...)
				f.run(2 * time.Minute)
				f.ForgetCalls()
				f.run(time.Hour)
				f.wantFailures(nil)
				if n := len(f.Calls("DescribeRouteTables")); n < 45 || n > c.most {
					t.Errorf("%d describes in an hour", n)
				}
				if n, checks := len(f.Calls())-len(f.Calls("DescribeRouteTables")), len(f.Calls("DescribeNetworkInterfaceAttribute")); n != checks || checks < 4 || checks > 6 {
					t.Errorf("%d other calls, of which %d are for the check", n, checks)
				}
			})
		})
	}
}

// The host's own table is the one that is associated with its subnet, or the main one.
func TestOwnTable(t *testing.T) {
	withFixture(t, func(f *fixture) {
		f.desire("")
		f.run(time.Minute)
		f.wantFailures(nil)
		f.wantRoute(f.vpc.Main, ownDst, f.a.Interface())
		f.check(f.table.Associate(f.a.Interface().Subnet))
		f.run(recheck * (period + spread))
		f.wantFailures(nil)
		f.wantRoute(f.table, ownDst, f.a.Interface())
	})
}

func TestRepair(t *testing.T) {
	withFixture(t, func(f *fixture) {
		f.run(2 * time.Minute)
		f.ForgetCalls()
		writes := []string{"CreateRoute", "ReplaceRoute", "DeleteRoute", "ModifyNetworkInterfaceAttribute"}
		for _, c := range []struct {
			harm func() error
			want string
		}{
			{func() error { return f.vpc.Main.DeleteRoute(ownDst.String()) }, "CreateRoute"},
			{func() error { return f.vpc.Main.ReplaceRoute(ownDst.String(), f.b.Interface().ID) }, "ReplaceRoute"},
			{func() error { return f.vpc.Main.ReplaceRoute(ownDst.String(), "igw-00000000000000001") }, "ReplaceRoute"},
		} {
			f.check(c.harm())
			f.run(period + spread + time.Second)
			f.wantRoute(f.vpc.Main, ownDst, f.a.Interface())
			if calls := f.Calls(writes...); len(calls) != 1 || calls[0].Action != c.want {
				t.Errorf("%v, want %s", calls, c.want)
			}
			f.ForgetCalls()
		}
		f.a.Interface().SetSourceDestCheck(true)
		f.run(recheck * (period + spread))
		if f.a.Interface().SourceDestCheck() {
			t.Error("the check is still on")
		}
	})
}

// What EC2 shows is older than what was done.
func TestLag(t *testing.T) {
	withFixture(t, func(f *fixture) {
		f.SetLag(8 * time.Second)
		time.Sleep(10 * time.Second)
		f.run(5 * time.Minute)
		f.wantFailures(nil)
		if calls := f.Calls("CreateRoute", "ReplaceRoute", "ModifyNetworkInterfaceAttribute"); len(calls) != 2 {
			t.Errorf("%v", calls)
		}
		f.b.Stop()
		f.check(f.vpc.Main.CreateRoute(cidr("10.1.7.0/24"), f.b.Interface().ID))
		f.run(5 * time.Minute)
		if calls := f.Calls("DeleteRoute"); len(calls) != 1 {
			t.Errorf("%v", calls)
		}
		// Someone was faster than this host's last look.
		f.check(f.vpc.Main.DeleteRoute(ownDst.String()))
		f.run(2 * (period + spread)) // and EC2 may tell this host late
		f.wantRoute(f.vpc.Main, ownDst, f.a.Interface())
	})
}

// A route that was seen, or not, is otherwise by the time it is changed.
func TestOutrun(t *testing.T) {
	withFixture(t, func(f *fixture) {
		f.pass()
		dst := ownDst.String()
		f.check(f.vpc.Main.DeleteRoute(dst))
		k := state.CloudRoute{Table: f.vpc.Main.ID, Dst: ownDst}.Key()
		f.between(func() { f.tables[k.Scope].routes[ownDst] = route{nic: f.b.Interface().ID} })
		f.ForgetCalls()
		f.pass()
		f.wantFailures(nil)
		f.wantCalls("ReplaceRoute InvalidParameterValue", "CreateRoute")
		f.wantRoute(f.vpc.Main, ownDst, f.a.Interface())

		f.check(f.vpc.Main.ReplaceRoute(dst, f.b.Interface().ID))
		f.between(func() { delete(f.tables[k.Scope].routes, ownDst) })
		f.pass()
		f.wantFailures(nil)
		f.wantCalls("CreateRoute RouteAlreadyExists", "ReplaceRoute")
		f.wantRoute(f.vpc.Main, ownDst, f.a.Interface())
	})
}

// Only what leads nowhere, inside the network, and has no lease goes.
func TestBlackholes(t *testing.T) {
	withFixture(t, func(f *fixture) {
		f.peer(f.vpc.Main.ID)
		for dst, to := range map[string]string{
			cidr("10.1.6.0/24"): f.b.Interface().ID, // has a lease
			cidr("10.1.7.0/24"): f.b.Interface().ID, // has none
			cidr("10.9.0.0/24"): f.b.Interface().ID, // of others
			cidr("10.1.8.0/24"): "igw-00000000000000001",
		} {
			f.check(f.vpc.Main.CreateRoute(dst, to))
		}
		f.run(time.Minute)
		if n := len(made(f.vpc.Main)); n != 4+1 {
			t.Errorf("%d routes: %v", n, f.vpc.Main.Routes())
		}
		f.b.Stop()
		f.run(2 * time.Minute)
		var left []string
		for _, r := range made(f.vpc.Main) {
			left = append(left, r.Dst.String())
		}
		if n := len(left); n != 3+1 {
			t.Errorf("left: %v", left)
		}
		f.between(func() {
			if _, counts := f.tables[f.vpc.Main.ID].expireAt[peerDst]; counts {
				t.Error("the time of a route with a lease has begun to count")
			}
		})
		if calls := f.Calls("DeleteRoute"); len(calls) != 1 || calls[0].Form.Get(destinationKey()) != cidr("10.1.7.0/24") {
			t.Errorf("%v", calls)
		}
	})
}

// The route of another host is not made here. That it is missing is told when it has
// been for long.
func TestMissingPeer(t *testing.T) {
	withFixture(t, func(f *fixture) {
		f.peer(f.vpc.Main.ID)
		f.run(absentFor - 10*time.Second)
		f.wantFailures(nil)
		f.run(2 * time.Minute)
		missing := map[state.Kind]string{state.KindCloudRoute: "for 5m0s there has been no route that leads anywhere: the host with the lease is to keep it, and what its daemon says tells why not"}
		f.wantFailures(missing)
		f.check(f.vpc.Main.CreateRoute(peerDst.String(), f.b.Interface().ID))
		f.run(2 * time.Minute)
		f.wantFailures(nil)
		f.b.Stop()
		f.run(absentFor - period)
		f.wantFailures(nil)
		f.run(4 * time.Minute)
		f.wantFailures(missing)
		f.wantRoute(f.vpc.Main, peerDst, f.b.Interface())
	})
}
