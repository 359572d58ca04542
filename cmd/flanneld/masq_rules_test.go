package main_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"flanneld/pkg/lab"
)

// newRules returns a lab of one host with a daemon that masquerades.
func newRules(t *testing.T, special settings) (*network, *node) {
	t.Helper()
	n := newConfigured(t, hostGW, special)
	h := n.addNode(lab.HostOptions{}, "-ip-masq")
	h.start()
	h.waitReady()
	return n, h
}

// waitRules waits until the host has just these rules.
func (h *node) waitRules(within time.Duration, rules string) time.Duration {
	h.n.t.Helper()
	return h.n.wait(within, "the right rules on "+h.Name, func() string {
		if now := h.packetRules(); !sameRules(now, rules) {
			return fmt.Sprintf("there is\n%s\nwant\n%s", now, rules)
		}
		return ""
	})
}

// Whatever happens to our rules, they are right again within a second; rules of
// others stay as they are.
func TestPacketRulesRepaired(t *testing.T) {
	_, h := newRules(t, nil)
	h.nft(`table inet theirs { chain forward { type filter hook forward priority 0; ip saddr 10.5.0.0/16 accept; }; }`)
	theirs := h.run("nft", "list", "table", "inet", "theirs")
	rules := h.packetRules()
	handle := func() string {
		t.Helper()
		for line := range strings.Lines(h.run("nft", "-a", "list", "chain", "ip", "flannel-ipv4", "postrtg")) {
			if before, after, ok := strings.Cut(line, "# handle "); ok && strings.Contains(before, "masquerade") {
				return strings.TrimSpace(after)
			}
		}
		t.Fatal("no rule masquerades")
		return ""
	}
	for _, script := range []string{
		"delete table ip flannel-ipv4",
		"flush table ip flannel-ipv4",
		"delete rule ip flannel-ipv4 postrtg handle " + "HANDLE",
		"replace rule ip flannel-ipv4 postrtg handle HANDLE ip saddr 10.5.0.0/16 masquerade",
		"insert rule ip flannel-ipv4 forward drop",
		"add table ip flannel-ipv4 { flags dormant; }",
	} {
		h.nft(strings.ReplaceAll(script, "HANDLE", handle()))
		took := h.waitRules(slow(time.Second), rules)
		t.Logf("%s: right after %s", script, took.Round(time.Millisecond))
	}
	h.nft("flush ruleset")
	h.waitRules(slow(time.Second), strings.Replace(rules, theirs, "", 1))
}

// Rules that are not asked for any more go, those of the other kind stay.
func TestPacketRulesByFlags(t *testing.T) {
	n := newConfigured(t, hostGW, nil)
	h := n.addNode(lab.HostOptions{})
	none := h.packetRules()
	for _, c := range []struct {
		args          []string
		masq, forward bool
		has           string
	}{
		{nil, false, true, ""},
		{[]string{"-ip-masq"}, true, true, "masquerade fully-random"},
		{[]string{"-ip-masq", "-ip-masq-fully-random-disable"}, true, true, "masquerade comment"},
		{nil, false, true, ""},
		{[]string{"-ip-masq", "-iptables-forward-rules=false"}, true, false, "masquerade fully-random"},
		{[]string{"-iptables-forward-rules=false"}, false, false, ""},
		{[]string{"-ip-masq", "-masq-mode=nftables"}, true, true, "-masq-mode says so"},
	} {
		if h.daemon != nil {
			h.daemon.Kill()
		}
		h.start(c.args...)
		h.waitReady()
		rules := h.packetRules()
		if got := strings.Contains(rules, "chain postrtg"); got != c.masq || strings.Contains(rules, "chain forward") != c.forward {
			t.Errorf("%q: the rules are\n%s", c.args, rules)
		}
		if !c.masq && !c.forward && rules != none {
			t.Errorf("%q: there is left\n%s", c.args, rules)
		}
		if !strings.Contains(rules+h.daemon.Log(), c.has) {
			t.Errorf("%q: there is no %q in\n%s", c.args, c.has, rules)
		}
		if got := h.daemon.Env()["FLANNEL_IPMASQ"]; got != fmt.Sprint(c.masq) {
			t.Errorf("%q: FLANNEL_IPMASQ is %s", c.args, got)
		}
	}
}

// Other subnet, other network, other destinations: the rules follow in the same
// moment as the rest.
func TestPacketRulesFollow(t *testing.T) {
	n, h := newRules(t, nil)
	before := h.packetRules()
	n.put("config", n.config(settings{"Network": "10.6.0.0/16", "MasqExclude": []string{"192.0.2.0/24"}}))
	own, key := h.subnet(), h.key()
	n.put(key, `{"PublicIP":"192.168.0.77","BackendType":"host-gw"}`) // someone else has our subnet now
	n.wait(soon, "another subnet", func() string {
		if h.subnet() == own {
			return "it is still " + own.String()
		}
		return ""
	})
	after := strings.NewReplacer(own.String(), h.subnet().String(), "10.5.0.0/16", "10.6.0.0/16").Replace(before)
	after = strings.Replace(after, "ip saddr 10.6.0.0/16 ip daddr !=", "ip saddr 10.6.0.0/16 ip daddr 192.0.2.0/24 return\nip saddr 10.6.0.0/16 ip daddr !=", 1)
	h.waitRules(soon, after)
}

// With alloc someone else carries the packets, and they are masqueraded and let
// through all the same.
func TestPacketRulesWithoutBackend(t *testing.T) {
	n := newConfigured(t, allocOnly, nil)
	h := n.addNode(lab.HostOptions{}, "-ip-masq")
	h.start()
	h.waitReady()
	if rules := h.packetRules(); !strings.Contains(rules, "masquerade") || !strings.Contains(rules, "accept") {
		t.Errorf("the rules are\n%s", rules)
	}
}

// The rules of two networks on one host do not get into each other's way.
func TestPacketRulesOfTwoNetworks(t *testing.T) {
	n, h := newRules(t, nil)
	one := h.packetRules()
	check(t, n.admin.put(n.ctx, "/other/config", n.config(settings{"Network": "10.6.0.0/16"}), 0))
	second := []string{"-ip-masq", "-etcd-prefix=/other", "-subnet-file=" + filepath.Join(h.Dir, "other.env"), "-state-dir="}
	other := must(h.StartFlanneld(daemonBinary, second...))(t)
	check(t, other.WaitReady(n.ctx))
	both := h.packetRules()
	if strings.Count(both, "masquerade fully-random") != 4 {
		t.Errorf("the rules of both are\n%s", both)
	}
	h.restart(func() {})
	h.nft("flush table ip flannel-ipv4")
	h.n.wait(soon, "the rules of both", func() string {
		if now := h.packetRules(); strings.Count(now, "masquerade fully-random") != 4 || strings.Count(now, "accept comment") != 4 {
			return "there is\n" + now
		}
		return ""
	})
	n.pause(500 * time.Millisecond)
	if lines := strings.Count(h.daemon.Log()+other.Log(), "packets\n") + strings.Count(other.Log(), "\n"); lines > 40 {
		t.Errorf("they logged %d lines about each other", lines)
	}
	must(other.Stop(soon))(t)
	if code, out := h.act(append([]string{"-cleanup"}, second[1:]...)...); code != 0 || !strings.Contains(out, "removed masquerading of 10.6.0.0/16 by nftables") {
		t.Errorf("status %d, %s", code, out)
	}
	h.waitRules(soon, one)
}

// Nothing of our rules is left, and all of those of others.
func TestPacketRulesCleanup(t *testing.T) {
	n := newConfigured(t, hostGW, nil)
	h := n.addNode(lab.HostOptions{}, "-ip-masq")
	h.nft(`table inet theirs { chain forward { type filter hook forward priority 0; ip saddr 10.5.0.0/16 accept; }; }`)
	before := h.packetRules()
	h.start()
	h.waitReady()
	must(h.daemon.Stop(soon))(t)
	if now := h.packetRules(); !strings.Contains(now, "masquerade") {
		t.Errorf("after its end there is\n%s", now)
	}
	code, out := h.act("-cleanup")
	for _, want := range []string{"removed masquerading of 10.5.0.0/16 by nftables", "removed forwarding for 10.5.0.0/16 by nftables"} {
		if code != 0 || !strings.Contains(out, want) {
			t.Errorf("status %d, %s; want %s", code, out, want)
		}
	}
	if now := h.packetRules(); now != before {
		t.Errorf("there was\n%s\nand is\n%s", before, now)
	}
}

// While nothing happens to our rules, no program is started, whatever happens to
// those of others.
func TestPacketRulesIdle(t *testing.T) {
	n := newConfigured(t, hostGW, nil)
	h := n.addNode(lab.HostOptions{}, "-ip-masq")
	record := filepath.Join(h.Dir, "started")
	bin := filepath.Join(h.Dir, "bin")
	check(t, os.Mkdir(bin, 0o700))
	for _, family := range []string{"iptables", "ip6tables"} {
		for _, variant := range []string{"", "-nft", "-legacy"} {
			for _, what := range []string{"", "-save", "-restore"} {
				name := family + variant + what
				path, err := exec.LookPath(name)
				if err != nil {
					continue
				}
				script := fmt.Sprintf("#!/bin/sh\necho %s \"$@\" >>%s\nexec %s \"$@\"\n", name, record, path)
				check(t, lab.WriteProgram(filepath.Join(bin, name), []byte(script), 0o700))
			}
		}
	}
	h.runs(h.StartFlanneldIn([]string{"PATH=" + bin + ":" + os.Getenv("PATH")}, daemonBinary, h.args...))
	h.waitReady()
	n.pause(time.Second)
	_ = os.Remove(record)
	for i := range 20 {
		h.nft(fmt.Sprintf("add table inet theirs%d; add chain inet theirs%d forward { type filter hook forward priority 0; }; add rule inet theirs%d forward accept", i, i, i))
		check(t, h.AddRoute(lab.Route{Dst: mustPrefix(fmt.Sprintf("10.77.%d.0/24", i)), Via: n.server.Addr, Dev: "eth0", Protocol: 4}))
		n.putPeer(stranger(fmt.Sprintf("10.5.%d.0/24", 200+i), "192.168.0.200"))
	}
	n.pause(2 * time.Second)
	if started, err := os.ReadFile(record); err == nil {
		t.Errorf("these were started:\n%s", started)
	}
	children, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", h.daemon.Pid(), h.daemon.Pid()))
	if err == nil && len(children) > 0 {
		t.Errorf("these run: %s", children)
	}
}

// Docker comes after the daemon, and lets nothing through that is not its own: then
// our rules stand in the same tables, behind its own.
func TestPacketRulesFollowDocker(t *testing.T) {
	t.Parallel()
	everyIPTables(t, func(t *testing.T, variant string) {
		t.Parallel()
		n, _ := newIPTables(t, variant)
		for _, h := range n.nodes {
			h.start()
		}
		n.readyWithPods()
		h, other := n.nodes[0], n.nodes[1]
		if !strings.Contains(h.packetRules(), "table ip flannel-ipv4") {
			t.Fatalf("the rules are\n%s", h.packetRules())
		}
		for _, args := range []string{"-N DOCKER", "-A FORWARD -o docker0 -j DOCKER", "-P FORWARD DROP"} {
			h.iptables(append([]string{"iptables"}, strings.Fields(args)...)...)
		}
		check(t, other.pod.WaitPing(n.ctx, h.pod.Addr))
		n.wait(soon, "the rules to be in one place", func() string {
			if rules := h.packetRules(); strings.Contains(rules, "table ip flannel-ipv4") {
				return "there is\n" + rules
			}
			return ""
		})
		const jump = "filter FORWARD -m comment --comment \"flanneld forward\" -j FLANNEL-FWD\n"
		if before, after, ok := strings.Cut(h.xtRules(), jump); !ok || strings.Contains(after, "filter FORWARD") {
			t.Errorf("the rules are\n%s%s%s", before, jump, after)
		}
		n.pingAll()

		// On the next start it is known from the outset.
		h.restart(func() {})
		h.waitLog("rules for packets are written by " + variant + ": others on this host use it: ")
		n.pingAll()
	})
}
