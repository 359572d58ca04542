package ec2

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/aws/smithy-go"

	"flanneld/pkg/dataplane"
	"flanneld/pkg/lab/fakeaws"
	"flanneld/pkg/state"
)

// crowd adds peers in a table, with routes in the main one or without.
func (w *world) crowd(table string, n int, routes bool) {
	for i := range n {
		dst := netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 1, byte(i % 256), byte(i / 256 * 16)}), 28)
		p := state.CloudPeer{Table: table, Dst: dst}
		if dst.Addr() == ownDst.Addr() {
			continue
		}
		w.want[p.Key()] = p
		if routes {
			w.check(w.vpc.Main.CreateRoute(dst.String(), w.b.Interface().ID))
		}
	}
}

// last starts the daemon of the host that drew the last lot.
func (w *world) last() {
	w.start(w.a)
	w.lot = 1
}

// until is how long it takes until the host's route is there.
func (w *world) until(limit time.Duration) time.Duration {
	w.t.Helper()
	begin := time.Now()
	for time.Since(begin) < limit {
		w.run(time.Second)
		for _, r := range w.vpc.Main.Routes() {
			if r.Dst == ownDst && r.InterfaceID == w.a.Interface().ID {
				return time.Since(begin)
			}
		}
	}
	w.t.Errorf("no route after %s", limit)
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
			inWorld(t, func(w *world) {
				w.SetRouteLimit(1000)
				w.last()
				table := w.vpc.Main.ID
				if c.own {
					table = ""
					w.desire(table)
				}
				w.crowd(table, c.peers, c.routes)
				begin := time.Now()
				w.pass()
				for k, err := range w.now {
					if !errors.Is(err, errTurn) || !errors.Is(err, dataplane.ErrPending) {
						t.Errorf("%v: %v", k, err)
					}
				}
				if took := time.Since(begin); took > 0 {
					t.Errorf("the first pass took %s", took)
				}
				if took := w.until(5 * time.Minute); took < c.min || took > c.max {
					t.Errorf("%s", took)
				}
				w.run(2 * time.Minute)
				w.wantFailures(nil)
				if w.a.Interface().SourceDestCheck() {
					t.Error("the check is on")
				}
			})
		})
	}
}

// While a host waits for its turn it asks nothing, and nothing is ready. Hosts that
// become known later count.
func TestTurnPutOff(t *testing.T) {
	inWorld(t, func(w *world) {
		w.a.Interface().SetSourceDestCheck(false)
		w.last()
		w.crowd(w.vpc.Main.ID, 60, false)
		w.pass()
		w.forgetEvents()
		if took := w.lost(time.Minute); took != 19500*time.Millisecond {
			t.Errorf("woken after %s", took)
		}
		w.crowd(w.vpc.Main.ID, 240, false)
		w.pass()
		w.wantCalls("DescribeRouteTables")
		if len(w.now) != 2 {
			t.Errorf("failures: %v", w.now)
		}
		if took := w.lost(2 * time.Minute); took != 90*time.Second {
			t.Errorf("woken after %s more", took)
		}
		w.wantCalls()
		w.pass()
		w.wantFailures(nil)
		w.wantCalls("DescribeNetworkInterfaceAttribute", "CreateRoute")
	})
}

// A table that all hosts get to know of is such a case, too.
func TestTurnInNewTable(t *testing.T) {
	inWorld(t, func(w *world) {
		w.last()
		w.crowd(w.vpc.Main.ID, 60, false)
		w.until(time.Minute)
		w.run(10 * time.Minute)
		w.desire(w.vpc.Main.ID, w.table.ID)
		w.crowd(w.vpc.Main.ID, 60, false)
		w.crowd(w.table.ID, 60, false)
		w.pass()
		w.forgetEvents()
		if took := w.lost(time.Minute); took < 4*time.Second || took > 6*time.Second {
			t.Errorf("woken after %s", took)
		}
		w.pass()
		w.wantRoute(w.table, ownDst, w.a.Interface())
	})
}

// A host that was started again finds what it needs, and a route that is lost later is
// put back as soon as that is seen, however many others are missing.
func TestNoTurn(t *testing.T) {
	inWorld(t, func(w *world) {
		w.run(time.Minute)
		w.last()
		w.crowd(w.vpc.Main.ID, 800, false)
		w.run(time.Minute) // to look at all
		w.wantFailures(nil)
		w.run(2 * time.Minute)
		w.check(w.vpc.Main.DeleteRoute(ownDst.String()))
		if took := w.until(5 * time.Minute); took > period+spread+5*time.Second {
			t.Errorf("%s", took)
		}
	})
}

// In a crowd a host that was started again looks later whether its interface passes
// packets, but it does look.
func TestCheckInCrowd(t *testing.T) {
	inWorld(t, func(w *world) {
		w.SetRouteLimit(1000)
		w.run(time.Minute)
		w.a.Interface().SetSourceDestCheck(true)
		w.last()
		w.crowd(w.vpc.Main.ID, 60, true)
		w.pass()
		w.wantFailures(nil)
		w.run(2 * time.Minute)
		if w.a.Interface().SourceDestCheck() {
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
			inWorld(t, func(w *world) {
				w.SetRouteLimit(1000)
				w.crowd(w.vpc.Main.ID, 240, true)
				w.SetLimit(c.class, fakeaws.Limit{})
				w.run(3 * time.Minute)
				if n := len(w.Calls(c.calls...)); n == 0 || n > c.most {
					t.Errorf("%d calls in 3 minutes", n)
				}
				w.SetLimit(c.class, fakeaws.Limit{Burst: 100, Refill: 20})
				if took := w.until(10 * time.Minute); took > 3*time.Minute {
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
	inWorld(t, func(w *world) {
		w.SetRouteLimit(1000)
		w.crowd(w.vpc.Main.ID, 800, true)
		w.Deny("CreateRoute")
		w.run(time.Hour)
		if n := len(w.Calls("CreateRoute")); n < 10 || n > 30 {
			t.Errorf("%d calls in an hour", n)
		}
	})
}

// Two hosts that want the same route change it to and fro for some time, and then less
// and less often.
func TestContested(t *testing.T) {
	inWorld(t, func(w *world) {
		for hour := range 6 {
			for range 120 {
				w.run(30 * time.Second)
				for _, r := range w.vpc.Main.Routes() {
					if r.Dst == ownDst && r.InterfaceID != w.b.Interface().ID {
						w.check(w.vpc.Main.ReplaceRoute(ownDst.String(), w.b.Interface().ID))
					}
				}
			}
			n := len(w.Calls("CreateRoute", "ReplaceRoute"))
			w.ForgetCalls()
			if hour == 0 && (n < lossesEasy || n > 12) || hour > 0 && n != 2 {
				t.Errorf("%d writes in hour %d", n, hour)
			}
		}
		w.run(2 * time.Minute)
		w.wantFailures(map[state.Kind]string{state.KindCloudRoute: "it was put back at least 5 times and is led to " + w.b.Interface().ID +
			" by others again; does another host keep this subnet? The pauses get longer, up to 30m0s"})
		// It is at peace, and all is forgotten after some time.
		w.run(lossMost + period)
		w.wantRoute(w.vpc.Main, ownDst, w.a.Interface())
		w.run(lossCalm)
		for range lossesEasy {
			w.check(w.vpc.Main.DeleteRoute(ownDst.String()))
			if took := w.until(5 * time.Minute); took > period+spread+5*time.Second {
				t.Errorf("%s", took)
			}
		}
	})
}

// Who only deletes a route is told of as well.
func TestDeletedAgain(t *testing.T) {
	inWorld(t, func(w *world) {
		w.run(time.Minute)
		for range 2 * lossesEasy {
			w.until(time.Hour)
			w.check(w.vpc.Main.DeleteRoute(ownDst.String()))
		}
		w.run(2 * time.Minute)
		w.wantFailures(map[state.Kind]string{state.KindCloudRoute: "it was put back at least 5 times and is deleted by others again; does another host keep this subnet? The pauses get longer, up to 30m0s"})
	})
}

// Hosts that are gone, and whose leases are not, are not waited for.
func TestNoTurnForTheDead(t *testing.T) {
	inWorld(t, func(w *world) {
		w.SetRouteLimit(1000)
		w.last()
		w.crowd(w.vpc.Main.ID, 200, true)
		w.b.Terminate()
		if took := w.until(5 * time.Minute); took > 10*time.Second {
			t.Errorf("a lone host that joins has to wait for %s", took)
		}
	})
}

// A host that can't look for long because calls are refused is ready in the end, and says
// why.
func TestReadsRefusedAtStart(t *testing.T) {
	inWorld(t, func(w *world) {
		w.SetLimit(fakeaws.NonMutating, fakeaws.Limit{})
		w.run(10 * time.Minute)
		for k, err := range w.now {
			if !strings.Contains(err.Error(), "RequestLimitExceeded") {
				t.Errorf("%v: %v", k, err)
			}
			if errors.Is(err, dataplane.ErrPending) {
				t.Errorf("%v: the host is not ready after 10 minutes", k)
			}
		}
	})
}
