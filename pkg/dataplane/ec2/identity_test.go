package ec2

import (
	"net/http"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/aws/aws-sdk-go-v2/config"

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
	inWorld(t, func(w *world) {
		way := &moving{on: w.Transport(w.a)}
		w.start(w.a, config.WithHTTPClient(&http.Client{Transport: way}))
		w.run(time.Minute)
		w.wantFailures(nil)
		first := w.a
		next, err := first.Replace()
		w.check(err)
		w.a = next
		way.move(w.Transport(next))
		w.run(recheck * (period + spread))
		w.wantFailures(nil)
		w.wantRoute(w.vpc.Main, ownDst, next.Interface())
		if next.Interface().SourceDestCheck() {
			t.Error("the check is on")
		}
	})
}

// One that wakes up in another region calls that one.
func TestOtherRegion(t *testing.T) {
	inWorld(t, func(w *world) {
		way := &moving{on: w.Transport(w.a)}
		w.start(w.a, config.WithHTTPClient(&http.Client{Transport: way}))
		w.run(time.Minute)
		elsewhere := fakeaws.New(fakeaws.Options{Region: "us-east-1"})
		v, err := elsewhere.AddVPC("10.0.0.0/16")
		w.check(err)
		s, err := v.AddSubnet("10.0.1.0/24", "a")
		w.check(err)
		a, err := elsewhere.RunInstance(s, fakeaws.InstanceOptions{Addr: w.a.Interface().Addr, Role: "node"})
		w.check(err)
		way.move(elsewhere.Transport(a))
		w.desire("")
		w.run(recheck * (period + spread))
		w.wantFailures(nil)
		w.wantRoute(v.Main, ownDst, a.Interface())
	})
}

// The address may go from one interface of the instance to another.
func TestMovedAddress(t *testing.T) {
	inWorld(t, func(w *world) {
		addr := w.a.Interface().Addr.Next().Next().Next()
		first, err := w.a.Attach(w.a.Interface().Subnet, addr)
		w.check(err)
		w.desireFor(addr, w.vpc.Main.ID)
		w.run(time.Minute)
		w.wantRoute(w.vpc.Main, ownDst, first)
		w.check(w.vpc.Main.CreateRoute("10.1.8.0/24", "igw-0123456789abcdef0"))
		w.check(first.Detach())
		w.run(recheck * (period + spread))
		w.wantFailures(map[state.Kind]string{state.KindCloudRoute: "none of the network interfaces of " + w.a.ID + " has the address " + addr.String()})
		if len(w.failures()) != 1 {
			t.Errorf("failures: %v", w.failures()) // what others made is not ours now
		}
		w.check(first.Delete())
		second, err := w.a.Attach(w.a.Interface().Subnet, addr)
		w.check(err)
		w.run(recheck * (period + spread))
		w.wantFailures(nil)
		w.wantRoute(w.vpc.Main, ownDst, second)
		if second.SourceDestCheck() {
			t.Error("the check is on")
		}
	})
}

// The host's own table is that of the interface with its address.
func TestOwnTableOfInterface(t *testing.T) {
	inWorld(t, func(w *world) {
		second, err := w.a.Attach(w.b.Interface().Subnet, w.b.Interface().Addr.Next())
		w.check(err)
		w.desire("")
		w.run(30 * time.Second)
		w.wantRoute(w.vpc.Main, ownDst, w.a.Interface())
		w.desireFor(second.Addr, "")
		w.run(30 * time.Second)
		w.wantFailures(nil)
		w.wantRoute(w.table, ownDst, second)
		if second.SourceDestCheck() {
			t.Error("the check is on")
		}
	})
}

// A host whose clock is wrong can call EC2 all the same.
func TestWrongClock(t *testing.T) {
	for _, off := range []time.Duration{-time.Hour, time.Hour} {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t, fakeaws.Options{Clock: func() time.Time { return time.Now().Add(off) }})
			w.run(3 * time.Minute)
			w.wantFailures(nil)
			w.wantRoute(w.vpc.Main, ownDst, w.a.Interface())
			w.stop()
		})
	}
}
