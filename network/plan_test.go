package network

import (
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"flanneld/pkg/ip"
	"flanneld/pkg/state"
	"flanneld/subnet"
)

// unseen returns the keys under which a and b differ, and that are not in
// changed.
func unseen(a, b state.Set, changed map[state.Key]bool) []state.Key {
	var missed []state.Key
	look := func(k state.Key) {
		if _, seen := changed[k]; !seen && a[k] != b[k] {
			missed = append(missed, k)
		}
	}
	for k := range a {
		look(k)
	}
	for k := range b {
		look(k)
	}
	return missed
}

// A plan that follows the desired states one by one is the plan that the last of them
// would make alone, and the keys that it calls changed are those that changed.
func TestPlanFollowsDesiredStates(t *testing.T) {
	for name, c := range map[string]struct {
		spec  func(...*subnet.Lease) Desired
		lease func(*rand.Rand, int) *subnet.Lease
	}{
		"host-gw": {desire, func(r *rand.Rand, n int) *subnet.Lease {
			l := lease(n, 1+r.IntN(3))
			if r.IntN(4) == 0 {
				l.BackendType = "vxlan" // nothing to be done with it
			}
			return l
		}},
		"vxlan":         {vxlanDesired, anyVxlanLease},
		"direct routes": {directDesired, anyVxlanLease},
	} {
		t.Run(name, func(t *testing.T) {
			r := rand.New(rand.NewPCG(seed(t), 0))
			for range 200 {
				testPlanFollows(t, r, c.spec, c.lease)
			}
		})
	}
}

func testPlanFollows(t *testing.T, r *rand.Rand, desire func(...*subnet.Lease) Desired, lease func(*rand.Rand, int) *subnet.Lease) {
	var p planned
	leases := make(map[int]*subnet.Lease)
	own := desire().Own
	nexthops := r.IntN(2) == 0
	told := make(map[ip.Subnet]string)
	for step := range 30 {
		for range r.IntN(5) {
			n := r.IntN(20)
			switch l := leases[n]; r.IntN(6) {
			case 0:
				delete(leases, n)
			case 1:
				if l != nil { // renewed
					renewed := *l
					leases[n] = written(&renewed)
				}
			default:
				leases[n] = lease(r, n)
			}
		}
		w := desire(slices.Collect(maps.Values(leases))...)
		if r.IntN(4) == 0 { // renewed
			renewed := *own
			own = &renewed
		}
		w.Own = own
		w.Host.Nexthops = nexthops
		w.Own.Revision++

		before := maps.Clone(p.want)
		changed, all := p.set(w)
		if all != (step == 0) {
			t.Fatalf("at step %d everything counts as changed: %v", step, all)
		}

		var alone planned
		alone.set(w)
		if !maps.Equal(p.want, alone.want) || !maps.Equal(p.problems, alone.problems) {
			t.Fatalf("want %v, problems %v; alone %v, %v", p.want, p.problems, alone.want, alone.problems)
		}
		if missed := unseen(before, p.want, changed); step > 0 && missed != nil {
			t.Fatalf("changed, and not said so: %v", missed)
		}
		for s := range p.changedProblems {
			delete(told, s)
			if why := p.problems[s]; why != "" {
				told[s] = why
			}
		}
		clear(p.changedProblems)
		if !maps.Equal(told, p.problems) {
			t.Fatalf("told of the problems %v; there are %v", told, p.problems)
		}
	}
}

// What decides about every object makes every object count as changed.
func TestPlanRebuilds(t *testing.T) {
	for name, change := range map[string]func(*Desired){
		"configuration": func(w *Desired) { w.Config = &subnet.Config{} },
		"interface":     func(w *Desired) { w.Host.V4.Iface = "eth1" },
		"MTU":           func(w *Desired) { w.Host.V4.MTU = 1400 },
		"own subnet":    func(w *Desired) { w.Own = &subnet.Lease{Subnet: peerSubnet(99)} },
		"own attributes": func(w *Desired) {
			w.Own = &subnet.Lease{Subnet: w.Own.Subnet, Attrs: subnet.Attrs{BackendType: "host-gw"}}
		},
	} {
		t.Run(name, func(t *testing.T) {
			var p planned
			w := desire(lease(1, 1), lease(2, 2))
			p.set(w)
			w = desire(lease(2, 2), lease(3, 3))
			change(&w)
			if _, all := p.set(w); !all {
				t.Error("it does not")
			}
		})
	}
}

// A host that adds an address family to its lease, or drops one, does so by a lease of another
// subnet. What is there for the family that stays is wanted all the while.
func TestPlanKeepsFamily(t *testing.T) {
	one, both := lease(1, 1), lease(1, 1)
	both.Subnet.V6, both.PublicIP.V6 = netip.MustParsePrefix("fc00:0:0:1::/64"), netip.MustParseAddr("2001:db8::1")
	var p planned
	p.set(desire(one, lease(2, 2)))
	for _, l := range []*subnet.Lease{both, one, both} {
		p.set(desire(l, lease(2, 2)))
		if got := p.want[route(1, 1).Key()]; got != state.Object(route(1, 1)) {
			t.Errorf("with a lease of %s: wanted is %v", l.Subnet, got)
		}
	}
}

// A network that has become large counts as changed, and so does one that has
// become small again.
func TestPlanSwitchesToNexthops(t *testing.T) {
	var p planned
	p.set(desire(lease(1, 1), lease(2, 2)))
	if _, all := p.set(largeDesired(lease(1, 1), lease(2, 2))); !all {
		t.Error("it does not count as changed")
	}
	if want := (state.Set{
		nexthop(1, 1).Key(): nexthop(1, 1), route(1, 1).Key(): byNexthop(1, 1),
		nexthop(2, 2).Key(): nexthop(2, 2), route(2, 2).Key(): byNexthop(2, 2),
	}); !maps.Equal(p.want, want) {
		t.Errorf("wanted %v, want %v", p.want, want)
	}
	if _, all := p.set(desire(lease(1, 1), lease(2, 2))); !all {
		t.Error("it does not count as changed")
	}
	if want := (state.Set{route(1, 1).Key(): route(1, 1), route(2, 2).Key(): route(2, 2)}); !maps.Equal(p.want, want) {
		t.Errorf("wanted %v, want %v", p.want, want)
	}
}

func TestPlanSameDesiredStateChangesNothing(t *testing.T) {
	var p planned
	p.set(desire(lease(1, 1), lease(2, 2)))
	// Other leases, that say the same.
	if changed, all := p.set(desire(lease(1, 1), lease(2, 2))); len(changed) > 0 || all {
		t.Errorf("changed map[state.Key]bool %v, all %v", changed, all)
	}
}

func TestPlanKeeps(t *testing.T) {
	p := planeDesired{bounds: bounds{unreadable: []ip.Subnet{peerSubnet(1)}, devices: map[string]bool{"flannel.1": true}}}
	base, mac := peerSubnet(1).V4.Addr(), state.MAC{2, 1}
	neigh := state.Neigh{Dev: "flannel.1", Addr: base, MAC: mac}
	keep := p.retained(state.Observed{neigh.Key(): {Object: neigh, Owner: state.Ours}})
	elsewhere := state.Route{Dst: route(1, 1).Dst, Metric: state.YieldingMetric}
	for o, want := range map[state.Object]bool{
		route(1, 1): true, nexthop(1, 1): true, neigh: true, state.FDB{Dev: "flannel.1", MAC: mac}: true,
		state.TunnelPeer{Dev: "flannel0", Subnet: peerSubnet(1).V4}: true,
		state.CloudRoute{Dst: peerSubnet(1).V4}:                     true,
		route(2, 1):                                                 false, nexthop(2, 1): false, elsewhere: false,
		state.Nexthop{}: false,
		state.Neigh{Dev: "flannel.1", Addr: peerSubnet(2).V4.Addr()}: false, state.Neigh{Dev: "flannel.2", Addr: base}: false,
		state.FDB{Dev: "flannel.1", MAC: state.MAC{2, 2}}: false, state.FDB{Dev: "flannel.2", MAC: mac}: false,
	} {
		if keep(o) != want {
			t.Errorf("keeps %v: %v", o, !want)
		}
	}
}

// Where hosts have names, what is wrong with a lease says whose it is.
func TestPlanNamesHost(t *testing.T) {
	w := desire(&subnet.Lease{Subnet: peerSubnet(3), Attrs: subnet.Attrs{BackendType: "garbage", Machine: "w3"}})
	w.Config = &subnet.Config{Assigned: true}
	var p planned
	p.set(w)
	if why := p.problems[peerSubnet(3)]; !strings.HasPrefix(why, "of the Node w3, ") {
		t.Errorf("the problem is %q", why)
	}
}
