package main_test

import (
	"encoding/json"
	"fmt"
	"testing"
	"time"

	"flanneld/pkg/lab"
	"flanneld/subnet"
)

func TestHostGW(t *testing.T) {
	n := newNetwork(t, 3, hostGW)
	for _, h := range n.nodes {
		want := fmt.Sprintf("FLANNEL_NETWORK=10.5.0.0/16\nFLANNEL_SUBNET=%s/24\nFLANNEL_MTU=1500\nFLANNEL_IPMASQ=false\n", h.subnet().Addr().Next())
		if got := h.daemon.EnvText(); got != want {
			t.Errorf("subnet.env of %s is %q, want %q", h.Name, got, want)
		}
		h.waitRoutes(soon, h.routesToOthers()...)
		key := n.get(h.key())
		want = fmt.Sprintf(`{"PublicIP":"%s","PublicIPv6":null,"BackendType":"host-gw"}`, h.Addr)
		if key.Value != want {
			t.Errorf("value of %s is %s, want %s", key.Key, key.Value, want)
		}
		if key.TTL < 86400-60 || key.TTL > 86400 {
			t.Errorf("TTL of %s is %d", key.Key, key.TTL)
		}
	}
	n.pingAll()

	t.Log("a fourth host joins")
	fourth := n.addNode(lab.HostOptions{})
	fourth.start()
	fourth.waitReady()
	fourth.addPod()
	for _, h := range n.nodes {
		h.waitRoutes(time.Second, h.routesToOthers()...)
	}
	n.pingAll()

	t.Log("it leaves")
	code, err := fourth.daemon.Stop(soon)
	check(t, err)
	if code != 0 {
		t.Errorf("exit status after SIGTERM is %d", code)
	}
	n.delete(fourth.key())
	n.nodes = n.nodes[:3]
	for _, h := range n.nodes {
		h.waitRoutes(subnet.LingerTime+5*time.Second, h.routesToOthers()...)
	}
	n.pingAll()
}

func TestAlloc(t *testing.T) {
	n := newNetwork(t, 3, allocOnly)
	for _, h := range n.nodes {
		if r := h.routes(); r != nil {
			t.Errorf("%s has routes %q", h.Name, r)
		}
		var value map[string]any
		check(t, json.Unmarshal([]byte(n.get(h.key()).Value), &value))
		if len(value) != 2 || value["PublicIP"] != h.Addr.String() || value["PublicIPv6"] != nil {
			t.Errorf("the lease of %s says %v", h.Name, value)
		}
	}
	n.nodes[0].waitLog("ready: subnet")
}

// Hosts of flannel, which do not run here, are known by their keys alone.
func TestOldLeases(t *testing.T) {
	n := newNetwork(t, 1, hostGW)
	h := n.nodes[0]
	n.put("subnets/10.5.200.0-24", `{"PublicIP":"192.168.0.200","BackendType":"host-gw"}`)
	n.put("subnets/10.5.201.0-24", `{"PublicIP":"192.168.0.201","PublicIPv6":null,"BackendType":"host-gw","BackendData":null}`)
	n.put("subnets/10.5.202.0-24", `{"PublicIP":"192.168.0.202","BackendType":"vxlan","BackendData":{"VtepMAC":"aa:bb:cc:dd:ee:ff"}}`)
	h.waitRoutes(time.Second, "10.5.200.0/24 via 192.168.0.200", "10.5.201.0/24 via 192.168.0.201")
	n.put("subnets/10.5.200.0-24", `{"PublicIP":"192.168.0.210","BackendType":"host-gw"}`)
	h.waitRoutes(time.Second, "10.5.200.0/24 via 192.168.0.210", "10.5.201.0/24 via 192.168.0.201")
	h.waitLog(`10.5.202.0/24: ignored: the lease is of backend "vxlan", not host-gw`)
}

// A peer behind a router can't be had with host-gw; the others are not
// affected.
func TestNotOnLink(t *testing.T) {
	n := newNetwork(t, 2, hostGW)
	other, err := n.lab.AddSwitch("switch2", mustPrefix("192.168.1.0/24"))
	check(t, err)
	_, err = n.lab.AddRouter(n.sw, other)
	check(t, err)
	h := n.nodes[0]
	before := h.routesToOthers()

	far, err := n.lab.AddHost("far", other, lab.HostOptions{})
	check(t, err)
	farNode := &node{Host: far, n: n}
	farNode.start()
	farNode.waitReady()
	h.waitLog(fmt.Sprintf("adding route %s via %s dev eth0: %s is not on the same link", farNode.subnet(), far.Addr, far.Addr))
	h.waitRoutes(time.Second, before...)
	n.pingAll()
	n.wait(soon, "the status to say so", func() string {
		if s := h.daemon.Status(); s != fmt.Sprintf("subnet %s on eth0 (%s), backend host-gw, 2 peers, 1 of 2 objects not in place", h.subnet(), h.Addr) {
			return "status is " + s
		}
		return ""
	})

	t.Log("the host comes to be on the link")
	check(t, h.AddAddr("eth0", mustPrefix("192.168.1.99/24")))
	h.waitLog(fmt.Sprintf("route %s via %s dev eth0: added", farNode.subnet(), far.Addr))
}
