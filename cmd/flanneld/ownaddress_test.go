package main_test

import (
	"fmt"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"flanneld/pkg/lab"
)

// natNode returns a host with eth0 on a switch of its own, which has the default route,
// and eth1 with an address on that of the other hosts.
func (n *network) natNode(eth1 string, args ...string) *node {
	n.t.Helper()
	nat, err := n.lab.AddSwitch(fmt.Sprintf("nat%d", len(n.nodes)), mustPrefix("10.0.2.0/24"))
	check(n.t, err)
	host, err := n.lab.AddHost(fmt.Sprintf("host%d", len(n.nodes)+1), nat, lab.HostOptions{})
	check(n.t, err)
	h := &node{Host: host, n: n, args: args}
	n.nodes = append(n.nodes, h)
	h.Addr = netip.MustParseAddr(eth1)
	check(n.t, h.AddNIC("eth1", n.sw, h.Addr))
	return h
}

// The public address is that of another interface than the default route's: that one is
// used, also after it moved.
func TestPublicIPOfOtherInterface(t *testing.T) {
	inParallel(t, everyVariant, testPublicIPOfOtherInterface)
}

func testPublicIPOfOtherInterface(t *testing.T, v variant) {
	n := newConfigured(t, v, nil)
	other := n.addNode(lab.HostOptions{})
	h := n.natNode("192.168.0.77", "-public-ip=192.168.0.77")
	other.start()
	h.start()
	h.waitReady()
	other.waitReady()
	h.waitLog("using interface eth1 with address 192.168.0.77 ")
	h.addPod()
	other.addPod()
	n.waitPings()

	t.Log("the address moves to a bridge")
	h.ip("link add br0 type bridge")
	h.ip("link set br0 up")
	h.ip("link set eth1 master br0")
	check(t, h.FlushAddrs("eth1"))
	check(t, h.AddAddr("br0", mustPrefix("192.168.0.77/24")))
	h.waitLog("the external interface is br0 now, with address 192.168.0.77 ")
	n.waitPings()
}

// The public address is a second one of the interface, or that of another one than
// -iface names: the peers send there, and there is somebody who listens.
func TestPublicIPListens(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		v    variant
		args []string
	}{
		"udp, second address":           {udp, []string{"-iface=eth1"}},
		"udp, of another interface":     {udp, []string{"-iface=eth0"}},
		"vxlan, second address":         {vxlan, []string{"-iface=192.168.0.77"}},
		"vxlan, of another interface":   {vxlan, []string{"-iface=eth0"}},
		"host-gw, second address":       {hostGW, []string{"-iface=eth1"}},
		"udp, of the loopback":          {udp, []string{"-iface=eth1", "-public-ip=192.168.0.200"}},
		"host-gw, and no option at all": {hostGW, nil},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			n := newConfigured(t, c.v, nil)
			other := n.addNode(lab.HostOptions{})
			h := n.natNode("192.168.0.77", append([]string{"-public-ip=192.168.0.78"}, c.args...)...)
			check(t, h.AddAddr("eth1", mustPrefix("192.168.0.78/24")))
			check(t, h.AddAddr("lo", mustPrefix("192.168.0.200/32")))
			if strings.Contains(name, "of another interface") {
				// The outer packets of the tunnel leave by eth1 all the same.
				check(t, h.DelAddr("eth1", mustPrefix("192.168.0.77/24")))
				check(t, h.AddAddr("eth1", mustPrefix("192.168.0.78/24")))
			}
			other.start()
			h.start()
			h.waitReady()
			other.waitReady()
			h.addPod()
			other.addPod()
			n.waitPings()
		})
	}
}

// There is no default route in the table main, as with policy routing. What the host
// remembers, or its lease, tells the interface.
func TestNoDefaultRoute(t *testing.T) { inParallel(t, slowVariants, testNoDefaultRoute) }

func testNoDefaultRoute(t *testing.T, v variant) {
	n := newConfigured(t, v, nil)
	other, h := n.addNode(lab.HostOptions{}), n.addNode(lab.HostOptions{})
	check(t, h.AddNIC("eth1", n.sw, netip.MustParseAddr("192.168.0.99"))) // which is not it
	h.start()
	other.start()
	n.readyWithPods()
	subnet := h.subnet()
	h.waitSaved(other.peer().name())
	must(h.daemon.Stop(soon))(t)
	h.ip("route del default")
	h.ip("route add default via 192.168.0.1 dev eth0 table 100")
	h.ip("rule add from all lookup 100 prio 40000")

	again := func(source string) {
		t.Helper()
		h.start()
		h.waitReady()
		h.waitLog("there is no default route to find the external interface by; -iface can name it: using eth0, for its address " + h.Addr.String() + " is that of " + source)
		h.waitLog("using interface eth0 with address " + h.Addr.String() + " ")
		if h.subnet() != subnet {
			t.Errorf("the subnet is %s, was %s", h.subnet(), subnet)
		}
		n.waitPings()
		must(h.daemon.Stop(soon))(t)
	}
	again("this host in " + h.stateFile())
	t.Log("without etcd")
	n.etcd.Kill()
	h.start()
	check(t, h.daemon.WaitReady(n.ctx))
	must(h.daemon.Stop(soon))(t)
	check(t, n.etcd.Start(n.ctx))
	t.Log("without the state file")
	check(t, os.Remove(h.stateFile()))
	again("this host's lease " + subnet.String())
	t.Log("without either file")
	check(t, os.Remove(h.stateFile()))
	check(t, os.Remove(h.daemon.SubnetFile))
	again("this host's lease " + subnet.String())

	t.Log("the lease is given back, as are the interfaces of others kept")
	if code, out := h.act("-release"); code != 0 || !strings.Contains(out, fmt.Sprintf("released %s, the lease of this host (%s)\n", subnet, h.Addr)) {
		t.Errorf("status %d, %s", code, out)
	}
	h.start()
	h.waitLog("waiting for the external interface: there is no default route to find the external interface by; -iface can name it")
	n.pause(2 * time.Second)
	select {
	case <-h.daemon.Notify.Ready():
		t.Error("it is ready all the same")
	default:
	}
	h.ip("route add default via 192.168.0.1 dev eth0")
	h.waitReady()
}
