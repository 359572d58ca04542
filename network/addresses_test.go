package network

import (
	"net/netip"
	"testing"

	"flanneld/pkg/dataplane/kernel"
)

// Containers that come and go bring no address that a host could have: all leases are not
// looked at anew over each of them.
func TestAddressesOfContainers(t *testing.T) {
	iface := func(addrs ...string) kernel.Interface {
		var i kernel.Interface
		for _, addr := range addrs {
			i.Addrs = append(i.Addrs, kernel.Address{Prefix: netip.MustParsePrefix(addr)})
		}
		return i
	}
	eth0, docker0 := iface("192.168.0.2/24", "fe80::1/64", "fd00::2/64"), iface("10.5.3.1/24")
	var a Addresses
	for i, step := range []struct {
		ifaces  []kernel.Interface
		changed bool
	}{
		{[]kernel.Interface{eth0}, true},
		{[]kernel.Interface{eth0, docker0}, true},
		{[]kernel.Interface{eth0, docker0, iface("fe80::a/64"), iface("fe80::b/64")}, false},
		{[]kernel.Interface{docker0, eth0}, false},
		{[]kernel.Interface{eth0, docker0, iface("169.254.1.1/32")}, true},
		{[]kernel.Interface{eth0, docker0, iface("169.254.1.1/32"), iface("169.254.1.1/32")}, false},
		{[]kernel.Interface{eth0}, true},
		{[]kernel.Interface{iface("192.168.0.2/24", "fe80::1/64", "fd00::3/64")}, true},
	} {
		if changed := a.Take(step.ifaces); changed != step.changed {
			t.Errorf("step %d: other addresses: %v, want %v", i, changed, step.changed)
		}
	}
}
