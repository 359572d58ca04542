package network

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"flanneld/backend"
	"flanneld/backend/hostgw"
	"flanneld/pkg/dataplane/dataplanetest"
	"flanneld/pkg/ip"
	"flanneld/pkg/state"
	"flanneld/subnet"
)

// in is the family that fixtures are in, which a test may set for itself; usually IPv4.
var in dataplanetest.Addressing

// speak has the fixtures of a test in a family.
func speak(t *testing.T, f ip.Family) {
	in = dataplanetest.Addressing(f)
	t.Cleanup(func() { in = 0 })
}

var (
	hostNet  = netip.MustParsePrefix("192.168.0.1/16")
	testHost = backend.Host{V4: backend.Underlay{
		Iface: "eth0", MTU: 1500, Up: true,
		Addr:     hostNet.Addr(),
		Net:      hostNet.Masked(),
		PublicIP: hostNet.Addr(),
	}, Links: onEth0(hostNet.Masked())}
)

// onEth0 has all of a network on eth0's link.
type onEth0 netip.Prefix

func (l onEth0) OnLink(iface string, a netip.Addr) bool {
	return iface == "eth0" && netip.Prefix(l).Contains(a)
}

// peerSubnet is the subnet of the peer numbered n.
func peerSubnet(n int) ip.Subnet {
	return ip.SubnetOf(in.Prefix(netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(n >> 16), byte(n >> 8), byte(n)}), 32)))
}

// peerDst is what the peer numbered n has in the family.
func peerDst(n int) netip.Prefix { return peerSubnet(n).Of(in.Family()) }

func peerAddr(via int) netip.Addr {
	return in.Of(netip.AddrFrom4([4]byte{192, 168, byte(1 + via>>8), byte(via)}))
}

// lease of the peer numbered n, on the host numbered via.
func lease(n, via int) *subnet.Lease {
	return &subnet.Lease{Subnet: peerSubnet(n), Attrs: subnet.Attrs{PublicIP: addrsOf(peerAddr(via)), BackendType: "host-gw"}}
}

// route is what lease(n, via) calls for.
func route(n, via int) state.Route {
	return state.Route{Dst: peerDst(n), Via: peerAddr(via), Dev: "eth0"}
}

// nexthop is what lease(n, via) calls for in a large network, besides the route
// that byNexthop returns.
func nexthop(n, via int) state.Nexthop {
	return state.Nexthop{ID: state.NexthopID(peerDst(n)), Via: peerAddr(via), Dev: "eth0"}
}

func byNexthop(n, via int) state.Route {
	r := route(n, via)
	r.Nexthop = nexthop(n, via).ID
	return r
}

var testConfig = &subnet.Config{}

func addrsOf(a netip.Addr) ip.Addrs {
	if a.Is4() {
		return ip.Addrs{V4: a}
	}
	return ip.Addrs{V6: a}
}

// hostIn is the testHost in the family.
func hostIn() backend.Host {
	if in.Family() == ip.V4 {
		return testHost
	}
	u, link := testHost.V4, in.Prefix(hostNet)
	u.Addr, u.PublicIP, u.Net = link.Addr(), link.Addr(), link.Masked()
	return backend.Host{V6: u, Links: onEth0(u.Net)}
}

// desire is for the peers that have the given leases.
func desire(peers ...*subnet.Lease) Desired {
	b, err := hostgw.Type.New(nil)
	if err != nil {
		panic(err)
	}
	slices.SortFunc(peers, func(a, b *subnet.Lease) int { return a.Subnet.Compare(b.Subnet) })
	return Desired{
		Networks: []netip.Prefix{in.Prefix(netip.MustParsePrefix("10.0.0.0/8"))},
		Backend:  b, Config: testConfig, Host: hostIn(), Peers: peers,
		Own: &subnet.Lease{Subnet: ip.SubnetOf(in.Prefix(netip.MustParsePrefix("172.20.0.0/24")))},
	}
}

// largeDesired is as desire, in a network large enough for nexthop objects.
func largeDesired(peers ...*subnet.Lease) Desired {
	w := desire(peers...)
	w.Host.Nexthops = true
	return w
}

// fixture is a reconciler at work on a fake host with one link, eth0.
type fixture struct {
	*testing.T
	*Reconciler
	fake *dataplanetest.Fake

	mu     sync.Mutex
	status Status
}

// newFixture must be called in fakeClock. The reconciler works until the test ends.
func newFixture(t *testing.T) *fixture {
	t.Helper()
	r := &fixture{T: t, fake: dataplanetest.NewFake()}
	r.check(r.fake.AddLink("eth0"))
	r.check(r.fake.AddAddr("eth0", in.Prefix(hostNet)))
	r.Reconciler = NewReconciler(func(s Status) {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.status = s
	}, Plane{Dataplane: r.fake})
	return r
}

// start lets the reconciler work, and the events come.
func (r *fixture) start() {
	ctx, cancel := context.WithCancel(context.Background())
	var g sync.WaitGroup
	r.Cleanup(func() {
		cancel()
		g.Wait()
		if v := r.fake.Violations(); v != nil {
			r.Errorf("violations: %q", v)
		}
	})
	g.Go(func() {
		if err := r.Reconciler.Run(ctx); !errors.Is(err, context.Canceled) {
			r.Errorf("Run: %v", err)
		}
	})
	synctest.Wait()
}

func (r *fixture) check(err error) {
	r.Helper()
	if err != nil {
		r.Fatal(err)
	}
}

// pass lets time pass, and all that falls due in it come to rest.
func (r *fixture) pass(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

// lastStatus is the last one, but for its Host.
func (r *fixture) lastStatus() Status {
	r.mu.Lock()
	defer r.mu.Unlock()
	s := r.status
	s.Host = backend.Host{}
	return s
}

func (r *fixture) lastHost() backend.Host {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.status.Host
}

func (r *fixture) isReady() bool {
	select {
	case <-r.Ready():
		return true
	default:
		return false
	}
}

// wantRoutes checks the routes to the peer numbered n.
func (r *fixture) wantRoutes(n int, want ...dataplanetest.Route) {
	r.Helper()
	if got := r.fake.Routes(peerDst(n)); !slices.Equal(got, want) {
		r.Fatalf("routes to peer %d: %v, want %v", n, got, want)
	}
}

// wantNexthops checks all nexthops of the host, which are ours.
func (r *fixture) wantNexthops(want ...state.Nexthop) {
	r.Helper()
	got := r.fake.Nexthops()
	for _, n := range got {
		if n.Protocol != dataplanetest.ProtoOurs || !slices.Contains(want, n.Nexthop) {
			r.Fatalf("nexthops: %v, want %v", got, want)
		}
	}
	if len(got) != len(want) {
		r.Fatalf("nexthops: %v, want %v", got, want)
	}
}

func ours(r state.Route) dataplanetest.Route {
	return dataplanetest.Route{Route: r, Protocol: dataplanetest.ProtoOurs}
}

func static(r state.Route) dataplanetest.Route {
	return dataplanetest.Route{Route: r, Protocol: dataplanetest.ProtoStatic}
}

func boot(r state.Route) dataplanetest.Route {
	return dataplanetest.Route{Route: r, Protocol: dataplanetest.ProtoBoot}
}

func deletions(ops []state.Op) (all []string) {
	for _, op := range ops {
		if op.Verb == state.Delete {
			all = append(all, fmt.Sprint(op))
		}
	}
	return all
}

// fakeClock runs a test with time of its own.
func fakeClock(t *testing.T, test func(*fixture)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) { test(newFixture(t)) })
}

// planned is a plan and what is wanted by it, of one dataplane.
type planned struct {
	*plan
	planeDesired
}

// set returns the keys of the objects that a desired state changes, or that it may change any.
func (p *planned) set(w Desired) (changed map[state.Key]bool, all bool) {
	if p.plan == nil {
		p.plan = newPlan(make([]Plane, 1))
	}
	changed = make(map[state.Key]bool)
	c := p.plan.set(w)[0]
	for k := range p.planeDesired.take(c) {
		changed[k] = true
	}
	return changed, c.needFullPass
}
