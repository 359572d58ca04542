package main_test

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"flanneld/pkg/lab"
)

// other are the arguments of a second daemon on a host, for the network whose
// configuration is below a prefix.
func (h *node) other(prefix string) []string {
	return []string{"-etcd-prefix=" + prefix, "-subnet-file=" + filepath.Join(h.Dir, "other.env")}
}

// putOther configures a network below /other.
func (n *network) putOther() {
	n.t.Helper()
	config := n.config(settings{"Network": "10.6.0.0/16", "Backend": map[string]any{"Type": "udp", "Port": 8286}})
	check(n.t, n.admin.put(n.ctx, "/other/config", config, 0))
}

// tuns are the aliases of the host's TUN devices, by name.
func (h *node) tuns() map[string]string {
	h.n.t.Helper()
	all := make(map[string]string)
	for line := range strings.Lines(h.run("ip", "-d", "-o", "link", "show", "type", "tun")) {
		_, rest, _ := strings.Cut(line, ": ")
		name, _, _ := strings.Cut(rest, ":")
		_, alias, _ := strings.Cut(rest, "alias ")
		all[name] = strings.TrimSpace(alias)
	}
	return all
}

// wantTUNs checks the names and aliases of the host's TUN devices.
func (h *node) wantTUNs(want ...string) {
	h.n.t.Helper()
	for _, pair := range want {
		name, alias, _ := strings.Cut(pair, "=")
		if all := h.tuns(); len(all) != len(want) || all[name] != alias {
			h.n.t.Errorf("%s has the TUN devices %q, want %q", h.Name, all, want)
		}
	}
}

func (h *node) index(dev string) int {
	h.n.t.Helper()
	_, index, err := h.HardwareAddr(dev)
	check(h.n.t, err)
	return index
}

// Daemons of two networks that start in the same moment get a device each, and
// the same ones when they start again.
func TestUDPTwoNetworksAtOnce(t *testing.T) {
	t.Parallel()
	n := newConfigured(t, udp, nil)
	n.putOther()
	for range 6 {
		h := n.addNode(lab.HostOptions{})
		var names []string
		for range 2 {
			h.start()
			other := must(h.StartFlanneld(daemonBinary, h.other("/other")...))(t)
			h.waitReady()
			check(t, other.WaitReady(n.ctx))
			var has []string
			for dev, alias := range h.tuns() {
				network := netip.MustParsePrefix(strings.TrimPrefix(alias, "flanneld "))
				if addrs := must(h.Addrs(dev))(t); len(addrs) != 1 || !network.Contains(addrs[0].Addr()) {
					t.Errorf("%s of the network %s has the addresses %v", dev, network, addrs)
				}
				has = append(has, dev+"="+alias)
			}
			if has = sorted(has...); len(has) != 2 || names != nil && fmt.Sprint(names) != fmt.Sprint(has) {
				t.Errorf("there are the devices %q, and were %q", has, names)
			}
			names = has
			h.daemon.Kill()
			other.Kill()
		}
	}
}

// A second daemon of the network waits until the first one has ended, and then
// has the device.
func TestUDPSecondDaemon(t *testing.T) {
	n := newNetwork(t, 2, udp, nil)
	h, peer := n.nodes[0], n.nodes[1]
	index := h.index(tunDevice)
	var second *lab.Daemon
	n.witness(h, peer, func() {
		n.witness(peer, h, func() {
			second = must(h.StartFlanneld(daemonBinary, h.other(keyPrefix)...))(t)
			check(t, second.WaitLog(n.ctx, "flannel0 of this network is in use: another daemon has it"))
			n.pause(3 * time.Second)
		})
	})
	h.wantTUNs("flannel0=flanneld 10.5.0.0/16")
	if now := h.index(tunDevice); now != index {
		t.Errorf("the device is %d, and was %d", now, index)
	}
	if log := h.daemon.Log(); strings.Contains(log, "restored") {
		t.Error("the first daemon had something to restore")
	}
	h.daemon.Kill()
	check(t, second.WaitReady(n.ctx))
	h.daemon = second
	h.wantTUNs("flannel0=flanneld 10.5.0.0/16")
	if now := h.index(tunDevice); now != index {
		t.Errorf("the device is %d, and was %d", now, index)
	}
	n.pingAll()
}

// Daemons of one network that start in the same moment don't fight: one of them
// has all.
func TestUDPSecondDaemonAtOnce(t *testing.T) {
	t.Parallel()
	n := newConfigured(t, udp, nil)
	for range 4 {
		h := n.addNode(lab.HostOptions{})
		h.start()
		second := must(h.StartFlanneld(daemonBinary, h.other(keyPrefix)...))(t)
		n.wait(soon, "one of them", func() string {
			for _, d := range []*lab.Daemon{h.daemon, second} {
				select {
				case <-d.Notify.Ready():
					return ""
				default:
				}
			}
			return "neither is ready"
		})
		n.pause(time.Second)
		before := h.run("ip", "-o", "link", "show", "type", "tun")
		n.pause(time.Second)
		if after := h.run("ip", "-o", "link", "show", "type", "tun"); after != before || strings.Count(after, "\n") > 1 {
			t.Errorf("the device is %s, and was %s", after, before)
		}
		h.daemon.Kill()
		second.Kill()
	}
}

// A daemon that had a network before leaves alone who has it now.
func TestUDPFormerNetwork(t *testing.T) {
	n := newNetwork(t, 2, udp, nil)
	n.putOther()
	h, peer := n.nodes[0], n.nodes[1]
	index := h.index(tunDevice)
	env := "FLANNEL_NETWORK=10.5.0.0/16\nFLANNEL_SUBNET=10.5.77.1/24\nFLANNEL_MTU=1472\nFLANNEL_IPMASQ=false\n"
	check(t, os.WriteFile(filepath.Join(h.Dir, "other.env"), []byte(env), 0o644))
	n.witness(h, peer, func() {
		n.witness(peer, h, func() {
			second := must(h.StartFlanneld(daemonBinary, h.other("/other")...))(t)
			check(t, second.WaitReady(n.ctx))
			n.pause(2 * time.Second)
		})
	})
	h.wantTUNs("flannel0=flanneld 10.5.0.0/16", "flannel1=flanneld 10.6.0.0/16")
	if now := h.index(tunDevice); now != index {
		t.Errorf("the device is %d, and was %d", now, index)
	}
	if log := h.daemon.Log(); strings.Contains(log, "restored") {
		t.Error("the first daemon had something to restore")
	}
}

// Devices of other programs are neither taken nor changed, though nobody be
// attached to them.
func TestUDPForeignDevice(t *testing.T) {
	t.Parallel()
	for _, multi := range []bool{false, true} {
		n := newConfigured(t, udp, nil)
		h, peer := n.addNode(lab.HostOptions{}), n.addNode(lab.HostOptions{})
		var names []string
		look := func() (all string) {
			for _, name := range names {
				all += h.run("ip", "-d", "link", "show", name) + h.run("ip", "addr", "show", name) + h.run("ethtool", "-k", name)
			}
			return all
		}
		for _, name := range []string{"flannel0", "flannel1", "flannel3"} {
			args := []string{"ip", "tuntap", "add", name, "mode", "tun"}
			if multi {
				args = append(args, "multi_queue")
			}
			h.run(args...)
			names = append(names, name)
		}
		h.run("ip", "link", "set", "flannel1", "up")
		h.run("ip", "addr", "add", "10.5.199.1/32", "dev", "flannel1")
		before := look()
		peer.start()
		for range 2 {
			h.start()
			h.waitReady()
			if after := look(); after != before {
				t.Errorf("the devices of others are %s and were %s", after, before)
			}
			h.wantTUNs("flannel0=", "flannel1=", "flannel2=flanneld 10.5.0.0/16", "flannel3=")
			h.daemon.Kill()
		}
		h.start()
		n.readyWithPods()
		n.pingAll()
	}
}

// However often a daemon is killed before it has a lease, there is one device,
// and that is used in the end.
func TestUDPKilledBeforeLease(t *testing.T) {
	n := newConfigured(t, udp, settings{"SubnetMin": "10.5.7.0", "SubnetMax": "10.5.7.0"})
	taken := stranger("10.5.7.0/24", "192.0.2.7")
	n.putPeer(taken)
	h := n.addNode(lab.HostOptions{})
	for i := range 10 {
		h.start()
		n.pause(time.Duration(i) * slow(10*time.Millisecond))
		h.daemon.Kill()
		if all := h.tuns(); len(all) > 1 {
			t.Errorf("there are the devices %q", all)
		}
	}
	var index int
	for i := range 5 {
		h.start()
		h.waitLog("the TUN device flannel0")
		h.wantTUNs("flannel0=flanneld 10.5.0.0/16")
		if i == 0 {
			index = h.index(tunDevice)
		}
		h.daemon.Kill()
	}
	n.delete(taken.key())
	h.start()
	h.waitReady()
	h.wantTUNs("flannel0=flanneld 10.5.0.0/16")
	if now := h.index(tunDevice); now != index {
		t.Errorf("the device is %d, and was %d", now, index)
	}
}

// The device keeps its alias and its name.
func TestUDPAliasHeals(t *testing.T) {
	n := newNetwork(t, 2, udp, nil)
	h, peer := n.nodes[0], n.nodes[1]
	healed := func() string {
		if all := h.tuns(); len(all) != 1 || all[tunDevice] != "flanneld 10.5.0.0/16" {
			return fmt.Sprintf("there are %q", all)
		}
		return ""
	}
	n.witness(h, peer, func() {
		n.witness(peer, h, func() {
			for _, alias := range []string{"another", "", "flanneld 10.6.0.0/16"} {
				h.run("ip", "link", "set", tunDevice, "alias", alias)
				n.wait(slow(time.Second), "the alias after "+alias, healed)
			}
		})
	})
	for what, hurt := range map[string]func(){
		"deleted": func() { check(t, h.DelLink(tunDevice)) },
		"renamed": func() { check(t, h.LinkDown(tunDevice)); check(t, h.RenameLink(tunDevice, "flannel7")) },
	} {
		hurt()
		n.wait(slow(2*time.Second), "the device after it was "+what, healed)
		h.waitPeers(slow(2*time.Second), h.others()...)
		n.pingAll()
	}
}
