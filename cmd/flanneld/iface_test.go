package main_test

import (
	"net/netip"
	"strings"
	"testing"

	"flanneld/pkg/lab"
)

// A host that has no address and no default route yet waits for them.
func TestAddressComesLate(t *testing.T) {
	t.Parallel()
	n := newConfigured(t, hostGW, nil)
	h := n.addNode(lab.HostOptions{NoAddress: true})
	h.start()
	h.waitLog("waiting for the external interface: there is no default route")
	n.wait(soon, "the status to say so", func() string {
		if s := h.daemon.Status(); !strings.HasPrefix(s, "waiting for the external interface: there is no default route") {
			return "status is " + s
		}
		return ""
	})
	check(t, h.AddAddr("eth0", mustPrefix("192.168.0.50/24")))
	check(t, h.AddRoute(lab.Route{Dst: mustPrefix("0.0.0.0/0"), Via: netip.MustParseAddr("192.168.0.1"), Dev: "eth0"}))
	h.waitReady()
	h.waitLog("using interface eth0 with address 192.168.0.50")
}

// twoNICs returns a host with eth0, which has the default route, and eth1 on
// the network of etcd.
func twoNICs(t *testing.T) *node {
	n := newConfigured(t, hostGW, nil)
	nat, err := n.lab.AddSwitch("nat", mustPrefix("10.0.2.0/24"))
	check(t, err)
	host, err := n.lab.AddHost("host1", nat, lab.HostOptions{})
	check(t, err)
	h := &node{Host: host, n: n}
	n.nodes = append(n.nodes, h)
	check(t, h.AddNIC("eth1", n.sw, netip.MustParseAddr("192.168.0.77")))
	check(t, h.AddAddr("eth1", mustPrefix("192.168.0.78/24")))
	return h
}

func TestIface(t *testing.T) {
	t.Parallel()
	h := twoNICs(t)
	for _, c := range []struct {
		args []string
		want string
	}{
		{nil, "interface eth0 with address 10.0.2.2 and"},
		{[]string{"-iface=eth1"}, "interface eth1 with address 192.168.0.77 and"},
		{[]string{"--iface=192.168.0.78"}, "interface eth1 with address 192.168.0.78 and"},
		{[]string{"-iface=eth7", "-iface=eth1"}, "interface eth1 with address 192.168.0.77 and"},
		{[]string{"-iface-regex=^eth[1-9]$"}, "interface eth1 with address 192.168.0.77 and"},
		{[]string{`-iface-regex=\.78$`}, "interface eth1 with address 192.168.0.78 and"},
		{[]string{"-iface=eth7", "-iface-regex=^wlan", "-iface-can-reach=" + h.n.server.Addr.String()}, "interface eth1 with address 192.168.0.77 and"},
	} {
		h.start(c.args...)
		h.waitReady()
		h.waitLog(c.want)
		_, err := h.daemon.Stop(soon)
		check(t, err)
	}

	t.Log("an interface that is not there")
	h.start("-iface=eth7", "-iface=192.168.0.99")
	h.waitLog("waiting for the external interface: -iface=eth7: there is no such interface; -iface=192.168.0.99: there is no such interface")
	check(t, h.AddAddr("eth1", mustPrefix("192.168.0.99/24")))
	h.waitReady()
}

func TestPublicIP(t *testing.T) {
	t.Parallel()
	n := newConfigured(t, hostGW, nil)
	h := n.addNode(lab.HostOptions{}, "-public-ip=203.0.113.7")
	h.start()
	h.waitLog("waiting: backend host-gw needs peers to send straight to this host: the public address 203.0.113.7 must be the address of eth0, " + h.Addr.String())
	n.put("config", allocOnly.config(nil))
	h.waitReady()
	if v := n.get(h.key()).value; !strings.HasPrefix(v, `{"PublicIP":"203.0.113.7","PublicIPv6":null,`) {
		t.Errorf("lease is %s", v)
	}
}
