package ec2

import (
	"context"
	"net/http"
	"net/netip"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/aws/aws-sdk-go-v2/config"

	"flanneld/pkg/dataplane"
	"flanneld/pkg/lab/fakeaws"
	"flanneld/pkg/state"
)

var (
	network = netip.MustParsePrefix("10.1.0.0/16")
	ownDst  = netip.MustParsePrefix("10.1.5.0/24")
	peerDst = netip.MustParsePrefix("10.1.6.0/24")
)

// world is a VPC of two subnets, the second of which has a table of its own, with an
// instance in each; and what keeps the routes of the first.
type world struct {
	*fakeaws.Cloud
	*Dataplane
	t      *testing.T
	vpc    *fakeaws.VPC
	table  *fakeaws.RouteTable // of the second subnet
	a, b   *fakeaws.Instance
	want   state.Set
	now    map[state.Key]error // failures of the last pass
	events chan dataplane.Event
	stop   func() // ends what keeps the routes
}

// inWorld runs a test on a clock that leaps to when something happens next.
func inWorld(t *testing.T, fn func(*world)) {
	t.Helper()
	inWorldWith(t, nil, fn)
}

// inWorldWith does so with these variables in the environment.
func inWorldWith(t *testing.T, env map[string]string, fn func(*world)) {
	t.Helper()
	for name, value := range env {
		t.Setenv(name, value)
	}
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, fakeaws.Options{})
		fn(w)
		w.stop()
	})
}

func newWorld(t *testing.T, options fakeaws.Options) *world {
	w := &world{t: t, Cloud: fakeaws.New(options), events: make(chan dataplane.Event, 1000)}
	_, err := w.AddVPC("10.0.0.0/16") // of others
	w.check(err)
	w.vpc, err = w.AddVPC("10.0.0.0/16")
	w.check(err)
	first, err := w.vpc.AddSubnet("10.0.1.0/24", "a")
	w.check(err)
	second, err := w.vpc.AddSubnet("10.0.2.0/24", "a")
	w.check(err)
	w.table = w.vpc.AddRouteTable()
	w.check(w.table.Associate(second))
	w.a, err = w.RunInstance(first, fakeaws.InstanceOptions{Role: "node", Metadata: fakeaws.MetadataOptions{TokensRequired: true}})
	w.check(err)
	w.b, err = w.RunInstance(second, fakeaws.InstanceOptions{Role: "node"})
	w.check(err)
	w.start(w.a)
	w.desire(w.vpc.Main.ID)
	return w
}

// start is a new daemon on an instance, in place of the one before.
func (w *world) start(on *fakeaws.Instance, options ...func(*config.LoadOptions) error) {
	if w.stop != nil {
		w.stop()
	}
	w.Dataplane = New(append([]func(*config.LoadOptions) error{
		config.WithHTTPClient(&http.Client{Transport: w.Transport(on)}),
		config.WithBaseEndpoint("http://ec2.test"),
		config.WithSharedConfigFiles([]string{}), config.WithSharedCredentialsFiles([]string{}),
	}, options...)...)
	ctx, cancel := context.WithCancel(w.t.Context())
	done := make(chan struct{})
	watched := w.Dataplane
	go func() {
		defer close(done)
		_ = watched.Watch(ctx, func() {}, func(e dataplane.Event) { w.events <- e })
	}()
	w.stop = func() { cancel(); <-done }
	synctest.Wait()
}

// desire is what a host wants in some tables.
func (w *world) desire(tables ...string) { w.desireFor(w.a.Interface().Addr, tables...) }

func (w *world) desireFor(host netip.Addr, tables ...string) {
	w.want = state.Set{}
	objects := []state.Object{state.CloudInterface{Host: host}}
	for _, table := range tables {
		objects = append(objects, state.CloudRoute{Table: table, Dst: ownDst, Host: host})
	}
	for _, o := range objects {
		w.want[o.Key()] = o
	}
}

func (w *world) peer(table string) {
	p := state.CloudPeer{Table: table, Dst: peerDst}
	w.want[p.Key()] = p
}

// pass is what the reconciler does: whatever is in the network and nobody wants goes.
func (w *world) pass() {
	w.t.Helper()
	have, err := w.Dump(w.t.Context(), w.want)
	if err != nil {
		w.t.Fatal(err)
	}
	keys := make([]state.Key, 0, len(have))
	for k := range w.want {
		keys = append(keys, k)
	}
	for k := range have {
		if w.want[k] == nil && network.Contains(k.Prefix.Addr()) {
			keys = append(keys, k)
		}
	}
	ops, blocked := state.Diff(w.want, have, keys, func(o state.Object) bool {
		by, kept := state.KeptBy(o)
		return kept && w.want[by] != nil
	})
	w.now = make(map[state.Key]error)
	for _, b := range blocked {
		w.now[b.Want.Key()] = b
	}
	for i, err := range w.Apply(w.t.Context(), ops) {
		if err != nil {
			w.now[ops[i].Key()] = err
		}
	}
}

// run passes time, with a pass after each event and each half minute.
func (w *world) run(d time.Duration) {
	w.t.Helper()
	for end := time.Now().Add(d); time.Now().Before(end); {
		w.pass()
		synctest.Wait()
		select {
		case <-w.events:
		case <-time.After(min(30*time.Second, time.Until(end))):
		}
	}
}

func (w *world) wantCalls(want ...string) {
	w.t.Helper()
	var got []string
	for _, c := range w.Calls() {
		text := c.Action
		if c.Code != "" {
			text += " " + c.Code
		}
		got = append(got, text)
	}
	if !slices.Equal(got, want) {
		w.t.Errorf("calls: %q, want %q", got, want)
	}
	w.ForgetCalls()
}

func (w *world) wantFailures(want map[state.Kind]string) {
	w.t.Helper()
	if len(w.now) != len(want) {
		w.t.Errorf("failures: %v", w.now)
	}
	for k, err := range w.now {
		if err.Error() != want[k.Kind] {
			w.t.Errorf("%v:\n%v, want\n%s", k, err, want[k.Kind])
		}
	}
}

// wantRoute checks where a table leads a destination: to an interface, or nowhere
// if that is nil.
func (w *world) wantRoute(table *fakeaws.RouteTable, dst netip.Prefix, to *fakeaws.Interface) {
	w.t.Helper()
	for _, r := range table.Routes() {
		if r.Dst == dst {
			if to == nil || r.InterfaceID != to.ID {
				w.t.Errorf("in %s: %+v, want %+v", table.ID, r, to)
			}
			return
		}
	}
	if to != nil {
		w.t.Errorf("%s has no route to %s", table.ID, dst)
	}
}

// lost waits for an event that there is more to be seen, or done, than before. It returns
// how long that took.
func (w *world) lost(limit time.Duration) time.Duration {
	w.t.Helper()
	for begin, end := time.Now(), time.After(limit); ; {
		select {
		case e := <-w.events:
			if e.Lost {
				return time.Since(begin)
			}
		case <-end:
			w.t.Errorf("no hint after %s", limit)
			return limit
		}
	}
}

// forgetEvents drops the events that there were so far.
func (w *world) forgetEvents() {
	synctest.Wait()
	for len(w.events) > 0 {
		<-w.events
	}
}

func (w *world) check(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}
