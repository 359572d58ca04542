package etcd

import (
	"errors"
	"net/netip"
	"testing"
	"time"

	"flanneld/pkg/ip"
	"flanneld/subnet"
	"flanneld/subnet/subnettest"
)

// What Auto chose it keeps to, whatever appears in the other API.
func TestAutoKeepsToItsChoice(t *testing.T) {
	ctx := t.Context()
	v2, v3 := memory{Memory: subnettest.NewMemory()}, memory{Memory: subnettest.NewMemory()}
	a := NewAuto(v2, v3, new(remembered))
	if _, err := a.Config(ctx); !errors.Is(err, subnet.ErrNoConfig) {
		t.Errorf("nothing anywhere: %v", err)
	}
	v2.SetConfig(`{"Network": "10.5.0.0/16"}`)
	v3.SetConfig(`{"Network": "10.6.0.0/16"}`)
	if _, err := a.Config(ctx); !errors.Is(err, subnet.ErrNoConfig) {
		t.Errorf("two that differ: %v", err)
	}
	v3.UnsetConfig()
	if c, err := a.Config(ctx); err != nil || string(c) != `{"Network": "10.5.0.0/16"}` {
		t.Errorf("one: %s, %v", c, err)
	}
	v3.SetConfig(`{"Network": "10.6.0.0/16"}`)
	v2.UnsetConfig()
	if _, err := a.Config(ctx); !errors.Is(err, subnet.ErrNoConfig) {
		t.Errorf("the one that was chosen is gone: %v", err)
	}
	sub := ip.SubnetOf(netip.MustParsePrefix("10.5.1.0/24"))
	l, err := a.Create(ctx, sub, subnet.Attrs{PublicIP: ip.Addrs{V4: netip.MustParseAddr("192.0.2.1")}}, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	s, err := v2.List(ctx)
	if err != nil || s.Find(sub) == nil {
		t.Errorf("there is %v, %v", s.Leases, err)
	}
	if err := a.Delete(ctx, sub, l.Revision); err != nil {
		t.Error(err)
	}
}

// Once it has chosen, it is as good a store as any.
func TestAutoSuite(t *testing.T) {
	t.Parallel()
	subnettest.Suite(t, func(t *testing.T) subnettest.Harness {
		v2, v3 := memory{Memory: subnettest.NewMemory()}, memory{Memory: subnettest.NewMemory()}
		v3.SetConfig("{}")
		a := NewAuto(v2, v3, new(remembered))
		if _, err := a.Config(t.Context()); err != nil {
			t.Fatal(err)
		}
		v3.UnsetConfig()
		h := v3.Harness()
		h.Store = a
		return h
	})
}
