package ec2

import (
	"testing"
	"testing/synctest"
	"time"

	"flanneld/pkg/state"
)

// What is right is left alone, also by a daemon that was started again.
func TestStart(t *testing.T) {
	inWorld(t, func(w *world) {
		w.pass()
		w.wantFailures(nil)
		w.wantRoute(w.vpc.Main, ownDst, w.a.Interface())
		if w.a.Interface().SourceDestCheck() {
			t.Error("the check is still on")
		}
		w.wantCalls("DescribeRouteTables", "DescribeNetworkInterfaceAttribute", "ModifyNetworkInterfaceAttribute", "CreateRoute")
		w.pass()
		w.wantCalls()
		time.Sleep(again) // EC2 is to have the last word
		synctest.Wait()
		w.wantCalls("DescribeRouteTables")
		w.start(w.a)
		w.pass()
		w.wantCalls("DescribeRouteTables", "DescribeNetworkInterfaceAttribute")
	})
}

// Nothing is asked where nothing is wanted.
func TestIdle(t *testing.T) {
	inWorld(t, func(w *world) {
		w.want = state.Set{}
		w.run(time.Hour)
		w.wantCalls()
		w.desire(w.vpc.Main.ID)
		w.run(time.Minute)
		w.want = state.Set{} // as with another backend
		w.pass()
		w.ForgetCalls()
		w.run(time.Hour)
		w.wantCalls()
	})
}

// Another subnet, and the first one again, is no conflict.
func TestToAndFro(t *testing.T) {
	inWorld(t, func(w *world) {
		wanted := []state.Set{w.want, {}}
		host := w.a.Interface().Addr
		for _, o := range []state.Object{state.CloudInterface{Host: host}, state.CloudRoute{Table: w.vpc.Main.ID, Dst: peerDst, Host: host}} {
			wanted[1][o.Key()] = o
		}
		for i := range 6 * conflictAfter {
			w.want = wanted[i%2]
			w.run(2 * time.Minute)
			w.wantFailures(nil)
			if routes := w.vpc.Main.Routes(); len(routes) != 2 || routes[1].InterfaceID != w.a.Interface().ID {
				t.Fatalf("%+v", routes)
			}
		}
	})
}

// All tables are looked at in one call a minute; now and then there is one more to find
// out which is the host's own.
func TestSteadyState(t *testing.T) {
	for name, c := range map[string]struct {
		tables func(*world) []string
		most   int
	}{
		"named": {func(w *world) []string { return []string{w.vpc.Main.ID, w.table.ID} }, 60},
		"own":   {func(*world) []string { return []string{""} }, 60 + 6},
	} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, func(w *world) {
				w.desire(c.tables(w)...)
				w.run(2 * time.Minute)
				w.ForgetCalls()
				w.run(time.Hour)
				w.wantFailures(nil)
				if n := len(w.Calls("DescribeRouteTables")); n < 45 || n > c.most {
					t.Errorf("%d describes in an hour", n)
				}
				if n, checks := len(w.Calls())-len(w.Calls("DescribeRouteTables")), len(w.Calls("DescribeNetworkInterfaceAttribute")); n != checks || checks < 4 || checks > 6 {
					t.Errorf("%d other calls, of which %d are for the check", n, checks)
				}
			})
		})
	}
}

// The host's own table is the one that is associated with its subnet, or the main one.
func TestOwnTable(t *testing.T) {
	inWorld(t, func(w *world) {
		w.desire("")
		w.run(time.Minute)
		w.wantFailures(nil)
		w.wantRoute(w.vpc.Main, ownDst, w.a.Interface())
		w.check(w.table.Associate(w.a.Interface().Subnet))
		w.run(recheck * (period + spread))
		w.wantFailures(nil)
		w.wantRoute(w.table, ownDst, w.a.Interface())
	})
}

func TestRepair(t *testing.T) {
	inWorld(t, func(w *world) {
		w.run(2 * time.Minute)
		w.ForgetCalls()
		writes := []string{"CreateRoute", "ReplaceRoute", "DeleteRoute", "ModifyNetworkInterfaceAttribute"}
		for _, c := range []struct {
			harm func() error
			want string
		}{
			{func() error { return w.vpc.Main.DeleteRoute(ownDst.String()) }, "CreateRoute"},
			{func() error { return w.vpc.Main.ReplaceRoute(ownDst.String(), w.b.Interface().ID) }, "ReplaceRoute"},
			{func() error { return w.vpc.Main.ReplaceRoute(ownDst.String(), "igw-00000000000000001") }, "ReplaceRoute"},
		} {
			w.check(c.harm())
			w.run(period + spread + time.Second)
			w.wantRoute(w.vpc.Main, ownDst, w.a.Interface())
			if calls := w.Calls(writes...); len(calls) != 1 || calls[0].Action != c.want {
				t.Errorf("%v, want %s", calls, c.want)
			}
			w.ForgetCalls()
		}
		w.a.Interface().SetSourceDestCheck(true)
		w.run(recheck * (period + spread))
		if w.a.Interface().SourceDestCheck() {
			t.Error("the check is still on")
		}
	})
}

// What EC2 shows is older than what was done.
func TestLag(t *testing.T) {
	inWorld(t, func(w *world) {
		w.SetLag(8 * time.Second)
		time.Sleep(10 * time.Second)
		w.run(5 * time.Minute)
		w.wantFailures(nil)
		if calls := w.Calls("CreateRoute", "ReplaceRoute", "ModifyNetworkInterfaceAttribute"); len(calls) != 2 {
			t.Errorf("%v", calls)
		}
		w.b.Stop()
		w.check(w.vpc.Main.CreateRoute("10.1.7.0/24", w.b.Interface().ID))
		w.run(5 * time.Minute)
		if calls := w.Calls("DeleteRoute"); len(calls) != 1 {
			t.Errorf("%v", calls)
		}
		// Someone was faster than this host's last look.
		w.check(w.vpc.Main.DeleteRoute(ownDst.String()))
		w.run(2 * (period + spread)) // and EC2 may tell this host late
		w.wantRoute(w.vpc.Main, ownDst, w.a.Interface())
	})
}

// A route that was seen, or not, is otherwise by the time it is changed.
func TestOutrun(t *testing.T) {
	inWorld(t, func(w *world) {
		w.pass()
		dst := ownDst.String()
		w.check(w.vpc.Main.DeleteRoute(dst))
		k := state.CloudRoute{Table: w.vpc.Main.ID, Dst: ownDst}.Key()
		w.between(func() { w.tables[k.Scope].routes[ownDst] = route{nic: w.b.Interface().ID} })
		w.ForgetCalls()
		w.pass()
		w.wantFailures(nil)
		w.wantCalls("ReplaceRoute InvalidParameterValue", "CreateRoute")
		w.wantRoute(w.vpc.Main, ownDst, w.a.Interface())

		w.check(w.vpc.Main.ReplaceRoute(dst, w.b.Interface().ID))
		w.between(func() { delete(w.tables[k.Scope].routes, ownDst) })
		w.pass()
		w.wantFailures(nil)
		w.wantCalls("CreateRoute RouteAlreadyExists", "ReplaceRoute")
		w.wantRoute(w.vpc.Main, ownDst, w.a.Interface())
	})
}

// Only what leads nowhere, inside the network, and has no lease goes.
func TestBlackholes(t *testing.T) {
	inWorld(t, func(w *world) {
		w.peer(w.vpc.Main.ID)
		for dst, to := range map[string]string{
			"10.1.6.0/24": w.b.Interface().ID, // has a lease
			"10.1.7.0/24": w.b.Interface().ID, // has none
			"10.9.0.0/24": w.b.Interface().ID, // of others
			"10.1.8.0/24": "igw-00000000000000001",
		} {
			w.check(w.vpc.Main.CreateRoute(dst, to))
		}
		w.run(time.Minute)
		if n := len(w.vpc.Main.Routes()); n != 1+4+1 {
			t.Errorf("%d routes: %v", n, w.vpc.Main.Routes())
		}
		w.b.Stop()
		w.run(2 * time.Minute)
		var left []string
		for _, r := range w.vpc.Main.Routes() {
			left = append(left, r.Dst.String())
		}
		if n := len(left); n != 1+3+1 {
			t.Errorf("left: %v", left)
		}
		w.between(func() {
			if _, counts := w.tables[w.vpc.Main.ID].expireAt[peerDst]; counts {
				t.Error("the time of a route with a lease has begun to count")
			}
		})
		if calls := w.Calls("DeleteRoute"); len(calls) != 1 || calls[0].Form.Get("DestinationCidrBlock") != "10.1.7.0/24" {
			t.Errorf("%v", calls)
		}
	})
}

// The route of another host is not made here. That it is missing is told when it has
// been for long.
func TestMissingPeer(t *testing.T) {
	inWorld(t, func(w *world) {
		w.peer(w.vpc.Main.ID)
		w.run(absentFor - 10*time.Second)
		w.wantFailures(nil)
		w.run(2 * time.Minute)
		missing := map[state.Kind]string{state.KindCloudRoute: "for 5m0s there has been no route that leads anywhere: the host with the lease is to keep it, and what its daemon says tells why not"}
		w.wantFailures(missing)
		w.check(w.vpc.Main.CreateRoute(peerDst.String(), w.b.Interface().ID))
		w.run(2 * time.Minute)
		w.wantFailures(nil)
		w.b.Stop()
		w.run(absentFor - period)
		w.wantFailures(nil)
		w.run(4 * time.Minute)
		w.wantFailures(missing)
		w.wantRoute(w.vpc.Main, peerDst, w.b.Interface())
	})
}
