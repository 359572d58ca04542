package ec2

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"flanneld/pkg/ip"
	"flanneld/pkg/lab/fakeaws"
	"flanneld/pkg/state"
)

// withBoth runs a test in a VPC of both families, or of IPv4 alone.
func withBoth(t *testing.T, six bool, fn func(*fixture)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		setFamily(ip.V4)
		if six {
			setFamily(ip.V6)
		}
		f := newFixture(t, fakeaws.Options{})
		fn(f)
		f.stop()
	})
}

// addrs are the addresses of an interface.
func addrs(n *fakeaws.Interface) ip.Addrs { return ip.Addrs{V4: n.In(ip.V4), V6: n.In(ip.V6)} }

// writes are the calls that changed routes since the last time, with their destinations.
func (f *fixture) writes() []string {
	var all []string
	for _, c := range f.Calls("CreateRoute", "ReplaceRoute", "DeleteRoute") {
		all = append(all, c.Action+" "+c.Form.Get("DestinationCidrBlock")+c.Form.Get("DestinationIpv6CidrBlock"))
	}
	f.ForgetCalls()
	slices.Sort(all)
	return all
}

func (f *fixture) wantWrites(want ...string) {
	f.t.Helper()
	if got := f.writes(); !slices.Equal(got, want) {
		f.t.Errorf("calls that change routes: %q, want %q", got, want)
	}
}

// IPv6 comes and goes while the daemon runs: its route does, and that of IPv4 is left alone.
func TestIPv6ComesAndGoes(t *testing.T) {
	withBoth(t, true, func(f *fixture) {
		four, six, table := prefixIn(ip.V4, "10.1.5.0/24"), prefixIn(ip.V6, "10.1.5.0/24"), f.vpc.Main.ID
		both := addrs(f.a.Interface())
		f.desireFor(both.V4, table)
		f.run(3 * time.Minute)
		f.wantWrites("CreateRoute " + four.String())
		for range 2 {
			f.desireForAll(both, table)
			f.run(time.Second)
			f.wantFailures(nil)
			f.wantWrites("CreateRoute " + six.String())
			f.wantRoute(f.vpc.Main, four, f.a.Interface())
			f.wantRoute(f.vpc.Main, six, f.a.Interface())
			f.run(3 * time.Minute)
			f.wantWrites()
			f.desireFor(both.V4, table)
			f.run(time.Second)
			f.wantFailures(nil)
			f.wantWrites("DeleteRoute " + six.String())
			f.wantRoute(f.vpc.Main, four, f.a.Interface())
			f.run(3 * time.Minute)
			f.wantWrites()
		}
		f.desireForAll(both, table)
		f.run(time.Minute)
		f.desireFor(both.V6, table)
		f.run(time.Minute)
		f.wantFailures(nil)
		f.wantRoute(f.vpc.Main, six, f.a.Interface())
		f.wantRoute(f.vpc.Main, four, nil)
		if f.a.Interface().SourceDestCheck() {
			t.Error("the check is on")
		}
	})
}

// A host has an IPv6 address that EC2 knows nothing of, as in a VPC without IPv6: that is said, and
// IPv4 is had and kept, until the VPC has IPv6.
func TestVPCWithoutIPv6(t *testing.T) {
	withBoth(t, false, func(f *fixture) {
		four, six, table := prefixIn(ip.V4, "10.1.5.0/24"), prefixIn(ip.V6, "10.1.5.0/24"), f.vpc.Main.ID
		hosts := addrs(f.a.Interface())
		hosts.V6 = netip.MustParseAddr("fd00::3")
		f.desireForAll(hosts, table)
		f.pass()
		f.wantRoute(f.vpc.Main, four, f.a.Interface())
		lack := "none of the network interfaces of " + f.a.ID + " has the address fd00::3, and the VPC " + f.vpc.ID + " has no IPv6 address range: "
		wantLack := func(lack string) {
			t.Helper()
			failures := f.failures()
			if len(failures) != 2 {
				t.Errorf("failures: %v", failures)
			}
			for k, err := range failures {
				if familyOf(k) != ip.V6 || !strings.HasPrefix(err.Error(), lack) {
					t.Errorf("%v: %v, want %s", k, err, lack)
				}
			}
		}
		wantLack(lack)
		if !f.ready() {
			t.Error("the host is not ready")
		}
		f.run(5 * time.Minute)
		f.check(f.vpc.Main.DeleteRoute(four.String()))
		f.run(period + 2*spread)
		f.wantRoute(f.vpc.Main, four, f.a.Interface())
		f.ForgetCalls()
		f.run(time.Hour)
		if n := len(f.Calls()); n > 60+12 {
			t.Errorf("%d calls in an hour", n)
		}
		f.addIPv6(f.a.Interface().Subnet)
		f.run(2 * (period + spread))
		wantLack("none of the network interfaces of " + f.a.ID + " has the address fd00::3: have EC2 assign")
		f.check(f.a.Interface().AssignIPv6())
		f.desireForAll(addrs(f.a.Interface()), table)
		f.run(2 * (period + spread))
		f.wantFailures(nil)
		f.wantRoute(f.vpc.Main, four, f.a.Interface())
		f.wantRoute(f.vpc.Main, six, f.a.Interface())
	})
}

// Routes that no host can have are none to wait for.
func TestTurnInVPCWithoutIPv6(t *testing.T) {
	withBoth(t, false, func(f *fixture) {
		f.SetRouteLimit(1000)
		f.last()
		hosts := addrs(f.a.Interface())
		hosts.V6 = netip.MustParseAddr("fd00::3")
		f.desireForAll(hosts, f.vpc.Main.ID)
		for i := range 60 {
			for _, family := range ip.Families {
				p := state.CloudRoute{Table: f.vpc.Main.ID, Dst: prefixIn(family, fmt.Sprintf("10.1.%d.0/24", 100+i))}
				f.want[p.Key()] = p
				if family == ip.V4 {
					f.check(f.vpc.Main.CreateRoute(p.Dst.String(), f.b.Interface().ID))
				}
			}
		}
		f.pass()
		f.wantRoute(f.vpc.Main, ownDst, f.a.Interface())
	})
}

// EC2 takes the host's IPv6 address away, and gives it back: IPv4 is kept meanwhile, and so is what
// there is of IPv6.
func TestIPv6Unassigned(t *testing.T) {
	withBoth(t, true, func(f *fixture) {
		hosts, table := addrs(f.a.Interface()), f.vpc.Main.ID
		f.desireForAll(hosts, table)
		f.run(3 * time.Minute)
		f.a.Interface().UnassignIPv6()
		f.writes()
		f.run(recheck * (period + spread))
		f.check(f.vpc.Main.DeleteRoute(prefixIn(ip.V4, "10.1.5.0/24").String()))
		f.run(2 * (period + spread))
		f.wantWrites("CreateRoute " + prefixIn(ip.V4, "10.1.5.0/24").String())
		f.wantRoute(f.vpc.Main, prefixIn(ip.V6, "10.1.5.0/24"), f.a.Interface())
		f.check(f.a.Interface().AssignIPv6())
		f.run(2 * (period + spread))
		f.wantFailures(nil)
		f.wantWrites()
	})
}

// A table that is full of one family's routes has room for those of the other.
func TestFullOfOneFamily(t *testing.T) {
	for _, full := range ip.Families {
		t.Run(full.String(), func(t *testing.T) {
			withBoth(t, true, func(f *fixture) {
				f.SetRouteLimit(3)
				for _, four := range []string{"10.9.1.0/24", "10.9.2.0/24"} {
					f.check(f.vpc.Main.CreateRoute(prefixIn(full, four).String(), f.b.Interface().ID))
				}
				f.desireForAll(addrs(f.a.Interface()), f.vpc.Main.ID)
				f.run(20 * time.Minute)
				f.wantRoute(f.vpc.Main, prefixIn(full.Other(), "10.1.5.0/24"), f.a.Interface())
				for k, err := range f.failures() {
					if familyOf(k) != full || !strings.Contains(err.Error(), "the table has 3 routes of "+full.String()+", which is its limit") {
						t.Errorf("%v: %v", k, err)
					}
				}
				f.check(f.vpc.Main.DeleteRoute(prefixIn(full.Other(), "10.1.5.0/24").String()))
				f.run(period + spread + time.Second)
				f.wantRoute(f.vpc.Main, prefixIn(full.Other(), "10.1.5.0/24"), f.a.Interface())
				f.check(f.vpc.Main.DeleteRoute(prefixIn(full, "10.9.1.0/24").String()))
				f.run(2 * (period + spread))
				f.wantFailures(nil)
			})
		})
	}
}

// The packets of the families go by different interfaces, in subnets with different tables: the
// host's own table is one of each.
func TestOwnTableOfEachFamily(t *testing.T) {
	withBoth(t, true, func(f *fixture) {
		four, six := prefixIn(ip.V4, "10.1.5.0/24"), prefixIn(ip.V6, "10.1.5.0/24")
		second, err := f.a.Attach(f.b.Interface().Subnet, f.b.Interface().Addr.Next())
		f.check(err)
		f.desireForAll(ip.Addrs{V4: f.a.Interface().Addr, V6: second.In(ip.V6)}, "")
		f.run(time.Minute)
		f.wantFailures(nil)
		f.wantRoute(f.vpc.Main, four, f.a.Interface())
		f.wantRoute(f.table, six, second)
		if len(made(f.vpc.Main)) != 1 || len(made(f.table)) != 1 {
			t.Errorf("%+v %+v", made(f.vpc.Main), made(f.table))
		}
		for _, n := range f.a.Interfaces() {
			if n.SourceDestCheck() {
				t.Errorf("the check of %s is on", n.ID)
			}
			n.SetSourceDestCheck(true)
		}
		f.check(f.vpc.Main.DeleteRoute(four.String()))
		f.check(f.table.ReplaceRoute(six.String(), f.b.Interface().ID))
		f.run(recheck * (period + spread))
		f.wantFailures(nil)
		f.wantRoute(f.vpc.Main, four, f.a.Interface())
		f.wantRoute(f.table, six, second)
		for _, n := range f.a.Interfaces() {
			if n.SourceDestCheck() {
				t.Errorf("the check of %s is on", n.ID)
			}
		}
	})
}

// The turn of a new host comes when all others can have written their routes of both families.
func TestTurnOfBothFamilies(t *testing.T) {
	withBoth(t, true, func(f *fixture) {
		f.SetRouteLimit(1000)
		f.last()
		const peers = 60
		f.desireForAll(addrs(f.a.Interface()), f.vpc.Main.ID)
		one := state.CloudInterface{Host: f.addr()} // as both addresses are on one interface
		delete(f.want, one.Key())
		for i := range peers {
			for _, family := range ip.Families {
				p := state.CloudRoute{Table: f.vpc.Main.ID, Dst: prefixIn(family, fmt.Sprintf("10.1.%d.0/24", 100+i))}
				f.want[p.Key()] = p
			}
		}
		f.pass()
		const calls = 3 * peers // a route of each family, and the check
		want := time.Duration(calls-writeBurst) * time.Second / writeRate
		if took := f.until(5 * time.Minute); took < want || took > want+time.Second {
			t.Errorf("%s, want %s", took, want)
		}
	})
}

// Where EC2 takes no route, as it is within an address range of the VPC, that is said, with what
// to do.
func TestNetworkWithinVPC(t *testing.T) {
	withFixture(t, func(f *fixture) {
		dst, key := netip.MustParsePrefix("10.0.7.0/24"), "Network"
		if family == ip.V6 {
			dst, key = netip.MustParsePrefix("2001:db8:10:7::/64"), "IPv6Network"
		}
		r := state.CloudRoute{Table: f.vpc.Main.ID, Dst: dst, Host: f.addr()}
		f.want[r.Key()] = r
		f.run(time.Minute)
		f.wantFailures(map[state.Kind]string{state.KindCloudRoute: "CreateRoute on " + f.vpc.Main.ID +
			": InvalidParameterValue: Route destination doesn't match any subnet CIDR blocks; " + networks[family].String() + " is an address range of the VPC: choose another " + key})
	})
}
