package main_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"flanneld/pkg/lab"
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
	check(t, h.LinkDown("eth0"))
	check(t, h.LinkUp("eth0"))
	h.waitPeers(soon, both...)
	if lines := strings.Count(first.Log()+second.Log(), "\n") - before; lines > 10 {
		t.Errorf("they logged %d lines about each other", lines)
	}
}

func TestInterfaceRenamed(t *testing.T) {
	n := newNetwork(t, 2, hostGW, nil)
	h := n.nodes[0]
	check(t, h.LinkDown("eth0"))
	check(t, h.RenameLink("eth0", "ens3"))
	took := n.wait(time.Second, "the route to be back", func() string {
		all, err := h.Routes()
		check(t, err)
		for _, r := range all {
			if strings.HasPrefix(r, n.nodes[1].peer().route()+" dev ens3") {
				return ""
			}
		}
		return fmt.Sprintf("routes are %q", all)
	})
	t.Logf("the route is back after %s", took)
}

// With the interface down nothing can be reached, so the host is not ready.
func TestInterfaceDown(t *testing.T) { inParallel(t, everyVariant, testInterfaceDown) }

func testInterfaceDown(t *testing.T, v variant) {
	n := newNetwork(t, 1, v, nil)
	h := n.nodes[0]
	peer := stranger("10.5.200.0/24", "192.168.0.205")
	n.putPeer(peer)
	h.daemon.Kill()
	// etcd is reached by eth1 meanwhile.
	check(t, h.AddNIC("eth1", n.sw, mustPrefix("192.168.0.99/24").Addr()))
	check(t, h.LinkDown("eth0"))
	h.start("-iface=eth0")
	n.wait(soon, "the status to say so", func() string {
		if s := h.daemon.Status(); !strings.Contains(s, "not ready: ") || !strings.Contains(s, ", eth0 is down") {
			return "status is " + s
		}
		return ""
	})
	n.pause(100 * time.Millisecond)
	select {
	case <-h.daemon.Notify.Ready():
		t.Error("it is ready all the same")
	default:
	}
	check(t, h.LinkUp("eth0"))
	h.waitReady()
	check(t, h.DelLink("eth1")) // so that the way to the peer is by eth0 alone
	h.waitPeers(0, peer)
}

func TestAddressGone(t *testing.T) { inParallel(t, everyVariant, testAddressGone) }

func testAddressGone(t *testing.T, v variant) {
	n := newNetwork(t, 1, v, nil)
	h := n.nodes[0]
	addr := mustPrefix(h.Addr.String() + "/24")
	check(t, h.DelAddr("eth0", addr))
	want := "interface eth0 no longer has the address " + h.Addr.String()
	h.waitLog(want)
	n.wait(soon, "the status to say so", func() string {
		if s := h.daemon.Status(); !strings.Contains(s, want) {
			return "status is " + s
		}
		return ""
	})
	check(t, h.AddAddr("eth0", addr))
	h.waitLog("the external interface is there again")
}

func TestSubnetFileDeleted(t *testing.T) { inParallel(t, everyVariant, testSubnetFileDeleted) }

func testSubnetFileDeleted(t *testing.T, v variant) {
	n := newNetwork(t, 1, v, nil)
	h := n.nodes[0]
	before := h.daemon.EnvText()
	check(t, os.Remove(h.daemon.SubnetFile))
	n.wait(20*time.Second, "subnet.env to be back", func() string {
		if text := h.daemon.EnvText(); text != before {
			return fmt.Sprintf("it is %q", text)
		}
		return ""
	})
}

func TestStatusDuringOutage(t *testing.T) { everyVariant(t, testStatusDuringOutage) }

func testStatusDuringOutage(t *testing.T, v variant) {
	n := newNetwork(t, 2, v, nil)
	h, other := n.nodes[0], n.nodes[1]
	n.etcd.Kill()
	n.wait(soon, "the status to say so", func() string {
		if s := h.daemon.Status(); !strings.Contains(s, ", etcd cannot be used since ") {
			return "status is " + s
		}
		return ""
	})
	start := time.Now()
	if code, err := other.daemon.Stop(soon); code != 0 || err != nil || time.Since(start) > slow(time.Second) {
		t.Errorf("stopped during the outage: exit status %d after %s, %v", code, time.Since(start), err)
	}
	check(t, n.etcd.Start(n.ctx))
	n.wait(soon, "the status to be as before", func() string {
		if s := h.daemon.Status(); strings.Contains(s, "etcd") {
			return "status is " + s
		}
		return ""
	})
}

// A host whose subnet was taken, and that can't get another one yet, still
// follows the others.
func TestSubnetTakenAndNoneFree(t *testing.T) { everyVariant(t, testSubnetTakenAndNoneFree) }

func testSubnetTakenAndNoneFree(t *testing.T, v variant) {
	n := newNetwork(t, 2, v, settings{"SubnetMin": "10.5.1.0", "SubnetMax": "10.5.2.0"})
	h, peer := n.nodes[0], n.nodes[1]
	n.putPeer(stranger(h.subnet().String(), "192.168.0.200"))
	h.waitLog("no free subnet: all 2 of length /24")
	check(t, peer.daemon.Signal(9))
	successor := stranger(peer.subnet().String(), "192.168.0.201")
	n.putPeer(successor)
	h.waitPeers(2*time.Second, successor)
	n.delete(successor.key())
	n.wait(soon, "the freed subnet", func() string {
		if h.subnet() != successor.subnet {
			return "it is not taken"
		}
		return ""
	})
}

// Of several endpoints, those that hang do not keep a host from starting.
func TestHungEndpoints(t *testing.T) { inParallel(t, slowVariants, testHungEndpoints) }

func testHungEndpoints(t *testing.T, v variant) {
	n := newConfigured(t, v, nil)
	var urls []string
	for _, port := range []uint16{2001, 2002} {
		p, url := n.startProxy(port)
		p.let(false)
		urls = append(urls, url)
	}
	urls = append(urls, n.etcd.Endpoint())
	for range 3 { // each begins with an endpoint at random
		n.addNode(lab.HostOptions{}, "-etcd-endpoints="+strings.Join(urls, ",")).start()
	}
	for _, h := range n.nodes {
		n.wait(time.Minute, "READY of "+h.Name, func() string {
			select {
			case <-h.daemon.Notify.Ready():
				return ""
			default:
				return "it is not"
			}
		})
	}
}
