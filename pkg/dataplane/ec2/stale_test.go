package ec2

import (
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/config"

	"flanneld/pkg/dataplane"
	"flanneld/pkg/lab/fakeaws"
	"flanneld/pkg/state"
)

// dead makes routes to an instance that is gone.
func (w *world) dead(n int) (dsts []netip.Prefix) {
	gone, err := w.RunInstance(w.b.Interface().Subnet, fakeaws.InstanceOptions{})
	w.check(err)
	for i := range n {
		dsts = append(dsts, netip.MustParsePrefix(fmt.Sprintf("10.1.%d.0/24", 100+i)))
		w.check(w.vpc.Main.CreateRoute(dsts[i].String(), gone.Interface().ID))
	}
	gone.Terminate()
	return dsts
}

// Routes that are to be deleted may get a lease while others of them are.
func TestDeleteLeasedMeanwhile(t *testing.T) {
	inWorld(t, func(w *world) {
		w.run(20 * time.Second)
		dsts := w.dead(20)
		w.SetLimit(fakeaws.Mutating, fakeaws.Limit{Burst: 1, Refill: 0.2}) // others use up most
		for len(w.Calls("DeleteRoute")) == 0 {
			w.run(time.Second)
		}
		// Another host acquires each of the subnets that are left, and has a route made.
		taken := make(map[string]bool)
		for _, r := range w.vpc.Main.Routes() {
			for _, dst := range dsts {
				if r.Dst == dst {
					p := state.CloudRoute{Table: w.vpc.Main.ID, Dst: dst}
					w.want[p.Key()] = p
				}
			}
		}
		w.pass() // the daemon gets to know it
		for _, dst := range dsts {
			if w.vpc.Main.ReplaceRoute(dst.String(), w.b.Interface().ID) == nil {
				taken[dst.String()] = true
			}
		}
		w.ForgetCalls()
		w.run(3 * time.Minute)
		lost := 0
		for _, c := range w.Calls("DeleteRoute") {
			if c.Code == "" && taken[c.Form.Get("DestinationCidrBlock")] {
				lost++
			}
		}
		if lost > 1 { // one call may have been on its way
			t.Errorf("%d routes of hosts with a lease were deleted, of %d", lost, len(taken))
		}
	})
}

// A route that is to be deleted may be gone by then.
func TestDeleteGone(t *testing.T) {
	inWorld(t, func(w *world) {
		w.run(20 * time.Second)
		op := w.expired(w.dead(1)[0])
		w.check(w.vpc.Main.DeleteRoute(op.Key().Prefix.String()))
		time.Sleep(2 * fresh)
		if errs := w.Apply(w.t.Context(), []state.Op{op}); errs[0] != nil {
			t.Error(errs)
		}
		if n := len(w.Calls("DeleteRoute")); n > 0 {
			t.Errorf("%d calls", n)
		}
	})
}

// expired returns the step that deletes a route, as a pass decides on it. The loop ends.
func (w *world) expired(dst netip.Prefix) state.Op {
	w.t.Helper()
	w.stop()
	k := state.CloudRoute{Table: w.vpc.Main.ID, Dst: dst}.Key()
	for range 100 {
		have, err := w.Dump(w.t.Context(), w.want)
		w.check(err)
		if e := have[k]; e.Owner == state.Ours {
			return state.Op{Verb: state.Delete, Have: e.Object}
		}
		time.Sleep(time.Second)
	}
	w.t.Fatalf("%v is not ours", k)
	return state.Op{}
}

// A route that is to be deleted may lead somewhere by then; or EC2 may not say.
func TestDeleteRevived(t *testing.T) {
	for name, between := range map[string]func(*world, *gate){
		"revived": func(w *world, _ *gate) { w.b.Start() },
		"unseen":  func(w *world, g *gate) { g.shut(false); w.b.Start() },
	} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, func(w *world) {
				g := w.behindGate()
				w.run(20 * time.Second)
				dst := netip.MustParsePrefix("10.1.7.0/24")
				w.check(w.vpc.Main.CreateRoute(dst.String(), w.b.Interface().ID))
				w.b.Stop()
				op := w.expired(dst)
				time.Sleep(2 * fresh)
				between(w, g)
				if errs := w.Apply(w.t.Context(), []state.Op{op}); !errors.Is(errs[0], dataplane.ErrSettling) {
					t.Error(errs)
				}
				if calls := w.Calls("DeleteRoute"); len(calls) > 0 {
					t.Error("a route was deleted that leads to an instance")
				}
			})
		})
	}
}

// Routes that are to be made may be those of another host before their turn has come.
func TestPutNoMore(t *testing.T) {
	inWorld(t, func(w *world) {
		tables := []*fakeaws.RouteTable{w.vpc.Main, w.table}
		for len(tables) < 2*callsAtOnce {
			tables = append(tables, w.vpc.AddRouteTable())
		}
		var ids []string
		for _, table := range tables {
			ids = append(ids, table.ID)
		}
		w.desire(ids...)
		w.a.Interface().SetSourceDestCheck(false)
		g := w.behindGate()
		w.Deny("CreateRoute")
		w.pass()
		w.Allow("CreateRoute")
		g.shut(true)
		w.pass() // routes are on their way, and more of them are to be made after that
		// The lease is lost, and another host has the subnet.
		w.want = state.Set{}
		host := w.a.Interface().Addr
		i, p := state.CloudInterface{Host: host}, netip.MustParsePrefix("10.1.9.0/24")
		w.want[i.Key()] = i
		for _, table := range tables {
			r := state.CloudRoute{Table: table.ID, Dst: p, Host: host}
			w.want[r.Key()] = r
			peer := state.CloudRoute{Table: table.ID, Dst: ownDst}
			w.want[peer.Key()] = peer
			if table.CreateRoute(ownDst.String(), w.b.Interface().ID) != nil {
				w.check(table.ReplaceRoute(ownDst.String(), w.b.Interface().ID))
			}
		}
		w.set()
		g.reopen()
		w.run(3 * time.Minute)
		for _, table := range tables {
			w.wantRoute(table, ownDst, w.b.Interface())
		}
	})
}

// after does something once when there has been a call.
type after struct {
	http.RoundTripper
	w      *world
	action string
	do     func()
}

func (a *after) RoundTrip(in *http.Request) (*http.Response, error) {
	out, err := a.RoundTripper.RoundTrip(in)
	if do := a.do; do != nil && len(a.w.Calls(a.action)) > 0 {
		a.do = nil
		do()
	}
	return out, err
}

// A delete whose answer is lost is not made again before it is known that it still has to be.
func TestDeleteRetried(t *testing.T) {
	inWorld(t, func(w *world) {
		way := &after{RoundTripper: w.Transport(w.a), w: w, action: "DeleteRoute"}
		w.start(w.a, config.WithHTTPClient(&http.Client{Transport: way}))
		w.run(20 * time.Second)
		dst := w.dead(1)[0]
		w.LoseAnswers("DeleteRoute", 1)
		p := state.CloudRoute{Table: w.vpc.Main.ID, Dst: dst}
		w.want[p.Key()] = p
		leased := w.desired()
		delete(w.want, p.Key())
		way.do = func() { // another host has acquired the subnet, and the daemon knows
			w.loop.SetDesired(leased)
			w.check(w.vpc.Main.CreateRoute(dst.String(), w.b.Interface().ID))
		}
		for len(w.Calls("DeleteRoute")) == 0 {
			w.run(time.Second)
		}
		w.want[p.Key()] = p
		w.run(2 * time.Minute)
		w.wantRoute(w.vpc.Main, dst, w.b.Interface())
	})
}

// That a route can't be deleted says nothing of whether it can be led here.
func TestHoldOfOtherVerb(t *testing.T) {
	inWorld(t, func(w *world) {
		w.run(20 * time.Second)
		dst := w.dead(1)[0]
		w.Deny("DeleteRoute")
		w.run(10 * time.Minute)
		// The lease of this host was lost, and the new one is for that subnet.
		w.want = state.Set{}
		host := w.a.Interface().Addr
		for _, o := range []state.Object{state.CloudInterface{Host: host}, state.CloudRoute{Table: w.vpc.Main.ID, Dst: dst, Host: host}} {
			w.want[o.Key()] = o
		}
		w.pass()
		if err := w.failures()[state.CloudRoute{Table: w.vpc.Main.ID, Dst: dst}.Key()]; err != nil {
			t.Error(err)
		}
		w.wantRoute(w.vpc.Main, dst, w.a.Interface())
	})
}

// Each delete that fails tells its own reason, whatever was told before of others.
func TestReasonOfDelete(t *testing.T) {
	inWorld(t, func(w *world) {
		w.run(20 * time.Second)
		w.Deny("DeleteRoute")
		dsts := w.dead(2)
		wantAll := func(code string) {
			t.Helper()
			for _, dst := range dsts {
				if err := w.failures()[state.CloudRoute{Table: w.vpc.Main.ID, Dst: dst}.Key()]; codeOf(err) != code {
					t.Errorf("%s: %v, want %s", dst, err, code)
				}
			}
		}
		w.run(2 * time.Minute)
		wantAll("UnauthorizedOperation")
		w.LoseAnswers("DeleteRoute", 1)
		w.Allow("DeleteRoute")
		for len(w.Calls("DeleteRoute")) == 0 || w.Calls("DeleteRoute")[len(w.Calls("DeleteRoute"))-1].Code == "UnauthorizedOperation" {
			w.run(time.Second)
		}
		w.run(2 * time.Minute)
		wantAll("")
		w.wantFailures(nil)
		if n := len(w.vpc.Main.Routes()); n != 2 {
			t.Errorf("%d routes", n)
		}
	})
}
