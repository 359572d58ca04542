package state

import (
	"net/netip"
	"testing"

	"flanneld/pkg/ip"
)

// What could be a lease's is so in each family by its own lengths.
func TestCanBeLease(t *testing.T) {
	o := Ownership{
		Networks: []netip.Prefix{netip.MustParsePrefix("10.5.0.0/16"), netip.MustParsePrefix("fc00::/48")},
		LongestLease: func(f ip.Family) int {
			return map[ip.Family]int{ip.V4: 30, ip.V6: 126}[f]
		},
	}
	for dst, want := range map[string]bool{
		"10.5.0.0/16": false, "10.5.1.0/24": true, "10.5.1.4/30": true, "10.5.1.4/31": false, "10.6.1.0/24": false,
		"fc00::/48": false, "fc00:0:0:1::/64": true, "fc00:0:0:1::4/126": true, "fc00:0:0:1::4/127": false, "fc01:0:0:1::/64": false,
	} {
		if got := o.CanBeLease(netip.MustParsePrefix(dst)); got != want {
			t.Errorf("%s can be a lease's: %v", dst, got)
		}
	}
}

// A device is left from an earlier configuration if all its addresses are in our networks, of
// whichever family.
func TestOwnedDevices(t *testing.T) {
	networks := []netip.Prefix{netip.MustParsePrefix("10.5.0.0/16"), netip.MustParsePrefix("fc00::/48")}
	for addrs, want := range map[[2]string]bool{
		{"10.5.1.0/32"}:                 true,
		{"fc00:0:0:1::/128"}:            true,
		{"fc00:0:0:1::/64"}:             true,
		{"fd00::/128"}:                  false,
		{"10.5.1.0/32", "fd00::/128"}:   false,
		{"10.5.1.0/32", "fc00::1/128"}:  true,
		{"192.168.0.1/24", "fc00::/48"}: false,
		{}:                              false,
	} {
		v := VXLAN{Name: "flannel-v6.1"}
		have := Observed{v.Key(): {Object: v, Owner: Ours}}
		for _, a := range addrs {
			if a != "" {
				o := Addr{Dev: v.Name, Prefix: netip.MustParsePrefix(a)}
				have[o.Key()] = Entry{Object: o, Owner: Ours}
			}
		}
		if o := NewOwnership(networks, nil, nil, have, nil); o.Owns(v) != want {
			t.Errorf("with %v it is ours: %v", addrs, !want)
		}
	}
}
