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
	}, true, b, backend.Host{V4: backend.Underlay{Iface: "$(reboot)"}}, own)
	found = append(found, closedPassages([]kernel.Interface{
		{Name: ";reboot;", Forwards: true, Addrs: addrs("10.5.1.1/24")},
	}, true, b, backend.Host{V4: backend.Underlay{Iface: "eth0"}}, own)...)
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
		return len(closedPassages(ifaces, true, b, backend.Host{V4: backend.Underlay{Iface: "eth0"}}, p.Masked()))
	}
	if alone, beside := look(left), look(left, other); alone != 1 || beside != 0 {
		t.Errorf("%d obstacles if it is the only one, %d beside another one", alone, beside)
	}
}

// The bridge of CNI is named if it is left from another subnet, and is ours.
func TestBridgeOfAnotherSubnet(t *testing.T) {
	own := netip.MustParsePrefix("10.5.1.0/24")
	networks := []netip.Prefix{netip.MustParsePrefix("10.5.0.0/16"), netip.MustParsePrefix("10.6.0.0/16")}
	bridge := func(name string, addrs ...string) []kernel.Interface {
		i := kernel.Interface{Name: name}
		for _, a := range addrs {
			i.Addrs = append(i.Addrs, kernel.Address{Prefix: netip.MustParsePrefix(a)})
		}
		return []kernel.Interface{{Name: "eth0"}, i}
	}
	for _, test := range []struct {
		ifaces   []kernel.Interface
		networks []netip.Prefix
		address  string // that is named
	}{
		{bridge("cni0", "10.5.17.1/24"), networks, "10.5.17.1/24"},
		{bridge("cni0", "fe80::1/64", "10.6.17.1/24"), networks, "10.6.17.1/24"}, // of a former Network
		{bridge("cni0", "10.7.17.1/24"), networks, ""},                           // another daemon's
		{bridge("cni0", "10.7.17.1/24"), everywhere, "10.7.17.1/24"},
		{bridge("cni0", "10.5.1.1/24"), everywhere, ""},
		{bridge("cni0", "10.5.17.1/24", "10.5.1.1/24"), everywhere, ""},
		{bridge("cni0", "fe80::1/64"), everywhere, ""}, // no pod was there yet
		{bridge("docker0", "10.5.17.1/24"), everywhere, ""},
	} {
		found := leftBridge(test.ifaces, own, test.networks)
		if test.address == "" && len(found) > 0 || test.address != "" && (len(found) != 1 || !strings.Contains(found[0].String(), "cni0: its address "+test.address+" is not of this host's subnet 10.5.1.0/24")) {
			t.Errorf("of %v there is %v, want %q", test.ifaces, found, test.address)
		}
	}
}
