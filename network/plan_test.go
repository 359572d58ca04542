package network

import (
	"cmp"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"

	"flanneld/pkg/ip"
	"flanneld/pkg/state"
	"flanneld/subnet"
)

// sortedKeys returns keys in some fixed order.
func sortedKeys(keys []state.Key) []state.Key {
	keys = slices.Clone(keys)
	slices.SortFunc(keys, func(a, b state.Key) int {
		return cmp.Or(cmp.Compare(a.Kind, b.Kind), a.Dst.Compare(b.Dst), cmp.Compare(a.ID, b.ID))
	})
	return keys
}

// differing returns the keys under which a and b differ.
func differing(a, b state.Set) []state.Key {
	var keys []state.Key
	for k, o := range a {
		if b[k] != o {
			keys = append(keys, k)
		}
	}
	for k := range b {
		if _, ok := a[k]; !ok {
			keys = append(keys, k)
		}
	}
	return sortedKeys(keys)
}

// A plan that follows the wishes one by one is the plan that the last of them
// would make alone, and the keys that it calls changed are those that changed.
func TestPlanFollowsWishes(t *testing.T) {
	r := rand.New(rand.NewPCG(seed(t), 0))
	for range 200 {
		var p plan
		leases := make(map[int]*subnet.Lease)
		own := wish().Own
		nexthops := r.IntN(2) == 0
		for step := range 30 {
			for range r.IntN(5) {
				n := r.IntN(20)
				switch r.IntN(5) {
				case 0:
					delete(leases, n)
				case 1:
					leases[n] = lease(n, 1+r.IntN(3))
					leases[n].BackendType = "vxlan" // nothing to be done with it
				default:
					leases[n] = lease(n, 1+r.IntN(3))
				}
			}
			w := wish(slices.Collect(maps.Values(leases))...)
			if r.IntN(4) == 0 { // renewed
				renewed := *own
				own = &renewed
			}
			w.Own = own
			w.Host.Nexthops = nexthops
			w.Own.Revision++

			before := maps.Clone(p.want)
			changed := p.set(w)

			var alone plan
			alone.set(w)
			if !maps.Equal(p.want, alone.want) || !maps.Equal(p.problems, alone.problems) {
				t.Fatalf("want %v, problems %v; alone %v, %v", p.want, p.problems, alone.want, alone.problems)
			}
			if got, want := sortedKeys(changed), differing(before, p.want); step > 0 && !slices.Equal(got, want) {
				t.Fatalf("changed keys %v, want %v", got, want)
			}
		}
	}
}

// What decides about every object makes every object count as changed.
func TestPlanRebuilds(t *testing.T) {
	for name, change := range map[string]func(*Wish){
		"configuration": func(w *Wish) { w.Config = &subnet.Config{} },
		"interface":     func(w *Wish) { w.Host.Iface = "eth1" },
		"MTU":           func(w *Wish) { w.Host.MTU = 1400 },
		"own subnet":    func(w *Wish) { w.Own = &subnet.Lease{Subnet: peerSubnet(99)} },
		"own attributes": func(w *Wish) {
			w.Own = &subnet.Lease{Subnet: w.Own.Subnet, Attrs: subnet.Attrs{BackendType: "host-gw"}}
		},
	} {
		t.Run(name, func(t *testing.T) {
			var p plan
			w := wish(lease(1, 1), lease(2, 2))
			p.set(w)
			w = wish(lease(2, 2), lease(3, 3))
			change(&w)
			want := []state.Key{route(1, 1).Key(), route(2, 2).Key(), route(3, 3).Key()}
			if got := sortedKeys(p.set(w)); !slices.Equal(got, want) {
				t.Errorf("changed keys %v, want %v", got, want)
			}
		})
	}
}

// A network that has become large counts as changed, and so does one that has
// become small again.
func TestPlanSwitchesToNexthops(t *testing.T) {
	var p plan
	p.set(wish(lease(1, 1), lease(2, 2)))
	large := []state.Key{nexthop(1, 1).Key(), nexthop(2, 2).Key(), route(1, 1).Key(), route(2, 2).Key()}
	if got := sortedKeys(p.set(largeWish(lease(1, 1), lease(2, 2)))); !slices.Equal(got, sortedKeys(large)) {
		t.Errorf("changed keys %v, want %v", got, large)
	}
	if want := (state.Set{
		nexthop(1, 1).Key(): nexthop(1, 1), route(1, 1).Key(): byNexthop(1, 1),
		nexthop(2, 2).Key(): nexthop(2, 2), route(2, 2).Key(): byNexthop(2, 2),
	}); !maps.Equal(p.want, want) {
		t.Errorf("wanted %v, want %v", p.want, want)
	}
	if got := sortedKeys(p.set(wish(lease(1, 1), lease(2, 2)))); !slices.Equal(got, sortedKeys(large)) {
		t.Errorf("changed keys %v, want %v", got, large)
	}
	if want := (state.Set{route(1, 1).Key(): route(1, 1), route(2, 2).Key(): route(2, 2)}); !maps.Equal(p.want, want) {
		t.Errorf("wanted %v, want %v", p.want, want)
	}
}

func TestPlanSameWishChangesNothing(t *testing.T) {
	var p plan
	p.set(wish(lease(1, 1), lease(2, 2)))
	// Other leases, that say the same.
	if changed := p.set(wish(lease(1, 1), lease(2, 2))); changed != nil {
		t.Errorf("changed keys %v", changed)
	}
}

func TestPlanKeeps(t *testing.T) {
	p := plan{wish: Wish{Unreadable: []ip.Subnet{peerSubnet(1)}}}
	for k, want := range map[state.Key]bool{
		route(1, 1).Key(): true, nexthop(1, 1).Key(): true,
		route(2, 1).Key(): false, nexthop(2, 1).Key(): false, {}: false,
		{Kind: state.KindNexthop}: false,
	} {
		if p.keep(k) != want {
			t.Errorf("keeps %v: %v", k, !want)
		}
	}
}
