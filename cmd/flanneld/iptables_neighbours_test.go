package main_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"flanneld/pkg/lab"
)

// Our rules in tables of iptables are there again within back, after others have come to
// rest; where tests keep the processors busy, within backWhileBusy.
const (
	back          = 5 * time.Second
	backWhileBusy = 3 * back
)

// firewallScript is how many hosts set up their firewall.
const firewallScript = `set -e
iptables -P INPUT DROP
iptables -P OUTPUT DROP
iptables -P FORWARD DROP
for table in filter nat mangle raw; do iptables -t $table -F; done
for table in filter nat mangle raw; do iptables -t $table -X; done
iptables -A INPUT -i lo -j ACCEPT
iptables -A INPUT -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT
iptables -A INPUT -p icmp -j ACCEPT
iptables -A INPUT -p tcp --dport 22 -j ACCEPT
iptables -A INPUT -j REJECT
iptables -A OUTPUT -j ACCEPT
iptables -N OWN
iptables -A OWN -s 192.0.2.1 -j DROP
iptables -A FORWARD -j OWN
iptables -A FORWARD -j REJECT
`

// jumps are the jumps to our chains, as iptables-save prints them.
const (
	masqJump    = `-A POSTROUTING -m comment --comment "flanneld masq" -j FLANNEL-POSTRTG`
	forwardJump = `-A FORWARD -m comment --comment "flanneld forward" -j FLANNEL-FWD`
)

// waitJumps waits until both jumps are there.
func (h *node) waitJumps() time.Duration {
	h.n.t.Helper()
	return h.n.wait(slow(backWhileBusy), "our rules", func() string {
		now := h.iptables("iptables-save")
		if !strings.Contains(now, masqJump+"\n") || !strings.Contains(now, forwardJump+"\n") {
			return "there is\n" + now
		}
		return ""
	})
}

// sh runs a script that is made for the host's iptables.
func (h *node) sh(script string) error {
	out, err := h.output(append(append([]string{"env"}, h.env...), "sh", "-c", script)...)
	if err != nil {
		return fmt.Errorf("%w:\n%s", err, out)
	}
	return nil
}

// output runs a program and returns all that it wrote.
func (h *node) output(argv ...string) (text string, err error) {
	err = h.Do(func() error {
		out, err := exec.CommandContext(h.n.ctx, argv[0], argv[1:]...).CombinedOutput() // #nosec G204
		text = string(out)
		return err
	})
	return text, err
}

// A script that sets up a firewall is never disturbed, however often it runs, and whatever
// time it takes between emptying tables and deleting chains. Then our rules are back.
func TestFirewallScript(t *testing.T) {
	for _, variant := range []string{"iptables-legacy", "iptables-nft"} {
		t.Run(variant, func(t *testing.T) {
			t.Parallel()
			n, _ := newIPTables(t, variant, "-masq-mode=iptables")
			for _, h := range n.nodes {
				h.start()
			}
			n.readyWithPods()
			h := n.nodes[0]
			for i := range 12 {
				if err := h.sh(firewallScript); err != nil {
					t.Errorf("the firewall is set up for the %d. time: %v", i+1, err)
				}
				if i%3 == 2 {
					h.waitJumps()
					check(t, h.pod.WaitPing(n.ctx, n.nodes[1].pod.Addr))
				}
			}
			for _, table := range []string{"filter", "nat"} {
				for _, pause := range []string{"0.02", "0.1", "0.6"} {
					h.waitJumps()
					if err := h.sh(strings.ReplaceAll("iptables -t TABLE -F && sleep "+pause+" && iptables -t TABLE -X", "TABLE", table)); err != nil {
						t.Errorf("chains are deleted %s seconds after table %s was emptied: %v", pause, table, err)
					}
				}
			}
			took := h.waitJumps()
			t.Logf("back after %s", took.Round(time.Millisecond))
			if took > slow(back) {
				t.Errorf("back after %s, want %s", took, slow(back))
			}
			if log := h.daemon.Log(); strings.Contains(log, "adding forwarding") || strings.Contains(log, "adding masquerading") {
				t.Errorf("there was something to report")
			}
		})
	}
}

// Someone who changes rules all the time, even in chains that packets come to, does not keep
// ours away.
func TestIPTablesNoise(t *testing.T) {
	t.Parallel()
	for _, variant := range []string{"iptables-legacy", "iptables-nft"} {
		t.Run(variant, func(t *testing.T) {
			t.Parallel()
			n, _ := newIPTables(t, variant, "-masq-mode=iptables")
			h := n.nodes[0]
			h.start()
			h.waitReady()
			for name, noise := range map[string]string{
				"in chains of its own": "iptables -t nat -A NOISE -j RETURN; iptables -t nat -F NOISE; iptables -A NOISE -j RETURN; iptables -F NOISE; sleep 0.1",
				"in chains of all":     "iptables -A FORWARD -s 192.0.2.1 -j ACCEPT; sleep 0.1; iptables -D FORWARD -s 192.0.2.1 -j ACCEPT; sleep 0.1",
				"by reading":           "iptables -nvL >/dev/null; iptables-save >/dev/null; sleep 0.1",
				"by counting packets":  "iptables -Z; sleep 0.1",
			} {
				check(t, h.sh("iptables -t nat -N NOISE; iptables -N NOISE; iptables -A FORWARD -s 192.0.2.2 -j NOISE"))
				h.waitJumps()
				n.pause(1200 * time.Millisecond)
				ctx, stop := context.WithCancel(n.ctx)
				quiet := make(chan struct{})
				go func() {
					defer close(quiet)
					for ctx.Err() == nil {
						if err := h.sh(noise); err != nil && n.ctx.Err() == nil {
							t.Errorf("%s: %v", name, err)
							return
						}
					}
				}()
				h.iptables("iptables", "-F", "FLANNEL-FWD")
				h.iptables("iptables", "-D", "FORWARD", "-m", "comment", "--comment", "flanneld forward", "-j", "FLANNEL-FWD")
				took := h.n.wait(slow(backWhileBusy), "our rules in spite of noise "+name, func() string {
					if now := h.iptables("iptables-save"); !strings.Contains(now, forwardJump+"\n") {
						return "there is\n" + now
					}
					return ""
				})
				t.Logf("%s: back after %s", name, took.Round(time.Millisecond))
				stop()
				<-quiet
				check(t, h.sh("iptables -F FORWARD; iptables -X NOISE; iptables -t nat -X NOISE"))
			}
		})
	}
}

// addFirewalls has a host use the iptables of its firewalls.
func (h *node) addFirewalls(variant string) *lab.Firewalls {
	h.n.t.Helper()
	lock := "XTABLES_LOCKFILE=" + filepath.Join(h.Dir, "xtables.lock")
	f, err := h.AddFirewalls(h.n.ctx, lab.FirewallOptions{IPTables: variant, Env: []string{lock}})
	if errors.Is(err, lab.ErrNotRoot) {
		h.n.t.Skip(err)
	}
	check(h.n.t, err)
	return f
}

// firewalld with the iptables backend is reloaded again and again and never fails, nor does
// ufw; each time our rules are back.
func TestFirewallsReload(t *testing.T) {
	for _, variant := range []string{"iptables-legacy", "iptables-nft"} {
		t.Run(variant, func(t *testing.T) {
			t.Parallel()
			n, _ := newIPTables(t, variant)
			for _, h := range n.nodes {
				h.start()
			}
			n.readyWithPods()
			h, other := n.nodes[0], n.nodes[1]
			f := h.addFirewalls(variant)
			run := func(argv ...string) {
				t.Helper()
				if out, err := f.Run(n.ctx, argv...); err != nil {
					t.Errorf("%q: %v: %s", argv, err, out)
				}
			}
			reachable := func(what string) {
				t.Helper()
				took := h.waitJumps()
				check(t, h.pod.WaitPing(n.ctx, other.pod.Addr))
				t.Logf("%s: back after %s", what, took.Round(time.Millisecond))
			}
			check(t, f.StartFirewalld(n.ctx, "iptables"))
			reachable("firewalld started")
			for i := range 8 {
				run("firewall-cmd", "--reload")
				if i%4 == 3 {
					reachable("firewalld reloaded")
				}
			}
			if log, _ := f.Run(n.ctx, "cat", "/var/log/firewalld"); strings.Contains(log, "ERROR") {
				t.Errorf("the log of firewalld is\n%s", log)
			}
			run("sh", "-c", "kill $(cat /run/firewalld.pid)")
			n.wait(soon, "the end of firewalld", func() string {
				if _, err := f.Run(n.ctx, "firewall-cmd", "--state"); err == nil {
					return "it runs"
				}
				return ""
			})
			for _, policy := range []string{"DROP", "REJECT"} {
				run("sed", "-i", "s/^DEFAULT_FORWARD_POLICY=.*/DEFAULT_FORWARD_POLICY="+policy+"/", "/etc/default/ufw")
				run("ufw", "--force", "enable")
				reachable("ufw enabled, " + policy)
				run("ufw", "route", "deny", "proto", "tcp", "to", "10.5.0.0/16", "port", "81")
				run("ufw", "reload")
				run("ufw", "reload")
				reachable("ufw reloaded")
				n.wait(slow(backWhileBusy), "ours behind those of ufw", func() string {
					if rules := h.xtRules(); !strings.Contains(strings.Split(rules, "-j FLANNEL-FWD\n")[0], "-j ufw-before-forward\n") {
						return "there is\n" + rules
					}
					return ""
				})
				run("ufw", "--force", "disable")
				h.waitJumps()
			}
		})
	}
}

// connects reports whether a TCP connection from pod to pod comes about.
func (n *network) connects(from, to *node, port int) error {
	n.t.Helper()
	var listener net.Listener
	addr := net.JoinHostPort(to.pod.Addr.String(), fmt.Sprint(port))
	// What is started while a listener is open holds it a moment longer.
	n.wait(soon, "the port "+addr, func() string {
		err := to.pod.Do(func() (err error) {
			listener, err = net.Listen("tcp4", addr)
			return err
		})
		if errors.Is(err, unix.EADDRINUSE) {
			return err.Error()
		}
		check(n.t, err)
		return ""
	})
	defer listener.Close()
	ctx, cancel := context.WithTimeout(n.ctx, 2*time.Second)
	defer cancel()
	conn, err := from.pod.DialContext(ctx, "tcp4", addr)
	if err == nil {
		_ = conn.Close()
	}
	return err
}

// dockerRules are what docker makes of FORWARD, with an administrator's refusal.
const dockerRules = `*filter
:FORWARD DROP
:DOCKER -
:DOCKER-ISOLATION-STAGE-1 -
:DOCKER-USER -
-A FORWARD -j DOCKER-USER
-A FORWARD -j DOCKER-ISOLATION-STAGE-1
-A FORWARD -o docker0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A FORWARD -o docker0 -j DOCKER
-A FORWARD -i docker0 ! -o docker0 -j ACCEPT
-A DOCKER-ISOLATION-STAGE-1 -j RETURN
-A DOCKER-USER -s 10.5.0.0/16 -d 10.5.0.0/16 -p tcp -m tcp --dport 80 -j DROP
-A DOCKER-USER -j RETURN
COMMIT
`

// What others refuse stays refused, whoever comes first, and whatever else is put there; what
// nobody refuses but by default is let through.
func TestRefusalsOfOthers(t *testing.T) {
	t.Parallel()
	for _, variant := range []string{"iptables-legacy", "iptables-nft"} {
		t.Run(variant, func(t *testing.T) {
			t.Parallel()
			n, _ := newIPTables(t, variant)
			for _, h := range n.nodes {
				file := filepath.Join(h.Dir, "docker")
				check(t, os.WriteFile(file, []byte(dockerRules), 0o600))
				h.iptables("iptables-restore", file)
				h.start()
			}
			n.readyWithPods()
			h, other := n.nodes[0], n.nodes[1]
			refused := func(what string, ports ...int) {
				t.Helper()
				h.waitJumps()
				for _, port := range []int{80, 81, 82} {
					want := false
					for _, p := range ports {
						want = want || p == port
					}
					h.n.wait(slow(backWhileBusy), fmt.Sprintf("%s: port %d", what, port), func() string {
						if err := n.connects(other, h, port); (err != nil) != want {
							return fmt.Sprintf("connecting to it: %v; the rules are\n%s", err, h.xtRules())
						}
						return ""
					})
				}
			}
			refused("docker came first", 80)
			// It is started again, and puts its chains first.
			for _, chain := range []string{"DOCKER-ISOLATION-STAGE-1", "DOCKER-USER"} {
				h.iptables("iptables", "-D", "FORWARD", "-j", chain)
				h.iptables("iptables", "-I", "FORWARD", "-j", chain)
			}
			refused("docker came last", 80)
			h.iptables("iptables", "-A", "FORWARD", "-p", "tcp", "--dport", "81", "-j", "REJECT", "--reject-with", "tcp-reset")
			refused("one more is added", 80, 81)
			h.iptables("iptables", "-A", "FORWARD", "-j", "REJECT")
			refused("the rest is refused", 80, 81)
			if overruled := "that refuses all others: -j REJECT --reject-with icmp-port-unreachable\n"; !strings.Contains(h.daemon.Log(), overruled) {
				t.Errorf("it is not said what is overruled")
			}
			h.iptables("iptables", "-I", "FORWARD", "-j", "REJECT")
			refused("all is refused first", 80) // by the other host
			h.iptables("iptables", "-D", "FORWARD", "-j", "REJECT")
			refused("no more", 80, 81)
		})
	}
}

// Whichever variant of iptables refuses what nobody lets through there, ours let pods' packets
// through in it, from the start or as it comes.
func TestForwardInEveryVariant(t *testing.T) {
	t.Parallel()
	for _, variant := range []string{"iptables-legacy", "iptables-nft"} {
		other := map[string]string{"iptables-legacy": "iptables-nft", "iptables-nft": "iptables-legacy"}[variant]
		t.Run(variant, func(t *testing.T) {
			t.Parallel()
			n, outside := newIPTables(t, variant)
			for _, h := range n.nodes {
				h.start()
			}
			n.readyWithPods()
			h, peer := n.nodes[0], n.nodes[1]
			reachable := func(what string) {
				t.Helper()
				h.n.wait(slow(backWhileBusy), what, func() string {
					if _, err := peer.pod.Ping(n.ctx, h.pod.Addr, 200*time.Millisecond); err != nil {
						return fmt.Sprintf("%v; the rules are\n%s\n%s", err, h.iptables(variant+"-save"), h.iptables(other+"-save"))
					}
					return ""
				})
				n.wantSource("pod to the outside", n.source(h.pod.Namespace, h.pod.Addr, outside, outside.Addr), h.Addr)
			}
			// That of the host is in use, and then the other one refuses.
			h.iptables(variant, "-A", "INPUT", "-s", "192.0.2.1", "-j", "ACCEPT")
			h.waitLog("rules for packets are written by " + variant)
			h.iptables(other, "-A", "FORWARD", "-s", "192.0.2.1", "-j", "ACCEPT")
			h.iptables(other, "-P", "FORWARD", "DROP")
			reachable("the other variant refuses")
			h.restart(func() {})
			reachable("started again")
			if saved := h.iptables(other + "-save"); strings.Contains(saved, "MASQUERADE") {
				t.Errorf("both variants masquerade:\n%s", saved)
			}
			h.daemon.Kill()
			h.start("-masq-mode=nftables")
			h.waitReady()
			reachable("-masq-mode=nftables")
			h.iptables(variant, "-P", "FORWARD", "DROP")
			reachable("-masq-mode=nftables, and both refuse")
			h.iptables(other, "-P", "FORWARD", "ACCEPT")
			h.daemon.Kill()
			h.start("-masq-mode=nftables")
			h.waitReady()
			reachable("-masq-mode=nftables, and one refuses no more")
			if saved := h.iptables(other + "-save"); strings.Contains(saved, "FLANNEL") {
				t.Errorf("ours are not needed there any more, and there is\n%s", saved)
			}
			must(h.daemon.Stop(soon))(t)
			if code, out := h.act("-cleanup"); code != 0 || !strings.Contains(out, "removed forwarding for 10.5.0.0/16 by "+variant) {
				t.Errorf("status %d, %s", code, out)
			}
		})
	}
}
