package network

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"testing"

	"flanneld/pkg/state"
)

// What is not kept because it is as wanted is known all the same, also when something else is
// wanted by now.
func TestSeen(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 0))
	object := func() state.Object {
		return state.Route{Dst: netip.MustParsePrefix(fmt.Sprintf("10.5.%d.0/24", rnd.IntN(5))), Dev: fmt.Sprint("eth", rnd.IntN(3))}
	}
	for range 1000 {
		want, have := make(state.Set), make(state.Observed)
		s := newSeen(want)
		for range 50 {
			o := object()
			k := o.Key()
			switch rnd.IntN(4) {
			case 0:
				e := state.Entry{Object: o, Owner: state.Owner(rnd.IntN(3))}
				if rnd.IntN(4) == 0 {
					e.Front = &state.Entry{Object: object()}
				}
				have[k] = e
				s.put(k, e)
			case 1:
				delete(have, k)
				s.drop(k)
			case 2:
				s.settle(k)
				want[k] = o
			case 3:
				s.settle(k)
				delete(want, k)
			}
			for at := range 5 {
				k := state.Route{Dst: netip.MustParsePrefix(fmt.Sprintf("10.5.%d.0/24", at))}.Key()
				was, there := have[k]
				if got, is := s.at(k); got != was || is != there {
					t.Fatalf("under %v is %v, %t; want %v, %t", k, got, is, was, there)
				}
				if w, wanted := want[k]; wanted && there && w == was.Object && was.Owner == state.Ours && was.Front == nil {
					s.put(k, was)
					if _, twice := s.other[k]; twice {
						t.Fatalf("%v is kept twice", was)
					}
				}
			}
		}
	}
}
