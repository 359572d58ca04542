package ec2

import (
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/config"

	"flanneld/pkg/lab/fakeaws"
	"flanneld/pkg/state"
)

// barrier is on the way to EC2 and back, and may be shut: nothing comes through, for as long as
// the caller waits.
type barrier struct {
	http.RoundTripper
	mu     sync.Mutex
	open   chan struct{} // closed if the barrier is open
	behind bool          // EC2 gets what is asked, and the answer is what does not come
}

func newBarrier(through http.RoundTripper) *barrier {
	g := &barrier{RoundTripper: through, open: make(chan struct{})}
	close(g.open)
	return g
}

func (g *barrier) shut(behind bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.open, g.behind = make(chan struct{}), behind
}

func (g *barrier) reopen() {
	g.mu.Lock()
	defer g.mu.Unlock()
	close(g.open)
}

func (g *barrier) RoundTrip(in *http.Request) (*http.Response, error) {
	g.mu.Lock()
	open, behind := g.open, g.behind
	g.mu.Unlock()
	if in.URL.Hostname() == fakeaws.MetadataAddr {
		return g.RoundTripper.RoundTrip(in)
	}
	var out *http.Response
	var err error
	if behind {
		out, err = g.RoundTripper.RoundTrip(in)
	}
	select {
	case <-open:
	case <-in.Context().Done():
		return nil, in.Context().Err()
	}
	if !behind {
		out, err = g.RoundTripper.RoundTrip(in)
	}
	return out, err
}

// behindBarrier has a daemon's calls go through a barrier.
func (f *fixture) behindBarrier() *barrier {
	g := newBarrier(f.Transport(f.a))
	f.start(f.a, config.WithHTTPClient(&http.Client{Transport: g}))
	return g
}

// EC2 that does not answer holds up a pass for as long as a call may take, and no longer;
// when there is an answer, what waited for it is done.
func TestSilence(t *testing.T) {
	withFixture(t, func(f *fixture) {
		g := f.behindBarrier()
		f.run(3 * time.Minute)
		g.shut(false)
		f.desire(f.vpc.Main.ID, f.table.ID) // two things to do: a look, and a route
		f.run(callTime)
		for range 20 {
			for k, err := range f.failures() {
				if k.Kind != state.KindCloudRoute || k.Scope != f.table.ID || !strings.Contains(err.Error(), "no answer within 10s") {
					t.Errorf("%v: %v", k, err)
				}
			}
			if len(f.failures()) != 1 {
				t.Errorf("failures: %v", f.failures())
			}
			f.run(callTime)
		}
		g.reopen()
		f.run(period + spread)
		f.wantFailures(nil)
		f.wantRoute(f.table, ownDst, f.a.Interface())
	})
}

// A write whose answer is late is not made again, and READY waits for it.
func TestLateAnswer(t *testing.T) {
	withFixture(t, func(f *fixture) {
		f.a.Interface().SetSourceDestCheck(false)
		f.start(f.a, config.WithHTTPClient(&http.Client{Transport: &after{
			RoundTripper: f.Transport(f.a), f: f, action: "CreateRoute", do: func() { time.Sleep(callTime / 2) },
		}}))
		f.run(callTime/2 - time.Second)
		f.peer(f.vpc.Main.ID)
		f.run(0) // the same step is there to be taken
		if f.ready() {
			t.Error("ready before the answer")
		}
		f.run(2 * time.Second)
		if !f.ready() {
			t.Error("not ready after the answer")
		}
		f.wantFailures(nil)
		if n := len(f.Calls("CreateRoute", "ReplaceRoute")); n != 1 {
			t.Errorf("%d writes", n)
		}
	})
}

// If EC2 is silent from the start, that is waited for once, and the host is ready without.
func TestSilentStart(t *testing.T) {
	withFixture(t, func(f *fixture) {
		g := f.behindBarrier()
		g.shut(false)
		f.run(callTime - time.Second)
		if f.ready() {
			t.Error("ready before it is known that there is no answer")
		}
		f.run(time.Second + 2*debounce)
		if !f.ready() {
			t.Error("not ready")
		}
		for k, err := range f.failures() {
			if !strings.Contains(err.Error(), "no answer within 10s") {
				t.Errorf("%v: %v", k, err)
			}
		}
		if len(f.failures()) != 2 {
			t.Errorf("failures: %v", f.failures())
		}
		g.reopen()
	})
}

// That writes have no answer is known of all at the same time.
func TestSilentWrites(t *testing.T) {
	withFixture(t, func(f *fixture) {
		f.desire(f.vpc.Main.ID, f.table.ID)
		g := f.behindBarrier()
		f.Deny("CreateRoute")
		f.pass()
		f.Allow("CreateRoute")
		g.shut(false)
		f.run(RetryFirst + callTime)
		for _, table := range []string{f.vpc.Main.ID, f.table.ID} {
			if err := f.failures()[state.CloudRoute{Table: table, Dst: ownDst}.Key()]; err == nil || !strings.HasSuffix(err.Error(), ": no answer within 10s") {
				t.Errorf("%s: %v", table, err)
			}
		}
		g.reopen()
	})
}

// What becomes wanted during a look has one of its own.
func TestWantedDuringLook(t *testing.T) {
	withFixture(t, func(f *fixture) {
		g := f.behindBarrier()
		f.pass()
		time.Sleep(again + time.Second)
		g.shut(false)
		time.Sleep(period + spread + time.Second) // a look has begun
		f.desire(f.vpc.Main.ID, f.table.ID)
		f.pass()
		g.reopen()
		f.run(2 * debounce)
		f.wantFailures(nil)
		f.wantRoute(f.table, ownDst, f.a.Interface())
	})
}

// Peers that come and go while EC2 is silent cost no call, and no time.
func TestPeersInSilence(t *testing.T) {
	withFixture(t, func(f *fixture) {
		g := f.behindBarrier()
		f.pass()
		f.stop()
		g.shut(false)
		f.ForgetCalls()
		begin := time.Now()
		p := state.CloudRoute{Table: f.vpc.Main.ID, Dst: peerDst}
		for _, op := range []state.Op{{Verb: state.Create, Want: p}, {Verb: state.Delete, Have: p}} {
			if errs := f.Apply(f.t.Context(), []state.Op{op}); errs[0] != nil {
				t.Error(errs)
			}
		}
		if took := time.Since(begin); took != 0 {
			t.Errorf("%s", took)
		}
		f.wantCalls()
		g.reopen()
	})
}

// Whatever is going on, the daemon can end at once.
func TestEnd(t *testing.T) {
	for name, prepare := range map[string]func(*fixture, *barrier){
		"silence":   func(_ *fixture, g *barrier) { g.shut(false) },
		"throttled": func(f *fixture, _ *barrier) { f.SetLimit(fakeaws.Mutating, fakeaws.Limit{}) },
		"metadata":  func(f *fixture, _ *barrier) { f.a.SetMetadata(fakeaws.MetadataOptions{Delay: time.Hour}) },
	} {
		t.Run(name, func(t *testing.T) {
			withFixture(t, func(f *fixture) {
				g := f.behindBarrier()
				prepare(f, g)
				f.run(time.Second)
				begin := time.Now()
				f.stop()
				if took := time.Since(begin); took > 0 {
					t.Errorf("it took %s", took)
				}
			})
		})
	}
}

// When the API refuses calls for too long, that is what is said.
func TestThrottledForLong(t *testing.T) {
	withFixture(t, func(f *fixture) {
		f.SetLimit(fakeaws.Mutating, fakeaws.Limit{Refill: 0.0001})
		f.run(10 * time.Minute)
		const text = "RequestLimitExceeded: the account makes too many calls"
		f.wantFailures(map[state.Kind]string{
			state.KindCloudRoute:     "CreateRoute on " + f.vpc.Main.ID + ": " + text,
			state.KindCloudInterface: "EC2 drops what pods of this host send and get, while its source/destination check is on: ModifyNetworkInterfaceAttribute on " + f.a.Interface().ID + ": " + text,
		})
		if n := len(f.Calls("CreateRoute", "ModifyNetworkInterfaceAttribute")); n > 100 {
			t.Errorf("%d calls in 10 minutes", n)
		}
	})
}

// An answer that is lost does not make a route wrong, and costs one more call.
func TestLostAnswer(t *testing.T) {
	withFixture(t, func(f *fixture) {
		f.LoseAnswers("CreateRoute", 1)
		f.run(2 * time.Minute)
		f.wantFailures(nil)
		f.wantRoute(f.vpc.Main, ownDst, f.a.Interface())
		if n := len(f.Calls("CreateRoute", "ReplaceRoute")); n > 3 {
			t.Errorf("%d writes", n)
		}
	})
}

// The budget of retries is for the time of an outage: what succeeds later fills it.
func TestBudget(t *testing.T) {
	withFixture(t, func(f *fixture) {
		f.pass()
		f.stop() // it makes calls, too
		attempts := func() int {
			f.ForgetCalls()
			f.LoseAnswers("DescribeRouteTables", 1000)
			_, _ = f.session.tables(f.t.Context(), []string{f.vpc.Main.ID}, nil, false)
			f.LoseAnswers("DescribeRouteTables", 0)
			return len(f.Calls())
		}
		if n := attempts(); n != 3 {
			t.Errorf("%d attempts", n)
		}
		for attempts() > 1 { // until the budget is used up
		}
		for range 10 {
			if _, errs := f.session.tables(f.t.Context(), []string{f.vpc.Main.ID}, nil, false); len(errs) > 0 {
				t.Fatal(errs)
			}
		}
		if n := attempts(); n != 3 {
			t.Errorf("%d attempts when all is well again", n)
		}
	})
}

// Where one delete is refused as too many, the others of the table are not tried either.
func TestDeletesRefused(t *testing.T) {
	withFixture(t, func(f *fixture) {
		f.run(20 * time.Second)
		f.dead(20)
		f.SetLimit(fakeaws.Mutating, fakeaws.Limit{})
		f.run(10 * time.Minute)
		if n := len(f.Calls("DeleteRoute")); n == 0 || n > 20 {
			t.Errorf("%d calls", n)
		}
		f.SetLimit(fakeaws.Mutating, fakeaws.Limit{Burst: 50, Refill: 5})
		f.run(3 * time.Minute)
		f.wantFailures(nil)
		if n := len(made(f.vpc.Main)); n != 1 {
			t.Errorf("%d routes", n)
		}
	})
}

// While there is much to be deleted, and EC2 lets little pass, looks go on.
func TestDeletesHoldUpNothing(t *testing.T) {
	withFixture(t, func(f *fixture) {
		f.SetRouteLimit(200)
		f.run(20 * time.Second)
		f.dead(100)
		f.SetLimit(fakeaws.Mutating, fakeaws.Limit{Burst: 1, Refill: 0.05})
		for len(f.Calls("DeleteRoute")) == 0 {
			f.run(time.Second)
		}
		gap, last := time.Duration(0), time.Now()
		f.ForgetCalls()
		f.run(30 * time.Minute)
		for _, c := range f.Calls("DescribeRouteTables") {
			gap, last = max(gap, c.Time.Sub(last)), c.Time
		}
		if gap = max(gap, time.Since(last)); gap > 2*(period+spread) {
			t.Errorf("for %s nobody looked", gap)
		}
	})
}
