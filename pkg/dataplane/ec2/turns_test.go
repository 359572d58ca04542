package ec2

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/aws/smithy-go"

	"flanneld/pkg/lab/fakeaws"
	"flanneld/pkg/state"
)

// crowd adds peers in a table, with routes in the main one or without.
func (f *fixture) crowd(table string, n int, routes bool) {
	for i := range n {
		dst := prefix(fmt.Sprintf("10.1.%d.%d/28", i%256, i/256*16))
		p := state.CloudRoute{Table: table, Dst: dst}
		if dst.Addr() == ownDst.Addr() {
			continue
		}
		f.want[p.Key()] = p
		if routes {
			f.check(f.vpc.Main.CreateRoute(dst.String(), f.b.Interface().ID))
		}
	}
}

// last starts the daemon of the host whose turn is the last.
func (f *fixture) last() {
	f.start(f.a)
	f.fraction = 1
}

// until is how long it takes until the host's route is there.
func (f *fixture) until(limit time.Duration) time.Duration {
	f.t.Helper()
	begin := time.Now()
	for time.Since(begin) < limit {
		f.run(time.Second)
		for _, r := range f.vpc.Main.Routes() {
			if r.Dst == ownDst && r.InterfaceID == f.a.Interface().ID {
				return time.Since(begin)
			}
		}
	}
	f.t.Errorf("no route after %s", limit)
	return limit
}

// A host waits for others only if there are so many that EC2 can't let all pass at once:
// with the first look if many may look, with its writes if many have to write.
func TestTurn(t *testing.T) {
	for _, c := range []struct {
		own      bool // the host's own table, which takes one more call to find
		peers    int
		routes   bool
		min, max time.Duration
	}{
		{false, 15, false, 0, time.Second},
		{false, 60, true, 0, time.Second},
		{false, 60, false, 20 * time.Second, 21 * time.Second},
		{false, 240, true, 10 * time.Second, 11 * time.Second},
		{true, 240, true, 25 * time.Second, 26 * time.Second},
		{false, 240, false, 120 * time.Second, 122 * time.Second},
	} {
		t.Run(fmt.Sprint(c.own, c.peers, c.routes), func(t *testing.T) {
			withFixture(t, func(f *fixture) {
				f.SetRouteLimit(1000)
				f.last()
				table := f.vpc.Main.ID
				if c.own {
					table = ""
					f.desire(table)
				}
				f.crowd(table, c.peers, c.routes)
				f.pass()
				for k, err := range f.failures() {
					if !errors.Is(err, errCrowd) {
						t.Errorf("%v: %v", k, err)
					}
				}
				if f.ready() != (c.min == 0) {
					t.Errorf("ready: %t", f.ready())
				}
				if took := f.until(5 * time.Minute); took < c.min || took > c.max {
					t.Errorf("%s", took)
				}
				f.run(2 * time.Minute)
				f.wantFailures(nil)
				if f.a.Interface().SourceDestCheck() {
					t.Error("the check is on")
				}
			})
		})
	}
}

// While a host waits for its turn it asks nothing, and nothing is ready. Hosts that
// become known later count.
func TestTurnPutOff(t *testing.T) {
	withFixture(t, func(f *fixture) {
		f.a.Interface().SetSourceDestCheck(false)
		f.last()
		f.crowd(f.vpc.Main.ID, 60, false)
		begin := time.Now()
		f.run(19 * time.Second) // a half second before its turn
		f.crowd(f.vpc.Main.ID, 240, false)
		f.run(90 * time.Second)
		f.wantCalls("DescribeRouteTables")
		if len(f.failures()) != 2 || f.ready() {
			t.Errorf("failures: %v", f.failures())
		}
		f.until(time.Minute)
		if took := time.Since(begin); took != 110*time.Second {
			t.Errorf("the route is there after %s", took)
		}
		f.wantFailures(nil)
		f.wantCalls("DescribeNetworkInterfaceAttribute", "CreateRoute")
	})
}

// A table that all hosts get to know of is such a case, too.
func TestTurnInNewTable(t *testing.T) {
	withFixture(t, func(f *fixture) {
		f.last()
		f.crowd(f.vpc.Main.ID, 60, false)
		f.until(time.Minute)
		f.run(10 * time.Minute)
		f.desire(f.vpc.Main.ID, f.table.ID)
		f.crowd(f.vpc.Main.ID, 60, false)
		f.crowd(f.table.ID, 60, false)
		f.run(4 * time.Second)
		f.wantRoute(f.table, ownDst, nil)
		if routes := made(f.table); len(routes) != 0 {
			t.Errorf("%+v", routes)
		}
		f.run(2 * time.Second)
		f.wantRoute(f.table, ownDst, f.a.Interface())
	})
}

// A host that was started again finds what it needs, and a route that is lost later is
// put back as soon as that is seen, however many others are missing.
func TestNoTurn(t *testing.T) {
	withFixture(t, func(f *fixture) {
		f.run(time.Minute)
		f.last()
		f.crowd(f.vpc.Main.ID, 800, false)
		f.run(time.Minute) // to look at all
		f.wantFailures(nil)
		f.run(2 * time.Minute)
		f.check(f.vpc.Main.DeleteRoute(ownDst.String()))
		if took := f.until(5 * time.Minute); took > period+spread+5*time.Second {
			t.Errorf("%s", took)
		}
	})
}

// In a crowd a host that was started again looks later whether its interface passes
// packets, but it does look.
func TestCheckInCrowd(t *testing.T) {
	withFixture(t, func(f *fixture) {
		f.SetRouteLimit(1000)
		f.run(time.Minute)
		f.a.Interface().SetSourceDestCheck(true)
		f.last()
		f.crowd(f.vpc.Main.ID, 60, true)
		f.pass()
		f.wantFailures(nil)
		f.run(2 * time.Minute)
		if f.a.Interface().SourceDestCheck() {
			t.Error("the check is on")
		}
	})
}

// Where EC2 refuses what many do, nobody tries again at once.
func TestRefusedInCrowd(t *testing.T) {
	for name, c := range map[string]struct {
		class fakeaws.Class
		calls []string
		most  int
	}{
		"read":  {fakeaws.NonMutating, []string{"DescribeRouteTables"}, 8},
		"write": {fakeaws.Mutating, []string{"CreateRoute"}, 8},
	} {
		t.Run(name, func(t *testing.T) {
			withFixture(t, func(f *fixture) {
				f.SetRouteLimit(1000)
				f.crowd(f.vpc.Main.ID, 240, true)
				f.SetLimit(c.class, fakeaws.Limit{})
				f.run(3 * time.Minute)
				if n := len(f.Calls(c.calls...)); n == 0 || n > c.most {
					t.Errorf("%d calls in 3 minutes", n)
				}
				f.SetLimit(c.class, fakeaws.Limit{Burst: 100, Refill: 20})
				if took := f.until(10 * time.Minute); took > 3*time.Minute {
					t.Errorf("%s after they are not refused any more", took)
				}
			})
		})
	}
}

// EC2 has more than one word for it.
func TestIsThrottled(t *testing.T) {
	for code, want := range map[string]bool{
		"RequestLimitExceeded": true, "EC2ThrottledException": true, "Throttling": true,
		"RouteLimitExceeded": false, "": false,
	} {
		if got := isThrottled(explain(&smithy.GenericAPIError{Code: code}, "", "")); got != want {
			t.Errorf("%q: %v", code, got)
		}
	}
}

// What all hosts may not do, they do not try all the time.
func TestDeniedInCrowd(t *testing.T) {
	withFixture(t, func(f *fixture) {
		f.SetRouteLimit(1000)
		f.crowd(f.vpc.Main.ID, 800, true)
		f.Deny("CreateRoute")
		f.run(time.Hour)
		if n := len(f.Calls("CreateRoute")); n < 10 || n > 30 {
			t.Errorf("%d calls in an hour", n)
		}
	})
}

// Two hosts that want the same route change it to and fro for some time, and then less
// and less often.
func TestContested(t *testing.T) {
	withFixture(t, func(f *fixture) {
		for hour := range 6 {
			for range 120 {
				f.run(30 * time.Second)
				for _, r := range f.vpc.Main.Routes() {
					if r.Dst == ownDst && r.InterfaceID != f.b.Interface().ID {
						f.check(f.vpc.Main.ReplaceRoute(ownDst.String(), f.b.Interface().ID))
					}
				}
			}
			n := len(f.Calls("CreateRoute", "ReplaceRoute"))
			f.ForgetCalls()
			if hour == 0 && (n < conflictAfter || n > 12) || hour > 0 && n != 2 {
				t.Errorf("%d writes in hour %d", n, hour)
			}
		}
		f.run(2 * time.Minute)
		f.wantFailures(map[state.Kind]string{state.KindCloudRoute: "it was put back at least 5 times and is led to " + f.b.Interface().ID +
			" by others again; does another host keep this subnet? The pauses get longer, up to 30m0s"})
		// It is at peace, and all is forgotten after some time.
		f.run(conflictMost + period)
		f.wantRoute(f.vpc.Main, ownDst, f.a.Interface())
		f.run(conflictCalm)
		for range conflictAfter {
			f.check(f.vpc.Main.DeleteRoute(ownDst.String()))
			if took := f.until(5 * time.Minute); took > period+spread+5*time.Second {
				t.Errorf("%s", took)
			}
		}
	})
}

// Who only deletes a route is told of as well.
func TestDeletedAgain(t *testing.T) {
	withFixture(t, func(f *fixture) {
		f.run(time.Minute)
		for range 2 * conflictAfter {
			f.until(time.Hour)
			f.check(f.vpc.Main.DeleteRoute(ownDst.String()))
		}
		f.run(2 * time.Minute)
		f.wantFailures(map[state.Kind]string{state.KindCloudRoute: "it was put back at least 5 times and is deleted by others again; does another host keep this subnet? The pauses get longer, up to 30m0s"})
	})
}

// Hosts that are gone, and whose leases are not, are not waited for.
func TestNoTurnForTheDead(t *testing.T) {
	withFixture(t, func(f *fixture) {
		f.SetRouteLimit(1000)
		f.last()
		f.crowd(f.vpc.Main.ID, 200, true)
		f.b.Terminate()
		if took := f.until(5 * time.Minute); took > 10*time.Second {
			t.Errorf("a lone host that joins has to wait for %s", took)
		}
	})
}

// A host that can't look for long because calls are refused is ready in the end, and says
// why.
func TestReadsRefusedAtStart(t *testing.T) {
	withFixture(t, func(f *fixture) {
		f.SetLimit(fakeaws.NonMutating, fakeaws.Limit{})
		f.run(absentFor - time.Minute)
		if f.ready() {
			t.Error("ready")
		}
		f.run(6 * time.Minute)
		for k, err := range f.failures() {
			if !strings.Contains(err.Error(), "RequestLimitExceeded") {
				t.Errorf("%v: %v", k, err)
			}
		}
		if !f.ready() {
			t.Error("the host is not ready after 10 minutes")
		}
	})
}
