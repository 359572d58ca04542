package ec2

import (
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/aws/aws-sdk-go-v2/config"

	"flanneld/pkg/dataplane"
	"flanneld/pkg/lab/fakeaws"
	"flanneld/pkg/state"
	"flanneld/subnet"
)

// dead makes routes to an instance that is gone.
func (f *fixture) dead(n int) (dsts []netip.Prefix) {
	gone, err := f.RunInstance(f.b.Interface().Subnet, fakeaws.InstanceOptions{})
	f.check(err)
	for i := range n {
		dsts = append(dsts, prefix(fmt.Sprintf("10.1.%d.0/24", 100+i)))
		f.check(f.vpc.Main.CreateRoute(dsts[i].String(), gone.Interface().ID))
	}
	gone.Terminate()
	return dsts
}

// Routes that are to be deleted may get a lease while others of them are.
func TestDeleteLeasedMeanwhile(t *testing.T) {
	withFixture(t, func(f *fixture) {
		f.run(20 * time.Second)
		dsts := f.dead(20)
		f.SetLimit(fakeaws.Mutating, fakeaws.Limit{Burst: 1, Refill: 0.2}) // others use up most
		for len(f.Calls("DeleteRoute")) == 0 {
			f.run(time.Second)
		}
		// Another host acquires each of the subnets that are left, and has a route made.
		taken := make(map[string]bool)
		for _, r := range f.vpc.Main.Routes() {
			for _, dst := range dsts {
				if r.Dst == dst {
					p := state.CloudRoute{Table: f.vpc.Main.ID, Dst: dst}
					f.want[p.Key()] = p
				}
			}
		}
		f.pass() // the daemon gets to know it
		for _, dst := range dsts {
			if f.vpc.Main.ReplaceRoute(dst.String(), f.b.Interface().ID) == nil {
				taken[dst.String()] = true
			}
		}
		f.ForgetCalls()
		f.run(3 * time.Minute)
		lost := 0
		for _, c := range f.Calls("DeleteRoute") {
			if c.Code == "" && taken[c.Form.Get(destinationKey())] {
				lost++
			}
		}
		if lost > 1 { // one call may have been on its way
			t.Errorf("%d routes of hosts with a lease were deleted, of %d", lost, len(taken))
		}
	})
}

// slow is the way to an EC2 that takes its time.
type slow struct{ http.RoundTripper }

func (s slow) RoundTrip(in *http.Request) (*http.Response, error) {
	time.Sleep(200 * time.Millisecond)
	return s.RoundTripper.RoundTrip(in)
}

// Deletes that take long do not go on with what was wanted when they began: what has a lease
// by then stays, whether or not its host has led the route to itself.
func TestDeletesTakeLong(t *testing.T) {
	withFixture(t, func(f *fixture) {
		f.start(f.a, config.WithHTTPClient(&http.Client{Transport: slow{f.Transport(f.a)}}))
		f.run(20 * time.Second)
		dsts := f.dead(20)
		for len(f.Calls("DeleteRoute")) == 0 {
			f.run(fresh / 10)
		}
		for _, dst := range dsts {
			p := state.CloudRoute{Table: f.vpc.Main.ID, Dst: dst}
			f.want[p.Key()] = p
		}
		f.run(2 * fresh)
		f.ForgetCalls()
		f.run(time.Minute)
		if n := len(f.Calls("DeleteRoute")); n > 0 {
			t.Errorf("%d deletes of what has a lease", n)
		}
		if n := len(f.vpc.Main.Routes()); n < len(dsts)/2 {
			t.Errorf("%d routes are left", n)
		}
	})
}

// awaitLook waits until a look is over: the next one is not soon.
func (f *fixture) awaitLook() {
	for f.ForgetCalls(); len(f.Calls("DescribeRouteTables")) == 0; synctest.Wait() {
		time.Sleep(fresh / 10)
	}
}

// A look before a delete may take long. What has a lease by the time that it is answered
// stays, although the lease came too late for the pass.
func TestLeasedDuringLookOfDelete(t *testing.T) {
	withFixture(t, func(f *fixture) {
		way := &after{RoundTripper: f.Transport(f.a), f: f, action: "DescribeRouteTables"}
		f.start(f.a, config.WithHTTPClient(&http.Client{Transport: way}))
		dst := prefix("10.1.7.0/24")
		p := state.CloudRoute{Table: f.vpc.Main.ID, Dst: dst}
		f.want[p.Key()] = p
		f.run(20 * time.Second)
		f.check(f.vpc.Main.CreateRoute(dst.String(), f.a.Interface().ID)) // as of a former lease
		f.run(2 * period)
		delete(f.want, p.Key()) // the lease ends, and the subnet has the next one while EC2 answers
		ended := f.desired()
		f.want[p.Key()] = p
		leased := f.desired()
		f.awaitLook()
		time.Sleep(2 * fresh)
		f.ForgetCalls()
		way.do = func() {
			f.loop.SetDesired(leased)
			time.Sleep(time.Second)
			f.check(f.vpc.Main.ReplaceRoute(dst.String(), f.b.Interface().ID))
		}
		ended.Config = &subnet.Config{V4: ended.Config.V4}
		f.loop.SetDesired(ended)
		f.run(2 * time.Minute)
		if way.do != nil {
			t.Error("nobody looked")
		}
		if n := len(f.Calls("DeleteRoute")); n > 0 {
			t.Errorf("%d deletes of what has a lease", n)
		}
		f.wantRoute(f.vpc.Main, dst, f.b.Interface())
	})
}

// A route that is to be deleted may be gone by then.
func TestDeleteGone(t *testing.T) {
	withFixture(t, func(f *fixture) {
		f.run(20 * time.Second)
		op := f.expired(f.dead(1)[0])
		f.check(f.vpc.Main.DeleteRoute(op.Key().Prefix.String()))
		time.Sleep(2 * fresh)
		if errs := f.Apply(f.t.Context(), []state.Op{op}); errs[0] != nil {
			t.Error(errs)
		}
		if n := len(f.Calls("DeleteRoute")); n > 0 {
			t.Errorf("%d calls", n)
		}
	})
}

// expired returns the step that deletes a route, as a pass decides on it. The loop ends.
func (f *fixture) expired(dst netip.Prefix) state.Op {
	f.t.Helper()
	f.stop()
	k := state.CloudRoute{Table: f.vpc.Main.ID, Dst: dst}.Key()
	for range 100 {
		have, err := f.Dump(f.t.Context(), f.want)
		f.check(err)
		if e := have[k]; e.Owner == state.Ours {
			return state.Op{Verb: state.Delete, Have: e.Object}
		}
		time.Sleep(time.Second)
	}
	f.t.Fatalf("%v is not ours", k)
	return state.Op{}
}

// A route that is to be deleted may lead somewhere by then; or EC2 may not say.
func TestDeleteRevived(t *testing.T) {
	for name, between := range map[string]func(*fixture, *barrier){
		"revived": func(f *fixture, _ *barrier) { f.b.Start() },
		"unseen":  func(f *fixture, g *barrier) { g.shut(false); f.b.Start() },
	} {
		t.Run(name, func(t *testing.T) {
			withFixture(t, func(f *fixture) {
				g := f.behindBarrier()
				f.run(20 * time.Second)
				dst := prefix("10.1.7.0/24")
				f.check(f.vpc.Main.CreateRoute(dst.String(), f.b.Interface().ID))
				f.b.Stop()
				op := f.expired(dst)
				time.Sleep(2 * fresh)
				between(f, g)
				if errs := f.Apply(f.t.Context(), []state.Op{op}); !errors.Is(errs[0], dataplane.ErrSettling) {
					t.Error(errs)
				}
				if calls := f.Calls("DeleteRoute"); len(calls) > 0 {
					t.Error("a route was deleted that leads to an instance")
				}
			})
		})
	}
}

// Routes that are to be made may be those of another host before their turn has come.
func TestPutNoMore(t *testing.T) {
	withFixture(t, func(f *fixture) {
		tables := []*fakeaws.RouteTable{f.vpc.Main, f.table}
		for len(tables) < 2*callsAtOnce {
			tables = append(tables, f.vpc.AddRouteTable())
		}
		var ids []string
		for _, table := range tables {
			ids = append(ids, table.ID)
		}
		f.desire(ids...)
		f.a.Interface().SetSourceDestCheck(false)
		g := f.behindBarrier()
		f.Deny("CreateRoute")
		f.pass()
		f.Allow("CreateRoute")
		g.shut(true)
		f.ForgetCalls()
		f.pass() // routes are on their way, and more of them are to be made after that
		if n := len(f.Calls("CreateRoute")); n != callsAtOnce {
			t.Errorf("%d routes at once", n)
		}
		// The lease is lost, and another host has the subnet.
		f.want = state.Set{}
		host := f.addr()
		i, p := state.CloudInterface{Host: host}, prefix("10.1.9.0/24")
		f.want[i.Key()] = i
		for _, table := range tables {
			r := state.CloudRoute{Table: table.ID, Dst: p, Host: host}
			f.want[r.Key()] = r
			peer := state.CloudRoute{Table: table.ID, Dst: ownDst}
			f.want[peer.Key()] = peer
			if table.CreateRoute(ownDst.String(), f.b.Interface().ID) != nil {
				f.check(table.ReplaceRoute(ownDst.String(), f.b.Interface().ID))
			}
		}
		f.set()
		g.reopen()
		f.run(3 * time.Minute)
		for _, table := range tables {
			f.wantRoute(table, ownDst, f.b.Interface())
		}
	})
}

// after does something once when there has been a call.
type after struct {
	http.RoundTripper
	f      *fixture
	action string
	do     func()
}

func (a *after) RoundTrip(in *http.Request) (*http.Response, error) {
	out, err := a.RoundTripper.RoundTrip(in)
	if do := a.do; do != nil && len(a.f.Calls(a.action)) > 0 {
		a.do = nil
		do()
	}
	return out, err
}

// A delete whose answer is lost is not made again before it is known that it still has to be.
func TestDeleteRetried(t *testing.T) {
	withFixture(t, func(f *fixture) {
		way := &after{RoundTripper: f.Transport(f.a), f: f, action: "DeleteRoute"}
		f.start(f.a, config.WithHTTPClient(&http.Client{Transport: way}))
		f.run(20 * time.Second)
		dst := f.dead(1)[0]
		f.LoseAnswers("DeleteRoute", 1)
		p := state.CloudRoute{Table: f.vpc.Main.ID, Dst: dst}
		f.want[p.Key()] = p
		leased := f.desired()
		delete(f.want, p.Key())
		way.do = func() { // another host has acquired the subnet, and the daemon knows
			f.loop.SetDesired(leased)
			f.check(f.vpc.Main.CreateRoute(dst.String(), f.b.Interface().ID))
		}
		for len(f.Calls("DeleteRoute")) == 0 {
			f.run(time.Second)
		}
		f.want[p.Key()] = p
		f.run(2 * time.Minute)
		f.wantRoute(f.vpc.Main, dst, f.b.Interface())
	})
}

// That a route can't be deleted says nothing of whether it can be led here.
func TestHoldOfOtherVerb(t *testing.T) {
	withFixture(t, func(f *fixture) {
		f.run(20 * time.Second)
		dst := f.dead(1)[0]
		f.Deny("DeleteRoute")
		f.run(10 * time.Minute)
		// The lease of this host was lost, and the new one is for that subnet.
		f.want = state.Set{}
		host := f.addr()
		for _, o := range []state.Object{state.CloudInterface{Host: host}, state.CloudRoute{Table: f.vpc.Main.ID, Dst: dst, Host: host}} {
			f.want[o.Key()] = o
		}
		f.pass()
		if err := f.failures()[state.CloudRoute{Table: f.vpc.Main.ID, Dst: dst}.Key()]; err != nil {
			t.Error(err)
		}
		f.wantRoute(f.vpc.Main, dst, f.a.Interface())
	})
}

// Each delete that fails tells its own reason, whatever was told before of others.
func TestReasonOfDelete(t *testing.T) {
	withFixture(t, func(f *fixture) {
		f.run(20 * time.Second)
		f.Deny("DeleteRoute")
		dsts := f.dead(2)
		wantAll := func(code string) {
			t.Helper()
			for _, dst := range dsts {
				if err := f.failures()[state.CloudRoute{Table: f.vpc.Main.ID, Dst: dst}.Key()]; codeOf(err) != code {
					t.Errorf("%s: %v, want %s", dst, err, code)
				}
			}
		}
		f.run(2 * time.Minute)
		wantAll("UnauthorizedOperation")
		f.LoseAnswers("DeleteRoute", 1)
		f.Allow("DeleteRoute")
		for len(f.Calls("DeleteRoute")) == 0 || f.Calls("DeleteRoute")[len(f.Calls("DeleteRoute"))-1].Code == "UnauthorizedOperation" {
			f.run(time.Second)
		}
		f.run(2 * time.Minute)
		wantAll("")
		f.wantFailures(nil)
		if n := len(made(f.vpc.Main)); n != 1 {
			t.Errorf("%d routes", n)
		}
	})
}
