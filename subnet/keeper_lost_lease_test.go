package subnet_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"flanneld/subnet"
	"flanneld/subnet/subnettest"
)

// outages counts how often a keeper reports why the store cannot be used.
type outages struct{ n atomic.Int32 }

func (c *outages) option(k *subnet.Keeper) {
	k.StoreDown = func(why error) {
		if why != nil {
			c.n.Add(1)
		}
	}
}

const tiny = `{"Network":"10.5.0.0/24","SubnetLen":26}` // 3 subnets

// fill takes all of a tiny network that is free.
func fill(t *testing.T, m *subnettest.Memory) {
	t.Helper()
	for _, s := range []string{"10.5.0.64/26", "10.5.0.128/26", "10.5.0.192/26"} {
		if find(t, m, s) == nil {
			put(t, m, s, attrs(other), 0)
		}
	}
}

// The subnet is another's, and there is no other one: the store is well, and
// the log names who has it.
func TestNoOtherSubnet(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		lines := logged(t)
		m := newStore(tiny)
		client := m.Join()
		var outages outages
		h := start(t, client, me, outages.option)
		own := h.own()
		fill(t, m)
		put(t, m, own, attrs("192.0.2.3"), 0)
		const long = 10 * time.Minute
		time.Sleep(long)
		h.want(t, own)
		if who := h.held().Holder; who != "the host with the public address 192.0.2.3" {
			t.Errorf("the holder is %q", who)
		}
		if outages.n.Load() > 0 {
			t.Error("an outage of the store was reported")
		}
		if n := lines(); n > 3*11 {
			t.Errorf("%d lines were logged in %s", n, long)
		}
		if n := client.Calls(subnettest.List); n > int(long/time.Second) {
			t.Errorf("%d listings in %s", n, long)
		}

		// It passes on to a third host, and the others are followed.
		put(t, m, own, attrs("192.0.2.4"), 0)
		put(t, m, "10.5.0.0/26", attrs("192.0.2.5"), 0)
		synctest.Wait()
		if who := h.held().Holder; who != "the host with the public address 192.0.2.4" {
			t.Errorf("the holder is now %q", who)
		}
		if h.held().Snapshot.Find(sub("10.5.0.0/26")) == nil {
			t.Error("the others are not followed")
		}
		m.PutRaw(sub(own).Key(), "garbage", 0)
		synctest.Wait()
		if who := h.held().Holder; who != "someone whose lease cannot be read" {
			t.Errorf("the holder is now %q", who)
		}

		// A store that fails all the same has an outage.
		client.Fail(errDown)
		time.Sleep(10 * time.Second)
		if n := outages.n.Load(); n != 1 {
			t.Errorf("%d outages were reported, want one", n)
		}
		client.Heal()
		for _, s := range []string{"10.5.0.64/26", "10.5.0.128/26", "10.5.0.192/26"} {
			if s != own {
				m.DeleteRaw(sub(s).Key())
				time.Sleep(4 * time.Second)
				h.want(t, s)
				break
			}
		}
		if h.held().Holder != "" {
			t.Errorf("the holder is still %q", h.held().Holder)
		}
	})
}

// The subnet of a host that has none in its place becomes free.
func TestOwnSubnetFreeAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newStore(tiny)
		stored := func() *subnet.Lease { return find(t, m, "10.5.0.64/26") }
		h := start(t, m, me, previous("10.5.0.64/26"))
		fill(t, m)
		put(t, m, "10.5.0.64/26", attrs("192.0.2.3"), time.Hour)
		time.Sleep(time.Hour - time.Second)
		if l := stored(); l.Attrs != attrs("192.0.2.3") {
			t.Errorf("the store holds %+v", l)
		}
		time.Sleep(5 * time.Second)
		h.want(t, "10.5.0.64/26")
		if l := stored(); l == nil || l.Attrs != attrs(me) || h.held().Holder != "" {
			t.Errorf("the store holds %+v, the holder is %q", l, h.held().Holder)
		}
		time.Sleep(3 * subnet.LeaseTTL)
		if stored() == nil {
			t.Error("the lease is not renewed")
		}
	})
}

// The store is replaced by one that begins to count from nothing, and in that
// one there is no subnet for us: its leases are followed, though its revisions
// are lower than that of our last write. The same once more, without a write
// of ours in between.
func TestReplacedStoreIsFull(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		before := newStore(tiny)
		var store replaceable
		store.to.Store(before)
		revisions := func(m *subnettest.Memory, n int) {
			for range n {
				put(t, m, "10.5.0.0/26", attrs(other), 0)
			}
		}
		revisions(before, 200)
		h := start(t, &store, me)
		for i, public := range []string{"192.0.2.3", "192.0.2.4"} {
			after := newStore(tiny)
			revisions(after, 100-50*i)
			fill(t, after)
			store.to.Store(after)
			before.DropWatches(errDown)
			before = after
			time.Sleep(10 * time.Second)
			put(t, after, "10.5.0.0/26", attrs(public), 0)
			time.Sleep(10 * time.Second)
			if l := h.held().Snapshot.Find(sub("10.5.0.0/26")); l == nil || l.Attrs != attrs(public) {
				t.Errorf("the host sees %+v of %s", l, public)
			}
		}
	})
}

// Whoever else is faster, and however often: the store is well.
func TestOtherWritersAreNoOutage(t *testing.T) {
	for _, test := range []struct {
		name  string
		rival func(t *testing.T, m *subnettest.Memory, own string)
	}{
		{"changes it", func(t *testing.T, m *subnettest.Memory, own string) {
			a := attrs(me)
			a.BackendType = "udp"
			put(t, m, own, a, time.Hour)
		}},
		{"deletes it", func(_ *testing.T, m *subnettest.Memory, own string) { m.DeleteRaw(sub(own).Key()) }},
		{"damages it", func(_ *testing.T, m *subnettest.Memory, own string) { m.PutRaw(sub(own).Key(), "garbage", 0) }},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := newStore(config)
				var outages outages
				h := start(t, m, me, outages.option)
				own := h.own()
				for range 600 {
					test.rival(t, m, own)
					time.Sleep(100 * time.Millisecond)
				}
				if outages.n.Load() > 0 {
					t.Error("an outage of the store was reported")
				}
				if n := m.Calls(subnettest.Update) + m.Calls(subnettest.Create); n > 700 {
					t.Errorf("%d writes in a minute", n)
				}
				time.Sleep(7 * time.Second) // it is written once in three seconds, and so is looked whether it may be
				h.want(t, own)
				if l := find(t, m, own); l == nil || l.Attrs != attrs(me) {
					t.Errorf("the store holds %+v", l)
				}
			})
		})
	}
}

// What the log says while the subnet is another's.
func TestNoOtherSubnetLog(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		text := logText(t)
		m := newStore(tiny)
		h := start(t, m, me)
		own := h.own()
		fill(t, m)
		put(t, m, own, attrs("192.0.2.3"), 0)
		time.Sleep(35 * time.Minute)
		want := fmt.Sprintf("taking another subnet than %s, which belongs to the host with the public address 192.0.2.3: no free subnet", own)
		if n := strings.Count(text(), want); n != 3 { // after 0, 10 and 30 minutes
			t.Errorf("%q was logged %d times in 35 minutes", want, n)
		}
		if strings.Contains(text(), "nothing changes") {
			t.Error("the log speaks as if the store were away")
		}
	})
}

// refusing is a store that refuses requests while its watch goes on.
type refusing struct {
	*subnettest.Memory
	why atomic.Pointer[error]
}

func (r *refusing) Watch(ctx context.Context, yield func(subnet.Snapshot)) error {
	return r.Memory.Watch(ctx, func(s subnet.Snapshot) {
		if why := r.why.Load(); why != nil {
			s.Refused = *why
		}
		yield(s)
	})
}

// A store that refuses requests is in an outage long before a renewal is due, and what it
// brings is used.
func TestRefusedWhileWatching(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := logText(t)
		m := newStore(tiny)
		store := &refusing{Memory: m.Join()}
		var outages outages
		h := start(t, store, me, outages.option)
		why := errors.New("the user has no permission")
		store.why.Store(&why)
		put(t, m, "10.5.0.64/26", attrs(other), 0)
		time.Sleep(2 * time.Second)
		if n := len(h.held().Snapshot.Leases); n != 2 {
			t.Errorf("%d leases are used", n)
		}
		if outages.n.Load() != 1 || !strings.Contains(log(), why.Error()) {
			t.Errorf("%d outages were reported, and logged:\n%s", outages.n.Load(), log())
		}
		time.Sleep(2 * subnet.LeaseTTL) // our lease is renewed meanwhile
		if strings.Contains(log(), "etcd reachable again") {
			t.Errorf("its end is logged:\n%s", log())
		}
		store.why.Store(nil)
		put(t, m, "10.5.0.128/26", attrs("192.0.2.4"), 0)
		time.Sleep(2 * time.Second)
		if !strings.Contains(log(), "etcd reachable again") {
			t.Errorf("the end of it is not logged:\n%s", log())
		}
	})
}
