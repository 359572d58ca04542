package main_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"flanneld/pkg/lab"
)

// waitNamed waits until the host's status names some things, and an obstacle in its log
// each of them.
func (h *node) waitNamed(names ...string) {
	h.n.t.Helper()
	h.n.wait(3*soon, fmt.Sprintf("%q in the status of %s", names, h.Name), func() string {
		status := h.daemon.Status()
		for _, name := range names {
			if !strings.Contains(status, name) {
				return fmt.Sprintf("there is no %q in %q", name, status)
			}
			if !slices.ContainsFunc(h.obstacles(), func(line string) bool { return strings.Contains(line, name) }) {
				return fmt.Sprintf("there is no %q in the log:\n%s", name, h.daemon.Log())
			}
		}
		return ""
	})
}

// obstacles are the lines of the host's log about what keeps packets from their way.
func (h *node) obstacles() []string {
	var all []string
	for line := range strings.Lines(h.daemon.Log()) {
		if strings.Contains(line, "packets are kept from their way: ") {
			all = append(all, strings.TrimSpace(line))
		}
	}
	return all
}

// mend runs the commands that the log names, and waits until nothing is in the way.
func (h *node) mend(run func(command string)) {
	h.n.t.Helper()
	for _, line := range h.obstacles() {
		_, command, found := strings.Cut(line, "; mend it by: ")
		if !found {
			h.n.t.Errorf("no command in %q", line)
		}
		run(command)
	}
	h.n.wait(3*soon, "nothing in the way on "+h.Name, func() string {
		if s := h.daemon.Status(); strings.Contains(s, "mend it by") {
			return s
		}
		return ""
	})
}

// wantNothingInTheWay checks that no host has ever said that something is.
func (n *network) wantNothingInTheWay() {
	n.t.Helper()
	for _, h := range n.nodes {
		if lines := h.obstacles(); len(lines) > 0 {
			n.t.Errorf("%s: %q", h.Name, lines)
		}
	}
}

// unreachable checks that pods of hosts do not reach each other.
func (n *network) unreachable(from, to *node) {
	n.t.Helper()
	if _, err := from.pod.Ping(n.ctx, to.pod.Addr, time.Second); err == nil {
		n.t.Errorf("the pod of %s reaches that of %s", from.Name, to.Name)
	}
}

// shell runs a command on the host, by its iptables.
func (h *node) shell(command string) {
	h.n.t.Helper()
	h.iptables("sh", "-c", command)
}

// whenExamined lasts longer than it takes until new rules are examined and the result is
// reported.
const whenExamined = 5 * time.Second

// Whose firewall drops the tunnel's datagrams or pods' packets, is told so, with the
// commands that open it; and these do.
func TestFirewallsAreNamed(t *testing.T) {
	t.Parallel()
	const (
		addPort    = "firewall-cmd --permanent --add-port=%d/udp"
		addNetwork = "firewall-cmd --permanent --zone=trusted --add-source=10.5.0.0/16"
	)
	for _, c := range []struct {
		name     string
		variant  variant
		port     int
		iptables string
		backend  string // of firewalld; empty for ufw
		args     []string
		names    []string
	}{
		{"firewalld,nftables", vxlan, 8472, "iptables-nft", "nftables", nil, []string{"table inet firewalld", fmt.Sprintf(addPort, 8472), addNetwork}},
		{"firewalld,nftables,udp", udp, 8285, "iptables-nft", "nftables", []string{"-ip-masq"}, []string{"table inet firewalld", fmt.Sprintf(addPort, 8285), addNetwork}},
		{"firewalld,nftables,host-gw", hostGW, 0, "iptables-legacy", "nftables", []string{"-ip-masq", "-masq-mode=nftables"}, []string{"table inet firewalld", addNetwork}},
		{"firewalld,iptables-nft", vxlan, 8472, "iptables-nft", "iptables", []string{"-iptables-forward-rules=false"}, []string{"table filter of iptables-nft (firewalld)", fmt.Sprintf(addPort, 8472), addNetwork}},
		{"firewalld,iptables-legacy", vxlan, 8472, "iptables-legacy", "iptables", []string{"-iptables-forward-rules=false"}, []string{"table filter of iptables-legacy (firewalld)", fmt.Sprintf(addPort, 8472), addNetwork}},
		{"ufw", vxlan, 8472, "iptables-nft", "", []string{"-iptables-forward-rules=false"}, []string{"table filter of iptables-nft (ufw)", "ufw allow proto udp to any port 8472", "ufw route allow from 10.5.0.0/16 to 10.5.0.0/16"}},
		{"ufw,masquerading", vxlan, 8472, "iptables-nft", "", []string{"-ip-masq"}, []string{"table filter of iptables-nft (ufw)", "ufw allow proto udp to any port 8472"}},
		{"ufw,iptables-legacy", vxlan, 8472, "iptables-legacy", "", []string{"-iptables-forward-rules=false"}, []string{"table filter of iptables-legacy (ufw)", "ufw allow proto udp to any port 8472", "ufw route allow from 10.5.0.0/16 to 10.5.0.0/16"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			n := newConfigured(t, c.variant, nil)
			h := n.addNode(lab.HostOptions{}, c.args...)
			h.setIPTables(c.iptables)
			other := n.addNode(lab.HostOptions{})
			h.start()
			other.start()
			n.readyWithPods()
			f, err := h.AddFirewalls(n.ctx, lab.FirewallOptions{IPTables: c.iptables, Env: h.env[1:]})
			if errors.Is(err, lab.ErrNotRoot) {
				t.Skip(err)
			}
			check(t, err)
			run := func(command string) {
				t.Helper()
				must(f.Run(n.ctx, "sh", "-c", command))(t)
			}
			if c.backend != "" {
				check(t, f.StartFirewalld(n.ctx, c.backend))
			} else {
				run("ufw --force enable")
			}
			h.waitNamed(c.names...)
			n.unreachable(other, h)
			h.mend(run)
			n.pingAll()
		})
	}
}

// The rules that shut a host's pods out are named wherever they are, and the commands that
// are named let packets through.
func TestRulesThatDropAreNamed(t *testing.T) {
	t.Parallel()
	filter := func(name, hook, policy string, rules ...string) string {
		script := fmt.Sprintf("table inet %s {\n chain c {\n type filter hook %s priority 5; policy %s;\n", name, hook, policy)
		return script + strings.Join(rules, "\n") + "\n}\n}\n"
	}
	const established = "ct state established,related accept"
	for _, c := range []struct {
		variant variant
		scripts []string
		names   []string // that the host with the script of this number names
	}{
		{vxlan, []string{
			filter("mine", "input", "drop", established, "iif lo accept", "icmp type echo-request accept", "tcp dport 22 accept") + filter("mine2", "forward", "drop", established),
			filter("early", "prerouting", "accept", "iifname eth0 udp dport 8472 drop"),
			filter("last", "input", "accept", established, "ip saddr 192.168.0.99 accept", "counter reject") + filter("last2", "forward", "accept"),
			filter("some", "input", "accept", "ip saddr 192.168.0.3 drop"),
			"table netdev dev {\n chain c {\n type filter hook ingress device eth0 priority 0; policy accept;\n udp dport 8472 drop\n}\n}\n",
			filter("out", "output", "accept", "udp dport 8472 drop"),
		}, []string{"table inet mine2 of nftables", "table inet early of nftables", "table inet last of nftables", "from 192.168.0.3 on eth0", "table netdev dev of nftables", "table inet out of nftables"}},
		{hostGW, []string{
			filter("mine", "forward", "drop", established, "tcp dport 22 accept"),
			filter("post", "postrouting", "accept", "ip saddr 10.5.0.0/16 ip daddr 10.5.0.0/16 drop"),
			filter("onlytcp", "forward", "accept", "ip daddr 10.5.0.0/16 meta l4proto { tcp, icmp } reject"),
		}, []string{"policy drop of chain c", "table inet post of nftables", "drops TCP between pods"}},
	} {
		t.Run(c.variant.name(), func(t *testing.T) {
			t.Parallel()
			n := newNetwork(t, len(c.scripts), c.variant, nil)
			for i, script := range c.scripts {
				n.nodes[i].nft(script)
			}
			for i, h := range n.nodes {
				h.waitNamed(c.names[i])
			}
			n.unreachable(n.nodes[1], n.nodes[0])
			for _, h := range n.nodes {
				h.mend(h.shell)
			}
			n.pingAll()
		})
	}
}

// The same with rules of iptables, by either variant; docker's are named as docker's.
func TestIPTablesThatDropAreNamed(t *testing.T) {
	t.Parallel()
	everyIPTables(t, func(t *testing.T, variant string) {
		t.Parallel()
		n := newConfigured(t, vxlan, nil)
		for range 2 {
			h := n.addNode(lab.HostOptions{}, "-iptables-forward-rules=false")
			h.setIPTables(variant)
			h.start()
		}
		n.readyWithPods()
		docker, plain := n.nodes[0], n.nodes[1]
		docker.restore("*filter\n:FORWARD DROP\n:DOCKER -\n:DOCKER-USER -\n-A FORWARD -j DOCKER-USER\n-A FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT\n-A FORWARD -i docker0 -o docker0 -j ACCEPT\n-A DOCKER-USER -j RETURN\nCOMMIT\n", true)
		plain.restore("*raw\n-A PREROUTING -i eth0 -p udp -m udp --dport 8472 -j DROP\nCOMMIT\n*filter\n:FORWARD DROP\nCOMMIT\n", true)
		docker.waitNamed("table filter of "+variant+" (docker)", variant+" -I DOCKER-USER -s 10.5.0.0/16 -j ACCEPT")
		plain.waitNamed("table raw of "+variant, variant+" -t raw -I PREROUTING -p udp --dport 8472 -j ACCEPT", variant+" -I FORWARD -s 10.5.0.0/16 -j ACCEPT")
		n.unreachable(docker, plain)
		docker.mend(docker.shell)
		plain.mend(plain.shell)
		n.pingAll()
	})
}

// Rules that change all the time are examined all the same.
func TestRulesThatDropAreNamedWhileOthersChange(t *testing.T) {
	t.Parallel()
	n := newNetwork(t, 2, hostGW, nil)
	h := n.nodes[0]
	script := filepath.Join(h.Dir, "restless")
	check(t, os.WriteFile(script, []byte("while :; do nft 'add table inet restless; delete table inet restless'; sleep 0.05; done\n"), 0o600))
	p := must(h.Start("restless", []string{"sh", script}, nil, lab.ProcessOptions{}))(t)
	h.nft("table inet mine {\n chain c {\n type filter hook forward priority 5; policy drop;\n }\n}\n")
	h.waitNamed("table inet mine of nftables")
	h.mend(h.shell)
	p.Kill()
	n.pingAll()
}

// Rules that let the overlay's packets through are no obstacle, nor what is not for certain.
func TestOpenFirewallsAreNotNamed(t *testing.T) {
	t.Parallel()
	n := newNetwork(t, 5, vxlan, nil)
	n.nodes[0].nft(`table inet mine {
	set hosts { type ipv4_addr; flags interval; elements = { 192.168.0.0/24 }
	}
	chain input {
		type filter hook input priority filter; policy drop;
		ct state vmap { established : accept, related : accept, invalid : drop }
		iif lo accept
		meta l4proto icmp limit rate 100/second accept
		ip saddr @hosts udp dport { 53, 8472 } counter accept
		log prefix "dropped " limit rate 1/second
	}
	chain forward {
		type filter hook forward priority filter; policy drop;
		ct state established,related accept
		iifname . oifname vmap { "flannel.1" . "docker0" : accept, "docker0" . "flannel.1" : accept }
		ip saddr 172.16.0.0/12 drop
	}
	chain pre {
		type filter hook prerouting priority raw; policy accept;
		fib saddr . iif oif missing drop
		meta mark 0x8000 drop
	}
}
`)
	check(t, os.WriteFile(filepath.Join(n.nodes[1].Dir, "docker"), []byte(`*filter
:FORWARD DROP [0:0]
:DOCKER-USER - [0:0]
:KUBE-FORWARD - [0:0]
-A FORWARD -j DOCKER-USER
-A FORWARD -j KUBE-FORWARD
-A FORWARD -o docker0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A DOCKER-USER -p tcp -m tcp --dport 80 -j DROP
-A DOCKER-USER -j RETURN
-A KUBE-FORWARD -m conntrack --ctstate INVALID -j DROP
-A KUBE-FORWARD -m mark --mark 0x4000/0x4000 -j ACCEPT
COMMIT
`), 0o600))
	n.nodes[1].run("iptables-nft-restore", filepath.Join(n.nodes[1].Dir, "docker"))
	n.nodes[2].nft("table inet mine {\n chain forward {\n type filter hook forward priority 5; policy accept;\n iifname eth1 drop\n ip saddr != 10.5.0.0/16 ip saddr != 192.168.0.0/24 drop\n tcp dport 25 reject\n }\n}\n")
	script := strings.ReplaceAll(oldRules, "SUBNET", n.nodes[3].subnet().String())
	n.nodes[3].nft("delete table ip flannel-ipv4" + script)
	// Closed for less time than it takes to look, as while someone sets up his rules.
	h := n.nodes[4]
	for range 3 {
		h.nft("table inet mine {\n chain forward {\n type filter hook forward priority 5; policy drop;\n }\n}\n")
		time.Sleep(100 * time.Millisecond)
		h.nft("delete table inet mine")
	}
	time.Sleep(whenExamined)
	n.wantNothingInTheWay()
	n.pingAll()
}
