package ec2

import (
	"context"
	"encoding/json"
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

// family is that of the routes of the test that runs, and what follows is of it. No tests run in
// parallel here.
var (
	family                   ip.Family
	overlay, ownDst, peerDst netip.Prefix
)

func setFamily(f ip.Family) {
	family = f
	overlay, ownDst, peerDst = prefix("10.1.0.0/16"), prefix("10.1.5.0/24"), prefix("10.1.6.0/24")
}

// prefix is that which stands for one of IPv4 in the family of the test.
func prefix(four string) netip.Prefix { return prefixIn(family, four) }

func prefixIn(f ip.Family, four string) netip.Prefix {
	p := netip.MustParsePrefix(four)
	if f == ip.V4 {
		return p
	}
	a, b := [16]byte{0: 0xfd}, p.Addr().As4()
	copy(a[4:], b[:])
	return netip.PrefixFrom(netip.AddrFrom16(a), 32+p.Bits())
}

func cidr(four string) string { return prefix(four).String() }

// destinationKey is the parameter for destinations of the family of the test.
func destinationKey() string {
	return map[ip.Family]string{ip.V4: "DestinationCidrBlock", ip.V6: "DestinationIpv6CidrBlock"}[family]
}

// networks are those of the VPC.
var networks = map[ip.Family]netip.Prefix{ip.V4: netip.MustParsePrefix("10.0.0.0/16"), ip.V6: netip.MustParsePrefix("2001:db8:10::/56")}

// fixture is a VPC of two subnets, the second of which has a table of its own, with an
// instance in each; and what keeps the routes of the first: a loop as each host has it.
type fixture struct {
	*fakeaws.Cloud
	*Dataplane
	t       *testing.T
	vpc     *fakeaws.VPC
	table   *fakeaws.RouteTable // of the second subnet
	a, b    *fakeaws.Instance
	want    state.Set // after a change, pass or run hands it on
	reached ip.Addrs  // at these addresses, in each family that the host has
	loop    *network.Reconciler
	stop    func() // ends the loop

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
	withFixtureOf(t, fakeaws.Options{}, env, fn)
}

// withFixtureOf runs a test for each family. In a VPC with IPv6 there is IPv4, too.
func withFixtureOf(t *testing.T, options fakeaws.Options, env map[string]string, fn func(*fixture)) {
	t.Helper()
	for name, value := range env {
		t.Setenv(name, value)
	}
	for _, family := range ip.Families {
		t.Run(family.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				setFamily(family)
				f := newFixture(t, options)
				fn(f)
				f.stop()
			})
		})
	}
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
	if family == ip.V6 {
		f.addIPv6(first, second)
	}
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

// addIPv6 gives the VPC IPv6, and these subnets of it.
func (f *fixture) addIPv6(subnets ...*fakeaws.Subnet) {
	f.t.Helper()
	f.check(f.vpc.AssociateIPv6(networks[ip.V6].String()))
	for i, s := range subnets {
		a := networks[ip.V6].Addr().As16()
		a[7] = byte(i + 1)
		f.check(s.AssociateIPv6(netip.PrefixFrom(netip.AddrFrom16(a), 64).String()))
	}
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

func (w wanted) Peer(_ backend.Host, f ip.Family, _, peer *subnet.Lease) (objects []state.Object, err error) {
	for _, o := range w {
		if isWatch(o) && o.(state.CloudRoute).Dst == peer.Subnet.Of(f) {
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
		keys := map[string]any{"Backend": map[string]string{"Type": "aws-vpc"}, "EnableIPv4": f.reached.V4.IsValid(), "EnableIPv6": f.reached.V6.IsValid()}
		for family, key := range map[ip.Family]string{ip.V4: "Network", ip.V6: "IPv6Network"} {
			if f.reached.Of(family).IsValid() {
				keys[key] = prefixIn(family, "10.1.0.0/16")
			}
		}
		text, err := json.Marshal(keys)
		f.check(err)
		f.config, err = subnet.ParseConfig(text)
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
	var host backend.Host
	var own ip.Subnet
	for _, family := range f.config.Network().Families() {
		host.Set(family, backend.Underlay{Iface: "eth0", MTU: 9001, Up: true, Addr: f.reached.Of(family)})
		own = own.With(family, prefixIn(family, "10.1.5.0/24"))
	}
	return network.Desired{
		Backend: is, Config: f.config, Own: &subnet.Lease{Subnet: own},
		Host:     host,
		Networks: []netip.Prefix{prefixIn(ip.V4, "10.1.0.0/16"), prefixIn(ip.V6, "10.1.0.0/16")}, Peers: peers,
	}
}

// desire is what a host wants in some tables.
func (f *fixture) desire(tables ...string) { f.desireFor(f.addr(), tables...) }

// addr is the host's address in the family of the test.
func (f *fixture) addr() netip.Addr { return f.a.Interface().In(family) }

func (f *fixture) desireFor(host netip.Addr, tables ...string) {
	f.desireForAll(ip.Addrs{}.With(ip.FamilyOf(host), host), tables...)
}

// desireForAll is what a host wants that has these addresses, each on an interface of its own.
func (f *fixture) desireForAll(hosts ip.Addrs, tables ...string) {
	f.want, f.reached = state.Set{}, hosts
	for _, family := range ip.Families {
		host := hosts.Of(family)
		if !host.IsValid() {
			continue
		}
		objects := []state.Object{state.CloudInterface{Host: host}}
		for _, table := range tables {
			objects = append(objects, state.CloudRoute{Table: table, Dst: prefixIn(family, "10.1.5.0/24"), Host: host})
		}
		for _, o := range objects {
			f.want[o.Key()] = o
		}
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

// made are the routes of a table that somebody made.
func made(table *fakeaws.RouteTable) []fakeaws.Route {
	return slices.DeleteFunc(table.Routes(), func(r fakeaws.Route) bool { return r.GatewayID == "local" })
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
