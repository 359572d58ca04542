package main_test

import (
	"fmt"
	"testing"
	"time"
)

// However the API is not there, or not for all, nobody is bothered, and soon afterwards a
// new host joins.
func TestKubeOutages(t *testing.T) {
	t.Parallel()
	for name, fault := range map[string]struct {
		begin, end func(*network, *proxy)
	}{
		"the API is killed": {
			func(n *network, _ *proxy) { n.kube.Kill() },
			func(n *network, _ *proxy) { check(n.t, n.kube.Start(n.ctx)) },
		},
		"its etcd is killed": {
			func(n *network, _ *proxy) { n.kube.Etcd.Kill() },
			func(n *network, _ *proxy) { check(n.t, n.kube.Etcd.Start(n.ctx)) },
		},
		"nothing passes": {
			func(_ *network, p *proxy) { p.let(false) },
			func(_ *network, p *proxy) { p.let(true) },
		},
		"slow, and connections break": {
			func(_ *network, p *proxy) { p.slow(2 * time.Second); p.reset() },
			func(_ *network, p *proxy) { p.reset(); p.slow(0) },
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			n := newKube(t, kubeVXLAN, nil)
			p, at := n.startProxyTo(n.server, 2000, 6443)
			check(t, n.kube.WriteKubeconfigFor(n.kube.kubeconfig, "https://"+at, must(n.kube.FlannelToken(n.ctx))(t)))
			for range 2 {
				h := n.addKubeNode()
				h.createNode(h.podCIDR())
				h.start()
			}
			n.readyWithPods()
			n.outage(15*time.Second, func() { fault.begin(n, p) }, func() { fault.end(n, p) })
		})
	}
}

// What happened while the API was away is found when it is back, also where its history is
// not, or where it is an older copy of itself.
func TestKubeHistoryLost(t *testing.T) {
	t.Parallel()
	n := newKubeNetwork(t, 2, kubeVXLAN, nil)
	h, other := n.nodes[0], n.nodes[1]
	moves, goes := stranger("10.5.200.0/24", "192.168.0.200"), stranger("10.5.201.0/24", "192.168.0.201")
	n.putKubePeer(moves, nil)
	n.putKubePeer(goes, nil)
	h.waitPeers(soon, other.peer(), moves, goes)
	check(t, h.daemon.Freeze())
	moved := stranger("10.5.200.0/24", "192.168.0.210")
	check(t, n.kube.Annotate(n.ctx, moves.kubeName(), n.published(moved)))
	check(t, n.kube.DeleteNode(n.ctx, goes.kubeName()))
	n.kube.Kill()
	c := must(n.kube.Etcd.ClientV3())(t)
	r := must(c.Get(n.ctx, "/"))(t)
	must(c.Compact(n.ctx, r.Header.Revision))(t)
	check(t, c.Close())
	check(t, n.kube.Start(n.ctx))
	check(t, h.daemon.Thaw())
	h.waitPeers(2*soon, other.peer(), moved)

	t.Log("another cluster is at the same address, whose Nodes are as before, and older")
	n.witnessAll(func() {
		n.kube.Kill()
		check(t, n.kube.Etcd.Wipe(n.ctx))
		check(t, n.kube.Start(n.ctx))
		for _, h := range n.nodes {
			h.createNode(h.podCIDR())
		}
		token := must(n.kube.FlannelToken(n.ctx))(t)
		check(t, n.kube.WriteKubeconfig(n.kube.kubeconfig, token))
		for _, h := range n.nodes {
			h.waitAnnotations(2*soon, nil)
		}
	})
	h.waitPeers(2*soon, other.peer())
	late := stranger("10.5.220.0/24", "192.168.0.220")
	n.putKubePeer(late, nil)
	h.waitPeers(soon, other.peer(), late)
}

// Heartbeats of Nodes change nothing, and cost next to nothing.
func TestKubeHeartbeats(t *testing.T) {
	n := newKubeNetwork(t, 2, kubeVXLAN, nil)
	h := n.nodes[0]
	must(h.daemon.Stop(soon))(t)
	h.start("-probe=0") // that nobody answers for strangers would be news
	h.waitReady()
	var strangers []peer
	for i := range 20 {
		p := stranger(fmt.Sprintf("10.5.%d.0/24", 200+i), fmt.Sprintf("192.168.0.%d", 200+i))
		check(t, n.putLargeNode(p))
		strangers = append(strangers, p)
	}
	h.waitPeers(soon, append(h.others(), strangers...)...)
	n.pause(2 * time.Second)
	lines := h.daemon.Log()
	each, rate := h.beats(func(i int) peer { return strangers[i%len(strangers)] }, 2000, 0)
	t.Logf("%s of processor time for each heartbeat, at %.0f a second", each, rate)
	if each > slow(150*time.Microsecond) {
		t.Errorf("a heartbeat costs %s of processor time", each)
	}
	if more := h.daemon.Log()[len(lines):]; more != "" {
		t.Errorf("this was logged: %s", more)
	}
}
