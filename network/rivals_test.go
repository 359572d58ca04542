package network

import (
	"maps"
	"math/rand/v2"
	"net/netip"
	"strings"
	"testing"

	"flanneld/pkg/ip"
	"flanneld/pkg/state"
	"flanneld/subnet"
)

// far puts the host of a lease behind a router.
func far(l *subnet.Lease) *subnet.Lease {
	b := l.PublicIP.Of(in.Family()).AsSlice()
	via := b[len(b)-1]
	l.PublicIP = addrsOf(in.Of(netip.AddrFrom4([4]byte{198, 51, 1, via})))
	return l
}

// anyVxlanLease is of few hosts and MAC addresses, so that some are of several.
func anyVxlanLease(r *rand.Rand, n int) *subnet.Lease {
	l := vxlanLease(n, 1+r.IntN(3))
	if r.IntN(3) == 0 {
		far(l)
	}
	switch r.IntN(10) {
	case 0, 1:
		l.BackendType = "host-gw"
	case 2:
		withMAC(l, hostMAC(0)) // this host's own
	case 3, 4:
		withMAC(l, hostMAC(r.IntN(3)))
	case 5:
		withMAC(l, hostMAC(10+n))
	}
	return l
}

func (p *planned) set1(t *testing.T, w Desired) {
	t.Helper()
	if _, all := p.set(w); all {
		t.Error("everything counts as changed")
	}
}

// wantServed checks which peers are to be reached, and whose other leases have
// which problem.
func (p *planned) wantServed(t *testing.T, served []state.FDB, neighs []state.Neigh, problems map[int]string) {
	t.Helper()
	want := make(state.Set)
	for _, o := range vxlanDesired().Backend.Local(p.spec.Host, ip.Subnet{}, p.spec.Own) {
		want[o.Key()] = o
	}
	for _, f := range served {
		want[f.Key()] = f
	}
	for _, n := range neighs {
		r := state.Route{Dst: netip.PrefixFrom(n.Addr, 32), Via: n.Addr, Dev: n.Dev, Onlink: true}
		want[n.Key()], want[r.Key()] = n, r
	}
	if !maps.Equal(p.want, want) {
		t.Errorf("wanted: %v, want %v", p.want, want)
	}
	if len(p.problems) != len(problems) {
		t.Errorf("problems: %v, want %v", p.problems, problems)
	}
	for n, part := range problems {
		if why := p.problems[peerSubnet(n)]; !strings.Contains(why, part) {
			t.Errorf("peer %d: %q, want %q", n, why, part)
		}
	}
}

func TestRivals(t *testing.T) {
	var p planned
	first, last := vxlanLease(1, 1), withMAC(vxlanLease(2, 2), hostMAC(1))
	p.set(vxlanDesired(first))
	mac := hostMAC(1).String()
	loser := func(winner int) string { return mac + " is that of lease " + peerSubnet(winner).String() }
	won := state.FDB{Dev: "flannel.1", MAC: hostMAC(1), Dst: peerAddr(2)}

	p.set1(t, vxlanDesired(first, last))
	p.wantServed(t, []state.FDB{won}, []state.Neigh{neigh(2, 1)}, map[int]string{1: loser(2)})

	newest := withMAC(vxlanLease(3, 3), hostMAC(1))
	p.set1(t, vxlanDesired(first, last, newest))
	p.wantServed(t, []state.FDB{{Dev: "flannel.1", MAC: hostMAC(1), Dst: peerAddr(3)}}, []state.Neigh{neigh(3, 1)}, map[int]string{1: loser(3), 2: loser(3)})

	// The winner gets a MAC address of its own.
	p.set1(t, vxlanDesired(first, last, vxlanLease(3, 3)))
	p.wantServed(t, []state.FDB{won, fdb(3)}, []state.Neigh{neigh(2, 1), neigh(3, 3)}, map[int]string{1: loser(2)})

	// Whose lease is renewed is alive.
	renewed := *first
	p.set1(t, vxlanDesired(written(&renewed), last))
	p.wantServed(t, []state.FDB{fdb(1)}, []state.Neigh{neigh(1, 1)}, map[int]string{2: loser(1)})

	p.set1(t, vxlanDesired(last))
	p.wantServed(t, []state.FDB{won}, []state.Neigh{neigh(2, 1)}, nil)
	p.set1(t, vxlanDesired())
	p.wantServed(t, nil, nil, nil)
	if len(p.claims) > 0 || len(p.others) > 0 || len(p.conflicts) > 0 {
		t.Errorf("left over: %v, %v, %v", p.claims, p.others, p.conflicts)
	}
}

// Two leases of one host are no rivals: it may have got another subnet, and the
// old one lingers.
func TestTwoLeasesOfOneHost(t *testing.T) {
	var p planned
	old, now := vxlanLease(1, 1), vxlanLease(2, 1)
	p.set(vxlanDesired(old, now))
	p.wantServed(t, []state.FDB{fdb(1)}, []state.Neigh{neigh(1, 1), neigh(2, 1)}, nil)
	p.set1(t, vxlanDesired(now))
	p.wantServed(t, []state.FDB{fdb(1)}, []state.Neigh{neigh(2, 1)}, nil)
	p.set1(t, vxlanDesired(old, now))
	p.set1(t, vxlanDesired(old))
	p.wantServed(t, []state.FDB{fdb(1)}, []state.Neigh{neigh(1, 1)}, nil)
}

func TestPeerWithOwnMAC(t *testing.T) {
	var p planned
	clone := withMAC(vxlanLease(1, 1), hostMAC(0))
	p.set(vxlanDesired(clone, vxlanLease(2, 2)))
	p.wantServed(t, []state.FDB{fdb(2)}, []state.Neigh{neigh(2, 2)}, map[int]string{1: "this host's own"})

	// This host's own changes.
	w := vxlanDesired(clone)
	w.Own = &subnet.Lease{Subnet: ip.SubnetOf(ownSubnet), Attrs: w.Own.Attrs}
	w.Own.BackendData = vtepData(hostMAC(99))
	if _, all := p.set(w); !all {
		t.Error("not everything counts as changed")
	}
	p.wantServed(t, []state.FDB{{Dev: "flannel.1", MAC: hostMAC(0), Dst: peerAddr(1)}}, []state.Neigh{neigh(1, 0)}, nil)
	p.set(vxlanDesired(clone))
	p.wantServed(t, nil, nil, map[int]string{1: "this host's own"})
}
