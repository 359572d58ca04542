package udptunnel

import (
	"maps"
	"math/rand/v2"
	"net/netip"
	"sync"
	"testing"
)

func TestTable(t *testing.T) {
	for _, test := range []struct {
		network string
		bits    int
	}{{"10.0.0.0/8", 24}, {"10.60.0.0/16", 24}, {"10.0.0.0/8", 30}, {"0.0.0.0/1", 30}, {"10.1.2.0/24", 24}, {"255.255.0.0/16", 32}} {
		network := netip.MustParsePrefix(test.network)
		table, err := NewTable(network, test.bits)
		check(t, err)
		want := map[netip.Prefix]netip.Addr{}
		g := rand.New(rand.NewPCG(3, 4))
		for range 300 {
			a := addrToUint(network.Addr()) + g.Uint32()>>network.Bits()
			subnet := netip.PrefixFrom(uintToAddr(a), test.bits).Masked()
			if g.IntN(4) == 0 {
				delete(want, subnet)
				check(t, table.Delete(subnet))
				continue
			}
			want[subnet] = uintToAddr(1 + g.Uint32()>>1)
			check(t, table.Set(subnet, want[subnet]))
			if got := table.lookup(a); got != addrToUint(want[subnet]) {
				t.Fatalf("%s of %s is at %s", uintToAddr(a), subnet, uintToAddr(got))
			}
		}
		if got := maps.Collect(table.All()); !maps.Equal(got, want) || table.Len() != len(want) {
			t.Errorf("%+v: %d entries, want %d", test, len(got), len(want))
		}
		for _, a := range []string{"9.255.255.255", "200.1.2.3", "255.254.255.255"} {
			if table.lookup(addrToUint(netip.MustParseAddr(a))) != 0 {
				t.Errorf("%+v has %s", test, a)
			}
		}
		check(t, table.Replace(nil))
		if table.Len() != 0 {
			t.Errorf("%d entries of an empty table", table.Len())
		}
	}
}

// Subnets of any length are found, beside those of the usual one.
func TestTableOfSeveralLengths(t *testing.T) {
	table, err := NewTable(network, 24)
	check(t, err)
	want := map[netip.Prefix]netip.Addr{}
	for i, subnet := range []string{"10.60.1.0/24", "10.60.8.0/21", "10.60.2.0/26", "10.60.2.64/26", "10.60.128.0/17", "10.60.3.4/30"} {
		p := netip.MustParsePrefix(subnet)
		want[p] = uintToAddr(0xc0000201 + uint32(i))
		check(t, table.Set(p, want[p]))
	}
	lookUp := func(a string, subnet string) {
		t.Helper()
		var host uint32
		if subnet != "" {
			host = addrToUint(want[netip.MustParsePrefix(subnet)])
		}
		if got := table.lookup(addrToUint(netip.MustParseAddr(a))); got != host {
			t.Errorf("%s is at %s, want that of %q", a, uintToAddr(got), subnet)
		}
	}
	all := func() {
		t.Helper()
		if got := maps.Collect(table.All()); !maps.Equal(got, want) || table.Len() != len(want) {
			t.Errorf("it holds %v (%d), want %v", got, table.Len(), want)
		}
		for _, host := range want {
			if !table.hasPeer(addrToUint(host)) {
				t.Errorf("%s has nothing", host)
			}
		}
	}
	all()
	lookUp("10.60.1.9", "10.60.1.0/24")
	lookUp("10.60.15.255", "10.60.8.0/21")
	lookUp("10.60.16.0", "")
	lookUp("10.60.2.63", "10.60.2.0/26")
	lookUp("10.60.2.64", "10.60.2.64/26")
	lookUp("10.60.2.128", "")
	lookUp("10.60.200.1", "10.60.128.0/17")
	lookUp("10.60.3.7", "10.60.3.4/30")
	lookUp("10.61.3.7", "")
	gone := netip.MustParsePrefix("10.60.8.0/21")
	check(t, table.Delete(gone))
	check(t, table.Delete(netip.MustParsePrefix("10.60.64.0/19"))) // was not there
	if table.hasPeer(addrToUint(want[gone])) {
		t.Errorf("%s still has something", want[gone])
	}
	delete(want, gone)
	all()
	lookUp("10.60.8.1", "")
	delete(want, netip.MustParsePrefix("10.60.2.0/26"))
	want[netip.MustParsePrefix("10.60.16.0/20")] = netip.MustParseAddr("192.0.2.99")
	check(t, table.Replace(want))
	all()
	lookUp("10.60.2.1", "")
	lookUp("10.60.31.1", "10.60.16.0/20")
}

func TestTableRefuses(t *testing.T) {
	table, err := NewTable(network, 24)
	check(t, err)
	peer := netip.MustParseAddr("192.0.2.1")
	for _, subnet := range []string{"10.61.0.0/24", "10.61.1.0/25", "10.60.1.1/24", "10.0.0.0/8", "10.60.0.0/16", "fd00::/24"} {
		if table.Set(netip.MustParsePrefix(subnet), peer) == nil || table.Delete(netip.MustParsePrefix(subnet)) == nil {
			t.Errorf("%s was taken", subnet)
		}
		if table.Replace(map[netip.Prefix]netip.Addr{netip.MustParsePrefix(subnet): peer}) == nil {
			t.Errorf("%s was taken", subnet)
		}
	}
	for _, a := range []netip.Addr{{}, netip.IPv4Unspecified(), netip.MustParseAddr("fd00::1")} {
		if table.Set(subnets[0], a) == nil {
			t.Errorf("%s was taken", a)
		}
	}
	for _, bad := range []struct {
		p    netip.Prefix
		bits int
	}{{network, 8}, {network, 33}, {netip.MustParsePrefix("fd00::/16"), 24}, {netip.Prefix{}, 24}, {netip.MustParsePrefix("0.0.0.0/0"), 32}} {
		if _, err := NewTable(bad.p, bad.bits); err == nil {
			t.Errorf("a table was made for %+v", bad)
		}
	}
}

// TestTableWhileRead changes a large table under its readers, who must find a
// subnet that stays at all times.
func TestTableWhileRead(t *testing.T) {
	table, err := NewTable(netip.MustParsePrefix("10.0.0.0/8"), 24)
	check(t, err)
	all := map[netip.Prefix]netip.Addr{}
	for i := range uint32(50000) {
		all[netip.PrefixFrom(uintToAddr(10<<24|i<<8), 24)] = uintToAddr(192<<24 | i + 1)
	}
	check(t, table.Replace(all))
	stop := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
			}
			if table.lookup(10<<24|777<<8|5) != 192<<24|778 {
				t.Error("a subnet that stays is gone")
				return
			}
		}
	})
	for i := range uint32(3) {
		delete(all, netip.PrefixFrom(uintToAddr(10<<24|i<<8), 24))
		check(t, table.Replace(all))
	}
	close(stop)
	wg.Wait()
	if table.Len() != 49997 || !table.hasPeer(192<<24|778) || table.hasPeer(5) {
		t.Errorf("%d entries", table.Len())
	}
}
