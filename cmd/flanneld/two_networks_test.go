package main_test

import (
	"path/filepath"
	"strings"
	"testing"
)

// A second daemon on a host, with a network of its own, is left alone.
func TestTwoNetworksOnOneHost(t *testing.T) {
	n := newNetwork(t, 1, hostGW, nil)
	h := n.nodes[0]
	both := []peer{stranger("10.5.200.0/24", "192.168.0.205"), stranger("10.6.200.0/24", "192.168.0.206")}
	n.putPeer(both[0])
	for key, value := range map[string]string{
		"/other/config":           n.config(settings{"Network": "10.6.0.0/16"}),
		"/other/" + both[1].key(): n.backend.lease(both[1]),
	} {
		check(t, n.admin.put(n.ctx, key, value, 0))
	}
	second, err := h.StartFlanneld(daemonBinary, "-etcd-prefix=/other", "-subnet-file="+filepath.Join(h.Dir, "other.env"))
	check(t, err)
	check(t, second.WaitReady(n.ctx))
	h.waitPeers(soon, both...)
	before := strings.Count(h.daemon.Log()+second.Log(), "\n")

	first := h.daemon
	first.Kill()
	h.start()
	h.waitReady()
	h.waitPeers(soon, both...)
	before += strings.Count(h.daemon.Log(), "\n")
	check(t, h.LinkDown("eth0"))
	check(t, h.LinkUp("eth0"))
	h.waitPeers(soon, both...)
	if lines := strings.Count(first.Log()+second.Log()+h.daemon.Log(), "\n") - before; lines > 10 {
		t.Errorf("they logged %d lines about each other", lines)
	}
}
