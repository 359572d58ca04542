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

// world is a VPC of two subnets, the second of which has a table of its own, with an
// instance in each; and what keeps the routes of the first: a loop as each host has it.
type world struct {
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
	w := &world{t: t, Cloud: fakeaws.New(options)}
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
	w.now, w.sent, w.leases = make(map[state.Key]error), nil, make(map[netip.Prefix]*subnet.Lease)
	w.loop = network.NewReconciler(func(network.Status) {}, network.Plane{
		Name: "EC2", Dataplane: recorder{w.Dataplane, w}, Pace: network.Pace{RetryFirst: RetryFirst, RetryMost: RetryMost},
	})
	ctx, cancel := context.WithCancel(w.t.Context())
	done := make(chan struct{})
	loop := w.loop
	go func() {
		defer close(done)
		_ = loop.Run(ctx)
	}()
	w.stop = func() { cancel(); <-done }
	synctest.Wait()
}

// debounce is how soon one full pass follows another at the earliest.
const debounce = 10 * time.Millisecond

// between does something between two calls of the loop.
func (w *world) between(do func()) {
	synctest.Wait()
	w.call.Lock()
	defer w.call.Unlock()
	do()
}

// recorder has the world know of failures.
type recorder struct {
	*Dataplane
	w *world
}

func (r recorder) Dump(ctx context.Context, want state.Set) (state.Observed, error) {
	r.w.call.Lock()
	have, err := r.Dataplane.Dump(ctx, want)
	r.w.call.Unlock()
	r.w.mu.Lock()
	defer r.w.mu.Unlock()
	for k := range r.w.now {
		e, there := have[k]
		if right := there && e.Object == want[k]; right || want[k] == nil && e.Owner != state.Ours {
			delete(r.w.now, k)
		}
	}
	_, blocked := state.Diff(want, have, slices.Collect(maps.Keys(want)), nil)
	for _, b := range blocked {
		r.w.now[b.Want.Key()] = b
	}
	return have, err
}

func (r recorder) Apply(ctx context.Context, ops []state.Op) []error {
	r.w.call.Lock()
	errs := r.Dataplane.Apply(ctx, ops)
	r.w.call.Unlock()
	r.w.mu.Lock()
	defer r.w.mu.Unlock()
	for i, op := range ops {
		if errs[i] != nil {
			r.w.now[op.Key()] = errs[i]
		} else {
			delete(r.w.now, op.Key())
		}
	}
	return errs
}

// wanted is a backend that wants just that.
type wanted state.Set

func (wanted) Device(backend.Host) string { return "" }

func (wanted) Unencapsulated() bool { return true }

func (wanted) MTU(h backend.Host) int { return h.MTU }

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

func (w wanted) Peer(_ backend.Host, _, peer *subnet.Lease) (objects []state.Object, err error) {
	for _, o := range w {
		if isWatch(o) && o.(state.CloudRoute).Dst == peer.Subnet.V4 {
			objects = append(objects, o)
		}
	}
	return objects, nil
}

// ready reports whether the loop has converged.
func (w *world) ready() bool {
	synctest.Wait()
	select {
	case <-w.loop.Ready():
		return true
	default:
		return false
	}
}

// set hands on what is wanted. Other objects of this host's own come with another
// configuration, and those of others with their leases.
func (w *world) set() {
	if w.sent == nil || !maps.Equal(w.want, state.Set(w.sent)) {
		w.loop.SetDesired(w.desired())
	}
}

func (w *world) desired() network.Desired {
	was, is := w.sent, wanted(maps.Clone(w.want))
	local := func(s wanted) state.Set {
		own := maps.Clone(state.Set(s))
		maps.DeleteFunc(own, func(_ state.Key, o state.Object) bool { return isWatch(o) })
		return own
	}
	if was == nil || !maps.Equal(local(was), local(is)) {
		var err error
		w.config, err = subnet.ParseConfig([]byte(`{"Network": "` + overlay.String() + `", "Backend": {"Type": "aws-vpc"}}`))
		w.check(err)
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
		if w.leases[dst] == nil || before[dst] != n {
			w.leases[dst] = &subnet.Lease{Subnet: ip.SubnetOf(dst), Revision: uint64(n)}
		}
		peers = append(peers, w.leases[dst])
	}
	slices.SortFunc(peers, func(a, b *subnet.Lease) int { return a.Subnet.Compare(b.Subnet) })
	w.sent = is
	return network.Desired{
		Backend: is, Config: w.config, Own: &subnet.Lease{Subnet: ip.SubnetOf(ownDst)},
		Host:     backend.Host{Iface: "eth0", MTU: 9001, Up: true, Addr: ip.Addrs{V4: w.a.Interface().Addr}},
		Networks: []netip.Prefix{overlay}, Peers: peers,
	}
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
	p := state.CloudRoute{Table: table, Dst: peerDst}
	w.want[p.Key()] = p
}

// pass has the loop make a full pass now, and waits for what it does at once.
func (w *world) pass() {
	w.t.Helper()
	w.sent = nil
	w.set()
	synctest.Wait()
	time.Sleep(2 * debounce)
	synctest.Wait()
}

// run does so, and passes time.
func (w *world) run(d time.Duration) {
	w.t.Helper()
	w.set()
	time.Sleep(d)
	synctest.Wait()
}

// failures are what could not be had.
func (w *world) failures() map[state.Key]error {
	synctest.Wait()
	w.mu.Lock()
	defer w.mu.Unlock()
	return maps.Clone(w.now)
}

// wantCalls checks which calls there were, in any order: some are made at the same time.
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
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		w.t.Errorf("calls: %q, want %q", got, want)
	}
	w.ForgetCalls()
}

func (w *world) wantFailures(want map[state.Kind]string) {
	w.t.Helper()
	now := w.failures()
	if len(now) != len(want) {
		w.t.Errorf("failures: %v", now)
	}
	for k, err := range now {
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

func (w *world) check(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}
