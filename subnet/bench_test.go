package subnet

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"flanneld/pkg/ip"
)

// BenchmarkChange is the cost of one more lease among many, from the store's
// event to what is handed to the reconciler.
func BenchmarkChange(b *testing.B) {
	for _, n := range []int{100, 10_000, 50_000} {
		b.Run(fmt.Sprintf("leases=%d", n), func(b *testing.B) {
			c, err := ParseConfig([]byte(`{"Network":"10.0.0.0/8","SubnetLen":24}`))
			if err != nil {
				b.Fatal(err)
			}
			entry := func(i int) Entry {
				subnet := netip.AddrFrom4([4]byte{10, byte(1 + i>>8), byte(i), 0})
				return Entry{
					Key:      fmt.Sprintf("%s-24", subnet),
					Value:    fmt.Sprintf(`{"PublicIP":"172.16.%d.%d","BackendType":"host-gw"}`, 1+i>>8, byte(i)),
					Revision: uint64(i),
				}
			}
			var all []Entry
			for i := range n {
				all = append(all, entry(i))
			}
			var a Assembler
			a.Reset(all)
			var p Peers
			own := &Lease{Subnet: ip.SubnetOf(netip.MustParsePrefix("10.0.1.0/24"))}
			self := Self{Addr: ip.Addrs{V4: netip.MustParseAddr("192.168.0.1")}, Link: ip.SubnetOf(netip.MustParsePrefix("192.168.0.0/24"))}
			e := entry(n)
			b.ReportAllocs()
			for b.Loop() {
				e.Revision++
				a.Put(e)
				p.Update(Holding{Config: c, Own: own, Snapshot: a.Snapshot(1)}, self, time.Now())
			}
		})
	}
}

// Writing all that is held to a file on a disk.
func BenchmarkSave(b *testing.B) {
	for _, n := range []int{10, 1000, 50_000} {
		b.Run(strconv.Itoa(n), func(b *testing.B) {
			c, err := ParseConfig([]byte(`{"Network":"10.0.0.0/8","Backend":{"Type":"vxlan"}}`))
			if err != nil {
				b.Fatal(err)
			}
			var all []Entry
			for i := range n {
				subnet := netip.AddrFrom4([4]byte{10, byte(1 + i>>8), byte(i), 0})
				all = append(all, Entry{
					Key: fmt.Sprintf("%s-24", subnet), Revision: uint64(i), Expires: time.Now().Add(LeaseTTL),
					Value: fmt.Sprintf(`{"PublicIP":"172.16.%d.%d","PublicIPv6":null,"BackendType":"vxlan","BackendData":{"VNI":1,"VtepMAC":"02:00:00:01:%02x:%02x"},"Machine":"host%05d 0123456789ab"}`, 1+i>>8, byte(i), byte(i>>8), byte(i), i),
				})
			}
			var a Assembler
			a.Reset(all)
			s := a.Snapshot(1)
			h := Holding{Config: c, Own: s.Leases[0], Snapshot: s}
			path := filepath.Join(b.TempDir(), "state.json")
			b.ReportAllocs()
			for b.Loop() {
				if err := h.Save(path, "/net"); err != nil {
					b.Fatal(err)
				}
			}
			info, err := os.Stat(path)
			if err != nil {
				b.Fatal(err)
			}
			b.ReportMetric(float64(info.Size()), "bytes")
		})
	}
}
