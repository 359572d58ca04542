package subnet_test

import (
	"context"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"flanneld/subnet"
	"flanneld/subnet/subnettest"
)

// Our lease went to a second machine while we could not answer, and a third one is
// asking that now whether it is alive: the lease is not ours to answer with.
func TestThirdMachineAsks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newStore(tiny)
		h := start(t, m.Join(), me, machine("alpha", me))
		own := h.own()
		a := attrs(me)
		a.Machine, a.Challenger = "beta", "gamma"
		put(t, m, own, a, subnet.LeaseTTL)
		synctest.Wait()
		if l := find(t, m, own); l.Machine != "beta" || l.Challenger != "alpha" {
			t.Errorf("the lease is %s", l)
		}
		time.Sleep(time.Second)
		a.Challenger = ""
		put(t, m, own, a, subnet.LeaseTTL) // beta answers
		time.Sleep(5 * time.Second)
		if l := find(t, m, own); l.Machine != "beta" || l.Challenger != "" {
			t.Errorf("the lease is %s", l)
		}
		if who := h.held().Holder; !strings.Contains(who, "the machine beta") {
			t.Errorf("the holder is %q", who)
		}
	})
}

// named has the keeper run on a machine of the name that is stored.
func named(name *atomic.Value) option {
	return func(k *subnet.Keeper) {
		k.Prepare = func(context.Context, *subnet.Config, subnet.Snapshot) (subnet.Attrs, []netip.Prefix, error) {
			a := attrs(me)
			a.Machine = name.Load().(string)
			return a, nil, nil
		}
	}
}

// A machine got another name, and its lease does not say so yet: it is its own all
// the same.
func TestMachineRenamed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := logText(t)
		m := newStore(tiny)
		var name atomic.Value
		name.Store("alpha")
		refresh := make(chan struct{}, 1)
		client := m.Join()
		h := start(t, client, me, named(&name), func(k *subnet.Keeper) { k.Refresh = refresh })
		own := h.own()
		client.Fail(errDown, subnettest.Update)
		name.Store("omega")
		refresh <- struct{}{}
		synctest.Wait()
		put(t, m, own, find(t, m, own).Attrs, 0) // a person reserves it
		client.Heal()
		time.Sleep(5 * time.Second)
		h.want(t, own)
		if l := find(t, m, own); l.Machine != "omega" || !l.Reserved() {
			t.Errorf("the lease is %s, expires %s", l, l.Expires)
		}
		if s := log(); strings.Contains(s, "now belongs to") {
			t.Errorf("logged that another has it: %s", s)
		}
	})
}

// An old text of our lease is back, by a name that we had: it is no other machine's.
func TestOldName(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := logText(t)
		m := newStore(tiny)
		h := start(t, m.Join(), me, machine("omega 1f", me))
		own := h.own()
		a := attrs(me)
		a.Machine = "alpha 1f"
		put(t, m, own, a, subnet.LeaseTTL)
		synctest.Wait()
		h.want(t, own)
		if l := find(t, m, own); l.Machine != "omega 1f" {
			t.Errorf("the lease is %s", l)
		}
		if s := log(); strings.Contains(s, "now belongs to") || !strings.Contains(s, "someone changed our lease") {
			t.Errorf("logged: %s", s)
		}
	})
}

// A machine with our public address answers by another name than it was asked by: it
// is alive, and not asked again at once.
func TestConflictHolderRenamed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newStore(tiny)
		const theirs = "10.5.0.128/26"
		a := attrs(me)
		a.Machine = "alpha 2e"
		put(t, m, theirs, a, subnet.LeaseTTL)
		h := start(t, m.Join(), me, machine("beta 1f", me))
		time.Sleep(time.Second)
		if l := find(t, m, theirs); l.Challenger != "beta 1f" {
			t.Fatalf("the lease is %s", l)
		}
		a.Machine = "omega 2e"
		put(t, m, theirs, a, subnet.LeaseTTL)
		time.Sleep(5 * time.Second)
		if l := find(t, m, theirs); l.Machine != "omega 2e" || l.Challenger != "" {
			t.Errorf("the lease is %s", l)
		}
		if s := h.waitsFor(); !strings.Contains(s, "omega 2e, which is alive") {
			t.Errorf("it waits for %q", s)
		}
	})
}

// Two machines with one public address are copies, and have one ID. The second can't
// know that the first is not itself by another name, before that one writes the lease
// again; then it gives in, and has the lease once the first is gone.
func TestConflictSameID(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newStore(tiny)
		first := start(t, m.Join(), me, machine("alpha 1f", me))
		own := first.own()
		store := m.Join()
		second := start(t, store, me, machine("beta 1f", me))
		synctest.Wait()
		if l := find(t, m, own); l.Machine != "alpha 1f" {
			t.Errorf("the lease is %s", l)
		}
		time.Sleep(10 * time.Second) // it asks
		for end := time.Now().Add(10 * time.Minute); time.Now().Before(end); time.Sleep(time.Second) {
			if l := find(t, m, own); l.Machine != "alpha 1f" || first.held().Holder != "" {
				t.Fatalf("the lease is %s, the holder for the first is %q", l, first.held().Holder)
			}
			if s := second.held().Holder; s != "the machine alpha 1f, which has our public address 192.0.2.1 and our machine ID, too" {
				t.Fatalf("the holder for the second is %q", s)
			}
		}
		if n := store.Calls(subnettest.Update); n > 45 {
			t.Errorf("the second wrote %d times", n)
		}
		first.stop()
		time.Sleep(time.Minute)
		second.want(t, own)
		if l := find(t, m, own); l.Machine != "beta 1f" || second.held().Holder != "" {
			t.Errorf("the lease is %s, the holder for the second is %q", l, second.held().Holder)
		}
	})
}

// Our lease expired while we could not renew it, and a machine that has our ID took the
// subnet: neither took it over from the other. We do not fight for it for ever.
func TestConflictSameIDCameLater(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newStore(tiny)
		client := m.Join()
		first := start(t, client, me, machine("alpha 1f", me))
		own := first.own()
		client.Fail(errDown)
		client.DropWatches(errDown)
		m.DeleteRaw(sub(own).Key())
		second := start(t, m.Join(), me, machine("beta 1f", me), previous(own))
		second.want(t, own)
		client.Heal()
		time.Sleep(time.Minute)
		for end := time.Now().Add(10 * time.Minute); time.Now().Before(end); time.Sleep(time.Second) {
			if l := find(t, m, own); l.Machine != "beta 1f" || second.held().Holder != "" {
				t.Fatalf("the lease is %s, the holder for the second is %q", l, second.held().Holder)
			}
			if s := first.held().Holder; !strings.HasPrefix(s, "the machine beta 1f, ") {
				t.Fatalf("the holder for the first is %q", s)
			}
		}
	})
}

// A machine that has our ID did not answer, so its lease is ours. It does not get that
// back when it starts again, nor when it turns out that it only was cut off.
func TestConflictSameIDIsBack(t *testing.T) {
	for _, restart := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			m := newStore(tiny)
			client := m.Join()
			first := start(t, client, me, machine("alpha 1f", me))
			second := start(t, m.Join(), me, machine("beta 1f", me))
			time.Sleep(10 * time.Second)
			own := first.own()
			client.Fail(errDown)
			client.DropWatches(errDown)
			if restart {
				first.stop()
			}
			time.Sleep(time.Minute)
			if l := find(t, m, own); l.Machine != "beta 1f" || second.held().Holder != "" {
				t.Fatalf("the lease is %s, the holder for the second is %q", l, second.held().Holder)
			}
			client.Heal()
			if restart {
				first = start(t, m.Join(), me, machine("alpha 1f", me))
			}
			time.Sleep(time.Minute)
			if l := find(t, m, own); l.Machine != "beta 1f" || second.held().Holder != "" {
				t.Errorf("the lease is %s, the holder for the second is %q", l, second.held().Holder)
			}
			if s := first.held().Holder; !strings.HasPrefix(s, "the machine beta 1f, ") {
				t.Errorf("the holder for the first is %q", s)
			}
		})
	}
}

// The name that the machine had before it started is its name again while it runs.
func TestFormerName(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := logText(t)
		m := newStore(tiny)
		const own = "10.5.0.128/26"
		a := attrs(me)
		a.Machine = "alpha 1f"
		put(t, m, own, a, subnet.LeaseTTL)
		refresh := make(chan struct{}, 1)
		var name atomic.Value
		name.Store("omega 1f")
		h := start(t, m.Join(), me, named(&name), func(k *subnet.Keeper) { k.Refresh = refresh })
		h.want(t, own)
		name.Store("alpha 1f")
		refresh <- struct{}{}
		time.Sleep(time.Minute)
		h.want(t, own)
		if l := find(t, m, own); l.Machine != "alpha 1f" || l.Challenger != "" || h.held().Holder != "" {
			t.Errorf("the lease is %s, the holder is %q", l, h.held().Holder)
		}
		if s := log(); strings.Contains(s, "now belongs to") {
			t.Errorf("logged that another has it: %s", s)
		}
	})
}

// A lease that does not fit the configuration is another machine's with our public
// address: it is deleted if that does not answer, and not before.
func TestConflictLeaseDoesNotFit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newStore(config)
		first := start(t, m.Join(), me, machine("alpha", me))
		own := first.own()
		m.SetConfig(`{"Network":"10.6.0.0/16"}`)
		second := start(t, m.Join(), me, machine("beta", me))
		time.Sleep(time.Minute)
		second.want(t, "none")
		if l := find(t, m, own); l == nil || l.Machine != "alpha" {
			t.Errorf("the lease is %v", l)
		}
		if s := second.waitsFor(); !strings.Contains(s, "alpha, which is alive and has the lease "+own) {
			t.Errorf("it waits for %q", s)
		}
		first.stop()
		time.Sleep(time.Minute)
		if l := find(t, m, own); l != nil {
			t.Errorf("the lease is %s", l)
		}
		if s := second.own(); !strings.HasPrefix(s, "10.6.") {
			t.Errorf("it holds %s", s)
		}
	})
}
