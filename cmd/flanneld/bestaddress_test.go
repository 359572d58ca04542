package main_test

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"flanneld/pkg/ip"
	"flanneld/pkg/lab"
)

// gateway is that of the hosts' default route. Nobody is there.
var gateway = netip.MustParseAddr("192.168.0.1")

// readdress gives an interface another address and the default route, in the family of the
// address alone.
func (h *node) readdress(dev, addr string) {
	h.n.t.Helper()
	p := mustPrefix(addr)
	check(h.n.t, h.FlushAddrs(dev, ip.FamilyOf(p.Addr())))
	check(h.n.t, h.AddAddr(dev, p))
	check(h.n.t, h.SetDefaultRoute(p.Masked().Addr().Next(), dev))
	h.SetAddr(p.Addr())
}

// waitAddress waits until the lease says an address, and all hosts follow it.
func (h *node) waitAddress(within time.Duration, addr string) {
	h.n.t.Helper()
	h.SetAddr(netip.MustParseAddr(addr))
	h.n.wait(within, "the lease to say "+addr, func() string {
		if e := h.n.get(h.key()); e == nil || !strings.Contains(e.value, `"`+addr+`"`) {
			return fmt.Sprint(e)
		}
		return ""
	})
	for _, other := range h.n.nodes {
		if other.daemon != nil {
			other.waitPeers(within, other.others()...)
		}
	}
}

// waitPings waits until the pods of all hosts reach each other: after a change of address
// the hosts have to find each other on their link.
func (n *network) waitPings() {
	n.t.Helper()
	for _, from := range n.nodes {
		for _, to := range n.nodes {
			if from == to {
				continue
			}
			for _, f := range n.families.list() {
				check(n.t, from.pod.WaitPing(n.ctx, to.pod.In(f).Addr))
			}
		}
	}
}

// addresses counts how often the log says that the external interface is another one.
func (h *node) addresses() int { return strings.Count(h.daemon.Log(), " now, with address ") }

// A daemon that starts before DHCP is done has only a link-local address. It publishes
// the right one once there is one.
func TestLinkLocalAddressFirst(t *testing.T) { inParallel(t, everyVariant, testLinkLocalAddressFirst) }

func testLinkLocalAddressFirst(t *testing.T, v variant) {
	n := newConfigured(t, v, nil)
	other, h := n.addNode(lab.HostOptions{}), n.addNode(lab.HostOptions{NoAddress: true})
	other.start()
	other.waitReady()
	check(t, n.server.AddAddr("eth0", mustPrefix("169.254.7.1/16")))
	check(t, h.AddAddr("eth0", mustPrefix("169.254.7.7/16")))
	h.ip("route add default dev eth0 metric 1002")
	h.start()
	h.waitReady()
	h.waitLog("with address 169.254.7.7 ")
	n.pause(time.Second)
	check(t, h.AddAddr("eth0", mustPrefix("192.168.0.77/24")))
	check(t, h.SetDefaultRoute(gateway, "eth0"))
	h.waitAddress(slow(3*time.Second), "192.168.0.77")
	check(t, h.DelAddr("eth0", mustPrefix("169.254.7.7/16")))
	for _, h := range n.nodes {
		h.addPod()
	}
	n.waitPings()
	n.pause(time.Second)
	if got := h.addresses(); got != 1 {
		t.Errorf("the interface changed %d times", got)
	}
}

// The address is away for a moment. That others have it, too, which lead nowhere, is no
// reason to move there.
func TestAddressElsewhereToo(t *testing.T) { inParallel(t, everyVariant, testAddressElsewhereToo) }

func testAddressElsewhereToo(t *testing.T, v variant) {
	n := newNetwork(t, 2, v, nil)
	h := n.nodes[0]
	own := h.Addr.String()
	h.ip("link add kube-ipvs0 type bridge") // down, as the real one is
	h.ip("link add wg0 type veth peer name wg1")
	h.ip("link set wg0 up")
	h.ip("link set wg1 up")
	env, lease := h.daemon.EnvText(), n.get(h.key())
	for _, dev := range []string{"kube-ipvs0", "lo", "wg0"} {
		h.ip("addr add " + own + "/32 dev " + dev)
	}
	var longest time.Duration
	for range 2 {
		began := time.Now()
		check(t, h.DelAddr("eth0", mustPrefix(own+"/24")))
		n.pause(300 * time.Millisecond)
		h.readdress("eth0", own+"/24")
		longest = max(longest, time.Since(began))
		n.waitPings()
	}
	n.pause(time.Second)
	if got := h.daemon.EnvText(); got != env {
		t.Errorf("subnet.env is %s, was %s", got, env)
	}
	if now := n.get(h.key()); now == nil || now.revision != lease.revision {
		t.Errorf("the lease is %v, was %v", now, lease)
	}
	if s := h.daemon.Log(); longest < time.Second && strings.Contains(s, "the external interface") {
		t.Errorf("it was said: %s", s)
	}
	if v.backend.name == vxlanBackend.name {
		if s := h.run("ip", "-d", "link", "show", vtep); !strings.Contains(s, "local "+own+" dev eth0") {
			t.Errorf("the device is %s", s)
		}
	}

	t.Log("for good, too, the others are no choice")
	check(t, h.DelAddr("eth0", mustPrefix(own+"/24")))
	h.waitLog("interface eth0 no longer has the address " + own)
	h.readdress("eth0", own+"/24")
	h.waitLog("the external interface is there again")
	n.waitPings()
	if got := h.addresses(); got != 0 {
		t.Errorf("the interface changed %d times", got)
	}
}

// The interface becomes a port of a bridge, and DHCP gives the bridge another address.
func TestInterfaceBridged(t *testing.T) { inParallel(t, everyVariant, testInterfaceBridged) }

func testInterfaceBridged(t *testing.T, v variant) {
	for name, c := range map[string]struct {
		args     []string
		defaults bool
	}{
		"default route":           {nil, true},
		"without a default route": {nil, false},
		"named":                   {[]string{"-iface=eth0"}, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			n := newConfigured(t, v, nil)
			other, h := n.addNode(lab.HostOptions{}), n.addNode(lab.HostOptions{}, c.args...)
			other.start()
			h.start()
			n.readyWithPods()
			subnet := h.subnet()
			h.ip("link add br0 type bridge")
			h.ip("link set br0 up")
			check(t, h.FlushAddrs("eth0"))
			h.ip("link set eth0 master br0")
			n.pause(300 * time.Millisecond)
			check(t, h.AddAddr("br0", mustPrefix("192.168.0.77/24")))
			if c.defaults {
				check(t, h.SetDefaultRoute(gateway, "br0"))
			}
			for _, o := range n.nodes {
				o.resolved = nil
			}
			h.waitLog("the external interface is br0 now, with address 192.168.0.77 ")
			h.waitAddressOn("br0", "192.168.0.77")
			n.waitPings()
			if h.subnet() != subnet {
				t.Errorf("the subnet is %s, was %s", h.subnet(), subnet)
			}
			must(h.daemon.Stop(soon))(t)
			if !c.defaults {
				return // a start does not know that eth0 was it
			}
			h.start()
			h.waitReady()
			h.waitLog("using interface br0 with address 192.168.0.77 ")
			n.waitPings()
		})
	}
}

// waitAddressOn is waitAddress for a host whose routes lead out by another interface than
// eth0.
func (h *node) waitAddressOn(dev, addr string) {
	h.n.t.Helper()
	h.Addr = netip.MustParseAddr(addr)
	h.n.wait(soon, "the lease to say "+addr, func() string {
		if e := h.n.get(h.key()); e == nil || !strings.Contains(e.value, `"`+addr+`"`) {
			return fmt.Sprint(e)
		}
		return ""
	})
	for _, other := range h.n.nodes {
		if other != h {
			other.waitPeers(soon, other.others()...)
		}
	}
	if h.n.backend.name == hostGWBackend.name {
		h.n.wait(soon, "routes by "+dev, func() string {
			for _, r := range h.routes() {
				if _, got, other := strings.Cut(r, " dev "); other && got != dev || !other && dev != "eth0" {
					return r
				}
			}
			return ""
		})
	}
}

// The interface dies, and the default route leads elsewhere. When it is back, and stays,
// it is used again; while its link comes and goes, it is not.
func TestOtherInterfaceTakesOver(t *testing.T) {
	inParallel(t, everyVariant, testOtherInterfaceTakesOver)
}

func testOtherInterfaceTakesOver(t *testing.T, v variant) {
	n := newNetwork(t, 2, v, nil)
	h := n.nodes[0]
	own, subnet := h.Addr.String(), h.subnet()
	check(t, h.AddNIC("eth1", n.sw, netip.MustParseAddr("192.168.0.99")))
	h.ip("route add default via 192.168.0.1 dev eth1 metric 100")
	n.pause(time.Second)
	if got := h.addresses(); got != 0 {
		t.Fatalf("the interface changed although it works: %s", h.daemon.Log())
	}
	check(t, h.LinkDown("eth0"))
	h.waitAddressOn("eth1", "192.168.0.99")
	n.waitPings()

	t.Log("eth0 comes and goes")
	for range 3 {
		check(t, h.LinkUp("eth0"))
		n.pause(700 * time.Millisecond)
		check(t, h.LinkDown("eth0"))
		n.pause(300 * time.Millisecond)
	}
	if got := h.addresses(); got != 1 {
		t.Errorf("the interface changed %d times", got)
	}

	t.Log("eth0 stays")
	check(t, h.LinkUp("eth0"))
	h.waitLog("the external interface is eth0 now, with address " + own + " ")
	h.waitAddressOn("eth0", own)
	n.waitPings()
	n.pause(time.Second)
	if got := h.addresses(); got != 2 {
		t.Errorf("the interface changed %d times", got)
	}
	if h.subnet() != subnet {
		t.Errorf("the subnet is %s, was %s", h.subnet(), subnet)
	}

	t.Log("eth0 has no carrier")
	check(t, h.Sysctl("net.ipv4.conf.all.ignore_routes_with_linkdown", "1")) // or the kernel goes on to use it
	check(t, h.CutCarrier("eth0"))
	h.ip("route change default via 192.168.0.1 dev eth1 metric 100")
	h.waitLog("the external interface is eth1 now, with address 192.168.0.99 ")
	n.waitPings() // which may take until a connection with etcd is given up
	h.waitAddressOn("eth1", "192.168.0.99")
	if got := h.addresses(); got != 3 {
		t.Errorf("the interface changed %d times", got)
	}
}

// Nothing happens to the interface in use, and another one becomes the better choice.
func TestOtherInterfaceIsBetter(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		args   []string
		better []string // commands of ip that make eth1 the better choice
		back   []string
	}{
		"metrics": {
			nil,
			[]string{"route add default via 192.168.0.1 dev eth0 metric 200", "route del default via 192.168.0.1 dev eth0 metric 0"},
			[]string{"route add default via 192.168.0.1 dev eth0"},
		},
		"the way to a host": {
			[]string{"-iface-can-reach=198.51.100.1"},
			[]string{"route add 198.51.100.0/24 via 192.168.0.1 dev eth1"},
			[]string{"route del 198.51.100.0/24"},
		},
		"the first name": {
			[]string{"-iface=eth2", "-iface=eth0"},
			[]string{"link set eth1 down", "link set eth1 name eth2", "link set eth2 up"},
			[]string{"link set eth2 down"},
		},
		"the public address": {
			[]string{"-public-ip=192.168.0.98"},
			[]string{"addr add 192.168.0.98/24 dev eth1"},
			[]string{"addr del 192.168.0.98/24 dev eth1"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			n := newConfigured(t, udp, nil)
			h := n.addNode(lab.HostOptions{}, c.args...)
			check(t, h.AddNIC("eth1", n.sw, netip.MustParseAddr("192.168.0.99")))
			h.ip("route add default via 192.168.0.1 dev eth1 metric 100")
			h.start()
			h.waitReady()
			h.waitLog("using interface eth0 with address " + h.Addr.String() + " ")
			for _, command := range c.better {
				h.ip(command)
			}
			h.waitLog("the external interface is eth")
			if s := h.daemon.Log(); strings.Contains(s, "is eth0 now") {
				t.Error(s)
			}
			for _, command := range c.back {
				h.ip(command)
			}
			h.waitLog("the external interface is eth0 now, with address " + h.Addr.String() + " ")
			if got := h.addresses(); got != 2 {
				t.Errorf("the interface changed %d times", got)
			}
		})
	}
}

// A virtual router's address comes to the interface and goes again: it is not that of this
// host.
func TestVirtualAddress(t *testing.T) {
	t.Parallel()
	n := newNetwork(t, 2, hostGW, nil)
	h := n.nodes[0]
	lease := n.get(h.key())
	for _, vip := range []string{"192.168.0.200/32", "192.168.0.201/24", "10.9.0.1/24"} {
		h.ip("addr add " + vip + " dev eth0")
		n.pause(700 * time.Millisecond)
		h.restart(func() {})
		h.ip("addr del " + vip + " dev eth0")
		n.pause(700 * time.Millisecond)
		if s := h.daemon.Log(); !strings.Contains(s, "using interface eth0 with address "+h.Addr.String()) || h.addresses() != 0 {
			t.Errorf("with %s: %s", vip, s)
		}
	}
	if now := n.get(h.key()); now.value != lease.value {
		t.Errorf("the lease is %s, was %s", now.value, lease.value)
	}
	n.waitPings()
}

// A host without an address sees hundreds of interfaces come and go. When they are done,
// so is the daemon.
func TestRestsAfterManyEvents(t *testing.T) {
	t.Parallel()
	n := newNetwork(t, 1, hostGW, nil)
	h := n.nodes[0]
	check(t, h.FlushAddrs("eth0"))
	h.waitLog("interface eth0 no longer has the address")
	var script strings.Builder
	for i := range 200 {
		fmt.Fprintf(&script, "link add a%d type veth peer name b%d\nlink set a%d up\n", i, i, i)
	}
	h.run("sh", "-c", "ip -batch - <<'end'\n"+script.String()+"end")
	n.pause(time.Second)
	before := h.cpu()
	n.pause(5 * time.Second)
	if used := (h.cpu() - before).Seconds() / 5 * 100; used > 3 && !raceEnabled {
		t.Errorf("it uses %.1f %% of a processor", used)
	}
}
