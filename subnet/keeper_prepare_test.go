package subnet_test

import (
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"flanneld/subnet"
	"flanneld/subnet/subnettest"
)

// A host that cannot say for now what its lease should say, as with an interface
// that got too small, still has the lease: it is kept as it was.
func TestKeptWhilePrepareFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		lines := logged(t)
		m := newStore(config)
		client := m.Join()
		desired, option, refresh := changing()
		var outages outages
		h := start(t, client, me, option, outages.option)
		own := h.own()
		desired.change(me, errors.New("the interface is too small"))
		refresh <- struct{}{}
		time.Sleep(10 * time.Second)
		for _, c := range []struct {
			name string
			hurt func()
		}{
			{"deleted", func() { m.DeleteRaw(sub(own).Key()) }},
			{"damaged", func() { m.PutRaw(sub(own).Key(), "x", subnet.LeaseTTL) }},
			{"changed", func() { put(t, m, own, subnet.Attrs{PublicIP: attrs(me).PublicIP}, subnet.LeaseTTL) }},
		} {
			c.hurt()
			time.Sleep(10 * time.Second)
			if l := find(t, m, own); l == nil || l.Attrs != attrs(me) {
				t.Errorf("%s: the lease is %v", c.name, l)
			}
		}
		for range 3 {
			time.Sleep(subnet.LeaseTTL - time.Minute)
			if find(t, m, own) == nil {
				t.Fatal("the lease expired")
			}
		}
		h.want(t, own)
		if n := lines(); n > 60 {
			t.Errorf("%d lines were logged", n)
		}

		t.Log("another host has the subnet")
		put(t, m, own, attrs(other), subnet.LeaseTTL)
		time.Sleep(10 * time.Second)
		desired.change(me, nil)
		time.Sleep(10 * time.Second)
		if h.own() == own || find(t, m, h.own()) == nil {
			t.Errorf("held is %s", h.own())
		}
		if outages.n.Load() > 0 {
			t.Error("an outage of the store was reported")
		}
	})
}

// What kept a lease from saying what it should is logged again when it comes back, however
// long it lasted before.
func TestUnsaidAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := logText(t)
		m := newStore(config)
		mind, option, refresh := changing()
		h := start(t, m.Join(), me, option)
		tooSmall := errors.New("the interface is too small")
		count := func() int { return strings.Count(log(), tooSmall.Error()) }
		mind.change(me, tooSmall)
		refresh <- struct{}{}
		time.Sleep(48 * time.Hour)
		before := count()
		if before == 0 || before > 20 {
			t.Errorf("it was logged %d times in two days", before)
		}
		mind.change(me, nil)
		time.Sleep(5 * time.Minute)
		mind.change(me, tooSmall)
		refresh <- struct{}{}
		time.Sleep(time.Minute)
		if count() != before+1 {
			t.Errorf("when it came back it was logged %d times", count()-before)
		}
		h.want(t, h.own())
	})
}

// What the store owes us is not forgotten because the host changed meanwhile in a
// way that the lease says nothing of.
func TestRefreshDuringRetry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newStore(config)
		client := m.Join()
		_, option, refresh := changing()
		h := start(t, client, me, option)
		own := h.own()
		client.Fail(errDown, subnettest.Create)
		m.DeleteRaw(sub(own).Key())
		time.Sleep(10 * time.Second)
		refresh <- struct{}{}
		synctest.Wait()
		client.Heal()
		time.Sleep(10 * time.Second)
		if find(t, m, own) == nil {
			t.Error("the lease was not claimed again")
		}
	})
}

// A look at what the lease should say is no sign that the store is well.
func TestRefreshIsNoSignOfLife(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newStore(config)
		client := m.Join()
		_, option, refresh := changing()
		var down atomic.Bool
		start(t, client, me, option, func(k *subnet.Keeper) { k.StoreDown = func(why error) { down.Store(why != nil) } })
		client.Fail(errDown)
		client.DropWatches(errDown)
		time.Sleep(10 * time.Second)
		if !down.Load() {
			t.Fatal("no outage of a store that is down was reported")
		}
		refresh <- struct{}{}
		synctest.Wait()
		if !down.Load() {
			t.Error("the end of the outage was reported while the store is down")
		}
	})
}
