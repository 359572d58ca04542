package network

import (
	"net/netip"
	"strings"
	"testing"

	"flanneld/backend"
	"flanneld/backend/hostgw"
	"flanneld/pkg/dataplane/kernel"
)

// Whoever may name an interface puts no command of theirs into one that an administrator is
// told to give.
func TestPassageRemediesQuoteInterfaces(t *testing.T) {
	b, err := hostgw.Type.New(nil)
	if err != nil {
		t.Fatal(err)
	}
	own := netip.MustParsePrefix("10.5.1.0/24")
	addrs := func(a string) []kernel.Address { return []kernel.Address{{Prefix: netip.MustParsePrefix(a)}} }
	found := closedPassages([]kernel.Interface{
		{Name: "$(reboot)", Up: true, NoCarrier: true, ProtoDown: true, Forwards: true},
		{Name: "`reboot`'", Up: true, Addrs: addrs("10.5.1.2/24")},
		{Name: "eth0.7", Up: true, Addrs: addrs("10.5.1.3/24")},
	}, true, b, backend.Host{Iface: "$(reboot)"}, own)
	found = append(found, closedPassages([]kernel.Interface{
		{Name: ";reboot;", Forwards: true, Addrs: addrs("10.5.1.1/24")},
	}, true, b, backend.Host{Iface: "eth0"}, own)...)
	var all []string
	for _, o := range found {
		all = append(all, o.Remedy)
	}
	want := []string{
		"ip link set '$(reboot)' protodown off",
		"sysctl -w 'net.ipv4.conf.`reboot`'\\''.forwarding=1'",
		"sysctl -w net.ipv4.conf.eth0/7.forwarding=1",
		"ip link set ';reboot;' up",
	}
	if got := strings.Join(all, "\n"); got != strings.Join(want, "\n") {
		t.Errorf("the commands are\n%s", got)
	}
}

// A bridge that is left over, and down, is in nobody's way where pods are behind another one.
func TestLeftoverBridgeIsNoObstacle(t *testing.T) {
	b, err := hostgw.Type.New(nil)
	if err != nil {
		t.Fatal(err)
	}
	p := netip.MustParsePrefix("10.5.1.1/24")
	left := kernel.Interface{Name: "docker0", Forwards: true, Addrs: []kernel.Address{{Prefix: p}}}
	other := left
	other.Name, other.Up = "cni0", true
	look := func(ifaces ...kernel.Interface) int {
		return len(closedPassages(ifaces, true, b, backend.Host{Iface: "eth0"}, p.Masked()))
	}
	if alone, beside := look(left), look(left, other); alone != 1 || beside != 0 {
		t.Errorf("%d obstacles if it is the only one, %d beside another one", alone, beside)
	}
}
