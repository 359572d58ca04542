package subnet

import (
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"

	"flanneld/pkg/ip"
)

// What Changes yields makes one list of the other, in order, whatever the lists are.
func TestChanges(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	const subnets = 12
	draw := func(of []*Lease) []*Lease {
		leases := make([]*Lease, 0, subnets)
		for i := range subnets {
			switch random.IntN(3) {
			case 0:
				leases = append(leases, &Lease{Subnet: ip.SubnetOf(netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 5, byte(i), 0}), 24))})
			case 1:
				s := Snapshot{Leases: of}
				if l := s.Find(ip.SubnetOf(netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 5, byte(i), 0}), 24))); l != nil {
					leases = append(leases, l)
				}
			}
		}
		return leases
	}
	for range 2000 {
		before := draw(nil)
		after := draw(before)
		var gone, come []*Lease
		var last ip.Subnet
		for was, is := range Changes(before, after) {
			at := was
			if at == nil {
				at = is
			}
			if was == is || was != nil && is != nil && was.Subnet != is.Subnet || last.IsValid() && last.Compare(at.Subnet) >= 0 {
				t.Fatalf("after %s there is %v, formerly %v", last, is, was)
			}
			last = at.Subnet
			if was != nil {
				gone = append(gone, was)
			}
			if is != nil {
				come = append(come, is)
			}
		}
		if got := splice(before, gone, come); !slices.Equal(got, after) {
			t.Fatalf("%v was made of %v, want %v", subnetsOf(got), subnetsOf(before), subnetsOf(after))
		}
		for was, is := range Changes(before, after) { // ends where the caller does
			_, _ = was, is
			break
		}
	}
}
