package main_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"flanneld/pkg/lab"
)

// A lease is given back, and nothing else changes: not the host, nor any other
// lease. The next start asks for the same subnet.
func TestRelease(t *testing.T) { inParallel(t, slowVariants, testRelease) }

func testRelease(t *testing.T, v variant) {
	n := newNetwork(t, 2, v, nil)
	h, other := n.nodes[0], n.nodes[1]
	peers := append(h.others(), stranger("10.5.200.0/24", "192.168.0.200"))
	n.putPeer(peers[1])
	h.waitPeers(soon, peers...)
	key, subnet := h.key(), h.subnet()
	if code, out := h.act("-release"); code != 1 || !strings.Contains(out, "another flanneld works for it; stop it first") || n.get(key) == nil {
		t.Errorf("while the daemon runs: status %d, %s", code, out)
	}
	must(h.daemon.Stop(soon))(t)
	env, before, rest := h.daemon.EnvText(), h.inventory(), n.get(other.key())
	if code, out := h.act("-release", "-public-ip=192.168.0.99"); code != 0 || !strings.Contains(out, "there is nothing to release: no lease is of this host (192.168.0.99)") {
		t.Errorf("as another host: status %d, %s", code, out)
	}
	if code, out := h.act("-release", "-iface=eth9"); code != 1 || !strings.Contains(out, "-iface=eth9: there is no such interface") {
		t.Errorf("without the interface: status %d, %s", code, out)
	}
	leases := n.etcdLeases()
	if code, out := h.act("-release"); code != 0 || !strings.Contains(out, fmt.Sprintf("released %s, the lease of this host (%s)\n", subnet, h.Addr)) {
		t.Errorf("status %d, %s", code, out)
	}
	if e := n.get(key); e != nil {
		t.Errorf("there is %s", e)
	}
	if now := n.etcdLeases(); v.store.name == etcdV3.name && now != leases-1 {
		t.Errorf("there were %d etcd leases and are %d", leases, now)
	}
	if e := n.get(other.key()); e == nil || e.revision != rest.revision || n.get(peers[1].key()) == nil {
		t.Errorf("another's lease was %s and is %s", rest, e)
	}
	if now := h.inventory(); h.daemon.EnvText() != env || !slices.Equal(now, before) {
		t.Errorf("the host had\n%s\n%s\nand has\n%s\n%s", env, before, h.daemon.EnvText(), now)
	}
	if code, out := h.act("-release"); code != 0 || !strings.Contains(out, "there is nothing to release") {
		t.Errorf("again: status %d, %s", code, out)
	}
	other.waitPeers(20*time.Second, peers[1]) // it lingers

	h.start()
	h.waitReady()
	if s := h.subnet(); s != subnet {
		t.Errorf("the subnet was %s and is %s", subnet, s)
	}
	other.waitPeers(soon, h.peer(), peers[1])

	n.put(key, n.backend.lease(h.peer()))
	must(h.daemon.Stop(soon))(t)
	if code, out := h.act("-release"); code != 0 || !strings.Contains(out, fmt.Sprintf("left %s: it is reserved for this host (%s)\n", subnet, h.Addr)) || n.get(key) == nil {
		t.Errorf("a reservation: status %d, %s", code, out)
	}
	n.etcd.Kill()
	if code, out := h.act("-release"); code != 1 || !strings.Contains(out, "connection refused") {
		t.Errorf("without etcd: status %d, %s", code, out)
	}
}

// etcdLeases counts those of version 3.
func (n *network) etcdLeases() int {
	n.t.Helper()
	c := must(n.etcd.ClientV3())(n.t)
	defer func() { _ = c.Close() }()
	return len(must(c.Leases(n.ctx))(n.t).Leases)
}

// Before the network is anywhere there is nothing to be known of.
func TestReleaseWithoutNetwork(t *testing.T) {
	t.Parallel()
	n := newLab(t, vxlan)
	n.startEtcd(lab.EtcdOptions{})
	h := n.addNode(lab.HostOptions{})
	if code, out := h.act("-release"); code != 1 || !strings.Contains(out, "no network configuration at "+keyPrefix+"/config") {
		t.Errorf("status %d, %s", code, out)
	}
	if code, out := h.act("-release", "-etcd-api=3"); code != 0 || !strings.Contains(out, "there is nothing to release") {
		t.Errorf("told which version: status %d, %s", code, out)
	}
}
