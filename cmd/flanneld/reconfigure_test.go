package main_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"flanneld/pkg/lab"
)

// waitEnv waits until subnet.env says that.
func (h *node) waitEnv(line string) {
	h.n.t.Helper()
	h.n.wait(soon, line, func() string {
		if text := h.daemon.EnvText(); !strings.Contains(text, line+"\n") {
			return fmt.Sprintf("subnet.env is %q", text)
		}
		return ""
	})
}

// waitStatus waits until the status says that, or no longer does.
func (h *node) waitStatus(text string, says bool) {
	h.n.t.Helper()
	h.n.wait(soon, "the status", func() string {
		if s := h.daemon.Status(); strings.Contains(s, text) != says {
			return "status is " + s
		}
		return ""
	})
}

// The network grows, and is then divided into smaller subnets, while hosts run: those
// that join later reach them, and no packet of theirs is lost.
func TestNetworkGrows(t *testing.T) { inParallel(t, everyVariant, testNetworkGrows) }

func testNetworkGrows(t *testing.T, v variant) {
	n := newConfigured(t, v, settings{"Network": "10.5.0.0/20", "SubnetLen": 23})
	for range 2 {
		n.addNode(lab.HostOptions{}, "-ip-masq").start()
	}
	n.readyWithPods()
	witness := n.witnessAll
	if v.backend.itself { // the tunnel is opened anew
		witness = func(f func()) { f() }
	}
	h := n.nodes[0]
	join := func() *node {
		t.Helper()
		late := n.addNode(lab.HostOptions{}, "-ip-masq")
		late.start()
		late.waitReady()
		late.addPod()
		return late
	}
	witness(func() {
		n.put("config", n.config(settings{"Network": "10.5.0.0/16", "SubnetLen": 23, "SubnetMin": "10.5.200.0"}))
		for _, h := range n.nodes {
			h.waitEnv("FLANNEL_NETWORK=10.5.0.0/16")
		}
		n.wait(soon, "rules for the new Network alone", func() string {
			if rules := h.packetRules(); !strings.Contains(rules, "10.5.0.0/16") || strings.Contains(rules, "10.5.0.0/20") {
				return rules
			}
			return ""
		})
	})
	far := join()
	if !strings.HasPrefix(far.subnet().String(), "10.5.2") {
		t.Errorf("the host that joined has %s", far.subnet())
	}
	for _, h := range n.nodes {
		h.waitPeers(soon, h.others()...)
	}
	n.pingAll()
	witness(func() {
		n.put("config", n.config(settings{"Network": "10.5.0.0/16", "SubnetLen": 26}))
		h.waitLog(`SubnetLen\":26`)
		h.waitPeers(0, h.others()...)
	})
	small := join()
	if small.subnet().Bits() != 26 {
		t.Errorf("the host that joined last has %s", small.subnet())
	}
	for _, h := range n.nodes {
		h.waitPeers(soon, h.others()...)
	}
	n.pingAll()
	before := h.subnet()
	h.daemon.Kill()
	h.start()
	h.waitReady()
	if h.subnet() != before {
		t.Errorf("the host had %s and has %s after a restart", before, h.subnet())
	}
	h.waitPeers(soon, h.others()...)
	n.pingAll()
}

// The network shrinks and is shifted around hosts that run. What is outside is given up.
func TestNetworkShrinks(t *testing.T) { inParallel(t, everyVariant, testNetworkShrinks) }

func testNetworkShrinks(t *testing.T, v variant) {
	n := newNetwork(t, 2, v, settings{"Network": "10.4.0.0/15", "SubnetMin": "10.5.1.0", "SubnetMax": "10.5.9.0"})
	h, other := n.nodes[0], n.nodes[1]
	outside, inside := stranger("10.4.7.0/24", "192.168.0.200"), stranger("10.5.77.0/24", "192.168.0.201")
	pings := n.pingAll
	if v.backend.itself { // a tunnel of the daemon for another network is another one
		pings = n.waitPings
	}
	n.putPeer(outside)
	n.putPeer(inside)
	h.waitPeers(soon, other.peer(), outside, inside)
	n.put("config", n.config(settings{"Network": "10.5.0.0/16"}))
	h.waitEnv("FLANNEL_NETWORK=10.5.0.0/16")
	h.waitPeers(soon, other.peer(), inside)
	h.waitLog("10.4.7.0/24 lies outside Network 10.5.0.0/16")
	pings()
	n.put("config", n.config(settings{"Network": "10.0.0.0/8"}))
	h.waitEnv("FLANNEL_NETWORK=10.0.0.0/8")
	h.waitPeers(soon, other.peer(), outside, inside)
	pings()
}

// A configuration that cannot be followed is named, and the former one stays in force.
func TestConfigNotFollowed(t *testing.T) { inParallel(t, everyVariant, testConfigNotFollowed) }

func testConfigNotFollowed(t *testing.T, v variant) {
	n := newNetwork(t, 2, v, nil)
	h := n.nodes[0]
	before := h.daemon.EnvText()
	for _, c := range []struct{ config, want string }{
		{n.config(settings{"Backend": json.RawMessage(`{"Type":"alloc"}`)}), `Backend.Type "alloc" in the place of "` + v.backend.name + `" takes a restart of the daemon`},
		{n.config(settings{"Network": "10.99.0.0/16"}), "Network 10.99.0.0/16 does not hold this host's subnet " + h.subnet().String() + "; a restart"},
		{n.config(settings{"Network": "10.5.0.0"}), `Network "10.5.0.0" is not an IPv4 network in CIDR notation`},
		{"{", `network configuration "{" not valid JSON`},
		{n.config(settings{"EnableIPv6": true}), "IPv6Network is missing"},
		{"", "the network configuration was changed, and the former one stays in force: network configuration was deleted"},
	} {
		if c.config == "" {
			n.delete("config")
		} else {
			n.put("config", c.config)
		}
		h.waitLog(c.want)
		h.waitStatus(", not followed: network configuration", true)
		h.waitPeers(0, h.others()...)
	}
	n.pingAll()
	n.put("config", n.config(nil))
	h.waitStatus(", not followed", false)
	if after := h.daemon.EnvText(); after != before {
		t.Errorf("subnet.env is %q, and was %q", after, before)
	}
	// A restart takes what is there.
	n.put("config", n.config(settings{"Network": "10.99.0.0/16"}))
	h.waitStatus("; a restart of the daemon takes another subnet", true)
	_, err := h.daemon.Stop(soon)
	check(t, err)
	h.start()
	h.waitReady()
	h.waitEnv("FLANNEL_NETWORK=10.99.0.0/16")
}

// What a backend can be changed in, is changed in place.
func TestBackendReconfigured(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		variant
		section string
	}{
		{vxlan, `{"Type":"vxlan","VNI":7,"Port":4789}`},
		{vxlan, `{"Type":"vxlan","Port":4789}`},
		{vxlan, `{"Type":"vxlan","MTU":1300}`},
		{vxlan, `{"Type":"vxlan","DirectRouting":true}`},
		{udp, `{"Type":"udp","Port":8999}`},
	} {
		t.Run(c.section, func(t *testing.T) {
			t.Parallel()
			n := newNetwork(t, 2, c.variant, nil)
			n.put("config", n.config(settings{"Backend": json.RawMessage(c.section)}))
			for _, h := range n.nodes {
				h.waitLog("the network configuration was changed, and is in force now")
			}
			h := n.nodes[0]
			n.wait(soon, "what the configuration says", func() string {
				links := h.run("ip", "-d", "link")
				switch {
				case strings.Contains(c.section, "VNI"):
					if strings.Contains(links, "flannel.1:") || !strings.Contains(links, "vxlan id 7 ") || !strings.Contains(links, "dstport 4789") {
						return links
					}
				case strings.Contains(c.section, "4789"):
					if !strings.Contains(links, "vxlan id 1 ") || !strings.Contains(links, "dstport 4789") {
						return links
					}
				case strings.Contains(c.section, "MTU"):
					if text := h.daemon.EnvText(); !strings.Contains(text, "FLANNEL_MTU=1250\n") {
						return text
					}
				case strings.Contains(c.section, "Direct"):
					if routes := h.routes(); len(routes) != 1 || routes[0] != n.nodes[1].peer().route() {
						return fmt.Sprintf("routes are %q", routes)
					}
				}
				return ""
			})
			n.wait(soon, "pods to reach each other", func() string {
				for i, h := range n.nodes {
					if _, err := h.pod.Ping(n.ctx, n.nodes[1-i].pod.Addr, time.Second); err != nil {
						return err.Error()
					}
				}
				return ""
			})
		})
	}
}

// What is not masqueraded follows the configuration.
func TestMasqExcludeReconfigured(t *testing.T) {
	t.Parallel()
	n := newConfigured(t, hostGW, nil)
	h := n.addNode(lab.HostOptions{}, "-ip-masq")
	h.start()
	h.waitReady()
	for _, exclude := range []string{"192.0.2.0/24", "198.51.100.0/24"} {
		n.put("config", n.config(settings{"MasqExclude": []string{exclude}}))
		n.wait(soon, exclude, func() string {
			if rules := h.packetRules(); !strings.Contains(rules, exclude) {
				return rules
			}
			return ""
		})
	}
	if rules := h.packetRules(); strings.Contains(rules, "192.0.2.0/24") {
		t.Errorf("what was excluded before still is:\n%s", rules)
	}
}

// Another route table is kept from then on, beside the one before or in its place. The
// route in that one stays.
func TestAWSReconfigured(t *testing.T) {
	t.Parallel()
	c := newCloud(t, etcdV3)
	c.configure([]string{c.main.ID})
	c.addInstance(c.first).start()
	c.nodes[0].waitReady()
	c.waitRoutes(time.Minute, c.main, c.nodes)
	c.configure(c.both())
	c.waitRoutes(time.Minute, c.other, c.nodes)
	c.waitRoutes(time.Minute, c.main, c.nodes)
	c.configure([]string{c.other.ID})
	c.nodes[0].waitLog(`RouteTableID\":[\"` + c.other.ID)
	c.waitRoutes(time.Minute, c.other, c.nodes)
	c.pause(3 * time.Second)
	c.waitRoutes(0, c.main, c.nodes)
}
