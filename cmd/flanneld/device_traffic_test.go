package main_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"flanneld/pkg/lab"
)

// sysctl sets a parameter of the host's kernel, in whose name a dot in an interface's
// is a slash.
func (h *node) sysctl(name string, value int) {
	h.n.t.Helper()
	h.run("sysctl", "-q", "-w", fmt.Sprintf("%s=%d", name, value))
}

// Whatever of the overlay's device someone changes so that it carries no packets is put
// back at once.
func TestDeviceCarriesPacketsAgain(t *testing.T) {
	for _, c := range []struct {
		v    variant
		dev  string
		hurt map[string]func(h *node)
	}{
		{vxlan, vtep, map[string]func(h *node){
			"protodown": func(h *node) { h.run("ip", "link", "set", vtep, "protodown", "on") },
			"protodown with a reason": func(h *node) {
				h.run("ip", "link", "set", vtep, "protodown", "on", "protodown_reason", "3", "on")
			},
			"ARP off":        func(h *node) { h.run("ip", "link", "set", vtep, "arp", "off") },
			"in a bridge":    func(h *node) { h.run("ip", "link", "set", vtep, "master", "docker0") },
			"forwarding off": func(h *node) { h.sysctl("net.ipv4.conf.flannel/1.forwarding", 0) },
		}},
		{udp, tunDevice, map[string]func(h *node){
			"carrier off": func(h *node) {
				h.run("ip", "link", "set", tunDevice, "carrier", "off")
				h.n.pause(1200 * time.Millisecond) // the kernel takes its time to drop packets then
			},
			"no queue":       func(h *node) { h.run("ip", "link", "set", tunDevice, "txqueuelen", "0") },
			"forwarding off": func(h *node) { h.sysctl("net.ipv4.conf.flannel0.forwarding", 0) },
		}},
	} {
		c.hurt["made anew, where new devices don't forward"] = func(h *node) {
			h.sysctl("net.ipv4.conf.default.forwarding", 0)
			h.run("ip", "link", "del", c.dev)
		}
		c.hurt["rp_filter strict"] = func(h *node) { // that is not in the way
			h.sysctl("net.ipv4.conf.all.rp_filter", 1)
			h.sysctl("net.ipv4.conf."+strings.ReplaceAll(c.dev, ".", "/")+".rp_filter", 1)
		}
		t.Run(c.v.name(), func(t *testing.T) {
			t.Parallel() // to the other variant
			n := newNetwork(t, 2, c.v, nil)
			h, peer := n.nodes[0], n.nodes[1]
			there := must(h.pod.StartPinger(peer.pod.Addr, pingPeriod))(t)
			back := must(peer.pod.StartPinger(h.pod.Addr, pingPeriod))(t)
			for what, hurt := range c.hurt {
				n.pause(50 * time.Millisecond)
				hurt(h)
				n.pause(slow(300 * time.Millisecond))
				for from, p := range map[*node]*lab.Pinger{h: there, peer: back} {
					report := p.Report()
					t.Logf("up to %s, pings from %s: %s", what, from.Name, report)
					if report.LongestGap > slow(time.Second) { // it takes milliseconds on a machine at rest
						t.Fatalf("%s, pings from %s: %s", what, from.Name, report)
					}
				}
				n.pingAll()
			}
			there.Stop()
			back.Stop()
			if log := h.daemon.Log(); strings.Contains(log, "file exists") {
				t.Errorf("something was made that was there: %s", log)
			}
		})
	}
}
