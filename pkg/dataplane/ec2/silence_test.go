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

// gate is a way to EC2 and back that may be shut: nothing comes through, for as long as
// the caller waits.
type gate struct {
	http.RoundTripper
	mu     sync.Mutex
	open   chan struct{} // closed if the gate is open
	behind bool          // EC2 gets what is asked, and the answer is what does not come
}

func newGate(through http.RoundTripper) *gate {
	g := &gate{RoundTripper: through, open: make(chan struct{})}
	close(g.open)
	return g
}

func (g *gate) shut(behind bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.open, g.behind = make(chan struct{}), behind
}

func (g *gate) reopen() {
	g.mu.Lock()
	defer g.mu.Unlock()
	close(g.open)
}

func (g *gate) RoundTrip(in *http.Request) (*http.Response, error) {
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

// behindGate has a daemon's calls go through a gate.
func (w *world) behindGate() *gate {
	g := newGate(w.Transport(w.a))
	w.start(w.a, config.WithHTTPClient(&http.Client{Transport: g}))
	return g
}

// EC2 that does not answer holds up a pass for as long as a call may take, and no longer;
// when there is an answer, what waited for it is done.
func TestSilence(t *testing.T) {
	inWorld(t, func(w *world) {
		g := w.behindGate()
		w.run(3 * time.Minute)
		g.shut(false)
		w.desire(w.vpc.Main.ID, w.table.ID) // two things to do: a look, and a route
		w.run(callTime)
		for range 20 {
			for k, err := range w.failures() {
				if k.Kind != state.KindCloudRoute || k.Scope != w.table.ID || !strings.Contains(err.Error(), "no answer within 10s") {
					t.Errorf("%v: %v", k, err)
				}
			}
			if len(w.failures()) != 1 {
				t.Errorf("failures: %v", w.failures())
			}
			w.run(callTime)
		}
		g.reopen()
		w.run(period + spread)
		w.wantFailures(nil)
		w.wantRoute(w.table, ownDst, w.a.Interface())
	})
}

// A write whose answer is late is not made again, and READY waits for it.
func TestLateAnswer(t *testing.T) {
	inWorld(t, func(w *world) {
		w.a.Interface().SetSourceDestCheck(false)
		w.start(w.a, config.WithHTTPClient(&http.Client{Transport: &after{
			RoundTripper: w.Transport(w.a), w: w, action: "CreateRoute", do: func() { time.Sleep(callTime / 2) },
		}}))
		w.run(callTime/2 - time.Second)
		w.peer(w.vpc.Main.ID)
		w.run(0) // the same step is there to be taken
		if w.ready() {
			t.Error("ready before the answer")
		}
		w.run(2 * time.Second)
		if !w.ready() {
			t.Error("not ready after the answer")
		}
		w.wantFailures(nil)
		if n := len(w.Calls("CreateRoute", "ReplaceRoute")); n != 1 {
			t.Errorf("%d writes", n)
		}
	})
}

// If EC2 is silent from the start, that is waited for once, and the host is ready without.
func TestSilentStart(t *testing.T) {
	inWorld(t, func(w *world) {
		g := w.behindGate()
		g.shut(false)
		w.run(callTime - time.Second)
		if w.ready() {
			t.Error("ready before it is known that there is no answer")
		}
		w.run(time.Second + 2*debounce)
		if !w.ready() {
			t.Error("not ready")
		}
		for k, err := range w.failures() {
			if !strings.Contains(err.Error(), "no answer within 10s") {
				t.Errorf("%v: %v", k, err)
			}
		}
		if len(w.failures()) != 2 {
			t.Errorf("failures: %v", w.failures())
		}
		g.reopen()
	})
}

// That writes have no answer is known of all at the same time.
func TestSilentWrites(t *testing.T) {
	inWorld(t, func(w *world) {
		w.desire(w.vpc.Main.ID, w.table.ID)
		g := w.behindGate()
		w.Deny("CreateRoute")
		w.pass()
		w.Allow("CreateRoute")
		g.shut(false)
		w.run(RetryFirst + callTime)
		for _, table := range []string{w.vpc.Main.ID, w.table.ID} {
			if err := w.failures()[state.CloudRoute{Table: table, Dst: ownDst}.Key()]; err == nil || !strings.HasSuffix(err.Error(), ": no answer within 10s") {
				t.Errorf("%s: %v", table, err)
			}
		}
		g.reopen()
	})
}

// What becomes wanted during a look has one of its own.
func TestWantedDuringLook(t *testing.T) {
	inWorld(t, func(w *world) {
		g := w.behindGate()
		w.pass()
		time.Sleep(again + time.Second)
		g.shut(false)
		time.Sleep(period + spread + time.Second) // a look has begun
		w.desire(w.vpc.Main.ID, w.table.ID)
		w.pass()
		g.reopen()
		w.run(2 * debounce)
		w.wantFailures(nil)
		w.wantRoute(w.table, ownDst, w.a.Interface())
	})
}

// Peers that come and go while EC2 is silent cost no call, and no time.
func TestPeersInSilence(t *testing.T) {
	inWorld(t, func(w *world) {
		g := w.behindGate()
		w.pass()
		w.stop()
		g.shut(false)
		w.ForgetCalls()
		begin := time.Now()
		p := state.CloudRoute{Table: w.vpc.Main.ID, Dst: peerDst}
		for _, op := range []state.Op{{Verb: state.Create, Want: p}, {Verb: state.Delete, Have: p}} {
			if errs := w.Apply(w.t.Context(), []state.Op{op}); errs[0] != nil {
				t.Error(errs)
			}
		}
		if took := time.Since(begin); took != 0 {
			t.Errorf("%s", took)
		}
		w.wantCalls()
		g.reopen()
	})
}

// Whatever is going on, the daemon can end at once.
func TestEnd(t *testing.T) {
	for name, prepare := range map[string]func(*world, *gate){
		"silence":   func(_ *world, g *gate) { g.shut(false) },
		"throttled": func(w *world, _ *gate) { w.SetLimit(fakeaws.Mutating, fakeaws.Limit{}) },
		"metadata":  func(w *world, _ *gate) { w.a.SetMetadata(fakeaws.MetadataOptions{Delay: time.Hour}) },
	} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, func(w *world) {
				g := w.behindGate()
				prepare(w, g)
				w.run(time.Second)
				begin := time.Now()
				w.stop()
				if took := time.Since(begin); took > 0 {
					t.Errorf("it took %s", took)
				}
			})
		})
	}
}

// When the API refuses calls for too long, that is what is said.
func TestThrottledForLong(t *testing.T) {
	inWorld(t, func(w *world) {
		w.SetLimit(fakeaws.Mutating, fakeaws.Limit{Refill: 0.0001})
		w.run(10 * time.Minute)
		const text = "RequestLimitExceeded: the account makes too many calls"
		w.wantFailures(map[state.Kind]string{
			state.KindCloudRoute:     "CreateRoute on " + w.vpc.Main.ID + ": " + text,
			state.KindCloudInterface: "EC2 drops what pods of this host send and get, while its source/destination check is on: ModifyNetworkInterfaceAttribute on " + w.a.Interface().ID + ": " + text,
		})
		if n := len(w.Calls("CreateRoute", "ModifyNetworkInterfaceAttribute")); n > 100 {
			t.Errorf("%d calls in 10 minutes", n)
		}
	})
}

// An answer that is lost does not make a route wrong, and costs one more call.
func TestLostAnswer(t *testing.T) {
	inWorld(t, func(w *world) {
		w.LoseAnswers("CreateRoute", 1)
		w.run(2 * time.Minute)
		w.wantFailures(nil)
		w.wantRoute(w.vpc.Main, ownDst, w.a.Interface())
		if n := len(w.Calls("CreateRoute", "ReplaceRoute")); n > 3 {
			t.Errorf("%d writes", n)
		}
	})
}

// The budget of retries is for the time of an outage: what succeeds later fills it.
func TestBudget(t *testing.T) {
	inWorld(t, func(w *world) {
		w.pass()
		w.stop() // it makes calls, too
		attempts := func() int {
			w.ForgetCalls()
			w.LoseAnswers("DescribeRouteTables", 1000)
			_, _ = w.session.tables(w.t.Context(), []string{w.vpc.Main.ID}, nic{}, false)
			w.LoseAnswers("DescribeRouteTables", 0)
			return len(w.Calls())
		}
		if n := attempts(); n != 3 {
			t.Errorf("%d attempts", n)
		}
		for attempts() > 1 { // until the budget is used up
		}
		for range 10 {
			if _, errs := w.session.tables(w.t.Context(), []string{w.vpc.Main.ID}, nic{}, false); len(errs) > 0 {
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
	inWorld(t, func(w *world) {
		w.run(20 * time.Second)
		w.dead(20)
		w.SetLimit(fakeaws.Mutating, fakeaws.Limit{})
		w.run(10 * time.Minute)
		if n := len(w.Calls("DeleteRoute")); n == 0 || n > 20 {
			t.Errorf("%d calls", n)
		}
		w.SetLimit(fakeaws.Mutating, fakeaws.Limit{Burst: 50, Refill: 5})
		w.run(3 * time.Minute)
		w.wantFailures(nil)
		if n := len(w.vpc.Main.Routes()); n != 2 {
			t.Errorf("%d routes", n)
		}
	})
}

// While there is much to be deleted, and EC2 lets little pass, looks go on.
func TestDeletesHoldUpNothing(t *testing.T) {
	inWorld(t, func(w *world) {
		w.SetRouteLimit(200)
		w.run(20 * time.Second)
		w.dead(100)
		w.SetLimit(fakeaws.Mutating, fakeaws.Limit{Burst: 1, Refill: 0.05})
		for len(w.Calls("DeleteRoute")) == 0 {
			w.run(time.Second)
		}
		gap, last := time.Duration(0), time.Now()
		w.ForgetCalls()
		w.run(30 * time.Minute)
		for _, c := range w.Calls("DescribeRouteTables") {
			gap, last = max(gap, c.Time.Sub(last)), c.Time
		}
		if gap = max(gap, time.Since(last)); gap > 2*(period+spread) {
			t.Errorf("for %s nobody looked", gap)
		}
	})
}
