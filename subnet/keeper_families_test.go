package subnet_test

import (
	"context"
	"errors"
	"net/netip"
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
				h := start(t, m.Join(), me, ofBoth(me, me6), func(k *subnet.Keeper) {
					k.Previous = before
					say := k.Prepare
					k.Prepare = func(ctx context.Context, c *subnet.Config, s subnet.Snapshot) (subnet.Attrs, []netip.Prefix, error) {
						if !there.Load() && c.V6.Network.IsValid() {
							return subnet.Attrs{}, nil, subnet.Lacking{Family: ip.V6, Why: errors.New("no address")}
						}
						return say(ctx, c, s)
					}
				})
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
