package main_test

import (
	"encoding/json"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"flanneld/pkg/lab"
)

// What the kernel would refuse is refused when the configuration is read: hosts that run
// keep what they have, and one that starts takes no lease.
func TestConfigBeyondKernelLimits(t *testing.T) {
	t.Parallel()
	const port = 8999 // belongs to another program
	for _, c := range []struct {
		variant
		configs map[string]string // and what is said of them
	}{
		{vxlan, map[string]string{
			`{"Type":"vxlan","VNI":10000000}`: "Backend.VNI 10000000 is not between 0 and 9999999: the device is called flannel.VNI, and its name can have 15 characters",
			`{"Type":"vxlan","VNI":16777216}`: "Backend.VNI 16777216 is not between 0 and 9999999",
			`{"Type":"vxlan","VNI":-1}`:       "Backend.VNI -1 is not between 0 and 9999999",
			`{"Type":"vxlan","Port":65536}`:   "Backend.Port 65536 is not between 0 and 65535",
			`{"Type":"vxlan","Port":8999}`:    "UDP port 8999 belongs to another program",
			`{"Type":"vxlan","MTU":117}`:      "Backend.MTU 117 is not between 118 and 65535",
			`{"Type":"vxlan","MTU":65536}`:    "Backend.MTU 65536 is not between 118 and 65535",
			`{"Type":"vxlan","VNI":8}`:        "another VXLAN device has the VNI 8 and the UDP port 8472",
		}},
		{udp, map[string]string{
			`{"Type":"udp","Port":0}`:     "Backend.Port 0 is not between 1 and 65535",
			`{"Type":"udp","Port":65536}`: "Backend.Port 65536 is not between 1 and 65535",
			`{"Type":"udp","Port":8999}`:  "the UDP port 8999 cannot be had: listen udp4 ",
			`{"Type":"udp","MTU":95}`:     "Backend.MTU 95 is not between 96 and 65535",
		}},
		{hostGW, map[string]string{
			`{"Type":"host-gw","MTU":67}`: "Backend.MTU 67 is not between 68 and 65535",
		}},
	} {
		t.Run(c.name(), func(t *testing.T) {
			t.Parallel()
			n := newNetwork(t, 2, c.variant, nil)
			for _, h := range n.nodes {
				var occupied net.PacketConn
				check(t, h.Do(func() (err error) {
					occupied, err = net.ListenPacket("udp4", fmt.Sprintf(":%d", port))
					return err
				}))
				defer occupied.Close()
				h.run("ip", "link", "add", "other8", "up", "type", "vxlan", "id", "8", "dstport", "8472", "dev", "eth0", "nolearning")
			}
			h := n.nodes[0]
			before := h.run("ip", "-o", "link")
			for section, want := range c.configs {
				n.put("config", n.config(settings{"Backend": json.RawMessage(section)}))
				h.waitLog("the former one stays in force: ")
				h.waitLog(want)
				h.waitStatus(", not followed: ", true)
				h.waitPeers(0, h.others()...)
				n.pingAll()
				n.put("config", n.config(nil))
				h.waitStatus(", not followed", false)
			}
			if after := h.run("ip", "-o", "link"); after != before {
				t.Errorf("devices are\n%s\nand were\n%s", after, before)
			}
		})
	}
}

// The largest and smallest values that are taken, the kernel takes, too.
func TestConfigAtKernelLimits(t *testing.T) {
	t.Parallel()
	for section, v := range map[string]variant{
		`{"Type":"vxlan","VNI":9999999,"Port":65535}`:     vxlan,
		`{"Type":"vxlan","VNI":0,"Port":1,"MTU":118}`:     vxlan,
		`{"Type":"udp","Port":65535}`:                     udp,
		`{"Type":"udp","Port":1,"MTU":96}`:                udp,
		`{"Type":"host-gw","MTU":68}`:                     hostGW,
		`{"Type":"alloc","MTU":1372}`:                     allocOnly,
		`{"Type":"udp","MTU":1372}`:                       udp,
		`{"Type":"host-gw","MTU":1372}`:                   hostGW,
		`{"Type":"udp","MTU":9000,"VNI":3}`:               udp,
		`{"Type":"host-gw","MTU":9000,"DirectRouting":0}`: hostGW,
	} {
		t.Run(section, func(t *testing.T) {
			t.Parallel()
			n := newConfigured(t, v, settings{"Backend": json.RawMessage(section)})
			for range 2 {
				n.addNode(lab.HostOptions{}).start()
			}
			var asked struct{ MTU int }
			check(t, json.Unmarshal([]byte(section), &asked))
			overhead := map[string]int{"vxlan": 50, "udp": 28}[v.backend.name]
			want := 1500 - overhead
			if asked.MTU > 0 {
				want = min(asked.MTU, 1500) - overhead
			}
			for _, h := range n.nodes {
				h.waitReady()
				h.waitEnv(fmt.Sprintf("FLANNEL_MTU=%d", want))
				h.addPod()
			}
			if asked.MTU > 1500 {
				for _, text := range []string{"Backend.MTU 9000 is more than the MTU 1500 of the interface eth0, which counts", " is ignored: it is a key of vxlan, and not of the backend " + v.backend.name} {
					if got := strings.Count(n.nodes[0].daemon.Log(), text); got != 1 {
						t.Errorf("the log says %d times: %s", got, text)
					}
				}
			}
			if v.backend.name == "alloc" {
				return
			}
			n.wait(soon, "pods to reach each other", func() string {
				if _, err := n.nodes[0].pod.Ping(n.ctx, n.nodes[1].pod.Addr, time.Second); err != nil {
					return err.Error()
				}
				return ""
			})
		})
	}
}

// Keys that do nothing are named once, at the start and when the configuration changes.
func TestIgnoredKeysNamed(t *testing.T) {
	t.Parallel()
	n := newConfigured(t, hostGW, settings{"SubnetSize": 20, "Backend": json.RawMessage(`{"Type":"host-gw","VNI":7}`)})
	h := n.addNode(lab.HostOptions{})
	h.start()
	h.waitReady()
	n.put("config", n.config(settings{"SubnetLength": 24, "Backend": json.RawMessage(`{"Type":"host-gw","VNI":7,"PSK":"x"}`)}))
	h.waitLog("SubnetLength is ignored: it is not a known key")
	for text, times := range map[string]int{"SubnetSize is ignored": 1, "Backend.VNI is ignored": 2, "Backend.PSK is ignored: it is a key of flannel's": 1} {
		said := func() int { return strings.Count(h.daemon.Log(), text) }
		n.wait(soon, text, func() string {
			if said() < times {
				return fmt.Sprintf("it was logged %d times", said())
			}
			return ""
		})
		if got := said(); got != times {
			t.Errorf("the log says %d times, not %d: %s", got, times, text)
		}
	}
}

// An interface whose packets could hold no packet of a pod is named, and mended.
func TestInterfaceTooSmall(t *testing.T) {
	t.Parallel()
	n := newConfigured(t, vxlan, nil)
	other, err := n.lab.AddSwitch("other", netip.MustParsePrefix("192.168.9.0/24"))
	check(t, err)
	h := n.addNode(lab.HostOptions{}, "-iface=eth1")
	check(t, h.AddNIC("eth1", other, netip.MustParseAddr("192.168.9.9")))
	check(t, h.SetMTU("eth1", 117))
	h.start()
	h.waitLog("the interface eth1 has the MTU 117, and the backend takes 50 bytes of it: pods would get an MTU of 67, and IPv4 needs 68")
	check(t, h.SetMTU("eth1", 1400))
	h.waitReady()
	h.waitEnv("FLANNEL_MTU=1350")
}

// A device that is there for a moment only, to see whether the kernel makes it, is
// removed if a daemon was killed in that moment: by the next one, and by -cleanup.
func TestTrialLeftBehind(t *testing.T) {
	t.Parallel()
	n := newConfigured(t, vxlan, nil)
	h := n.addNode(lab.HostOptions{})
	leave := func() {
		h.run("ip", "link", "add", "flannel.trial", "up", "type", "vxlan", "id", "1", "dstport", "8472", "dev", "eth0", "nolearning")
	}
	gone := func() {
		t.Helper()
		if links := h.run("ip", "-o", "link"); strings.Contains(links, "flannel.trial") {
			t.Errorf("devices are\n%s", links)
		}
	}
	leave()
	h.start()
	h.waitReady()
	gone()
	h.daemon.Kill()
	h.run("ip", "link", "del", "flannel.1")
	leave()
	if code, out := h.act("-cleanup"); code != 0 {
		t.Errorf("-cleanup ended with %d: %s", code, out)
	}
	gone()
}
