package subnet_test

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"flanneld/subnet"
	"flanneld/subnet/subnettest"
)

// wrote puts a lease that a machine wrote at a public address.
func wrote(t *testing.T, m *subnettest.Memory, cidr, public, machine string, ttl time.Duration) {
	t.Helper()
	a := attrs(public)
	a.Machine = machine
	v, err := a.Value()
	if err != nil {
		t.Fatal(err)
	}
	m.PutRaw(sub(cidr).Key(), v, ttl)
}

const old = "192.0.2.77" // a public address that this host had

// The host's public address changed while it did not run. The lease that its machine wrote
// is its own: it keeps the subnet, and the lease says the new address.
func TestMovedLease(t *testing.T) {
	const own, free = "10.5.0.128/26", "another"
	had := func(k *subnet.Keeper) { k.PreviousIP = attrs(old).PublicIP }
	for name, c := range map[string]struct {
		machine  string // that wrote the lease
		reserved bool
		others   map[string][2]string // subnet: public address, machine
		options  []option
		want     string
		within   time.Duration
	}{
		"remembered":                  {machine: "alpha 1f", options: []option{previous(own)}, want: own, within: 6 * time.Second},
		"remembered, a reservation":   {machine: "alpha 1f", reserved: true, options: []option{previous(own)}, want: own, within: 6 * time.Second},
		"remembered, by another name": {machine: "omega 1f", options: []option{previous(own)}, want: own, within: 6 * time.Second},
		"not remembered":              {machine: "alpha 1f", want: free},
		"of another machine":          {machine: "alpha 2e", options: []option{previous(own)}, want: free},
		"remembered, one of several": {
			machine: "alpha 1f", others: map[string][2]string{"10.5.0.64/26": {"192.0.2.78", "beta 1f"}},
			options: []option{previous(own)}, want: own, within: 6 * time.Second,
		},
		"our address is in the lease of another machine, which is gone": {
			machine: "alpha 1f", others: map[string][2]string{"10.5.0.64/26": {me, "beta 2e"}},
			options: []option{previous(own)}, want: own, within: 11 * time.Second,
		},
		"our address is in a lease of flannel": {
			machine: "alpha 1f", others: map[string][2]string{"10.5.0.64/26": {me, ""}},
			options: []option{previous(own)}, want: own, within: 6 * time.Second,
		},
		"another lease is of this machine with our address": {
			machine: "alpha 1f", others: map[string][2]string{"10.5.0.64/26": {me, "alpha 1f"}}, options: []option{previous("10.5.0.64/26")}, want: "10.5.0.64/26",
		},
		"of flannel, at the address that we had":             {options: []option{previous(own), had}, want: own},
		"of flannel, at an address that we are not known by": {options: []option{previous(own)}, want: free},
		"of flannel, not remembered":                         {options: []option{had}, want: free},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := newStore(tiny)
				ttl := subnet.LeaseTTL
				if c.reserved {
					ttl = 0
				}
				wrote(t, m, own, old, c.machine, ttl)
				for cidr, o := range c.others {
					wrote(t, m, cidr, o[0], o[1], subnet.LeaseTTL)
				}
				h := start(t, m.Join(), me, append([]option{machine("alpha 1f", me)}, c.options...)...)
				time.Sleep(c.within)
				got := h.own()
				if c.want == free {
					if got == "none" || got == own {
						t.Errorf("the host holds %s", got)
					}
					if l := find(t, m, own); l.PublicIP != attrs(old).PublicIP || l.Challenger != "" {
						t.Errorf("the lease is %s", l)
					}
					return
				}
				h.want(t, c.want)
				if l := find(t, m, c.want); l.PublicIP != attrs(me).PublicIP || l.Machine != "alpha 1f" || l.Challenger != "" || l.Reserved() != c.reserved {
					t.Errorf("the lease is %s, expires %s", l, l.Expires)
				}
			})
		})
	}
}

// The public address that this host has now is that of another machine, which is alive.
func TestMovedToAddressInUse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const own = "10.5.0.128/26"
		m := newStore(tiny)
		first := start(t, m.Join(), me, machine("alpha 2e", me), previous("10.5.0.64/26"))
		taken := first.own()
		wrote(t, m, own, old, "beta 1f", subnet.LeaseTTL)
		second := start(t, m.Join(), me, machine("beta 1f", me), previous(own))
		time.Sleep(time.Minute)
		first.want(t, taken)
		second.want(t, "none")
		if l := find(t, m, own); l.PublicIP != attrs(old).PublicIP || l.Challenger != "" {
			t.Errorf("the lease is %s", l)
		}
		for _, word := range []string{me, "alpha 2e", "is alive and has the lease " + taken, "-iface"} {
			if s := second.waitsFor(); !strings.Contains(s, word) {
				t.Errorf("the second waits for %q, without %q", s, word)
			}
		}
	})
}

// A copy of a machine that runs, with its disk and all, does not get the lease of the
// original. It takes a subnet of its own, and keeps that.
func TestCopyOfMachine(t *testing.T) {
	for name, options := range map[string][]option{
		"remembers":     {previous("10.5.0.128/26")},
		"has its state": {previous("10.5.0.128/26"), func(k *subnet.Keeper) { k.PreviousIP = attrs(old).PublicIP }},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				log := logText(t)
				m := newStore(tiny)
				first := start(t, m.Join(), old, machine("alpha 1f", old), previous("10.5.0.128/26"))
				own := first.own()
				for range 2 { // once started again
					second := start(t, m.Join(), me, append([]option{machine("alpha 1f", me)}, options...)...)
					time.Sleep(5 * time.Second)
					theirs := second.own()
					if theirs == "none" || theirs == own {
						t.Fatalf("the copy holds %s", theirs)
					}
					time.Sleep(10 * time.Minute)
					first.want(t, own)
					second.want(t, theirs)
					if l := find(t, m, own); l.PublicIP != attrs(old).PublicIP || l.Challenger != "" || first.held().Holder != "" {
						t.Errorf("the lease is %s", l)
					}
					options = []option{previous(theirs)}
					second.stop()
				}
				if s := log(); !strings.Contains(s, "this machine is a copy of it, and takes another subnet") || !strings.Contains(s, "it has our machine ID, too") {
					t.Errorf("logged: %s", s)
				}
			})
		})
	}
}

// Two hosts change their addresses with each other: each keeps its subnet.
func TestAddressesSwapped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newStore(tiny)
		a := start(t, m.Join(), me, machine("alpha 1f", me))
		b := start(t, m.Join(), other, machine("beta 2e", other))
		ofA, ofB := a.own(), b.own()
		a.stop()
		b.stop()
		a = start(t, m.Join(), other, machine("alpha 1f", other), previous(ofA))
		b = start(t, m.Join(), me, machine("beta 2e", me), previous(ofB))
		time.Sleep(16 * time.Second)
		a.want(t, ofA)
		b.want(t, ofB)
		if la, lb := find(t, m, ofA), find(t, m, ofB); la.PublicIP != attrs(other).PublicIP || lb.PublicIP != attrs(me).PublicIP {
			t.Errorf("the leases are %s and %s", la, lb)
		}
	})
}

// The host starts without the store, by another address than its lease says: it goes on,
// and the lease says the new address when the store can be reached.
func TestOfflineReaddressed(t *testing.T) {
	for name, c := range map[string]struct {
		now  string // the machine, now
		copy bool   // the original lives
		want bool
	}{
		"the same machine":            {"alpha 1f", false, true},
		"by another name":             {"omega 1f", false, true},
		"a copy of one that is alive": {"alpha 1f", true, true},
		"another machine":             {"alpha 2e", false, false},
	} {
		dir := t.TempDir()
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := newStore(tiny)
				first := start(t, m.Join(), old, machine("alpha 1f", old))
				own := first.own()
				saved := savedHere(t, dir, first.held())
				if !c.copy {
					first.stop()
				}
				client := m.Join()
				client.Fail(errDown)
				h := start(t, client, me, machine(c.now, me), saved)
				time.Sleep(6 * time.Second)
				if !c.want {
					h.want(t, "none")
					return
				}
				h.want(t, own)
				client.Heal()
				time.Sleep(10 * time.Second)
				if c.copy {
					first.want(t, own)
					if got := h.own(); got == own || got == "none" {
						t.Errorf("the copy holds %s", got)
					}
					if l := find(t, m, own); l.PublicIP != attrs(old).PublicIP || l.Challenger != "" {
						t.Errorf("the lease is %s", l)
					}
					return
				}
				h.want(t, own)
				if l := find(t, m, own); l.PublicIP != attrs(me).PublicIP || l.Machine != c.now || l.Challenger != "" {
					t.Errorf("the lease is %s", l)
				}
			})
		})
	}
}

// What flannel wrote over our lease, as the state file knows it, is ours.
func TestMovedLeaseOfFlannelInState(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		m := newStore(tiny)
		first := start(t, m.Join(), old, machine("alpha 1f", old))
		own := first.own()
		saved := savedHere(t, dir, first.held())
		first.stop()
		wrote(t, m, own, old, "", subnet.LeaseTTL)
		h := start(t, m.Join(), me, machine("alpha 1f", me), previous(own), saved)
		h.want(t, own)
		if l := find(t, m, own); l.PublicIP != attrs(me).PublicIP {
			t.Errorf("the lease is %s", l)
		}
	})
}
