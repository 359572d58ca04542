package main_test

import (
	"strings"
	"testing"

	"flanneld/pkg/lab"
)

// obstructed checks that status and log say that packets are kept from their way, and
// how to mend it, once hurt was called, and no more once mend was.
func (h *node) obstructed(hurt, mend func(), say ...string) {
	h.n.t.Helper()
	says := func(text string) bool {
		for _, s := range say {
			if !strings.Contains(text, s) {
				return false
			}
		}
		return true
	}
	hurt()
	h.n.wait(soon, "the status to say "+strings.Join(say, ", "), func() string {
		if s := h.daemon.Status(); !says(s) {
			return "it is " + s
		}
		return ""
	})
	if !says(h.daemon.Log()) {
		h.n.t.Errorf("the log does not say %q", say)
	}
	mend()
	h.n.wait(soon, "the status to be as before", func() string {
		if s := h.daemon.Status(); strings.Contains(s, "kept from their way") {
			return "it is " + s
		}
		return ""
	})
	h.n.pingAll()
}

// What keeps this host from passing packets on, and is not for the daemon to set, is
// in status and log with the command that mends it.
func TestClosedPassagesAreNamed(t *testing.T) {
	inParallel(t, everyVariant, func(t *testing.T, v variant) {
		n := newConfigured(t, v, nil)
		h := n.addNode(lab.HostOptions{})
		n.addNode(lab.HostOptions{}).start()
		const forwarding = "sysctl -w net.ipv4.ip_forward=1"
		h.sysctl("net.ipv4.ip_forward", 0)
		h.start()
		h.waitReady() // docker, which is started then, may be what sets it
		h.obstructed(func() {}, func() {
			h.sysctl("net.ipv4.ip_forward", 1)
			n.readyWithPods()
		}, h.subnet().String(), "net.ipv4.ip_forward is 0", forwarding)
		h.obstructed(func() { h.sysctl("net.ipv4.ip_forward", 0) }, func() { h.sysctl("net.ipv4.ip_forward", 1) },
			"net.ipv4.ip_forward is 0", forwarding)
		h.obstructed(func() { h.sysctl("net.ipv4.conf.docker0.forwarding", 0) }, func() { h.sysctl("net.ipv4.conf.docker0.forwarding", 1) },
			"docker0: ", "sysctl -w net.ipv4.conf.docker0.forwarding=1")
		h.obstructed(func() { h.run("ip", "link", "set", "docker0", "down") }, func() { h.run("ip", "link", "set", "docker0", "up") },
			"docker0: ", "ip link set docker0 up")
		h.obstructed(func() { check(t, h.SetCarrier("eth0", false)) }, func() { check(t, h.SetCarrier("eth0", true)) },
			"eth0: ", "no carrier")
		switch v.backend.name {
		case hostGW.backend.name:
			h.obstructed(func() { h.sysctl("net.ipv4.conf.eth0.forwarding", 0) }, func() { h.sysctl("net.ipv4.conf.eth0.forwarding", 1) },
				"eth0: ", "sysctl -w net.ipv4.conf.eth0.forwarding=1")
		default: // the tunnel's packets end here
			h.sysctl("net.ipv4.conf.eth0.forwarding", 0)
			n.pingAll()
		}
	})
}

// A chain that someone hooked into the daemon's own table stays, and is named.
func TestForeignChainInOurTableIsNamed(t *testing.T) {
	t.Parallel()
	n := newNetwork(t, 2, vxlan, nil)
	h := n.nodes[0]
	for _, chain := range []string{"type filter hook forward priority 10; policy drop;", "type filter hook prerouting priority -300; policy drop;"} {
		h.obstructed(
			func() { h.nft("add chain ip flannel-ipv4 theirs { " + chain + " }") },
			func() { h.nft("delete chain ip flannel-ipv4 theirs") },
			"flannel-ipv4", "theirs", "nft ")
	}
}
