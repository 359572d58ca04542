package dist_test

import (
	"fmt"
	"net"
	"net/netip"
	"strings"
	"time"

	"flanneld/pkg/lab"
)

// restart starts flanneld again on all hosts.
func (g *guide) restart() {
	g.t.Helper()
	for _, h := range g.nodes {
		h.run("systemctl", "restart", "flanneld")
	}
}

// addPods puts a pod on each of the first two hosts, which reach each other.
func (g *guide) addPods(name string) {
	g.t.Helper()
	for _, h := range g.hosts {
		h.addPod(name)
	}
	g.wantPings()
}

func followConfiguration(g *guide) {
	g.lay("192.168.0.2", 2, nil)
	g.startEtcd()
	h := g.nodes[0]
	config := g.text("{\n")
	g.install(`{"Network": "10.5.0.0/16", "Backend": {"Type": "udp", "VNI": 2}}`)
	g.awaitOutput("network configuration: Backend.VNI", h.journal)
	g.put("config", config)
	g.restart()
	for _, h := range g.nodes {
		subnet := netip.MustParsePrefix(h.env()["FLANNEL_SUBNET"])
		if first, last := netip.MustParseAddr("10.5.10.0"), netip.MustParseAddr("10.5.199.255"); subnet.Addr().Less(first) || last.Less(subnet.Addr()) || subnet.Bits() != 24 {
			g.t.Errorf("the subnet is %s", subnet)
		}
	}

	g.configure("10.5.0.0/16", "vxlan")
	g.awaitOutput("network configuration: Backend.Type", h.journal)
	g.configure("10.5.0.0/16", "host-gw")
	g.run("$ ip route show proto 70", h)

	g.configure("10.5.0.0/16", "vxlan")
	g.restart()
	g.addPods("vxlan")
	g.run("$ ip -d link show flannel.1", h)

	g.configure("10.5.0.0/16", "udp")
	g.restart()
	g.addPods("udp")
	g.run("$ ip -d link show flannel0", h)
	g.spoof(g.nodes[1], h)
	command, shown, _ := strings.Cut(strings.TrimPrefix(g.text("$ kill -USR1"), "$ "), "\n")
	g.wait(soon, "the counters", func() string {
		g.shell(h, command)
		if journal := h.journal(); missing(shown, journal) != "" {
			return "the log is\n" + journal
		}
		return ""
	})
}

// spoof sends a packet by the udp backend's tunnel whose source is a pod of the host that gets it.
func (g *guide) spoof(from, to *host) {
	g.t.Helper()
	dst := netip.MustParsePrefix(to.env()["FLANNEL_SUBNET"]).Addr()
	packet := make([]byte, 20)
	copy(packet, []byte{0x45, 0, 0, 20, 0, 0, 0, 0, 64, 17})
	copy(packet[12:], dst.AsSlice())
	copy(packet[16:], dst.Next().AsSlice())
	var sum uint32
	for i := 0; i < len(packet); i += 2 {
		sum += uint32(packet[i])<<8 | uint32(packet[i+1])
	}
	sum = sum&0xffff + sum>>16
	packet[10], packet[11] = ^byte(sum>>8), ^byte(sum)
	check(g.t, from.Do(func() error {
		conn, err := net.DialUDP("udp4", &net.UDPAddr{IP: from.Addr.AsSlice()}, &net.UDPAddr{IP: to.Addr.AsSlice(), Port: 8285})
		if err != nil {
			return err
		}
		defer conn.Close()
		_, err = conn.Write(packet)
		return err
	}))
}

func followLeases(g *guide) {
	g.lay("192.168.0.2", 3, nil)
	g.startEtcd()
	first, second, third := g.nodes[0], g.nodes[1], g.nodes[2]
	g.nodes = g.nodes[:2]
	g.install(`{"Network": "10.5.0.0/16", "Backend": {"Type": "host-gw"}}`)
	g.run("$ etcdctl get --prefix /coreos.com/network/subnets/", g.etcdHost())

	check(g.t, third.DelAddr("eth0", netip.PrefixFrom(third.Addr, 24)))
	check(g.t, third.AddAddr("eth0", netip.MustParsePrefix("192.168.0.7/24")))
	third.run("ip", "route", "add", "default", "via", "192.168.0.1")
	g.run("etcdctl put", g.etcdHost())
	g.installOn(third)
	if subnet := third.env()["FLANNEL_SUBNET"]; subnet != "10.5.50.1/24" {
		g.t.Errorf("the host with the reservation has the subnet %s", subnet)
	}

	g.put("config", `{"Network": "10.5.0.0/16", "Backend": {"Type": "vxlan"}}`)
	for i, h := range g.nodes {
		h.run("systemctl", "stop", "flanneld")
		h.run("hostname", fmt.Sprintf("node%d", i+1))
		check(g.t, h.sys.WriteFile(optionsFile, g.options()+"FLANNELD_PUBLIC_IP=10.0.2.15\n"))
		h.run("rm", "-r", "/run/flannel", "/var/lib/flannel")
	}
	first.run("systemctl", "start", "flanneld")
	second.run("systemctl", "start", "--no-block", "flanneld")
	g.awaitOutput("waiting: ", second.journal)
	time.Sleep(2500 * time.Millisecond)                                                               // it tries again each second
	if journal := second.journal(); strings.Count(journal, "rules for packets are written by") != 2 { // one for each start
		g.t.Errorf("while it waits, it repeats itself:\n%s", journal)
	}

	second.run("systemctl", "stop", "flanneld")
	copied := first.run("cat", "/etc/machine-id")
	check(g.t, second.sys.WriteFile("/etc/machine-id", copied+"\n"))
	second.run("systemctl", "start", "--no-block", "flanneld")
	g.awaitOutput("this subnet now belongs to ", func() string { return second.show("flanneld", "StatusText") })

	g.run("rm -f /etc/machine-id", second)
	if id := second.run("cat", "/etc/machine-id"); len(id) != len(copied) || id == copied {
		g.t.Errorf("the machine ID is %q, it was %q", id, copied)
	}
}

func followMasquerade(g *guide) {
	g.lay("192.168.0.2", 2, nil)
	g.startEtcd()
	h := g.nodes[0]
	g.install(`{"Network": "10.5.0.0/16", "Backend": {"Type": "vxlan"}}`)
	check(g.t, h.sys.WriteFile(optionsFile, g.options()+"FLANNELD_IP_MASQ=true\n"))
	h.run("systemctl", "restart", "flanneld")
	byNFTables := h.run("nft", "list", "table", "ip", "flannel-ipv4")
	h.run("sh", "-euc", "iptables-nft -P FORWARD ACCEPT; iptables-nft -N DOCKER; iptables-nft -A DOCKER -j RETURN")
	g.awaitOutput("rules for packets are ", h.journal)
	h.run("iptables-legacy", "-P", "FORWARD", "DROP")
	g.awaitOutput("pods' packets are let through ", h.journal)
	g.output("table ip flannel-ipv4", byNFTables)
	h.run("sh", "-euc", "iptables-nft -N FORWARD_ZONES; iptables-nft -A FORWARD_ZONES -j DROP; iptables-nft -A FORWARD -j FORWARD_ZONES")
	g.awaitOutput("forwarding by ", h.journal)
	f, err := h.AddFirewalls(g.ctx, lab.FirewallOptions{})
	check(g.t, err)
	check(g.t, f.StartFirewalld(g.ctx, "nftables"))
	g.awaitOutput("packets are kept from ", h.journal)
}

func followObserving(g *guide) {
	g.lay("192.168.0.10", 2, nil)
	g.startEtcd()
	g.install(`{"Network": "10.5.0.0/16", "Backend": {"Type": "vxlan"}}`)
	h := g.nodes[0]
	g.run("$ sudo flanneld -status", h)
	g.run("$ (set -a; . /etc/flannel/options.env; flanneld -doctor)", h)
	h.run("sh", "-c", "echo FLANNELD_LOG_FORMAT=json >>"+optionsFile+" && systemctl restart flanneld")
	g.awaitOutput(`{"time":`, h.journal)
}

func followRunning(g *guide) {
	g.lay("192.168.0.2", 2, nil)
	g.startEtcd()
	second, err := g.lab.AddSwitch("second", netip.MustParsePrefix("172.17.8.0/24"))
	check(g.t, err)
	for _, h := range g.nodes {
		check(g.t, h.AddNIC("eth1", second, netip.Addr{}))
	}
	h, other := g.nodes[0], g.nodes[1]
	const config = `{"Network": "10.5.0.0/16", "Backend": {"Type": "host-gw"}}`
	g.install(config)
	g.run("$ systemctl status flanneld", h)
	g.output("FLANNEL_NETWORK=", h.run("cat", "/run/flannel/subnet.env"))

	h.run("systemctl", "stop", "flanneld")
	g.oneByOne("flanneld -iface=", h, func(s *terminal) {
		if log := s.log(); !strings.Contains(log, "using interface eth1 with address 172.17.8.") {
			g.t.Errorf("the log is\n%s", log)
		}
	})
	g.oneByOne("flanneld -iface-regex=", h, func(s *terminal) {
		if log := s.log(); !strings.Contains(log, "using interface eth1 with address 172.17.8.") {
			g.t.Errorf("the log is\n%s", log)
		}
	})
	g.startTLS(h, config)
	g.oneByOne("flanneld -etcd-endpoints=https://192.168.0.10:2379", h, func(*terminal) {})
	h.run("rm", "-r", "/run/flannel", "/var/lib/flannel") // it was another cluster's

	h.run("systemctl", "start", "flanneld")
	g.awaitOutput("using version 3 of ", h.journal)

	g.testTakingOff(other)

	g.configure("10.5.0.0/16", "vxlan")
	g.restart()
	h.run("sh", "-euc", "ip link add tun0 type veth peer name tun1; ip link set tun1 up; ip link set tun0 up; ip rule add prio 5270 lookup 52; ip route add 10.0.0.0/8 dev tun0 table 52")
	g.awaitOutput("10.5.3.0/24: not reachable", h.journal)

	settings := g.text("# /etc/systemd/networkd.conf\n")
	check(g.t, h.sys.WriteFile(strings.TrimPrefix(strings.SplitN(settings, "\n", 2)[0], "# "), settings))
	h.run("systemctl", "start", "systemd-networkd")
	if log := h.run("journalctl", "--no-pager", "--unit=systemd-networkd"); strings.Contains(log, "networkd.conf") {
		g.t.Errorf("of its settings, networkd says\n%s", log)
	}
}

func followUpgrading(g *guide) {
	g.lay("192.168.0.2", 2, nil)
	g.startEtcd()
	const config = `{"Network": "10.5.0.0/16", "Backend": {"Type": "host-gw"}}`
	g.install(config)
	h := g.nodes[0]
	h.run("ip", "route", "add", "10.5.77.0/24", "dev", "eth0", "proto", "boot")
	g.run("ip route flush proto boot", h)
	if left := h.run("ip", "route", "show", "10.5.77.0/24"); left != "" {
		g.t.Errorf("there is still %s", left)
	}

	g.configure("10.5.0.0/16", "udp")
	h.run("systemctl", "restart", "flanneld")
	h.run("systemctl", "stop", "flanneld")
	g.run("ip link delete flannel0", h)
	if left := h.run("ip", "link") + h.run("nft", "list", "tables"); strings.Contains(left, "flannel") {
		g.t.Errorf("there is still\n%s", left)
	}

	for _, h := range g.nodes {
		h.run("systemctl", "stop", "flanneld")
	}
	g.shell(g.etcdHost(), "etcdctl del --prefix /coreos.com/network; ETCDCTL_API=2 etcdctl set /coreos.com/network/config '"+config+"'")
	for _, h := range g.nodes {
		h.run("systemctl", "start", "flanneld")
	}
	g.run("(set -a; . /etc/flannel/options.env; flanneld -etcd-migrate -dry-run", h)
	if got := g.shell(g.etcdHost(), "etcdctl get --print-value-only /coreos.com/network/config"); strings.TrimSpace(got) != config {
		g.t.Errorf("after the migration the configuration is %q", got)
	}
	g.restart()
	g.run("ETCDCTL_API=2 etcdctl rm", g.etcdHost())
	check(g.t, g.etcd.Change(g.ctx, "", "--enable-v2=false", "--snapshot-count=10", g.onLocalhost()))
	g.run("for i in", g.etcdHost())
	check(g.t, g.etcd.Change(g.ctx, "3.6", g.onLocalhost()))
	g.restart()
}

// oneByOne runs each line of a block, which starts a daemon, until that is ready, and ends it
// by Ctrl-C after a look.
func (g *guide) oneByOne(beginning string, h *host, look func(*terminal)) {
	g.t.Helper()
	script := g.text(beginning)
	for line := range strings.Lines(script) {
		h.run("rm", "-f", "/run/flannel/subnet.env")
		s := g.terminal(h, line)
		s.waitReady()
		look(s)
		s.interrupt()
	}
}

// startTLS starts another etcd, on 192.168.0.10, which speaks TLS, and has a host know its
// authority.
func (g *guide) startTLS(h *host, config string) {
	g.t.Helper()
	server, err := g.lab.AddHost("tls", g.sw, lab.HostOptions{NoAddress: true})
	check(g.t, err)
	server.Addr = netip.MustParseAddr("192.168.0.10")
	check(g.t, server.AddAddr("eth0", netip.PrefixFrom(server.Addr, 24)))
	ca, err := lab.NewCA(g.lab.Dir, "ca")
	check(g.t, err)
	cert, err := ca.Server("etcd", lab.Valid, server.Addr)
	check(g.t, err)
	secure := *g.network
	secure.etcd, err = g.lab.StartEtcd(g.ctx, server, lab.EtcdOptions{Server: cert})
	check(g.t, err)
	secure.put("config", config)
	check(g.t, h.sys.WriteFile("/etc/flannel/ca.pem", read(g.t, ca.Cert)))
}

// testTakingOff takes a host off, and checks that nothing is left of it; and while etcd is
// away, that nothing is removed.
func (g *guide) testTakingOff(h *host) {
	g.t.Helper()
	// It matters that these are read: without, another address would be the host's.
	check(g.t, h.sys.WriteFile(optionsFile, g.options()+"FLANNELD_IFACE_REGEX='^172\\.17\\.8\\.\\d+$'\n"))
	g.configure("10.5.0.0/16", "vxlan")
	h.run("systemctl", "restart", "flanneld")
	subnet := strings.Replace(h.env()["FLANNEL_SUBNET"], ".1/", ".0-", 1)
	leases := func() string {
		g.t.Helper()
		return g.shell(g.etcdHost(), "etcdctl get --prefix --keys-only /coreos.com/network/subnets/")
	}
	left := func() string {
		g.t.Helper()
		return h.run("sh", "-c", "find /run/flannel /var/lib/flannel -type f ! -name '*.tmp' | sort; ip -o link | grep -o flannel.1; nft list tables")
	}
	if all := leases(); !strings.Contains(all, subnet) {
		g.t.Fatalf("there is no lease of %s, but\n%s", subnet, all)
	}
	before := left()
	for _, want := range []string{"subnet.env", ".json", "flannel.1", "flannel-ipv4"} {
		if !strings.Contains(before, want) {
			g.t.Fatalf("there is no %s, but\n%s", want, before)
		}
	}

	script := g.text("systemctl disable --now flanneld")
	g.etcd.Kill()
	if out, err := h.try("exec 2>&1\n" + script); err == nil || !strings.Contains(out, g.etcd.Endpoint()) {
		g.t.Errorf("without etcd (%v) it prints\n%s", err, out)
	}
	if now := left(); now != before {
		g.t.Errorf("without etcd it has removed something: there was\n%s\nand there is\n%s", before, now)
	}
	check(g.t, g.etcd.Start(g.ctx))
	g.follow(h, script)
	if all := leases(); strings.Contains(all, subnet) {
		g.t.Errorf("the lease is still there:\n%s", all)
	}
	if now := left(); now != "" {
		g.t.Errorf("there is still\n%s", now)
	}
	if enabled := h.show("flanneld", "UnitFileState"); enabled != "disabled" {
		g.t.Errorf("flanneld is %s, and would be back at the next boot", enabled)
	}
}

func followDesign(g *guide) {
	g.picture("subnet.Store ")
	g.picture("etcd ──► ")
	g.picture("  TUN read ")
}

// picture passes over a block that draws something.
func (g *guide) picture(beginning string) {
	g.t.Helper()
	if text := g.skip(beginning); !strings.ContainsAny(text, "│→─▼") {
		g.t.Errorf("%s has no picture here:\n%s", g.name, text)
	}
}

func followPerformance(g *guide) { g.dryRun("make bench") }

func followContributing(g *guide) { g.dryRun("make build") }

// dryRun passes over a block that has make do something, which it can.
func (g *guide) dryRun(beginning string) {
	g.t.Helper()
	for line := range strings.Lines(g.skip(beginning)) {
		words := strings.Fields(line)
		if words[0] != "make" || !strings.Contains(read(g.t, "../Makefile"), "\n"+words[1]+":") {
			g.t.Errorf("%s has %q, and the Makefile no such target", g.name, line)
		}
	}
}
