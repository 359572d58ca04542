package ec2

import (
	"fmt"
	"net/http"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/aws/aws-sdk-go-v2/config"

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
					p := state.CloudPeer{Table: w.vpc.Main.ID, Dst: dst}
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

// A route that is to be deleted may be gone by the next look.
func TestDeleteGone(t *testing.T) {
	inWorld(t, func(w *world) {
		w.run(20 * time.Second)
		k := state.CloudRoute{Table: w.vpc.Main.ID, Dst: w.dead(1)[0]}.Key()
		for w.have()[k].Owner != state.Ours {
			time.Sleep(time.Second)
		}
		op := state.Op{Verb: state.Delete, Have: w.have()[k].Object}
		w.check(w.vpc.Main.DeleteRoute(k.Prefix.String()))
		time.Sleep(period + spread)
		if errs := w.Apply(w.t.Context(), []state.Op{op}); errs[0] != nil {
			t.Error(errs)
		}
		if n := len(w.Calls("DeleteRoute")); n > 0 {
			t.Errorf("%d calls", n)
		}
	})
}

// A route that is to be deleted may lead somewhere by the next look.
func TestDeleteRevived(t *testing.T) {
	inWorld(t, func(w *world) {
		g := w.behindGate()
		w.run(20 * time.Second)
		dst := netip.MustParsePrefix("10.1.7.0/24")
		w.check(w.vpc.Main.CreateRoute(dst.String(), w.b.Interface().ID))
		w.b.Stop()
		for k := (state.CloudRoute{Table: w.vpc.Main.ID, Dst: dst}).Key(); w.have()[k].Owner != state.Ours; {
			time.Sleep(time.Second)
		}
		g.shut(false)
		w.mu.Lock()
		w.due = time.Now()
		w.wake()
		w.mu.Unlock()
		synctest.Wait() // a look has begun
		time.AfterFunc(patience/2, func() {
			w.b.Start()
			g.reopen()
		})
		w.pass()
		synctest.Wait()
		if calls := w.Calls("DeleteRoute"); len(calls) > 0 {
			t.Error("a route was deleted that had just been seen to lead to an instance")
		}
	})
}

// Routes that are to be made may be those of another host before their turn has come.
func TestPutNoMore(t *testing.T) {
	inWorld(t, func(w *world) {
		w.SetRouteLimit(60)
		third := w.vpc.AddRouteTable()
		w.desire(w.vpc.Main.ID, w.table.ID, third.ID)
		w.a.Interface().SetSourceDestCheck(false)
		g := w.behindGate()
		w.Deny("CreateRoute")
		w.pass()
		w.Allow("CreateRoute")
		time.Sleep(holdFirst)
		g.shut(true)
		w.pass() // the first of three routes is on its way
		// The lease is lost, and another host has the subnet.
		w.want = state.Set{}
		host := w.a.Interface().Addr
		i, p := state.CloudInterface{Host: host}, netip.MustParsePrefix("10.1.9.0/24")
		w.want[i.Key()] = i
		for _, table := range []*fakeaws.RouteTable{w.vpc.Main, w.table, third} {
			r := state.CloudRoute{Table: table.ID, Dst: p, Host: host}
			w.want[r.Key()] = r
			peer := state.CloudPeer{Table: table.ID, Dst: ownDst}
			w.want[peer.Key()] = peer
			if table.CreateRoute(ownDst.String(), w.b.Interface().ID) != nil {
				w.check(table.ReplaceRoute(ownDst.String(), w.b.Interface().ID))
			}
		}
		w.expect(w.want)
		g.reopen()
		synctest.Wait()
		w.run(3 * time.Minute)
		for _, table := range []*fakeaws.RouteTable{w.vpc.Main, w.table, third} {
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
		way.do = func() { // another host has acquired the subnet, and the daemon knows
			p := state.CloudPeer{Table: w.vpc.Main.ID, Dst: dst}
			w.want[p.Key()] = p
			w.expect(w.want)
			w.check(w.vpc.Main.CreateRoute(dst.String(), w.b.Interface().ID))
		}
		for len(w.Calls("DeleteRoute")) == 0 {
			w.run(time.Second)
		}
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
		if err := w.now[state.CloudRoute{Table: w.vpc.Main.ID, Dst: dst}.Key()]; err != nil {
			t.Error(err)
		}
		w.wantRoute(w.vpc.Main, dst, w.a.Interface())
	})
}

// What once stood for all deletes in a table is no answer to one that has a later one.
func TestHoldOfOne(t *testing.T) {
	inWorld(t, func(w *world) {
		w.run(20 * time.Second)
		op := state.Op{Verb: state.Delete, Have: state.CloudRoute{Table: w.vpc.Main.ID, Dst: w.dead(1)[0]}}
		refused := func(code string) {
			w.mu.Lock()
			defer w.mu.Unlock()
			w.note(op, &refusal{action: "DeleteRoute", resource: w.vpc.Main.ID, code: code, text: code})
		}
		refused(denied)
		time.Sleep(holdFirst)
		refused("InternalError")
		done, err := w.answered(op)
		if !done || codeOf(err) != "InternalError" {
			t.Errorf("%t, %v", done, err)
		}
		if last := w.lastAnswers([]state.Op{op})[0]; codeOf(last) != "InternalError" {
			t.Error(last)
		}
	})
}
