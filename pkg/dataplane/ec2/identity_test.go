package ec2

import (
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/config"

	"flanneld/pkg/ip"
	"flanneld/pkg/lab/fakeaws"
	"flanneld/pkg/state"
)

// moving is the way of a process that may find itself on another instance.
type moving struct {
	mu sync.Mutex
	on http.RoundTripper
}

func (m *moving) move(on http.RoundTripper) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.on = on
}

func (m *moving) RoundTrip(in *http.Request) (*http.Response, error) {
	m.mu.Lock()
	on := m.on
	m.mu.Unlock()
	return on.RoundTrip(in)
}

// A daemon that wakes up on another instance with the same address, as from an image of
// its memory, takes nothing of the first for its own.
func TestOtherInstance(t *testing.T) {
	withFixture(t, func(f *fixture) {
		way := &moving{on: f.Transport(f.a)}
		f.start(f.a, config.WithHTTPClient(&http.Client{Transport: way}))
		f.run(time.Minute)
		f.wantFailures(nil)
		first := f.a
		next, err := first.Replace()
		f.check(err)
		f.a = next
		way.move(f.Transport(next))
		f.run(recheck * (period + spread))
		f.wantFailures(nil)
		f.wantRoute(f.vpc.Main, ownDst, next.Interface())
		if next.Interface().SourceDestCheck() {
			t.Error("the check is on")
		}
	})
}

// One that wakes up in another region calls that one.
func TestOtherRegion(t *testing.T) {
	withFixture(t, func(f *fixture) {
		way := &moving{on: f.Transport(f.a)}
		f.start(f.a, config.WithHTTPClient(&http.Client{Transport: way}))
		f.run(time.Minute)
		elsewhere := fakeaws.New(fakeaws.Options{Region: "us-east-1"})
		v, err := elsewhere.AddVPC("10.0.0.0/16")
		f.check(err)
		s, err := v.AddSubnet("10.0.1.0/24", "a")
		f.check(err)
		if family == ip.V6 {
			f.vpc = v
			f.addIPv6(s)
		}
		a, err := elsewhere.RunInstance(s, fakeaws.InstanceOptions{Addr: f.a.Interface().Addr, Role: "node"})
		f.check(err)
		way.move(elsewhere.Transport(a))
		f.desire("")
		f.run(recheck * (period + spread))
		f.wantFailures(nil)
		f.wantRoute(v.Main, ownDst, a.Interface())
	})
}

// The address may go from one interface of the instance to another.
func TestMovedAddress(t *testing.T) {
	withFixture(t, func(f *fixture) {
		addr := f.a.Interface().Addr.Next().Next().Next()
		first, err := f.a.Attach(f.a.Interface().Subnet, addr)
		f.check(err)
		f.desireFor(first.In(family), f.vpc.Main.ID)
		f.run(time.Minute)
		f.wantRoute(f.vpc.Main, ownDst, first)
		f.check(f.vpc.Main.CreateRoute(cidr("10.1.8.0/24"), "igw-0123456789abcdef0"))
		f.check(first.Detach())
		lost, advice := first.In(family), ""
		if family == ip.V6 {
			advice = ": have EC2 assign it one, or name an interface that has one by -iface-ipv6"
		}
		f.run(recheck * (period + spread))
		f.wantFailures(map[state.Kind]string{state.KindCloudRoute: "none of the network interfaces of " + f.a.ID + " has the address " + lost.String() + advice})
		if len(f.failures()) != 1 {
			t.Errorf("failures: %v", f.failures()) // what others made is not ours now
		}
		f.check(first.Delete())
		second, err := f.a.Attach(f.a.Interface().Subnet, addr)
		f.check(err)
		f.run(recheck * (period + spread))
		f.wantFailures(nil)
		f.wantRoute(f.vpc.Main, ownDst, second)
		if second.SourceDestCheck() {
			t.Error("the check is on")
		}
	})
}

// The host's own table is that of the interface with its address.
func TestOwnTableOfInterface(t *testing.T) {
	withFixture(t, func(f *fixture) {
		second, err := f.a.Attach(f.b.Interface().Subnet, f.b.Interface().Addr.Next())
		f.check(err)
		f.desire("")
		f.run(30 * time.Second)
		f.wantRoute(f.vpc.Main, ownDst, f.a.Interface())
		f.desireFor(second.In(family), "")
		f.run(30 * time.Second)
		f.wantFailures(nil)
		f.wantRoute(f.table, ownDst, second)
		if second.SourceDestCheck() {
			t.Error("the check is on")
		}
	})
}

// A host whose clock is wrong can call EC2 all the same.
func TestWrongClock(t *testing.T) {
	for _, off := range []time.Duration{-time.Hour, time.Hour} {
		withFixtureOf(t, fakeaws.Options{Clock: func() time.Time { return time.Now().Add(off) }}, nil, func(f *fixture) {
			f.run(3 * time.Minute)
			f.wantFailures(nil)
			f.wantRoute(f.vpc.Main, ownDst, f.a.Interface())
		})
	}
}
