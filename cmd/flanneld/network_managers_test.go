package main_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"flanneld/pkg/lab"
)

// manager is a program that manages the network of a host.
type manager struct {
	files map[string]string
	start []string // commands
	ready []string // a command that succeeds once it manages eth0
	// each command makes it configure eth0 again, and takes away what it does not know.
	again [][]string
}

// networkd removes routes and nexthops that it does not know when it starts, as delivered.
func networkd(h *node) manager {
	return manager{
		files: map[string]string{"/etc/systemd/network/10-eth0.network": fmt.Sprintf(
			"[Match]\nName=eth0\n[Network]\nAddress=%s/24\nGateway=192.168.0.1\nLinkLocalAddressing=no\nIPv6AcceptRA=no\n", h.Addr)},
		start: []string{"udevadm trigger --subsystem-match=net --action=add", "systemctl start systemd-networkd"},
		ready: []string{"sh", "-c", "networkctl status eth0 | grep -q '(configured)'"},
		again: [][]string{
			{"networkctl", "reload"},
			{"networkctl", "reconfigure", "eth0"},
			{"systemctl", "restart", "systemd-networkd.service"},
		},
	}
}

func networkManager(h *node) manager {
	return manager{
		files: map[string]string{
			"/etc/NetworkManager/NetworkManager.conf": "[main]\nplugins=keyfile\n[device-eth0]\nmatch-device=interface-name:eth0\nmanaged=1\n",
			"/etc/NetworkManager/system-connections/eth0.nmconnection": fmt.Sprintf(
				"[connection]\nid=wired\ntype=ethernet\ninterface-name=eth0\n[ipv4]\nmethod=manual\naddress1=%s/24,192.168.0.1\n[ipv6]\nmethod=disabled\n", h.Addr),
		},
		start: []string{
			"chmod 600 /etc/NetworkManager/system-connections/eth0.nmconnection",
			"udevadm trigger --subsystem-match=net --action=add", "systemctl start NetworkManager", "nmcli --wait 30 connection up wired",
		},
		ready: []string{"sh", "-c", "nmcli -t -f DEVICE,STATE device | grep -x eth0:connected"},
		again: [][]string{
			{"nmcli", "connection", "reload"},
			{"nmcli", "device", "reapply", "eth0"},
			{"nmcli", "connection", "up", "wired"},
			{"systemctl", "restart", "NetworkManager.service"},
		},
	}
}

// boot starts a systemd on the host in which the manager runs, and waits for that.
func (h *node) boot(m manager) *lab.System {
	h.n.t.Helper()
	sys, err := h.Boot(h.n.ctx, lab.SystemOptions{Files: m.files, Devices: true})
	if errors.Is(err, lab.ErrNotRoot) {
		h.n.t.Skip(err)
	}
	check(h.n.t, err)
	for _, command := range m.start {
		out, err := sys.Run(h.n.ctx, strings.Fields(command)...)
		if err != nil {
			h.n.t.Fatalf("%s: %v: %s", command, err, out)
		}
	}
	h.n.wait(3*soon, "the manager of the network", func() string {
		if out, err := sys.Run(h.n.ctx, m.ready...); err != nil {
			return fmt.Sprintf("%s %v", out, err)
		}
		return ""
	})
	return sys
}

// Whatever a manager of the network takes away is back at once, and nothing is said of what
// is over within a second.
func TestNetworkManagers(t *testing.T) {
	t.Parallel()
	for name, make := range map[string]func(*node) manager{"networkd": networkd, "NetworkManager": networkManager} {
		for _, v := range []variant{hostGW, vxlan} {
			t.Run(name+","+v.name(), func(t *testing.T) {
				t.Parallel()
				testNetworkManager(t, v, make)
			})
		}
	}
}

func testNetworkManager(t *testing.T, v variant, make func(*node) manager) {
	n := newConfigured(t, v, nil)
	h, peer := n.addNode(lab.HostOptions{}), n.addNode(lab.HostOptions{})
	m := make(h)
	sys := h.boot(m)
	h.start()
	peer.start()
	n.readyWithPods()
	all := h.others()
	for i := range 20 { // each of which could make a line of its own
		p := stranger(fmt.Sprintf("10.5.%d.0/24", 200+i), fmt.Sprintf("192.168.0.%d", 200+i))
		n.putPeer(p)
		all = append(all, p)
	}
	h.waitPeers(soon, all...)
	for _, command := range m.again {
		what := strings.Join(command, " ")
		before := len(h.daemon.Log())
		p, err := h.pod.StartPinger(peer.pod.Addr, pingPeriod)
		check(t, err)
		out, err := sys.Run(n.ctx, command...)
		if err != nil {
			t.Fatalf("%s: %v: %s", what, err, out)
		}
		n.wait(3*soon, "the manager after "+what, func() string {
			if out, err := sys.Run(n.ctx, m.ready...); err != nil {
				return fmt.Sprintf("%s %v", out, err)
			}
			return ""
		})
		time.Sleep(3 * time.Second)
		report := p.Stop()
		log := h.daemon.Log()[before:]
		t.Logf("%s: %v", what, report)
		if report.LongestGap > 5*time.Second {
			t.Errorf("%s: no ping for %s", what, report.LongestGap)
		}
		if lines := strings.Count(log, "\n"); lines > 10 || strings.Contains(log, "adding route") {
			t.Errorf("%s: %d lines in the log:\n%s", what, lines, log)
		}
		if status := h.daemon.Status(); strings.Contains(status, inTheWay) || strings.Contains(status, "not in place") {
			t.Errorf("%s: the status is %q", what, status)
		}
		n.pingAll()
	}
}
