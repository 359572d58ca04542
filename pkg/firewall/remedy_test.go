package firewall

import (
	"net/netip"
	"testing"

	"flanneld/pkg/state"
)

// A name that neither a shell nor nft takes for one is part of no command: there is none
// that nft would understand.
func TestNoCommandWithStrangeNames(t *testing.T) {
	network := netip.MustParsePrefix("10.5.0.0/16")
	for _, name := range []string{"$(reboot)", "x; flush ruleset", "`reboot`", "a b", "-f/tmp/x", "1st", "é", "]", "a\\b", ""} {
		for _, d := range []Drop{{Table: quoted(name), Base: "input"}, {Table: "filter", Base: quoted(name)}} {
			d.Variant, d.Family = state.NFTables, "inet"
			if command := d.OpenPort(8472, false) + d.OpenNetwork(network); command != "" {
				t.Errorf("%+v is opened by %s", d, command)
			}
		}
	}
	d := Drop{Variant: state.NFTables, Family: "inet", Table: "host_fw.v2", Base: "_in-put"}
	if command := d.OpenPort(8472, false); command != "nft insert rule inet host_fw.v2 _in-put udp dport 8472 accept" {
		t.Errorf("it is opened by %s", command)
	}
}
