package main_test

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"flanneld/pkg/ip"
	"flanneld/pkg/lab"
)

// The host gets another address while no daemon runs: it is the same host, with the same
// subnet, and its lease says the new address.
func TestAddressChangesWhileDown(t *testing.T) {
	inParallel(t, everyFamily, testAddressChangesWhileDown)
}

func testAddressChangesWhileDown(t *testing.T, v variant) {
	for name, lost := range map[string]func(*node) []string{
		"nothing is lost":        func(*node) []string { return nil },
		"subnet.env is lost":     func(h *node) []string { return []string{h.daemon.SubnetFile} },
		"the state file is lost": func(h *node) []string { return []string{h.stateFile()} },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			n := newNetwork(t, 2, v, nil)
			h := n.nodes[0]
			subnets := h.peer().subnets()
			h.waitSaved(n.nodes[1].subnet().Addr().String())
			must(h.daemon.Stop(soon))(t)
			for _, file := range lost(h) {
				check(t, os.Remove(file))
			}
			next := map[ip.Family]netip.Prefix{ip.V4: mustPrefix("192.168.0.77/24"), ip.V6: mustPrefix("fd00::77/64")}
			for _, f := range v.families.list() {
				h.readdress("eth0", next[f].String())
			}
			begin := time.Now()
			h.start()
			check(t, h.daemon.WaitReady(n.ctx))
			t.Logf("ready after %s", time.Since(begin))
			if h.peer().subnets() != subnets {
				t.Errorf("the subnet is %s, was %s", h.peer().subnets(), subnets)
			}
			for _, f := range v.families.list() {
				h.waitAddress(soon, next[f].Addr().String())
			}
			n.waitPings()
			if e := n.get(h.key()); strings.Contains(e.value, "Challenger") {
				t.Errorf("the lease is %s", e)
			}
		})
	}
}

// A copy of a host that runs, with its machine ID and all its files, leaves the original
// its subnet.
func TestCopyOfHost(t *testing.T) { inParallel(t, slowVariants, testCopyOfHost) }

func testCopyOfHost(t *testing.T, v variant) {
	n := newNetwork(t, 2, v, nil)
	first, third := n.nodes[0], n.nodes[1]
	first.waitSaved(third.peer().name())
	lease := n.get(first.key())
	second := n.addNode(lab.HostOptions{})
	check(t, os.Mkdir(filepath.Dir(second.stateFile()), 0o755))
	for from, to := range map[string]string{first.daemon.SubnetFile: filepath.Join(second.Dir, "subnet.env"), first.stateFile(): second.stateFile()} {
		check(t, os.WriteFile(to, must(os.ReadFile(from))(t), 0o600))
	}
	n.witness(third, first, func() {
		second.start()
		second.waitReady()
		second.addPod()
		n.pause(time.Second)
	})
	if second.subnet() == first.subnet() {
		t.Errorf("both have the subnet %s", first.subnet())
	}
	if now := n.get(first.key()); now == nil || now.value != lease.value {
		t.Errorf("the lease is %v, was %v", now, lease)
	}
	second.waitLog("this machine is a copy of it, and takes another subnet")
	for _, h := range n.nodes {
		h.waitPeers(soon, h.others()...)
	}
	n.pingAll()
}

// The host gets another address while neither its daemon nor etcd runs. It starts with what
// it knows, and the lease says the new address once etcd is back.
func TestAddressChangesWithoutEtcd(t *testing.T) {
	inParallel(t, everyVariant, testAddressChangesWithoutEtcd)
}

func testAddressChangesWithoutEtcd(t *testing.T, v variant) {
	n := newNetwork(t, 2, v, nil)
	h := n.nodes[0]
	subnet := h.subnet()
	h.waitSaved(n.nodes[1].peer().name())
	must(h.daemon.Stop(soon))(t)
	n.etcd.Kill()
	h.readdress("eth0", "192.168.0.77/24")
	h.start()
	check(t, h.daemon.WaitReady(n.ctx))
	if h.subnet() != subnet {
		t.Errorf("the subnet is %s, was %s", h.subnet(), subnet)
	}
	check(t, n.etcd.Start(n.ctx))
	h.waitAddress(2*soon, "192.168.0.77")
	if h.subnet() != subnet {
		t.Errorf("the subnet is %s, was %s", h.subnet(), subnet)
	}
	n.waitPings()
}

// A lease that flannel wrote names no machine. That it is this host's is known from the
// VXLAN device that flannel left, which has the address of the lease.
func TestAddressChangesBeforeUpgrade(t *testing.T) {
	t.Parallel()
	n := newNetwork(t, 2, vxlan, nil)
	h, other := n.nodes[0], n.nodes[1]
	subnet := h.subnet()
	flannels := func(h *node) string {
		text, _, _ := strings.Cut(n.get(h.key()).value, `,"Machine"`)
		return text + "}"
	}
	must(h.daemon.Stop(soon))(t)
	n.put(h.key(), flannels(h))
	check(t, os.RemoveAll(filepath.Dir(h.stateFile())))
	h.readdress("eth0", "192.168.0.77/24")
	h.start()
	h.waitReady()
	if h.subnet() != subnet {
		t.Errorf("the subnet is %s, was %s", h.subnet(), subnet)
	}
	h.waitAddress(soon, "192.168.0.77")
	n.waitPings()

	t.Log("the subnet is in the hands of another flannel by now")
	must(other.daemon.Stop(soon))(t)
	theirs := strings.ReplaceAll(flannels(other), other.Addr.String(), "192.168.0.99")
	key := other.key()
	n.put(key, theirs)
	other.readdress("eth0", "192.168.0.78/24")
	other.start()
	other.waitReady()
	if other.key() == key || n.get(key).value != theirs {
		t.Errorf("it has %s, and the other's lease is %s", other.key(), n.get(key).value)
	}
}

// A lease is given back although the host has another address by now.
func TestReleaseAfterAddressChanged(t *testing.T) {
	t.Parallel()
	n := newNetwork(t, 1, hostGW, nil)
	h := n.nodes[0]
	h.waitSaved(h.peer().name())
	must(h.daemon.Stop(soon))(t)
	was := h.Addr
	h.readdress("eth0", "192.168.0.77/24")
	if code, out := h.act("-release"); code != 0 || !strings.Contains(out, fmt.Sprintf("released %s, the lease of this host (%s)\n", h.subnet(), was)) || n.get(h.key()) != nil {
		t.Errorf("status %d, %s", code, out)
	}
	if _, err := os.Stat(h.stateFile()); !os.IsNotExist(err) {
		t.Errorf("the state file is still there: %v", err)
	}
}
