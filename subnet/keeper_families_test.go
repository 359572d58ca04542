package subnet_test

import (
	"context"
	"errors"
	"net/netip"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"flanneld/pkg/ip"
	"flanneld/subnet"
	"flanneld/subnet/subnettest"
)

const (
	dual  = `{"Network":"10.5.0.0/16","EnableIPv6":true,"IPv6Network":"fc00::/48"}`
	only6 = `{"EnableIPv4":false,"EnableIPv6":true,"IPv6Network":"fc00::/48"}`
	// me6 and other6 are the addresses of the hosts me and other.
	me6, other6 = "2001:db8::1", "2001:db8::2"
)

// ofBoth has the lease of a host say its addresses in the families of the configuration.
func ofBoth(v4, v6 string) option {
	return func(k *subnet.Keeper) {
		k.Prepare = func(_ context.Context, c *subnet.Config, _ subnet.Snapshot) (subnet.Attrs, []netip.Prefix, error) {
			var a subnet.Attrs
			for _, f := range c.Families() {
				all := attrs(v4 + "," + v6)
				a = a.With(f, all.PublicIP.Of(f), all.Data(f))
			}
			a.BackendType = "vxlan"
			return a, nil, nil
		}
	}
}

// A host follows the address families of the configuration while it runs, and a daemon that starts
// does: the prefix that stays is the same, and the store has no more than one lease of the host.
func TestFamiliesFollowed(t *testing.T) {
	for name, reserved := range map[string]bool{"a lease": false, "a reservation": true} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := newStore(config)
				if reserved {
					put(t, m, "10.5.7.0/24", attrs(me), 0)
				}
				h := start(t, m.Join(), me, ofBoth(me, me6))
				v4 := h.held().Own.Subnet
				third := v4.V4.Addr().As4()[2]
				both := v4.With(ip.V6, netip.PrefixFrom(netip.AddrFrom16([16]byte{0: 0xfc, 7: third}), 64))
				for i, step := range []struct {
					config string
					want   ip.Subnet
				}{{dual, both}, {config, v4}, {dual, both}, {only6, ip.Subnet{V6: both.V6}}, {dual, both}, {config, v4}} {
					m.SetConfig(step.config)
					if i >= 4 { // a daemon that starts finds it so
						h.stop()
						h = start(t, m.Join(), me, ofBoth(me, me6))
					}
					time.Sleep(time.Second)
					got := h.held()
					if got.Own == nil || got.Own.Subnet != step.want || got.Unfollowed != "" || got.Own.Reserved() != reserved {
						t.Fatalf("under %s the host has %s, and says %q", step.config, h.own(), got.Unfollowed)
					}
					s, err := m.List(t.Context())
					if err != nil || len(s.Leases) != 1 || s.Leases[0].Subnet != step.want || s.Leases[0].Attrs != got.Own.Attrs {
						t.Fatalf("under %s the store has %v, %v", step.config, s.Leases, err)
					}
				}
			})
		})
	}
}

// What a host that lost its answer was to have, it has once the store can be asked again.
func TestFamilyAddedInOutage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newStore(config)
		client := m.Join()
		h := start(t, client, me, ofBoth(me, me6))
		v4 := h.held().Own.Subnet
		client.FailAfter(errDown, subnettest.Move)
		m.SetConfig(dual)
		time.Sleep(10 * time.Second)
		if got := h.held(); got.Own.Subnet.V4 != v4.V4 {
			t.Errorf("the host has %s", got.Own.Subnet)
		}
		client.Heal()
		time.Sleep(10 * time.Second)
		got := h.held()
		if got.Own.Subnet.V4 != v4.V4 || !got.Own.Subnet.V6.IsValid() || got.Unfollowed != "" {
			t.Errorf("the host has %s, and says %q", got.Own.Subnet, got.Unfollowed)
		}
		if s, err := m.List(t.Context()); err != nil || len(s.Leases) != 1 {
			t.Errorf("the store has %v, %v", s.Leases, err)
		}
	})
}

// Hosts that get another family at once get different prefixes of it.
func TestFamilyAddedAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newStore(`{"Network":"10.5.0.0/24","SubnetLen":26}`)
		one := start(t, m.Join(), me, ofBoth(me, me6))
		two := start(t, m.Join(), other, ofBoth(other, other6))
		m.SetConfig(`{"Network":"10.5.0.0/24","SubnetLen":26,"EnableIPv6":true,"IPv6Network":"fc00::/62"}`)
		time.Sleep(10 * time.Second)
		a, b := one.held().Own.Subnet, two.held().Own.Subnet
		if a.Overlaps(b) || !a.V6.IsValid() || !b.V6.IsValid() {
			t.Errorf("the hosts have %s and %s", a, b)
		}
	})
}

// without6 has the host have no IPv6 address until it is there.
func without6(there *atomic.Bool) option {
	return func(k *subnet.Keeper) {
		say := k.Prepare
		k.Prepare = func(ctx context.Context, c *subnet.Config, s subnet.Snapshot) (subnet.Attrs, []netip.Prefix, error) {
			if !there.Load() && c.V6.Network.IsValid() {
				return subnet.Attrs{}, nil, subnet.Lacking{Family: ip.V6, Why: errors.New("no address")}
			}
			return say(ctx, c, s)
		}
	}
}

// A host that lacks an address family starts with the other one, and has both as soon as it can: of
// the same IPv4 subnet, and of the one of IPv6 that it had before, if that is free.
func TestFamilyIsLacking(t *testing.T) {
	for name, had := range map[string]bool{"a new host": false, "a host that had both": true} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				log := logText(t)
				m := newStore(dual)
				var before ip.Subnet
				if had {
					h := start(t, m.Join(), me, ofBoth(me, me6))
					before = h.held().Own.Subnet
					h.stop()
				}
				var there atomic.Bool
				h := start(t, m.Join(), me, ofBoth(me, me6), without6(&there), func(k *subnet.Keeper) { k.Previous = before })
				time.Sleep(10 * time.Second)
				got := h.held()
				if got.Own == nil || !got.Own.Subnet.V4.IsValid() || got.Own.Subnet.V6.IsValid() || had && got.Own.Subnet.V4 != before.V4 || got.Unfollowed != "no address" {
					t.Fatalf("the host has %s, and says %q", h.own(), got.Unfollowed)
				}
				if n := strings.Count(log(), "going on without IPv6 until it can be had: no address"); n != 1 {
					t.Errorf("it is said %d times:\n%s", n, log())
				}
				four := got.Own.Subnet.V4
				there.Store(true)
				time.Sleep(10 * time.Second)
				got = h.held()
				if s := got.Own.Subnet; s.V4 != four || !s.V6.IsValid() || had && s != before || got.Unfollowed != "" {
					t.Errorf("the host has %s, and had %s; it says %q", s, before, got.Unfollowed)
				}
			})
		})
	}
}

// A host that goes without an address family loses its subnet: it gets another one of the family that
// it has, and the other family as soon as it can.
func TestSubnetLostWithoutAFamily(t *testing.T) {
	full := `{"Network":"10.5.0.0/16","EnableIPv6":true,"IPv6Network":"fc00::/48","IPv6SubnetMin":"fc00:0:0:1::","IPv6SubnetMax":"fc00:0:0:1::"}`
	for name, test := range map[string]struct {
		before, now, moved string // configurations: at the start, later, and as the subnet is lost
		has6, offline      bool   // whether the host has an IPv6 address; whether it starts without the store
	}{
		"from its start":              {before: dual},
		"the former configuration":    {before: config, now: dual},
		"no IPv6 subnet is free":      {before: config, now: full, has6: true},
		"the network is another one":  {before: dual, moved: strings.Replace(dual, "10.5.", "10.7.", 1)},
		"it had both, with the store": {before: dual, has6: true, moved: dual},
		"the store comes back":        {before: config, now: dual, offline: true},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := newStore(test.before)
				put(t, m, "10.5.200.0/24,fc00:0:0:1::/64", attrs("192.0.2.9,2001:db8::9"), 0)
				client := m.Join()
				var there atomic.Bool
				there.Store(test.has6)
				h := start(t, client, me, ofBoth(me, me6), without6(&there))
				if test.now != "" {
					m.SetConfig(test.now)
				}
				time.Sleep(10 * time.Second)
				had := h.held()
				if test.offline {
					h.stop()
					client.Fail(errDown)
					client.DropWatches(errDown)
					h = start(t, client, me, ofBoth(me, me6), without6(&there), func(k *subnet.Keeper) {
						k.Saved = func() (subnet.Saved, error) { return subnet.Saved{At: time.Now(), Holding: had}, nil }
					})
					time.Sleep(10 * time.Second)
				}
				client.Fail(errDown) // so that all that follows comes at once
				m.DeleteRaw(had.Own.Subnet.Key())
				if test.moved != "" {
					m.SetConfig(test.moved)
					there.Store(false)
				}
				put(t, m, had.Own.Subnet.V4.String(), attrs(other), subnet.LeaseTTL)
				client.Heal()
				time.Sleep(10 * time.Second)
				got := h.held()
				if got.Holder != "" || got.Own.Subnet.V4.Overlaps(had.Own.Subnet.V4) || got.Own.Subnet.V6.IsValid() || got.Unfollowed == "" {
					t.Fatalf("the host had %s and has %s, which is that of %q; it says %q", had.Own.Subnet, got.Own.Subnet, got.Holder, got.Unfollowed)
				}
				if test.now == full {
					m.DeleteRaw(sub("10.5.200.0/24,fc00:0:0:1::/64").Key())
				}
				there.Store(true)
				time.Sleep(10 * time.Second)
				if now := h.held(); now.Own.Subnet.V4 != got.Own.Subnet.V4 || !now.Own.Subnet.V6.IsValid() || now.Unfollowed != "" {
					t.Errorf("the host had %s and has %s; it says %q", got.Own.Subnet, now.Own.Subnet, now.Unfollowed)
				}
			})
		})
	}
}

// A host that went without an address family is started again: it goes by the same configuration as
// before, and says why; of another network it takes a subnet, as the former one could not stay.
func TestStartedAgainWithoutAFamily(t *testing.T) {
	const lacking, changed = "going on without IPv6 until it can be had: no address", "the former one stays in force: no address"
	for name, test := range map[string]struct{ before, now, want, says string }{
		"the same":                   {dual, dual, "10.5.", lacking},
		"of the former network":      {config, dual, "10.5.", changed},
		"of a larger network":        {config, strings.Replace(dual, "10.5.0.0/16", "10.4.0.0/15", 1), "10.5.", changed},
		"of another network":         {config, strings.Replace(dual, "10.5.", "10.7.", 1), "10.7.", lacking},
		"of another network, anew":   {dual, strings.Replace(dual, "10.5.", "10.7.", 1), "10.7.", lacking},
		"of another network in IPv6": {dual, strings.Replace(dual, "fc00:", "fc01:", 1), "10.5.", changed},
	} {
		t.Run(name, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "saved")
			synctest.Test(t, func(t *testing.T) {
				m := newStore(test.before)
				h := start(t, m.Join(), me, ofBoth(me, me6), without6(new(atomic.Bool)))
				time.Sleep(time.Second)
				had := h.held()
				h.stop()
				if err := had.Save(file, "etcd"); err != nil {
					t.Fatal(err)
				}
				m.SetConfig(test.now)
				log := logText(t)
				h = start(t, m.Join(), me, ofBoth(me, me6), without6(new(atomic.Bool)), func(k *subnet.Keeper) {
					k.Previous = had.Own.Subnet
					k.Saved = func() (subnet.Saved, error) { return subnet.LoadSaved(file, "etcd") }
				})
				time.Sleep(time.Second)
				got := h.own()
				if !strings.HasPrefix(got, test.want) || strings.HasPrefix(had.Own.Subnet.String(), test.want) && got != had.Own.Subnet.String() {
					t.Errorf("the host had %s and has %s", had.Own.Subnet, got)
				}
				if s := log(); strings.Count(s, test.says) != 1 || strings.Count(s, "no address") != 1 {
					t.Errorf("logged: %s", s)
				}
			})
		})
	}
}
