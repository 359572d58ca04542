package ec2

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/smithy-go"

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

// The rest of the host waits for EC2 a few seconds, and not at all for what was asked
// before; it gets to know when there is an answer.
func TestSilence(t *testing.T) {
	inWorld(t, func(w *world) {
		g := w.behindGate()
		w.run(3 * time.Minute)
		g.shut(false)
		w.desire(w.vpc.Main.ID, w.table.ID) // two things to do: a look, and a route
		longest := time.Duration(0)
		for range 20 {
			begin := time.Now()
			w.pass()
			longest = max(longest, time.Since(begin))
			time.Sleep(10 * time.Second)
		}
		if longest > 2*patience {
			t.Errorf("a pass took %s", longest)
		}
		for k, err := range w.now {
			if k.Kind != state.KindCloudRoute || k.Scope != w.table.ID || !strings.Contains(err.Error(), "no answer within 10s") {
				t.Errorf("%v: %v", k, err)
			}
		}
		if len(w.now) != 1 {
			t.Errorf("failures: %v", w.now)
		}
		w.forgetEvents()
		g.reopen()
		w.lost(period + spread)
		w.pass()
		w.wantFailures(nil)
		w.wantRoute(w.table, ownDst, w.a.Interface())
	})
}

// A write whose answer is late is not made again, and its outcome comes as an event.
func TestLateAnswer(t *testing.T) {
	inWorld(t, func(w *world) {
		w.a.Interface().SetSourceDestCheck(false)
		g := w.behindGate()
		w.want = state.Set{}
		w.desire(w.vpc.Main.ID)
		if _, err := w.Dump(w.t.Context(), w.want); err != nil {
			t.Fatal(err)
		}
		synctest.Wait() // the look may be made again, as what is wanted changed meanwhile
		g.shut(true)
		w.forgetEvents()
		begin := time.Now()
		w.pass()
		if err := w.now[state.CloudRoute{Table: w.vpc.Main.ID, Dst: ownDst}.Key()]; !errors.Is(err, errBusy) || time.Since(begin) != patience {
			t.Errorf("after %s: %v", time.Since(begin), err)
		}
		time.AfterFunc(time.Second, g.reopen)
		w.pass() // the same step is handed over once more
		w.wantFailures(nil)
		if took := w.lost(time.Second); took > 0 {
			t.Error(took)
		}
		if n := len(w.Calls("CreateRoute", "ReplaceRoute")); n != 1 {
			t.Errorf("%d writes", n)
		}
	})
}

// If EC2 is silent from the start, that is waited for once.
func TestSilentStart(t *testing.T) {
	inWorld(t, func(w *world) {
		g := w.behindGate()
		g.shut(false)
		for _, want := range []time.Duration{patience, 0} {
			begin := time.Now()
			w.pass()
			if took := time.Since(begin); took != want {
				t.Errorf("a pass took %s", took)
			}
			for k, err := range w.now {
				if !errors.Is(err, errBusy) {
					t.Errorf("%v: %v", k, err)
				}
			}
		}
		g.reopen()
	})
}

// Steps that follow one without an answer are not tried.
func TestSilentWrites(t *testing.T) {
	inWorld(t, func(w *world) {
		w.desire(w.vpc.Main.ID, w.table.ID)
		g := w.behindGate()
		w.Deny("CreateRoute")
		w.pass()
		w.Allow("CreateRoute")
		time.Sleep(holdFirst)
		g.shut(false)
		w.forgetEvents()
		w.pass()
		if took := patience + w.lost(time.Minute); took != callTime {
			t.Errorf("the outcome came after %s", took)
		}
		w.pass()
		for _, table := range []string{w.vpc.Main.ID, w.table.ID} {
			if err := w.now[state.CloudRoute{Table: table, Dst: ownDst}.Key()]; err == nil || !strings.HasSuffix(err.Error(), ": no answer within 10s") {
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
		w.expect(w.want)
		g.reopen()
		w.pass()
		w.wantFailures(nil)
		w.wantRoute(w.table, ownDst, w.a.Interface())
	})
}

// Peers come and go while EC2 is silent.
func TestPeersInSilence(t *testing.T) {
	inWorld(t, func(w *world) {
		g := w.behindGate()
		w.pass()
		g.shut(false)
		time.Sleep(period + spread + time.Second) // a look has begun
		begin := time.Now()
		p := state.CloudPeer{Table: w.vpc.Main.ID, Dst: peerDst}
		for _, op := range []state.Op{{Verb: state.Create, Want: p}, {Verb: state.Delete, Have: p}} {
			if errs := w.Apply(w.t.Context(), []state.Op{op}); errs[0] != nil {
				t.Error(errs)
			}
		}
		if took := time.Since(begin); took != 0 {
			t.Errorf("%s", took)
		}
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
				ctx, cancel := context.WithCancel(w.t.Context())
				ended := make(chan struct{})
				go func() {
					defer close(ended)
					_, _ = w.Dump(ctx, w.want)
					var ops []state.Op
					for _, o := range w.want {
						ops = append(ops, state.Op{Verb: state.Create, Want: o})
					}
					w.Apply(ctx, ops)
				}()
				time.Sleep(time.Second)
				begin := time.Now()
				cancel()
				w.stop()
				<-ended
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

// A call that waits for its turn until its time is over was refused, and not unanswered.
func TestTurnDoesNotCome(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPatient(func() bool { return false })
		refused := &smithy.GenericAPIError{Code: throttled}
		for range 10 {
			ctx, stop := context.WithTimeout(t.Context(), turn)
			release, err := p.GetAttemptToken(ctx)
			stop()
			if err != nil {
				if got := codeOf(explain(err, "", "")); got != throttled {
					t.Errorf("%q: %v", got, err)
				}
				return
			}
			_ = release(refused)
		}
		t.Error("each call has its turn at once")
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
