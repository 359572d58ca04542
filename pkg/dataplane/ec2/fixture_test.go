package ec2

import (
	"context"
	"maps"
	"net/http"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/aws/aws-sdk-go-v2/config"

	"flanneld/backend"
	"flanneld/network"
	"flanneld/pkg/ip"
	"flanneld/pkg/lab/fakeaws"
	"flanneld/pkg/state"
	"flanneld/subnet"
)

var (
	overlay = netip.MustParsePrefix("10.1.0.0/16")
	ownDst  = netip.MustParsePrefix("10.1.5.0/24")
	peerDst = netip.MustParsePrefix("10.1.6.0/24")
)

// fixture is a VPC of two subnets, the second of which has a table of its own, with an
// instance in each; and what keeps the routes of the first: a loop as each host has it.
type fixture struct {
	*fakeaws.Cloud
	*Dataplane
	t     *testing.T
	vpc   *fakeaws.VPC
	table *fakeaws.RouteTable // of the second subnet
	a, b  *fakeaws.Instance
	want  state.Set // after a change, pass or run hands it on
	loop  *network.Reconciler
	stop  func() // ends the loop

	sent   wanted // what was last desired, and how that was handed on
	config *subnet.Config
	leases map[netip.Prefix]*subnet.Lease

	call sync.Mutex // held during each call

	mu  sync.Mutex
	now map[state.Key]error // failures, as of the last pass
}

// withFixture runs a test on a clock that leaps to when something happens next.
func withFixture(t *testing.T, fn func(*fixture)) {
	t.Helper()
	withFixtureIn(t, nil, fn)
}

// withFixtureIn does so with these variables in the environment.
func withFixtureIn(t *testing.T, env map[string]string, fn func(*fixture)) {
	t.Helper()
	for name, value := range env {
		t.Setenv(name, value)
	}
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t, fakeaws.Options{})
		fn(f)
		f.stop()
	})
}

func newFixture(t *testing.T, options fakeaws.Options) *fixture {
	f := &fixture{t: t, Cloud: fakeaws.New(options)}
	_, err := f.AddVPC("10.0.0.0/16") // of others
	f.check(err)
	f.vpc, err = f.AddVPC("10.0.0.0/16")
	f.check(err)
	first, err := f.vpc.AddSubnet("10.0.1.0/24", "a")
	f.check(err)
	second, err := f.vpc.AddSubnet("10.0.2.0/24", "a")
	f.check(err)
	f.table = f.vpc.AddRouteTable()
	f.check(f.table.Associate(second))
	f.a, err = f.RunInstance(first, fakeaws.InstanceOptions{Role: "node", Metadata: fakeaws.MetadataOptions{TokensRequired: true}})
	f.check(err)
	f.b, err = f.RunInstance(second, fakeaws.InstanceOptions{Role: "node"})
	f.check(err)
	f.start(f.a)
	f.desire(f.vpc.Main.ID)
	return f
}

// start is a new daemon on an instance, in place of the one before.
func (f *fixture) start(on *fakeaws.Instance, options ...func(*config.LoadOptions) error) {
	if f.stop != nil {
		f.stop()
	}
	f.Dataplane = New(append([]func(*config.LoadOptions) error{
		config.WithHTTPClient(&http.Client{Transport: f.Transport(on)}),
		config.WithBaseEndpoint("http://ec2.test"),
		config.WithSharedConfigFiles([]string{}), config.WithSharedCredentialsFiles([]string{}),
	}, options...)...)
	f.now, f.sent, f.leases = make(map[state.Key]error), nil, make(map[netip.Prefix]*subnet.Lease)
	f.loop = network.NewReconciler(func(network.Status) {}, network.Plane{
		Name: "EC2", Dataplane: recorder{f.Dataplane, f}, Pace: network.Pace{RetryFirst: RetryFirst, RetryMost: RetryMost},
	})
	ctx, cancel := context.WithCancel(f.t.Context())
	done := make(chan struct{})
	loop := f.loop
	go func() {
		defer close(done)
		_ = loop.Run(ctx)
	}()
	f.stop = func() { cancel(); <-done }
	synctest.Wait()
}

// debounce is how soon one full pass follows another at the earliest.
const debounce = 10 * time.Millisecond

// between does something between two calls of the loop.
func (f *fixture) between(do func()) {
	synctest.Wait()
	f.call.Lock()
	defer f.call.Unlock()
	do()
}

// recorder has the fixture know of failures.
type recorder struct {
	*Dataplane
	f *fixture
}

func (r recorder) Dump(ctx context.Context, want state.Set) (state.Observed, error) {
	r.f.call.Lock()
	have, err := r.Dataplane.Dump(ctx, want)
	r.f.call.Unlock()
	r.f.mu.Lock()
	defer r.f.mu.Unlock()
	for k := range r.f.now {
		e, there := have[k]
		if right := there && e.Object == want[k]; right || want[k] == nil && e.Owner != state.Ours {
			delete(r.f.now, k)
		}
	}
	_, blocked := state.Diff(want, have, slices.Collect(maps.Keys(want)), nil)
	for _, b := range blocked {
		r.f.now[b.Want.Key()] = b
	}
	return have, err
}

func (r recorder) Apply(ctx context.Context, ops []state.Op) []error {
	r.f.call.Lock()
	errs := r.Dataplane.Apply(ctx, ops)
	r.f.call.Unlock()
	r.f.mu.Lock()
	defer r.f.mu.Unlock()
	for i, op := range ops {
		if errs[i] != nil {
			r.f.now[op.Key()] = errs[i]
		} else {
			delete(r.f.now, op.Key())
		}
	}
	return errs
}

// wanted is a backend that wants just that.
type wanted state.Set

func (wanted) Device(backend.Host, ip.Family) string { return "" }

func (wanted) Unencapsulated() bool { return true }

func (wanted) MTU(h backend.Host) int { return h.MTU() }

func (wanted) Attrs(backend.Host, backend.Past) (subnet.Attrs, error) { return subnet.Attrs{}, nil }

func isWatch(o state.Object) bool {
	r, isRoute := o.(state.CloudRoute)
	return isRoute && !r.Host.IsValid()
}

// Local is all but the routes of others.
func (w wanted) Local(backend.Host, ip.Subnet, *subnet.Lease) (objects []state.Object) {
	for _, o := range w {
		if !isWatch(o) {
			objects = append(objects, o)
		}
	}
	return objects
}

func (w wanted) Peer(_ backend.Host, _ ip.Family, _, peer *subnet.Lease) (objects []state.Object, err error) {
	for _, o := range w {
		if isWatch(o) && o.(state.CloudRoute).Dst == peer.Subnet.V4 {
			objects = append(objects, o)
		}
	}
	return objects, nil
}

// ready reports whether the loop has converged.
func (f *fixture) ready() bool {
	synctest.Wait()
	select {
	case <-f.loop.Ready():
		return true
	default:
		return false
	}
}

// set hands on what is wanted. Other objects of this host's own come with another
// configuration, and those of others with their leases.
func (f *fixture) set() {
	if f.sent == nil || !maps.Equal(f.want, state.Set(f.sent)) {
		f.loop.SetDesired(f.desired())
	}
}

func (f *fixture) desired() network.Desired {
	was, is := f.sent, wanted(maps.Clone(f.want))
	local := func(s wanted) state.Set {
		own := maps.Clone(state.Set(s))
		maps.DeleteFunc(own, func(_ state.Key, o state.Object) bool { return isWatch(o) })
		return own
	}
	if was == nil || !maps.Equal(local(was), local(is)) {
		var err error
		f.config, err = subnet.ParseConfig([]byte(`{"Network": "` + overlay.String() + `", "Backend": {"Type": "aws-vpc"}}`))
		f.check(err)
	}
	tables := func(s wanted) map[netip.Prefix]int {
		n := make(map[netip.Prefix]int)
		for k, o := range s {
			if isWatch(o) {
				n[k.Prefix]++
			}
		}
		return n
	}
	before := tables(was)
	var peers []*subnet.Lease
	for dst, n := range tables(is) {
		if f.leases[dst] == nil || before[dst] != n {
			f.leases[dst] = &subnet.Lease{Subnet: ip.SubnetOf(dst), Revision: uint64(n)}
		}
		peers = append(peers, f.leases[dst])
	}
	slices.SortFunc(peers, func(a, b *subnet.Lease) int { return a.Subnet.Compare(b.Subnet) })
	f.sent = is
	return network.Desired{
		Backend: is, Config: f.config, Own: &subnet.Lease{Subnet: ip.SubnetOf(ownDst)},
		Host:     backend.Host{V4: backend.Underlay{Iface: "eth0", MTU: 9001, Up: true, Addr: f.a.Interface().Addr}},
		Networks: []netip.Prefix{overlay}, Peers: peers,
	}
}

// desire is what a host wants in some tables.
func (f *fixture) desire(tables ...string) { f.desireFor(f.a.Interface().Addr, tables...) }

func (f *fixture) desireFor(host netip.Addr, tables ...string) {
	f.want = state.Set{}
	objects := []state.Object{state.CloudInterface{Host: host}}
	for _, table := range tables {
		objects = append(objects, state.CloudRoute{Table: table, Dst: ownDst, Host: host})
	}
	for _, o := range objects {
		f.want[o.Key()] = o
	}
}

func (f *fixture) peer(table string) {
	p := state.CloudRoute{Table: table, Dst: peerDst}
	f.want[p.Key()] = p
}

// pass has the loop make a full pass now, and waits for what it does at once.
func (f *fixture) pass() {
	f.t.Helper()
	f.sent = nil
	f.set()
	synctest.Wait()
	time.Sleep(2 * debounce)
	synctest.Wait()
}

// run does so, and passes time.
func (f *fixture) run(d time.Duration) {
	f.t.Helper()
	f.set()
	time.Sleep(d)
	synctest.Wait()
}

// failures are what could not be had.
func (f *fixture) failures() map[state.Key]error {
	synctest.Wait()
	f.mu.Lock()
	defer f.mu.Unlock()
	return maps.Clone(f.now)
}

// wantCalls checks which calls there were, in any order: some are made at the same time.
func (f *fixture) wantCalls(want ...string) {
	f.t.Helper()
	var got []string
	for _, c := range f.Calls() {
		text := c.Action
		if c.Code != "" {
			text += " " + c.Code
		}
		got = append(got, text)
	}
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		f.t.Errorf("calls: %q, want %q", got, want)
	}
	f.ForgetCalls()
}

func (f *fixture) wantFailures(want map[state.Kind]string) {
	f.t.Helper()
	now := f.failures()
	if len(now) != len(want) {
		f.t.Errorf("failures: %v", now)
	}
	for k, err := range now {
		if err.Error() != want[k.Kind] {
			f.t.Errorf("%v:\n%v, want\n%s", k, err, want[k.Kind])
		}
	}
}

// wantRoute checks where a table leads a destination: to an interface, or nowhere
// if that is nil.
func (f *fixture) wantRoute(table *fakeaws.RouteTable, dst netip.Prefix, to *fakeaws.Interface) {
	f.t.Helper()
	for _, r := range table.Routes() {
		if r.Dst == dst {
			if to == nil || r.InterfaceID != to.ID {
				f.t.Errorf("in %s: %+v, want %+v", table.ID, r, to)
			}
			return
		}
	}
	if to != nil {
		f.t.Errorf("%s has no route to %s", table.ID, dst)
	}
}

func (f *fixture) check(err error) {
	f.t.Helper()
	if err != nil {
		f.t.Fatal(err)
	}
}
