package subnet_test

import (
	"context"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"flanneld/subnet"
	"flanneld/subnet/subnettest"
)

// machine has the keeper run on a machine of that name.
func machine(name, public string) option {
	return func(k *subnet.Keeper) {
		k.Prepare = func(context.Context, *subnet.Config, subnet.Snapshot) (subnet.Attrs, []netip.Prefix, error) {
			a := attrs(public)
			a.Machine = name
			return a, nil, nil
		}
	}
}

// onMachine has the lease say the name of a machine, besides what it says.
func onMachine(name string) option {
	return func(k *subnet.Keeper) {
		say := k.Prepare
		k.Prepare = func(ctx context.Context, c *subnet.Config, s subnet.Snapshot) (subnet.Attrs, []netip.Prefix, error) {
			a, avoid, err := say(ctx, c, s)
			a.Machine = name
			return a, avoid, err
		}
	}
}

// A second machine with our public address does not get our lease while we live,
// and does when we are gone.
func TestAddressConflict(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := logText(t)
		m := newStore(tiny)
		first := start(t, m.Join(), me, machine("alpha", me))
		own := first.own()
		store := m.Join()
		second := start(t, store, me, machine("beta", me))
		time.Sleep(10 * time.Minute)
		first.want(t, own)
		second.want(t, "none")
		l := find(t, m, own)
		if l.Machine != "alpha" || l.Challenger != "" {
			t.Errorf("the lease is %s", l)
		}
		for _, word := range []string{me, "beta", "alpha", "is alive and has the lease " + own, "-iface"} {
			if s := second.waitsFor(); !strings.Contains(s, word) {
				t.Errorf("the second waits for %q, without %q", s, word)
			}
		}
		if !strings.Contains(log(), "the machine beta asks whether we are alive") {
			t.Error("the first does not log that")
		}
		if n := strings.Count(log(), "\n"); n > 100 {
			t.Errorf("%d lines were logged:\n%s", n, log())
		}
		if n := store.Calls(subnettest.Update); n > 45 {
			t.Errorf("the second asked %d times", n)
		}

		first.stop()
		time.Sleep(time.Minute)
		second.want(t, own)
		if l := find(t, m, own); l.Machine != "beta" || l.Challenger != "" {
			t.Errorf("the lease is %s", l)
		}

		t.Log("the first is back")
		first = start(t, m.Join(), me, machine("alpha", me))
		time.Sleep(time.Minute)
		first.want(t, "none")
		second.want(t, own)
	})
}

// In a network of both families one address in common is enough, of whichever family, and whatever
// the machines have in the other one. A machine that is gone does not keep it for long.
func TestAddressConflictOfOneFamily(t *testing.T) {
	for name, second := range map[string]struct{ v4, v6, shared string }{
		"IPv4": {me, other6, me},
		"IPv6": {other, me6, me6},
		"both": {me, me6, me + "," + me6},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				logText(t)
				m := newStore(dual)
				one := start(t, m.Join(), me, ofBoth(me, me6), onMachine("alpha 1f"))
				own := one.own()
				two := start(t, m.Join(), other, ofBoth(second.v4, second.v6), onMachine("beta 2e"))
				time.Sleep(10 * time.Minute)
				one.want(t, own)
				two.want(t, "none")
				if l := find(t, m, own); l.Machine != "alpha 1f" || l.Challenger != "" {
					t.Errorf("the lease is %s", l)
				}
				for _, word := range []string{second.shared + " of this machine, beta 2e, is also that of the machine alpha", "is alive and has the lease " + own} {
					if s := two.waitsFor(); !strings.Contains(s, word) {
						t.Errorf("the second waits for %q, without %q", s, word)
					}
				}
				one.stop()
				one = start(t, m.Join(), me, ofBoth(me, me6), onMachine("alpha 1f"))
				synctest.Wait()
				one.want(t, own) // it asks nobody

				one.stop()
				time.Sleep(time.Minute)
				if two.own() == "none" {
					t.Errorf("the second waits for %q", two.waitsFor())
				}
			})
		})
	}
}

// A machine whose lease bears another address of one family, and which finds another machine's
// lease with the one that it has now, asks that one.
func TestAddressConflictAfterChange(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		logText(t)
		m := newStore(dual)
		one := start(t, m.Join(), me, ofBoth(me, me6), onMachine("alpha 1f"))
		two := start(t, m.Join(), other, ofBoth(other, other6), onMachine("beta 2e"))
		both := []string{one.own(), two.own()}
		two.stop()
		two = start(t, m.Join(), other, ofBoth(other, me6), onMachine("beta 2e"))
		time.Sleep(10 * time.Minute)
		one.want(t, both[0])
		two.want(t, "none")
		if s := two.waitsFor(); !strings.Contains(s, me6+" of this machine") {
			t.Errorf("the second waits for %q", s)
		}
		two.stop()
		two = start(t, m.Join(), other, ofBoth(other, other6), onMachine("beta 2e"))
		time.Sleep(time.Minute)
		two.want(t, both[1])
	})
}

// A machine that was installed anew has its lease again when it is clear that the
// old one does not answer; one that is the same, also by another name, or whose lease
// is flannel's, at once. A reservation stays one. What tells machines apart is the ID,
// and without one, all of the text.
func TestConflictHolderIsGone(t *testing.T) {
	for _, c := range []struct {
		machine  string // that wrote the lease
		reserved bool
		most     time.Duration
	}{
		{"alpha 2e", false, 22 * time.Second},
		{"alpha 2e", true, 22 * time.Second},
		{"beta 2e", false, 22 * time.Second},
		{"beta", false, 22 * time.Second},
		{"beta 1f", false, 0},
		{"alpha 1f", false, 0},
		{"alpha 1f", true, 0},
		{"", false, 0},
	} {
		synctest.Test(t, func(t *testing.T) {
			m := newStore(tiny)
			a := attrs(me)
			a.Machine = c.machine
			ttl := subnet.LeaseTTL
			if c.reserved {
				ttl = 0
			}
			put(t, m, "10.5.0.128/26", a, ttl)
			h := start(t, m.Join(), me, machine("beta 1f", me))
			if c.most > 0 {
				time.Sleep(c.most - 3*time.Second)
				h.want(t, "none")
				time.Sleep(3 * time.Second)
			}
			synctest.Wait()
			h.want(t, "10.5.0.128/26")
			l := find(t, m, "10.5.0.128/26")
			if l.Machine != "beta 1f" || l.Challenger != "" || l.Reserved() != c.reserved {
				t.Errorf("the lease is %s, expires %s", l, l.Expires)
			}
		})
	}
}

// Several machines wait for one that does not answer any more: one of them gets its
// lease, however they ask in between each other.
func TestConflictSeveralWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newStore(tiny)
		a := attrs(me)
		a.Machine = "alpha 1f"
		const own = "10.5.0.128/26"
		put(t, m, own, a, subnet.LeaseTTL)
		hosts := make(map[string]*host)
		for _, name := range []string{"beta 2e", "gamma 3d", "delta 4c"} {
			hosts[name] = start(t, m.Join(), me, machine(name, me))
			time.Sleep(5 * time.Second)
		}
		time.Sleep(25 * time.Second)
		l := find(t, m, own)
		for name, h := range hosts {
			if want := map[bool]string{true: own, false: "none"}[name == l.Machine]; h.own() != want {
				t.Errorf("%s holds %s, want %s", name, h.own(), want)
			}
		}
		if hosts[l.Machine] == nil {
			t.Errorf("the lease is %s", l)
		}
	})
}

// Our lease went to another machine with our public address while we could not
// answer: it is lost, and we do not fight for it.
func TestConflictHolderTookOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newStore(tiny)
		const other = "10.5.0.0/26" // another host's, which comes while we wait for beta
		came, gone := false, false
		h := start(t, m.Join(), me, machine("alpha", me), func(k *subnet.Keeper) {
			note := k.Changed
			k.Changed = func(now subnet.Holding) {
				found := now.Snapshot.Find(sub(other)) != nil
				came, gone = came || found, gone || came && !found
				note(now)
			}
		})
		own := h.own()
		a := attrs(me)
		a.Machine = "beta"
		put(t, m, own, a, subnet.LeaseTTL)
		time.Sleep(5 * time.Second)
		if l := find(t, m, own); l.Machine != "beta" || l.Challenger != "alpha" {
			t.Errorf("the lease is %s", l)
		}
		put(t, m, other, attrs("192.0.2.9"), subnet.LeaseTTL)
		time.Sleep(time.Second)
		if h.held().Snapshot.Find(sub(other)) == nil {
			t.Error("the others are not followed meanwhile")
		}
		time.Sleep(time.Minute) // beta does not answer
		h.want(t, own)
		if l := find(t, m, own); l.Machine != "alpha" || h.held().Holder != "" {
			t.Errorf("the lease is %s, the holder is %q", l, h.held().Holder)
		}
		h.stop()
		if gone {
			t.Error("a snapshot was followed by an older one")
		}
	})
}
