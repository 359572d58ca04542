package main_test

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"flanneld/pkg/lab"
)

// everyIPTables runs a test with each variant of iptables.
func everyIPTables(t *testing.T, f func(*testing.T, string)) {
	for _, variant := range []string{"iptables-legacy", "iptables-nft"} {
		t.Run(variant, func(t *testing.T) { f(t, variant) })
	}
}

// setIPTables gives a host an iptables of a variant, and a lock file of its own.
func (h *node) setIPTables(variant string) {
	h.n.t.Helper()
	bin := filepath.Join(h.Dir, "bin")
	check(h.n.t, os.Mkdir(bin, 0o755))
	for _, program := range []string{"iptables", "ip6tables"} {
		for _, suffix := range []string{"", "-save", "-restore"} {
			path := must(exec.LookPath(strings.Replace(variant, "iptables", program, 1) + suffix))(h.n.t)
			check(h.n.t, os.Symlink(path, filepath.Join(bin, program+suffix)))
		}
	}
	h.env = []string{"PATH=" + bin + ":" + os.Getenv("PATH"), "XTABLES_LOCKFILE=" + filepath.Join(h.Dir, "xtables.lock")}
}

// iptables runs the host's iptables.
func (h *node) iptables(args ...string) string {
	h.n.t.Helper()
	return h.run(slices.Concat([]string{"env"}, h.env, args)...)
}

// restore has iptables-restore do as a script says, in which SUBNET stands for that
// of the host. What it does not name stays if it is to be added.
func (h *node) restore(script string, add bool) {
	h.n.t.Helper()
	file := filepath.Join(h.Dir, "script.iptables")
	check(h.n.t, os.WriteFile(file, []byte(strings.ReplaceAll(script, "SUBNET", h.subnet().String())), 0o600))
	args := []string{"iptables-restore", "--wait=20"}
	if add {
		args = append(args, "--noflush")
	}
	h.iptables(append(args, file)...)
}

// xtRules are the rules of the host's iptables, chain by chain.
func (h *node) xtRules() string {
	h.n.t.Helper()
	var rules []string
	table := ""
	for line := range strings.Lines(h.iptables("iptables-save")) {
		if name, ok := strings.CutPrefix(line, "*"); ok {
			table = strings.TrimSpace(name)
		} else if rule, ok := strings.CutPrefix(line, "-A "); ok {
			rules = append(rules, table+" "+rule)
		}
	}
	chain := func(rule string) string { return strings.Join(strings.Fields(rule)[:2], " ") }
	slices.SortStableFunc(rules, func(a, b string) int { return strings.Compare(chain(a), chain(b)) })
	return strings.Join(rules, "")
}

// waitXTRules waits until the host has just these rules.
func (h *node) waitXTRules(within time.Duration, rules string) time.Duration {
	h.n.t.Helper()
	return h.n.wait(within, "the right rules on "+h.Name, func() string {
		if now := h.xtRules(); now != rules {
			return fmt.Sprintf("there is\n%s\nwant\n%s", now, rules)
		}
		return ""
	})
}

// newIPTables returns a lab of two hosts that masquerade by iptables, with a pod
// each, and a host outside.
func newIPTables(t *testing.T, variant string, args ...string) (n *network, outside *lab.Host) {
	t.Helper()
	n = newConfigured(t, hostGW, nil)
	outside = must(n.lab.AddHost("outside", n.sw, lab.HostOptions{NoDefaultRoute: true}))(t)
	for range 2 {
		h := n.addNode(lab.HostOptions{}, append(args, "-ip-masq")...)
		h.setIPTables(variant)
	}
	return n, outside
}

// transfers are TCP connections from a pod to a host, one after the other.
type transfers struct {
	stop func() (count int, err error)
}

func (n *network) startTransfers(from *lab.Pod, to *lab.Host) transfers {
	ctx, cancel := context.WithCancel(n.ctx)
	var ended sync.WaitGroup
	var count int
	var err error
	ended.Go(func() {
		target := &lab.Pod{Namespace: to.Namespace, Host: to, Addr: to.Addr}
		for ctx.Err() == nil && err == nil {
			// One that has begun is ended.
			if _, err = from.Transfer(n.ctx, target, 1<<18); err == nil {
				count++
			}
		}
	})
	return transfers{func() (int, error) {
		cancel()
		ended.Wait()
		return count, err
	}}
}

// What flannel 0.17 leaves on a host, and what 0.28 does.
const (
	rulesOf17 = `*nat
-A POSTROUTING -s 10.5.0.0/16 -d 10.5.0.0/16 -m comment --comment "flanneld masq" -j RETURN
-A POSTROUTING -s 10.5.0.0/16 ! -d 224.0.0.0/4 -m comment --comment "flanneld masq" -j MASQUERADE --random-fully
-A POSTROUTING ! -s 10.5.0.0/16 -d SUBNET -m comment --comment "flanneld masq" -j RETURN
-A POSTROUTING ! -s 10.5.0.0/16 -d 10.5.0.0/16 -m comment --comment "flanneld masq" -j MASQUERADE --random-fully
COMMIT
*filter
-A FORWARD -s 10.5.0.0/16 -m comment --comment "flanneld forward" -j ACCEPT
-A FORWARD -d 10.5.0.0/16 -m comment --comment "flanneld forward" -j ACCEPT
COMMIT
`
	rulesOf28 = `*nat
:FLANNEL-POSTRTG -
-A POSTROUTING -m comment --comment "flanneld masq" -j FLANNEL-POSTRTG
-A FLANNEL-POSTRTG -m mark --mark 0x4000/0x4000 -m comment --comment "flanneld masq" -j RETURN
-A FLANNEL-POSTRTG -s SUBNET -d 10.5.0.0/16 -m comment --comment "flanneld masq" -j RETURN
-A FLANNEL-POSTRTG -s 10.5.0.0/16 -d SUBNET -m comment --comment "flanneld masq" -j RETURN
-A FLANNEL-POSTRTG ! -s 10.5.0.0/16 -d SUBNET -m comment --comment "flanneld masq" -j RETURN
-A FLANNEL-POSTRTG -s 10.5.0.0/16 ! -d 224.0.0.0/4 -m comment --comment "flanneld masq" -j MASQUERADE --random-fully
-A FLANNEL-POSTRTG ! -s 10.5.0.0/16 -d 10.5.0.0/16 -m comment --comment "flanneld masq" -j MASQUERADE --random-fully
COMMIT
*filter
:FLANNEL-FWD -
-A FORWARD -m comment --comment "flanneld forward" -j FLANNEL-FWD
-A FLANNEL-FWD -s 10.5.0.0/16 -m comment --comment "flanneld forward" -j ACCEPT
-A FLANNEL-FWD -d 10.5.0.0/16 -m comment --comment "flanneld forward" -j ACCEPT
COMMIT
`
)

// Masqueraded traffic, old and new, goes on while the daemon is started again, dies,
// takes over from flannels, and changes from iptables to nftables and back.
func TestIPTablesSurvives(t *testing.T) {
	everyIPTables(t, func(t *testing.T, variant string) {
		n, outside := newIPTables(t, variant, "-masq-mode=iptables")
		for _, h := range n.nodes {
			h.start()
		}
		n.readyWithPods()
		h := n.nodes[0]
		rules := h.xtRules()
		if strings.Count(rules, "-j MASQUERADE --random-fully\n") != 2 || strings.Count(rules, "-j ACCEPT\n") != 2 {
			t.Errorf("it is ready with these rules:\n%s", rules)
		}
		c := n.converse(t, h.pod, outside)
		if c.from != h.Addr.String() {
			t.Errorf("the connection comes from %s", c.from)
		}
		pings := must(h.pod.StartPinger(outside.Addr, pingPeriod))(t)
		all := n.startTransfers(h.pod, outside)
		right := func(what string) {
			t.Helper()
			c.goesOn(n)
			took := h.waitXTRules(soon, rules)
			t.Logf("%s: right after %s", what, took.Round(time.Millisecond))
		}
		n.witnessAll(func() {
			must(h.daemon.Stop(soon))(t)
			right("stopped")
			h.start()
			h.waitReady()
			right("started")
			h.restart(func() { c.goesOn(n) })
			right("killed and started")
			for _, script := range []string{rulesOf17, rulesOf28} {
				h.restart(func() {
					h.restore(script, false)
					c.goesOn(n)
				})
				right("upgraded")
			}
			h.daemon.Kill()
			h.start("-masq-mode=nftables")
			h.waitReady()
			if left := h.xtRules(); left != "" {
				t.Errorf("by nftables, and there is\n%s", left)
			}
			if now := h.packetRules(); !strings.Contains(now, "masquerade fully-random") {
				t.Errorf("by nftables there is\n%s", now)
			}
			c.goesOn(n)
			h.restart(func() {})
			right("back")
			if now := h.packetRules(); strings.Contains(now, "flannel-ipv4") {
				t.Errorf("by iptables, and there is\n%s", now)
			}
		})
		if report := pings.Stop(); report.Lost > 0 {
			t.Errorf("pings to the outside: %s", report)
		}
		count, err := all.stop()
		if err != nil || count < 10 {
			t.Errorf("after %d transfers: %v", count, err)
		}
		t.Logf("%d transfers", count)
	})
}

// firewall is what firewalld and docker leave, one way or another: whatever is not
// let through before is not let through.
const firewall = `*filter
:INPUT ACCEPT
:FORWARD DROP
:OUTPUT ACCEPT
:THEIRS -
-A FORWARD -j THEIRS
-A FORWARD -j REJECT
COMMIT
*nat
:POSTROUTING ACCEPT
-A POSTROUTING -s 172.17.0.0/16 -j MASQUERADE
COMMIT
`

// Where others have rules of iptables, ours are there as well, and before those that
// refuse all; whatever becomes of them, they are right again soon after that.
func TestIPTablesRepaired(t *testing.T) {
	t.Parallel()
	everyIPTables(t, func(t *testing.T, variant string) {
		t.Parallel()
		n, outside := newIPTables(t, variant)
		for _, h := range n.nodes {
			file := filepath.Join(h.Dir, "firewall")
			check(t, os.WriteFile(file, []byte(firewall), 0o600))
			h.iptables("iptables-restore", file)
			h.start()
		}
		n.readyWithPods()
		n.pingAll()
		h := n.nodes[0]
		if !strings.Contains(h.daemon.Log(), "rules for packets are written by "+variant) {
			t.Errorf("%s chose something else", h.Name)
		}
		rules := h.xtRules()
		for name, spoil := range map[string]func(){
			"firewall reloaded": func() { h.restore(firewall, false) },
			"chain flushed":     func() { h.iptables("iptables", "-t", "nat", "-F", "FLANNEL-POSTRTG") },
			"jump deleted":      func() { h.iptables("iptables", "-D", "FORWARD", "2") },
			"rule replaced": func() {
				h.iptables("iptables", "-t", "nat", "-R", "FLANNEL-POSTRTG", "1", "-m", "mark", "--mark", "0x8000/0x8000", "-j", "RETURN")
			},
			"rules exchanged": func() {
				h.restore("*filter\n:FLANNEL-FWD -\n-A FLANNEL-FWD -d 10.5.0.0/16 -j ACCEPT\n-A FLANNEL-FWD -s 10.5.0.0/16 -j ACCEPT\nCOMMIT\n", true)
			},
		} {
			spoil()
			took := h.waitXTRules(slow(backWhileBusy), rules)
			t.Logf("%s: right after %s", name, took.Round(time.Millisecond))
		}
		n.pingAll()
		n.wantSource("pod to the outside", n.source(h.pod.Namespace, netip.Addr{}, outside, outside.Addr), h.Addr)
		must(h.daemon.Stop(soon))(t)
		code, out := h.act("-cleanup")
		for _, want := range []string{"removed masquerading of 10.5.0.0/16 by " + variant, "removed forwarding for 10.5.0.0/16 by " + variant} {
			if code != 0 || !strings.Contains(out, want) {
				t.Errorf("status %d, %s; want %s", code, out, want)
			}
		}
		const theirs = `filter FORWARD -j THEIRS
filter FORWARD -j REJECT --reject-with icmp-port-unreachable
nat POSTROUTING -s 172.17.0.0/16 -j MASQUERADE
`
		if now := h.xtRules(); now != theirs {
			t.Errorf("there is left\n%s", now)
		}
	})
}
