package main_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"flanneld/pkg/ip"
	"flanneld/pkg/lab"
	"flanneld/subnet"
)

func TestConnect(t *testing.T) { restInParallel(t, everyFamily, testConnect) }

func testConnect(t *testing.T, v variant) {
	n := newNetwork(t, 3, v, nil)
	for _, h := range n.nodes {
		if got, want := h.daemon.EnvText(), h.wantEnv(); got != want {
			t.Errorf("subnet.env of %s is %q, want %q", h.Name, got, want)
		}
		h.waitPeers(soon, h.others()...)
		e := n.get(h.key())
		if want := n.backend.lease(h.peer()); e.value != want {
			t.Errorf("value of %s is %s, want %s", e.key, e.value, want)
		}
		if e.ttl < subnet.LeaseTTL-time.Minute || e.ttl > subnet.LeaseTTL {
			t.Errorf("%s lives for %s", e.key, e.ttl)
		}
	}
	n.pingAll()

	t.Log("a fourth host joins")
	fourth := n.addNode(lab.HostOptions{})
	fourth.start()
	fourth.waitReady()
	fourth.addPod()
	for _, h := range n.nodes {
		h.waitPeers(slow(time.Second), h.others()...)
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
	n.parallel(t)
	for _, h := range n.nodes {
		h.waitPeers(subnet.LingerTime+5*time.Second, h.others()...)
	}
	n.pingAll()
}

// wantEnv is what subnet.env must be on a host that does not masquerade.
func (h *node) wantEnv() string {
	h.n.t.Helper()
	var text string
	for _, v := range h.peer().views() {
		names, network := [2]string{"FLANNEL_NETWORK", envSubnets[ip.V4]}, network4
		if v.subnet.Addr().Is6() {
			names, network = [2]string{"FLANNEL_IPV6_NETWORK", envSubnets[ip.V6]}, network6
		}
		text += fmt.Sprintf("%s=%s\n%s=%s/%d\n", names[0], network, names[1], v.subnet.Addr().Next(), v.subnet.Bits())
	}
	return text + fmt.Sprintf("FLANNEL_MTU=%d\nFLANNEL_IPMASQ=false\n", 1500-h.n.overhead())
}

func TestAlloc(t *testing.T) {
	t.Parallel()
	for _, v := range []variant{allocOnly, allocOnly.in(dualStack), allocOnly.in(ipv6Only)} {
		t.Run(v.name(), func(t *testing.T) {
			t.Parallel()
			testAlloc(t, v)
		})
	}
}

func testAlloc(t *testing.T, v variant) {
	n := newNetwork(t, 3, v, nil)
	for _, h := range n.nodes {
		if r := h.routes(); r != nil {
			t.Errorf("%s has routes %q", h.Name, r)
		}
		if got, want := n.get(h.key()).value, n.backend.lease(h.peer()); got != want {
			t.Errorf("the lease of %s says %s, want %s", h.Name, got, want)
		}
		if got, want := len(h.peer().views()), len(v.families.list()); got != want {
			t.Errorf("%s has subnets of %d families", h.Name, got)
		}
	}
	n.nodes[0].waitLog("ready: subnet")
}

// Hosts of flannel, which do not run here, are known by their keys alone.
func TestOldLeases(t *testing.T) {
	n := newNetwork(t, 1, hostGW, nil)
	h := n.nodes[0]
	n.put("subnets/10.5.200.0-24", `{"PublicIP":"192.168.0.200","BackendType":"host-gw"}`)
	n.put("subnets/10.5.201.0-24", `{"PublicIP":"192.168.0.201","PublicIPv6":null,"BackendType":"host-gw","BackendData":null}`)
	n.put("subnets/10.5.202.0-24", `{"PublicIP":"192.168.0.202","BackendType":"vxlan","BackendData":{"VtepMAC":"aa:bb:cc:dd:ee:ff"}}`)
	h.waitPeers(slow(time.Second), stranger("10.5.200.0/24", "192.168.0.200"), stranger("10.5.201.0/24", "192.168.0.201"))
	n.put("subnets/10.5.200.0-24", `{"PublicIP":"192.168.0.210","BackendType":"host-gw"}`)
	h.waitPeers(slow(time.Second), stranger("10.5.200.0/24", "192.168.0.210"), stranger("10.5.201.0/24", "192.168.0.201"))
	h.waitLog(`10.5.202.0/24: ignored: the lease is of backend "vxlan", not host-gw`)
}

// A peer behind a router can't be had with host-gw; the others are not
// affected.
func TestNotOnLink(t *testing.T) {
	n := newNetwork(t, 2, hostGW, nil)
	other, err := n.lab.AddSwitch("switch2", mustPrefix("192.168.1.0/24"))
	check(t, err)
	_, err = n.lab.AddRouter(n.sw, other)
	check(t, err)
	h := n.nodes[0]
	before := h.others()

	far, err := n.lab.AddHost("far", other, lab.HostOptions{})
	check(t, err)
	farNode := &node{Host: far, n: n}
	farNode.start()
	farNode.waitReady()
	h.waitLog(fmt.Sprintf("adding route %s via %s dev eth0: the next hop is not on the same link", farNode.subnet(), far.Addr))
	h.waitPeers(slow(time.Second), before...)
	n.pingAll()
	n.wait(soon, "the status to say so", func() string {
		s := h.daemon.Status()
		for _, want := range []string{
			fmt.Sprintf("subnet %s on eth0 (%s), backend host-gw, 2 peers, 1 of 3 objects not in place", h.subnet(), h.Addr),
			fmt.Sprintf("%s, the host of %s: not reachable: packets go to %s by eth0, but must be on the link of eth0", far.Addr, farNode.subnet(), "192.168.0.1"),
		} {
			if !strings.Contains(s, want) {
				return fmt.Sprintf("status is %q, without %q", s, want)
			}
		}
		return ""
	})

	t.Log("the host comes to be on the link")
	check(t, h.AddAddr("eth0", mustPrefix("192.168.1.99/24")))
	h.waitLog(fmt.Sprintf("route %s via %s dev eth0: added", farNode.subnet(), far.Addr))
}
