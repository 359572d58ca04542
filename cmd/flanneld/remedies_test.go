package main

import (
	"net/netip"
	"strings"
	"testing"

	"flanneld/backend"
	"flanneld/backend/hostgw"
	"flanneld/pkg/target/kernel"
)

// Whoever may name an interface puts no command of theirs into one that an administrator is
// told to give.
func TestRemediesQuoteInterfaces(t *testing.T) {
	b, err := hostgw.Type.New(nil)
	if err != nil {
		t.Fatal(err)
	}
	own := netip.MustParsePrefix("10.5.1.0/24")
	found := closedPassages([]kernel.Passage{
		{Name: "$(reboot)", Up: true, ProtoDown: true, Forwards: true},
		{Name: ";reboot;", Carrier: true, Forwards: true, Addrs: []netip.Prefix{netip.MustParsePrefix("10.5.1.1/24")}},
		{Name: "`reboot`'", Up: true, Carrier: true, Addrs: []netip.Prefix{netip.MustParsePrefix("10.5.1.2/24")}},
		{Name: "eth0.7", Up: true, Carrier: true, Addrs: []netip.Prefix{netip.MustParsePrefix("10.5.1.3/24")}},
	}, true, b, backend.Host{Iface: "$(reboot)"}, own)
	var all []string
	for _, o := range found {
		all = append(all, o.Remedy)
	}
	want := []string{
		"ip link set '$(reboot)' protodown off",
		"ip link set ';reboot;' up",
		"sysctl -w 'net.ipv4.conf.`reboot`'\\''.forwarding=1'",
		"sysctl -w net.ipv4.conf.eth0/7.forwarding=1",
	}
	if got := strings.Join(all, "\n"); got != strings.Join(want, "\n") {
		t.Errorf("the commands are\n%s", got)
	}
}
