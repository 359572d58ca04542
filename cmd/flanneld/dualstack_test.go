package main_test

import (
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"flanneld/pkg/ip"
	"flanneld/pkg/lab"
)

// dualConfig has both families.
func dualConfig(v variant) string {
	return v.config(settings{"EnableIPv6": true, "IPv6Network": "fc00:5::/48"})
}

// newDualLab returns a lab whose hosts have an address in each family.
func newDualLab(t *testing.T, v variant) *network {
	t.Helper()
	n := newEmptyLab(t, v)
	var err error
	n.sw, err = n.lab.AddSwitch("switch", mustPrefix("192.168.0.0/24"), mustPrefix("fd00:168::/64"))
	check(t, err)
	n.server, err = n.lab.AddHost("server", n.sw, lab.HostOptions{})
	check(t, err)
	return n
}

// newDual returns such a lab, with etcd and a configuration in it, and so many hosts.
func newDual(t *testing.T, v variant, config string, hosts int) *network {
	t.Helper()
	n := newDualLab(t, v)
	n.startEtcd(lab.EtcdOptions{})
	n.put("config", config)
	for range hosts {
		n.addNode(lab.HostOptions{}).start()
	}
	return n
}

// awaitPing waits until a pod on one host reaches one on another.
func awaitPing(from, to *node, f ip.Family) {
	from.n.t.Helper()
	from.n.wait(soon, f.String()+" between pods", func() string {
		if _, err := from.pod.Ping(from.n.ctx, to.pod.In(f).Addr, time.Second); err != nil {
			return err.Error()
		}
		return ""
	})
}

// IPv6 is turned on in a network of IPv4 that runs, and off again: no packet of IPv4 is lost, and
// nothing that carries them is touched.
func TestIPv6IsTurnedOnAndOff(t *testing.T) {
	for _, v := range []variant{vxlan, hostGW} {
		t.Run(v.name(), func(t *testing.T) {
			n := newDual(t, v, v.config(nil), 2)
			n.readyWithPods()
			h, other := n.nodes[0], n.nodes[1]
			var before [2][]string
			for i, node := range n.nodes {
				before[i] = v.backend.present(node)
			}
			n.witnessAll(func() {
				n.put("config", dualConfig(v))
				for _, node := range n.nodes {
					n.wait(soon, "an IPv6 subnet on "+node.Name, func() string {
						if node.daemon.Env()["FLANNEL_IPV6_SUBNET"] == "" {
							return node.daemon.EnvText()
						}
						return ""
					})
				}
			})
			was, wasOther := h.pod, other.pod
			for _, node := range n.nodes {
				node.addPod()
			}
			awaitPing(h, other, ip.V6)
			h.pod, other.pod = was, wasOther
			n.witnessAll(func() {
				n.put("config", v.config(nil))
				for i, node := range n.nodes {
					n.wait(soon, "IPv4 alone on "+node.Name, func() string {
						if now := v.backend.present(node); node.daemon.Env()["FLANNEL_IPV6_SUBNET"] != "" || !slices.Equal(now, before[i]) {
							return fmt.Sprintf("%q, %q", node.daemon.EnvText(), now)
						}
						return ""
					})
				}
			})
			for _, node := range n.nodes {
				for line := range strings.Lines(node.daemon.Log()) {
					if touched := regexp.MustCompile(`(route|address|neighbour|device|nexthop|forwarding for) (10\.|flannel\.)[^;]*(; [^;]*)*: (deleted|changed|restored)`); touched.MatchString(line) {
						t.Errorf("%s: IPv4 was touched: %s", node.Name, line)
					}
				}
			}
		})
	}
}

// A host without an IPv6 address does not follow a configuration with IPv6, says what it lacks,
// and goes on with IPv4; it follows as soon as it has one, and then to another.
func TestIPv6AddressComesAndChanges(t *testing.T) {
	t.Parallel()
	n := newDual(t, vxlan, vxlan.config(nil), 2)
	n.readyWithPods()
	h, other := n.nodes[0], n.nodes[1]
	check(t, h.FlushAddrs("eth0", ip.V6))
	h.waitSaved(strings.ReplaceAll(other.subnet().String(), "/", "-"))
	n.witnessAll(func() {
		n.put("config", dualConfig(vxlan))
		h.waitLog("the former one stays in force: the external interface of IPv6: the default route's interface eth0: interface eth0 has no IPv6 address yet, but for the link alone; give it one, or have a router or DHCPv6 do so (")
		n.wait(soon, "the status to say so", func() string {
			if s := h.daemon.Status(); !strings.Contains(s, "interface eth0 has no IPv6 address yet") {
				return s
			}
			return ""
		})
		t.Log("started again")
		h.daemon.Kill()
		h.start()
		h.waitReady()
		h.waitLog("the former one stays in force: the external interface of IPv6: ")
		check(t, h.AddAddr("eth0", mustPrefix("fd00:168::77/64")))
		h.waitLog("using interface eth0 with address fd00:168::77 and MTU 1500 for IPv6")
		for _, node := range n.nodes {
			n.wait(soon, "an IPv6 subnet on "+node.Name, func() string {
				if node.daemon.Env()["FLANNEL_IPV6_SUBNET"] == "" {
					return node.daemon.EnvText()
				}
				return ""
			})
		}
		was, wasOther := h.pod, other.pod
		h.addPod()
		other.addPod()
		awaitPing(h, other, ip.V6)
		check(t, h.DelAddr("eth0", mustPrefix("fd00:168::77/64")))
		check(t, h.AddAddr("eth0", mustPrefix("fd00:168::78/64")))
		h.waitLog("the external interface of IPv6 is eth0 now, with address fd00:168::78 and MTU 1500")
		awaitPing(other, h, ip.V6)
		h.pod, other.pod = was, wasOther
	})
	for _, node := range n.nodes {
		if log := node.daemon.Log(); strings.Contains(log, "the external interface is") {
			t.Errorf("%s: IPv4's interface is another one", node.Name)
		}
	}
}

// The default routes of the two families are on different interfaces: each leaves by its own.
func TestFamiliesByDifferentInterfaces(t *testing.T) {
	t.Parallel()
	for _, v := range []variant{vxlan, hostGW} {
		t.Run(v.name(), func(t *testing.T) {
			t.Parallel()
			n := newConfigured(t, v, settings{"EnableIPv6": true, "IPv6Network": "fc00:5::/48"})
			other, err := n.lab.AddSwitch("other", mustPrefix("fd00:169::/64"))
			check(t, err)
			for i := range 2 {
				h := n.addNode(lab.HostOptions{})
				check(t, h.AddNIC("eth1", other, netip.MustParseAddr(fmt.Sprintf("fd00:169::%d", i+2))))
				check(t, h.AddRoute(lab.Route{Dst: mustPrefix("::/0"), Via: netip.MustParseAddr("fd00:169::1"), Dev: "eth1"}))
				h.start()
			}
			for _, h := range n.nodes {
				h.waitReady()
				h.waitLog("IPv4 packets leave by eth0, and IPv6 packets by eth1; -iface and -iface-ipv6 can name other interfaces")
				h.addPod()
			}
			for _, f := range ip.Families {
				awaitPing(n.nodes[0], n.nodes[1], f)
			}
			if s := n.nodes[0].daemon.Status(); !strings.Contains(s, " on eth0 and eth1 (192.168.0.3,fd00:169::2)") {
				t.Errorf("the status is %s", s)
			}
		})
	}
}

// A host with both families starts without the store, gives its lease back, and leaves nothing.
func TestDualStackIsSavedReleasedAndCleanedUp(t *testing.T) {
	t.Parallel()
	n := newDual(t, vxlan, dualConfig(vxlan), 0)
	h := n.addNode(lab.HostOptions{})
	all := func() []string {
		there := append(h.inventory(), must(h.Routes(ip.V6))(t)...)
		return slices.DeleteFunc(there, func(text string) bool { return strings.Contains(text, "veth") }) // of the pod
	}
	before := all()
	h.start()
	n.addNode(lab.HostOptions{}).start()
	other := n.nodes[1]
	for _, node := range n.nodes {
		node.waitReady()
		node.addPod()
	}
	for _, f := range ip.Families {
		awaitPing(h, other, f)
	}
	env := h.daemon.EnvText()
	h.waitSaved(strings.ReplaceAll(netip.MustParsePrefix(other.daemon.Env()["FLANNEL_IPV6_SUBNET"]).Masked().String(), "/", "-"))
	must(h.daemon.Stop(soon))(t)

	t.Log("a start without the store")
	n.etcd.Kill()
	h.start()
	h.waitReady()
	if now := h.daemon.EnvText(); now != env {
		t.Errorf("subnet.env was\n%s and is\n%s", env, now)
	}
	for _, f := range ip.Families {
		awaitPing(h, other, f)
	}
	check(t, n.etcd.Start(n.ctx))
	h.waitLog("etcd reachable again")
	must(h.daemon.Stop(soon))(t)

	addrs := h.Of(ip.V4).String() + "," + h.Of(ip.V6).String()
	if code, out := h.act("-release"); code != 0 || !strings.Contains(out, "the lease of this host ("+addrs+")\n") {
		t.Errorf("status %d, %s", code, out)
	}
	if code, out := h.act("-cleanup"); code != 0 || !strings.Contains(out, "removed device flannel.1 ") || !strings.Contains(out, "removed device flannel-v6.1 ") {
		t.Errorf("status %d, %s", code, out)
	}
	check(t, h.DelLink("docker0"))
	if now := all(); !slices.Equal(now, before) {
		t.Errorf("the host had\n%s\nand has\n%s", strings.Join(before, "\n"), strings.Join(now, "\n"))
	}
}

// Nodes with a podCIDR of each family: pods reach each other in both, a Node says both addresses,
// and what people ask for in IPv6 counts as it does in IPv4.
func TestKubernetesDualStack(t *testing.T) {
	t.Parallel()
	n := newDualLab(t, kubeVXLAN)
	n.startKube(settings{"EnableIPv6": true, "IPv6Network": "fc00:5::/48"})
	for i := range 2 {
		h := n.addKubeNode()
		h.createNode(h.podCIDR(), fmt.Sprintf("fc00:5:0:%d::/64", i+1))
		h.start()
	}
	h, other := n.nodes[0], n.nodes[1]
	for _, node := range n.nodes {
		node.waitReady()
		node.addPod()
	}
	for _, f := range ip.Families {
		awaitPing(h, other, f)
	}
	h.waitAnnotations(soon, map[string]any{publicIPv6: h.Of(ip.V6).String()})
	if c := h.condition(); c == nil || c.Status != "False" {
		t.Errorf("the condition is %v", c)
	}

	h.annotate(map[string]any{annotations + "node-public-ipv6": "fd00:168::77"})
	h.waitLog("by its annotation node-public-ipv6, for the address fd00:168::77, which no interface of this host has")
	check(t, h.AddAddr("eth0", mustPrefix("fd00:168::77/64")))
	h.waitAnnotations(soon, map[string]any{publicIPv6: "fd00:168::77"})
	h.waitLog("the external interface of IPv6 is eth0 now, with address fd00:168::77 and MTU 1500")
	awaitPing(other, h, ip.V6)

	h.annotate(map[string]any{annotations + "public-ipv6-overwrite": "2001:db8::9"})
	h.waitAnnotations(soon, map[string]any{publicIPv6: "2001:db8::9"})
	h.annotate(map[string]any{annotations + "public-ipv6-overwrite": nil, annotations + "node-public-ipv6": nil})
	h.waitAnnotations(soon, map[string]any{publicIPv6: "fd00:168::77"}) // of equals, the one in use stays
	awaitPing(other, h, ip.V6)
	awaitPing(other, h, ip.V4)
}

// A backend that carries IPv4 alone says so, and goes on with that.
func TestIPv6WithABackendOfIPv4(t *testing.T) {
	t.Parallel()
	n := newConfigured(t, udp, nil)
	h := n.addNode(lab.HostOptions{})
	h.start()
	h.waitReady()
	n.put("config", dualConfig(udp))
	h.waitLog("the former one stays in force: network configuration: EnableIPv6 true asks the backend udp for what it cannot do: it carries IPv4 alone; Backend.Type can be one of alloc, aws-vpc, host-gw, vxlan")
}
