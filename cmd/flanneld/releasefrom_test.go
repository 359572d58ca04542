package main

import (
	"context"
	"errors"
	"net/netip"
	"strings"
	"testing"
	"time"

	"flanneld/pkg/ip"
	"flanneld/subnet"
	"flanneld/subnet/subnettest"
)

// overtaken is a store in which something happens right after it was listed.
type overtaken struct {
	*subnettest.Memory
	then func()
}

func (o overtaken) List(ctx context.Context) (subnet.Snapshot, error) {
	s, err := o.Memory.List(ctx)
	o.then()
	return s, err
}

// A lease that someone wrote since it was read is not deleted, and neither are
// those that are not this host's or can't be read.
func TestReleaseFrom(t *testing.T) {
	const ours, others = `{"PublicIP":"192.0.2.1"}`, `{"PublicIP":"192.0.2.2"}`
	m := subnettest.NewMemory()
	for key, value := range map[string]string{"10.5.1.0-24": ours, "10.5.2.0-24": others, "10.5.3.0-24": "garbage", "10.5.4.0-24": ours} {
		m.PutRaw(key, value, time.Hour)
	}
	public := ip.Addrs{V4: netip.MustParseAddr("192.0.2.1")}
	var out strings.Builder
	err := releaseFrom(t.Context(), overtaken{m, func() { m.PutRaw("10.5.4.0-24", others, time.Hour) }}, public, ip.Subnet{}, "here", &out)
	if !errors.Is(err, subnet.ErrChanged) || !strings.Contains(err.Error(), "left alone") {
		t.Errorf("the error is %v", err)
	}
	if out.String() != "released 10.5.1.0/24, the lease of this host (192.0.2.1)\n" {
		t.Errorf("it told %q", out.String())
	}
	s, err := m.List(t.Context())
	if err != nil || len(s.Leases) != 2 || len(s.Problems) != 1 {
		t.Errorf("there are %v, %v", s, err)
	}
}

// A lease that this machine wrote by another name is released, and not one of another
// machine with its name.
func TestReleaseFromRenamed(t *testing.T) {
	m := subnettest.NewMemory()
	m.PutRaw("10.5.1.0-24", `{"PublicIP":"192.0.2.1","Machine":"before 1f"}`, time.Hour)
	m.PutRaw("10.5.2.0-24", `{"PublicIP":"192.0.2.1","Machine":"here 2e"}`, time.Hour)
	var out strings.Builder
	if err := releaseFrom(t.Context(), m, ip.Addrs{V4: netip.MustParseAddr("192.0.2.1")}, ip.Subnet{}, "here 1f", &out); err != nil {
		t.Fatal(err)
	}
	if out.String() != "released 10.5.1.0/24, the lease of this host (192.0.2.1)\n"+
		"left 10.5.2.0/24: the machine here 2e wrote it, with the public address of this one (192.0.2.1)\n" {
		t.Errorf("it told %q", out.String())
	}
	s, err := m.List(t.Context())
	if err != nil || len(s.Leases) != 1 || s.Leases[0].Machine != "here 2e" {
		t.Errorf("there are %v, %v", s, err)
	}
}

// The lease of the subnet that this machine had is released by whatever address it has now.
// Those of others are not: of another machine, of a copy, or of flannel.
func TestReleaseFromMoved(t *testing.T) {
	previous := ip.SubnetOf(netip.MustParsePrefix("10.5.1.0/24"))
	for machine, released := range map[string]bool{"before 1f": true, "here 1f": true, "here 2e": false, "": false} {
		m := subnettest.NewMemory()
		m.PutRaw("10.5.1.0-24", `{"PublicIP":"192.0.2.9","Machine":"`+machine+`"}`, time.Hour)
		m.PutRaw("10.5.2.0-24", `{"PublicIP":"192.0.2.8","Machine":"here 1f"}`, time.Hour)
		var out strings.Builder
		if err := releaseFrom(t.Context(), m, ip.Addrs{V4: netip.MustParseAddr("192.0.2.1")}, previous, "here 1f", &out); err != nil {
			t.Fatal(err)
		}
		want := "there is nothing to release: no lease is of this host (192.0.2.1)\n"
		if released {
			want = "released 10.5.1.0/24, the lease of this host (192.0.2.9)\n"
		}
		if out.String() != want {
			t.Errorf("of %q it told %q", machine, out.String())
		}
	}
}
