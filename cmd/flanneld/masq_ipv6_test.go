package main_test

import (
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"flanneld/pkg/ip"
	"flanneld/pkg/lab"
)

// newDualRules returns a lab of two hosts with addresses of both families that masquerade, on
// which prepare is called before they start, and a host outside.
func newDualRules(t *testing.T, v variant, config string, prepare func(*node), args ...string) (n *network, outside *lab.Host) {
	t.Helper()
	n = newDual(t, v, config, 0)
	outside = must(n.lab.AddHost("outside", n.sw, lab.HostOptions{NoDefaultRoute: true}))(t)
	for range 2 {
		h := n.addNode(lab.HostOptions{}, append(args, "-ip-masq")...)
		prepare(h)
		h.start()
	}
	n.readyWithPodsBy(n.nodes...)
	return n, outside
}

// wantMasqueraded checks that pods reach each other and the outside in some families: each other
// as themselves, the outside as their host.
func (n *network) wantMasqueraded(outside *lab.Host, families ...ip.Family) {
	n.t.Helper()
	for _, f := range families {
		awaitPing(n.nodes[0], n.nodes[1], f)
		pod, far := n.nodes[0].pod.In(f), n.nodes[1].pod.In(f)
		at := &lab.Host{Namespace: far.Namespace, Addr: far.Addr}
		n.wantSource("pod to pod", n.source(pod.Namespace, netip.Addr{}, at, at.Addr), pod.Addr)
		n.wantSource("pod to the outside", n.source(pod.Namespace, netip.Addr{}, outside, outside.Of(f)), n.nodes[0].Of(f))
	}
}

// Where others refuse all that no rule lets through, in either family, pods' packets pass, and
// are masqueraded, by rules in the same tables; with -cleanup ours go.
func TestMasqueradeOfFamilies(t *testing.T) {
	t.Parallel()
	everyIPTables(t, func(t *testing.T, variant string) {
		t.Parallel()
		names := map[ip.Family]string{ip.V4: variant, ip.V6: strings.Replace(variant, "iptables", "ip6tables", 1)}
		programs := map[ip.Family]string{ip.V4: "iptables", ip.V6: "ip6tables"}
		bridged := map[ip.Family]string{ip.V4: "net.bridge.bridge-nf-call-iptables", ip.V6: "net.bridge.bridge-nf-call-ip6tables"}
		n, outside := newDualRules(t, hostGW, dualConfig(hostGW), func(h *node) {
			h.setIPTables(variant)
			for _, p := range programs {
				h.iptables(p, "-P", "FORWARD", "DROP")
			}
		})
		n.wantMasqueraded(outside, ip.V4, ip.V6)
		h := n.nodes[0]
		if want := "rules for packets are written by " + variant + ": others on this host use it: the policy of chain FORWARD"; !strings.Contains(h.daemon.Log(), want) {
			t.Errorf("it does not say: %s", want)
		}

		t.Log("what goes from pod to pod over one bridge, which the same rules are asked about")
		near := h.pod
		h.addPod()
		for _, f := range ip.Families {
			h.sysctl(bridged[f], 1)
			_, err := near.Ping(n.ctx, h.pod.In(f).Addr, 5*time.Second)
			check(t, err)
			at := &lab.Host{Namespace: h.pod.Namespace, Addr: h.pod.In(f).Addr}
			n.wantSource("pod to pod of one host", n.source(near.Namespace, netip.Addr{}, at, at.Addr), near.In(f).Addr)
		}

		t.Log("what is taken away in IPv6 comes back, and IPv4 is left alone")
		rules := h.iptables("iptables-save")
		h.iptables("ip6tables", "-t", "nat", "-F")
		h.iptables("ip6tables", "-F", "FLANNEL-FWD")
		n.wait(slow(backWhileBusy), "the rules of IPv6", func() string {
			if text := h.iptables("ip6tables-save"); strings.Count(text, "--random-fully") != 2 || strings.Count(text, "-A FLANNEL-FWD") != 2 || !strings.Contains(text, "-A POSTROUTING -m comment") {
				return text
			}
			return ""
		})
		n.wantMasqueraded(outside, ip.V4, ip.V6)
		flat := func(text string) string { // without what counts packets, and tells the time
			return strings.Join(slices.DeleteFunc(strings.Split(text, "\n"), func(l string) bool { return !strings.HasPrefix(l, "-A") }), "\n")
		}
		if now := h.iptables("iptables-save"); flat(now) != flat(rules) {
			t.Errorf("the rules of IPv4 were\n%s\nand are\n%s", rules, now)
		}
		must(h.daemon.Stop(soon))(t)
		code, out := h.act("-cleanup")
		for f, network := range map[ip.Family]string{ip.V4: "10.5.0.0/16", ip.V6: "fc00:5::/48"} {
			if want := "removed masquerading of " + network; code != 0 || !strings.Contains(out, want) {
				t.Errorf("status %d, %s; want %s", code, out, want)
			}
			if left := flat(h.iptables(programs[f] + "-save")); left != "" {
				t.Errorf("%s is left with\n%s", names[f], left)
			}
		}
	})
}

// Each family has a table of its own; what flannel left for one is taken over. A program that
// is missing is missed by nobody who does not need it.
func TestNFTablesOfFamilies(t *testing.T) {
	t.Parallel()
	const old = `
add table ip flannel-ipv4 { comment "rules for flannel-ipv4"; }
add table ip6 flannel-ipv6 { comment "rules for flannel-ipv6"; }
add chain ip6 flannel-ipv6 forward { type filter hook forward priority filter; }
add chain ip6 flannel-ipv6 postrtg { type nat hook postrouting priority srcnat; }
add rule ip6 flannel-ipv6 forward ip6 saddr fc00:5::/48 accept
add rule ip6 flannel-ipv6 forward ip6 daddr fc00:5::/48 accept
add rule ip6 flannel-ipv6 postrtg meta mark 0x4000 return
add rule ip6 flannel-ipv6 postrtg ip6 saddr fc00:5:0:9::/64 ip6 daddr fc00:5::/48 return
add rule ip6 flannel-ipv6 postrtg ip6 saddr fc00:5::/48 ip6 daddr != ff00::/8 masquerade fully-random
`
	n, outside := newDualRules(t, vxlan, dualConfig(vxlan), func(h *node) {
		h.nft(old)
		h.env = []string{"PATH=" + h.Dir}
	})
	n.wantMasqueraded(outside, ip.V4, ip.V6)
	h := n.nodes[0]
	if rules := h.packetRules(); strings.Count(rules, "masquerade fully-random") != 4 || strings.Contains(rules, "fc00:5:0:9::/64") && h.daemon.Env()["FLANNEL_IPV6_SUBNET"] != "fc00:5:0:9::1/64" {
		t.Errorf("the rules are\n%s", rules)
	}
	if log := h.daemon.Log(); strings.Contains(log, "tables is not in PATH") || strings.Contains(log, "is not known") {
		t.Errorf("iptables is missed: %s", log)
	}
}

// In a network without IPv4 there are no rules of it.
func TestNFTablesOfIPv6Alone(t *testing.T) {
	t.Parallel()
	config := vxlan.config(settings{"EnableIPv4": false, "EnableIPv6": true, "IPv6Network": "fc00:5::/48"})
	n, outside := newDualRules(t, vxlan, config, func(h *node) { h.env = []string{"PATH=" + h.Dir} })
	n.wantMasqueraded(outside, ip.V6)
	h := n.nodes[0]
	if rules := h.packetRules(); strings.Count(rules, "masquerade fully-random") != 2 || strings.Contains(rules, "table ip ") {
		t.Errorf("the rules are\n%s", rules)
	}
	if log := h.daemon.Log(); !strings.Contains(log, "rules for packets are written by nftables: no one has rules of iptables on this host") {
		t.Errorf("it logs %s", log)
	}
}

// Without ip6tables, where that is asked for, the error names it, and IPv4 has its rules.
func TestMasqueradeWithoutIP6Tables(t *testing.T) {
	t.Parallel()
	n, outside := newDualRules(t, hostGW, dualConfig(hostGW), func(h *node) {
		h.setIPTables("iptables-nft")
		bin := filepath.Join(h.Dir, "bin")
		for _, suffix := range []string{"", "-save", "-restore"} {
			check(t, os.Remove(filepath.Join(bin, "ip6tables"+suffix)))
		}
		h.env[0] = "PATH=" + bin
	}, "-masq-mode=iptables")
	n.wantMasqueraded(outside, ip.V4)
	h := n.nodes[0]
	h.waitLog("PATH (" + filepath.Join(h.Dir, "bin") + ") has no ip6tables, ip6tables-save and ip6tables-restore of this variant")
	if rules := h.packetRules(); strings.Contains(rules, "fc00:5") || strings.Count(rules, "masquerade") < 2 {
		t.Errorf("the rules are\n%s", rules)
	}
	awaitPing(n.nodes[0], n.nodes[1], ip.V6) // which nobody refuses
}

// What keeps packets of IPv6 from their way is named, with a command that mends it.
func TestObstaclesOfIPv6(t *testing.T) {
	t.Parallel()
	n, _ := newDualRules(t, vxlan, dualConfig(vxlan), func(*node) {})
	h := n.nodes[0]
	network := "fc00:5::/48"
	own := netip.MustParsePrefix(h.daemon.Env()["FLANNEL_IPV6_SUBNET"]).Masked().String()
	forwarding := func(value int) func() {
		return func() { h.sysctl("net.ipv6.conf.all.forwarding", value) }
	}
	h.obstructed(forwarding(0), forwarding(1), own, "net.ipv6.conf.all.forwarding is 0", "sysctl -w net.ipv6.conf.all.forwarding=1")
	for _, c := range []struct {
		chain string
		names []string
	}{
		{"input { type filter hook input priority 0; policy drop; }", []string{"UDP port 8472", "IPv6 on eth0", "meta l4proto ipv6-icmp accept"}},
		{"forward { type filter hook forward priority 0; policy drop; }", []string{network, "table ip6 theirs of nftables drops packets between pods", "ip6 saddr " + network}},
	} {
		h.obstructed(func() { h.nft("add table ip6 theirs; add chain ip6 theirs " + c.chain) },
			func() { h.nft("delete table ip6 theirs") }, c.names...)
	}
}
