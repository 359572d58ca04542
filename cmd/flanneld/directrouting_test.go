package main_test

import (
	"fmt"
	"regexp"
	"strings"
	"testing"
	"time"

	"flanneld/pkg/lab"
)

// ip gives a command to ip(8) on the host.
func (h *node) ip(command string) {
	h.n.t.Helper()
	h.run(append([]string{"ip"}, strings.Fields(command)...)...)
}

// wantRoute waits until the host's route to a peer is by a device.
func (h *node) wantRoute(to *node, dev string) {
	h.n.t.Helper()
	h.n.wait(slow(3*time.Second), fmt.Sprintf("the route of %s to %s by %s", h.Name, to.Name, dev), func() string {
		all, err := h.Routes()
		check(h.n.t, err)
		for _, r := range all {
			if f := strings.Fields(r); f[0] == to.subnet().String() && strings.Contains(r+" ", " dev "+dev+" ") {
				return ""
			}
		}
		return fmt.Sprintf("there are %q", all)
	})
}

// The prefix of the external address does not tell who is on the link: the kernel's
// routes do. Here the prefix covers a peer behind a router.
func TestDirectRoutingBehindRouter(t *testing.T) {
	t.Parallel()
	n := newConfigured(t, directRouting, nil)
	h, near := n.addNode(lab.HostOptions{}), n.addNode(lab.HostOptions{})
	far, err := n.lab.AddSwitch("far", mustPrefix("192.168.1.0/24"))
	check(t, err)
	_, err = n.lab.AddRouter(n.sw, far)
	check(t, err)
	n.sw = far
	peer := n.addNode(lab.HostOptions{})
	gateway := "192.168.0.1"
	h.ip("addr add " + h.Addr.String() + "/16 dev eth0")
	h.ip("addr del " + h.Addr.String() + "/24 dev eth0")
	h.ip("route replace default via " + gateway)
	h.ip("route add 192.168.1.0/24 via " + gateway)
	for _, node := range n.nodes {
		node.start()
	}
	for _, node := range n.nodes {
		node.waitReady()
		node.addPod()
	}
	h.wantRoute(near, "eth0")
	h.wantRoute(peer, vtep)
	h.ping(near)
	h.ping(peer)

	t.Log("routes change, and the way follows")
	n.witness(h, near, func() {
		h.ip("route add " + near.Addr.String() + "/32 via " + gateway)
		h.wantRoute(near, vtep)
		h.ip("route del " + near.Addr.String() + "/32")
		h.wantRoute(near, "eth0")
	})
	h.ping(peer)

	t.Log("rules change, and the way follows")
	h.ip("route add default via " + gateway + " table 77")
	h.ip("rule add to " + near.Addr.String() + " lookup 77 prio 100")
	h.wantRoute(near, vtep)
	h.ip("rule del prio 100")
	h.wantRoute(near, "eth0")
}

// A host whose address has no prefix may have its peers on the link all the same.
func TestDirectRoutingWithoutPrefix(t *testing.T) {
	t.Parallel()
	n := newConfigured(t, directRouting, nil)
	h, peer := n.addNode(lab.HostOptions{}), n.addNode(lab.HostOptions{})
	h.ip("addr add " + h.Addr.String() + "/32 dev eth0")
	h.ip("addr del " + h.Addr.String() + "/24 dev eth0")
	h.ip("route add 192.168.0.0/24 dev eth0")
	h.ip("route replace default via 192.168.0.1")
	for _, node := range n.nodes {
		node.start()
	}
	n.readyWithPodsBy(h, peer)
	h.wantRoute(peer, "eth0")
	h.ping(peer)
	h.ip("route del 192.168.0.0/24 dev eth0")
	h.wantRoute(peer, vtep)
}

// readyWithPodsBy waits for daemons, and puts a pod on each of their hosts.
func (n *network) readyWithPodsBy(nodes ...*node) {
	n.t.Helper()
	for _, node := range nodes {
		node.waitReady()
		node.addPod()
	}
}

// While eth0 is down there is no way at all, which says nothing about the link.
func TestDirectRoutingWhileDown(t *testing.T) {
	t.Parallel()
	n := newConfigured(t, directRouting, nil)
	h, peer := n.addNode(lab.HostOptions{}), n.addNode(lab.HostOptions{})
	for _, node := range n.nodes {
		node.start()
	}
	n.readyWithPodsBy(h, peer)
	h.wantRoute(peer, "eth0")
	log := h.daemon.Log()
	check(t, h.LinkDown("eth0"))
	n.wait(soon, "the route to go", func() string {
		if all, err := h.Routes(); err != nil || strings.Contains(strings.Join(all, "\n"), peer.subnet().String()) {
			return fmt.Sprintf("there are %q, %v", all, err)
		}
		return ""
	})
	check(t, h.LinkUp("eth0"))
	h.wantRoute(peer, "eth0")
	if news := strings.TrimPrefix(h.daemon.Log(), log); regexp.MustCompile(`route [^;]* dev ` + vtep).MatchString(news) {
		t.Errorf("the way went through the tunnel meanwhile: %s", news)
	}
}
