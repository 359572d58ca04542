package network

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	"flanneld/backend"
	"flanneld/backend/hostgw"
	"flanneld/backend/vxlan"
	"flanneld/pkg/dataplane/kernel"
	"flanneld/pkg/ip"
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
	found := closedPassages(ip.V4, []kernel.Interface{
		{Name: "$(reboot)", Up: true, NoCarrier: true, ProtoDown: true, Forwards: true},
		{Name: "`reboot`'", Up: true, Addrs: addrs("10.5.1.2/24")},
		{Name: "eth0.7", Up: true, Addrs: addrs("10.5.1.3/24")},
	}, true, b, backend.Host{V4: backend.Underlay{Iface: "$(reboot)"}}, ip.SubnetOf(own))
	found = append(found, closedPassages(ip.V4, []kernel.Interface{
		{Name: ";reboot;", Forwards: true, Addrs: addrs("10.5.1.1/24")},
	}, true, b, backend.Host{V4: backend.Underlay{Iface: "eth0"}}, ip.SubnetOf(own))...)
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
		return len(closedPassages(ip.V4, ifaces, true, b, backend.Host{V4: backend.Underlay{Iface: "eth0"}}, ip.SubnetOf(p.Masked())))
	}
	if alone, beside := look(left), look(left, other); alone != 1 || beside != 0 {
		t.Errorf("%d obstacles if it is the only one, %d beside another one", alone, beside)
	}
}

// Of IPv6 the host alone decides whether it forwards. One that does asks no router any more for
// its address and its way, unless it is told to.
func TestPassagesOfIPv6(t *testing.T) {
	b, err := hostgw.Type.New(nil)
	if err != nil {
		t.Fatal(err)
	}
	own := ip.Subnet{V4: netip.MustParsePrefix("10.5.1.0/24"), V6: netip.MustParsePrefix("fc00:0:0:1::/64")}
	host := backend.Host{V4: backend.Underlay{Iface: "eth0"}, V6: backend.Underlay{Iface: "eth1.7"}}
	eth1 := kernel.Interface{Name: "eth1.7", Up: true, Addrs: []kernel.Address{{Prefix: netip.MustParsePrefix("2001:db8::1/64"), Permanent: true}, {Prefix: netip.MustParsePrefix("fe80::1/64"), Permanent: true}}}
	bridge := kernel.Interface{Name: "cni0", Up: true, Addrs: []kernel.Address{{Prefix: netip.MustParsePrefix("fc00:0:0:1::1/64"), Permanent: true}}}
	look := func(forwards bool) []Obstacle {
		return closedPassages(ip.V6, []kernel.Interface{{Name: "eth0", Up: true, NoCarrier: true}, eth1, bridge}, forwards, b, host, own)
	}
	if found := look(true); len(found) > 0 {
		t.Errorf("nothing is wrong, and there is %v", found)
	}
	off := Obstacle{
		Subject: "fc00:0:0:1::/64", Problem: "this host forwards no packets: net.ipv6.conf.all.forwarding is 0",
		Remedy: "sysctl -w net.ipv6.conf.all.forwarding=1",
	}
	if found := look(false); !slices.Equal(found, []Obstacle{off}) {
		t.Errorf("it does not forward, and there is %v", found)
	}
	eth1.Addrs[0].Permanent = false
	off.Remedy = "sysctl -w net.ipv6.conf.eth1/7.accept_ra=2 net.ipv6.conf.all.forwarding=1"
	if found := look(false); !slices.Equal(found, []Obstacle{off}) {
		t.Errorf("it does not forward, and there is %v", found)
	}
	old := kernel.Interface{Name: "br.0", MTU: 1500, Up: true, NoIPv6: true, Addrs: []kernel.Address{{Prefix: netip.MustParsePrefix("10.5.1.1/24")}}}
	disabled := Obstacle{Subject: "br.0", Problem: "the pods behind it have no IPv6: net.ipv6.conf.br/0.disable_ipv6 is 1", Remedy: "sysctl -w net.ipv6.conf.br/0.disable_ipv6=0"}
	if found := closedPassages(ip.V6, []kernel.Interface{eth1, old}, true, b, host, own); !slices.Equal(found, []Obstacle{disabled}) {
		t.Errorf("IPv6 is disabled, and there is %v", found)
	}
	old.MTU = 1200
	if found := closedPassages(ip.V6, []kernel.Interface{eth1, old}, true, b, host, own); len(found) != 1 || found[0].Remedy != "ip link set br.0 mtu 1280" {
		t.Errorf("the MTU is too small, and there is %v", found)
	}
	bridge.Up, eth1.NoCarrier = false, true
	if found := look(true); len(found) != 2 {
		t.Errorf("two interfaces are of no use, and there is %v", found)
	}
}

// No pods are behind the device that carries IPv4: whether it has IPv6 is no matter.
func TestDeviceOfIPv4NeedsNoIPv6(t *testing.T) {
	b, err := vxlan.Type.New(nil)
	if err != nil {
		t.Fatal(err)
	}
	own := ip.Subnet{V4: netip.MustParsePrefix("10.5.1.0/24"), V6: netip.MustParsePrefix("fc00:0:0:1::/64")}
	host := backend.Host{V4: backend.Underlay{Iface: "eth0"}, V6: backend.Underlay{Iface: "eth0"}}
	device := kernel.Interface{Name: "flannel.1", MTU: 1450, Up: true, Forwards: true, NoIPv6: true, Addrs: []kernel.Address{{Prefix: netip.MustParsePrefix("10.5.1.0/32")}}}
	if found := closedPassages(ip.V6, []kernel.Interface{{Name: "eth0", Up: true}, device}, true, b, host, own); len(found) > 0 {
		t.Errorf("there is %v", found)
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
		{bridge("cni0", "fe80::1/64"), everywhere, ""},        // no pod was there yet
		{bridge("cni0", "fc00:0:0:11::1/64"), everywhere, ""}, // of the other family
		{bridge("docker0", "10.5.17.1/24"), everywhere, ""},
	} {
		found := leftBridge(test.ifaces, own, test.networks)
		if test.address == "" && len(found) > 0 || test.address != "" && (len(found) != 1 || !strings.Contains(found[0].String(), "cni0: its address "+test.address+" is not of this host's subnet 10.5.1.0/24")) {
			t.Errorf("of %v there is %v, want %q", test.ifaces, found, test.address)
		}
	}
}
