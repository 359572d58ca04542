package firewall

import (
	"errors"
	"fmt"
	"net/netip"
	"os/exec"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"flanneld/pkg/dataplane/dataplanetest"
	"flanneld/pkg/ip"
	"flanneld/pkg/nfdump"
	"flanneld/pkg/state"
)

func TestMain(m *testing.M) { dataplanetest.InNetns(m) }

// run runs a program with the given input.
func run(t testing.TB, stdin string, argv ...string) {
	t.Helper()
	if err := try(stdin, argv...); err != nil {
		t.Fatal(err)
	}
}

func try(stdin string, argv ...string) error {
	c := exec.Command(argv[0], argv[1:]...)
	c.Stdin = strings.NewReader(stdin)
	if out, err := c.CombinedOutput(); err != nil {
		return fmt.Errorf("%v: %w\n%s%s", argv, err, out, stdin)
	}
	return nil
}

// rules are put into the place of all that there were, by nft or by an iptables-restore.
func rules(t testing.TB, program, script string) {
	t.Helper()
	if err := tryRules(t, program, script); err != nil {
		t.Fatal(err)
	}
}

// tryRules is rules, and returns why the program does not take them.
func tryRules(t testing.TB, program, script string) error {
	t.Helper()
	var reset strings.Builder
	for _, table := range legacyTables {
		fmt.Fprintf(&reset, "*%s\n", table.name)
		for hook := range table.prio {
			fmt.Fprintf(&reset, ":%s ACCEPT\n", nfdump.HookChains[hook])
		}
		reset.WriteString("COMMIT\n")
	}
	for _, f := range ip.Families {
		run(t, reset.String(), dataplanetest.In(f, "iptables")+"-legacy-restore")
	}
	run(t, "flush ruleset\n", "nft", "-f", "-")
	if program == "nft" {
		return try(script, "nft", "-f", "-")
	}
	return try(script, program+"-restore")
}

var (
	eth0    = Iface{Name: "eth0", Index: 2}
	tunnel  = Iface{Name: "flannel.1", Index: 5, Pods: true}
	bridge  = Iface{Name: "cni0", Index: 6, Pods: true, Bridge: true}
	us      = netip.MustParsePrefix("192.168.0.1/32")
	peer    = netip.MustParsePrefix("192.168.0.2/32")
	ours    = netip.MustParsePrefix("10.5.1.0/24")
	its     = netip.MustParsePrefix("10.5.2.0/24")
	network = netip.MustParsePrefix("10.5.0.0/16")
	anyone  = netip.MustParsePrefix("0.0.0.0/0")
)

// The samples of the tests, by name.
var samples = map[string]Packet{
	"in":    {Path: Inbound, In: eth0, Src: peer, Dst: us, Proto: unix.IPPROTO_UDP, DstPort: 8472},
	"any":   {Path: Inbound, In: eth0, Src: anyone, Dst: us, Proto: unix.IPPROTO_UDP, DstPort: 8472},
	"out":   {Path: Outbound, Out: eth0, Src: us, Dst: peer, Proto: unix.IPPROTO_UDP, DstPort: 8472},
	"fwd":   {Path: Forwarded, In: tunnel, Out: bridge, Src: its, Dst: ours, Proto: unix.IPPROTO_TCP, Pods: true},
	"fwdu":  {Path: Forwarded, In: tunnel, Out: bridge, Src: its, Dst: ours, Proto: unix.IPPROTO_UDP, Pods: true},
	"back":  {Path: Forwarded, In: bridge, Out: tunnel, Src: ours, Dst: its, Proto: unix.IPPROTO_TCP, Pods: true},
	"hostg": {Path: Forwarded, In: eth0, Out: bridge, Src: its, Dst: ours, Proto: unix.IPPROTO_TCP, Pods: true},
	"ns":    discovery(NeighborSolicit, "ff02::1:ff00:1"),
	"na":    discovery(NeighborAdvert, "fe80::1"),
	"nsout": {Path: Outbound, Out: eth0, Src: netip.MustParsePrefix("fe80::1/128"), Dst: netip.MustParsePrefix("ff02::1:ff00:2/128"), Proto: unix.IPPROTO_ICMPV6, ICMPType: NeighborSolicit},
	"some":  {Path: Forwarded, In: tunnel, Src: network, Dst: ours, Proto: unix.IPPROTO_TCP, Pods: true},
}

// discovery is by what others on the link find this host, or answer it.
func discovery(typ byte, to string) Packet {
	return Packet{
		Path: Inbound, In: eth0, Src: netip.MustParsePrefix("fe80::2/128"), Dst: netip.PrefixFrom(netip.MustParseAddr(to), 128),
		Proto: unix.IPPROTO_ICMPV6, ICMPType: typ,
	}
}

// inFamily turns rules that are written for IPv4, and what is said of them, into those of a family.
func inFamily(f ip.Family, text string) string {
	if f == ip.V4 {
		return text
	}
	return strings.NewReplacer("ip6 ttl", "ip6 hoplimit", "-m ttl --ttl", "-m hl --hl", "ip6 protocol", "ip6 nexthdr", "ip6 version 4", "ip6 version 6", "saddr ::/0", "saddr 0.0.0.0/0").
		Replace(dataplanetest.In(f, text))
}

// forEachFamily runs a test with each.
func forEachFamily(t *testing.T, test func(*testing.T, ip.Family)) {
	for _, f := range ip.Families {
		t.Run(f.String(), func(t *testing.T) {
			dataplanetest.NeedNetns(t)
			test(t, f)
		})
	}
}

// dropped returns where a sample is dropped, in one line for each place.
func dropped(t testing.TB, sample string) string { return droppedIn(t, ip.V4, sample) }

// droppedIn is that for the same packet of a family.
func droppedIn(t testing.TB, f ip.Family, sample string) string {
	t.Helper()
	p, ok := samples[sample]
	if !ok {
		t.Fatalf("there is no sample %q", sample)
	}
	if p.Proto != unix.IPPROTO_ICMPV6 {
		p.Src, p.Dst = dataplanetest.PrefixIn(f, p.Src), dataplanetest.PrefixIn(f, p.Dst)
	}
	var all []string
	err := Read(t.Context(), func(rs *Ruleset) {
		all = nil
		drops, _ := rs.Drops(p)
		for _, d := range drops {
			all = append(all, fmt.Sprintf("%s %s %s", d.Table, d.Chain, map[bool]string{true: "policy", false: "rule"}[d.Number == 0]))
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	return strings.Join(all, ", ")
}

// verdicts are cases in which some samples are dropped, and no others of those named.
type verdicts struct {
	name  string
	rules string
	want  map[string]string // where samples are dropped; empty if they are not, as far as that is certain
}

func (v verdicts) check(t *testing.T, f ip.Family, program, script string) {
	t.Helper()
	rules(t, inFamily(f, program), inFamily(f, script))
	for sample, want := range v.want {
		if got := droppedIn(t, f, sample); got != inFamily(f, want) {
			t.Errorf("%s by %s: %s is dropped by %q, want %q", v.name, inFamily(f, program), sample, got, inFamily(f, want))
		}
	}
}

type want = map[string]string

// baseChain returns a base chain.
func baseChain(name, typ, hook, prio, policy string, rules ...string) string {
	return fmt.Sprintf("add chain inet t %s { type %s hook %s priority %s; policy %s; }\n", name, typ, hook, prio, policy) + chainRules(name, rules...)
}

func chainRules(name string, rules ...string) string {
	var all strings.Builder
	for _, r := range rules {
		fmt.Fprintf(&all, "add rule inet t %s %s\n", name, r)
	}
	return all.String()
}

func TestRulesOfNFTables(t *testing.T) { forEachFamily(t, testRulesOfNFTables) }

func testRulesOfNFTables(t *testing.T, f ip.Family) {
	input := func(policy string, rules ...string) string {
		return baseChain("input", "filter", "input", "filter", policy, rules...)
	}
	forward := func(policy string, rules ...string) string {
		return baseChain("forward", "filter", "forward", "filter", policy, rules...)
	}
	for _, v := range []verdicts{
		{"nothing", "", want{"in": "", "out": "", "fwd": "", "back": ""}},
		{"a policy", input("drop"), want{"in": "t input policy", "any": "t input policy", "out": "", "fwd": ""}},
		{"a policy for forwarding", forward("drop"), want{"in": "", "fwd": "t forward policy", "back": "t forward policy", "some": "t forward policy", "hostg": "t forward policy"}},
		{"a policy for output", baseChain("output", "filter", "output", "filter", "drop"), want{"in": "", "out": "t output policy", "fwd": ""}},
		{"a policy for prerouting", baseChain("pre", "filter", "prerouting", "-300", "drop"), want{"in": "t pre policy", "out": "", "fwd": "t pre policy"}},
		{"a policy for postrouting", baseChain("post", "filter", "postrouting", "0", "drop"), want{"in": "", "out": "t post policy", "fwd": "t post policy"}},
		{"a policy of nat", baseChain("pre", "nat", "prerouting", "-100", "drop"), want{"in": "t pre policy"}},
		{"the last rule", input("accept", "ct state established,related accept", "iif lo accept", "tcp dport 22 accept", "counter drop"), want{"in": "t input rule", "any": "t input rule"}},
		{"the last rule rejects", forward("accept", "ct state vmap { established : accept, related : accept, invalid : drop }", "reject with icmpx type admin-prohibited"), want{"fwd": "t forward rule"}},
		{"a port", input("accept", "udp dport 8472 drop"), want{"in": "t input rule", "out": ""}},
		{"another port", input("accept", "udp dport 8473 drop", "tcp dport 8472 drop"), want{"in": ""}},
		{"ports", input("accept", "udp dport { 53, 8400-8500 } drop"), want{"in": "t input rule"}},
		{"other ports", input("accept", "udp dport { 53, 8400-8471, 8473 } drop"), want{"in": ""}},
		{"a range of ports", input("drop", "udp dport 8000-9000 accept"), want{"in": ""}},
		{"an open port", input("drop", "ct state established accept", "udp dport 8472 accept"), want{"in": ""}},
		{"an open port with a limit", input("drop", "udp dport 8472 limit rate 10/second accept"), want{"in": ""}},
		{"an open port for some", input("drop", "ip saddr 192.168.0.2 udp dport 8472 accept"), want{"in": "", "any": ""}},
		{"an open port for others", input("drop", "ip saddr 192.168.0.3 udp dport 8472 accept"), want{"in": "t input policy", "any": ""}},
		{"an open port by a set", "add set inet t s { type ipv4_addr; flags interval; }\nadd element inet t s { 192.168.0.0/30, 172.16.0.0/12 }\n" + input("drop", "ip saddr @s accept"), want{"in": "", "any": ""}},
		{"an open port by a set of others", "add set inet t s { type ipv4_addr; flags interval; }\nadd element inet t s { 192.168.0.4-192.168.0.9, 172.16.0.0/12 }\n" + input("drop", "ip saddr @s accept"), want{"in": "t input policy", "any": ""}},
		{"an empty set", "add set inet t s { type ipv4_addr; }\n" + input("drop", "ip saddr @s accept"), want{"in": "t input policy", "any": "t input policy"}},
		{"no member of a set", "add set inet t s { type ipv4_addr; }\nadd element inet t s { 192.168.0.9 }\n" + input("accept", "ip saddr != @s drop"), want{"in": "t input rule", "any": ""}},
		{"sets of pods", "add set inet t s { type ipv4_addr; flags interval; }\nadd element inet t s { 10.4.0.0-10.6.255.255 }\n" + forward("drop", "ip saddr @s ip daddr @s accept"), want{"fwd": "", "some": ""}},
		{"sets of other pods", "add set inet t s { type ipv4_addr; flags interval; }\nadd element inet t s { 10.6.0.0/16 }\n" + forward("drop", "ip saddr @s accept"), want{"fwd": "t forward policy", "some": "t forward policy"}},
		{"a set of one pod", "add set inet t s { type ipv4_addr; }\nadd element inet t s { 10.5.2.7 }\n" + forward("drop", "ip saddr @s accept"), want{"fwd": "", "back": "t forward policy"}},
		{"a set of addresses and ports", "add set inet t s { type ipv4_addr . inet_service; flags interval; }\nadd element inet t s { 192.168.0.0/24 . 8000-9000 }\n" + input("drop", "ip saddr . udp dport @s accept"), want{"in": "", "any": ""}},
		{"a set of other addresses and ports", "add set inet t s { type ipv4_addr . inet_service; flags interval; }\nadd element inet t s { 192.168.0.0/24 . 8000-8100 }\n" + input("drop", "ip saddr . udp dport @s accept"), want{"in": "t input policy", "any": ""}},
		{"a map of verdicts", "add chain inet t other\n" + input("accept", "iifname vmap { eth0 : jump other, lo : accept }") + chainRules("other", "udp dport 8472 drop"), want{"in": "t other rule"}},
		{"a map without the key", input("accept", "iifname vmap { eth1 : drop }"), want{"in": ""}},
		{"a map with all others", input("accept", "iifname vmap { eth1 : accept, * : drop }"), want{"in": "t input rule"}},
		{"a map of protocols and ports", input("drop", "meta l4proto . th dport vmap { udp . 8472 : accept, tcp . 22 : accept }"), want{"in": ""}},
		{"a map of what is not known", input("drop", "meta mark vmap { 1 : accept }"), want{"in": ""}},
		{"jumps", "add chain inet t a\nadd chain inet t b\n" + input("drop", "jump a", "udp dport 8472 accept") + chainRules("a", "goto b", "drop") + chainRules("b", "tcp dport 22 accept", "return", "drop"), want{"in": ""}},
		{"a goto", "add chain inet t b\n" + input("drop", "goto b", "accept") + chainRules("b", "tcp dport 22 accept"), want{"in": "t input policy"}},
		{"a chain that drops", "add chain inet t b\n" + input("accept", "iifname != lo goto b") + chainRules("b", "tcp dport 22 accept", "reject"), want{"in": "t b rule"}},
		{"interfaces", forward("drop", "iifname \"flannel*\" accept", "oifname flannel.1 accept"), want{"fwd": "", "back": "", "hostg": "t forward policy"}},
		{"an interface by its number", input("accept", "iif lo drop"), want{"in": ""}},
		{"other interfaces", forward("drop", "iifname { eth1, virbr0 } accept"), want{"fwd": "t forward policy"}},
		{"the interface that it leaves by is not known", forward("drop", "oifname cni0 accept"), want{"fwd": "", "some": "", "back": "t forward policy"}},
		{"a mark", input("drop", "meta mark & 0xff == 0x10 accept"), want{"in": ""}},
		{"a mark that drops", input("accept", "meta mark 0x10 drop"), want{"in": ""}},
		{"a mark that was set", baseChain("pre", "filter", "prerouting", "-150", "accept", "iifname eth0 meta mark set 0x10") + input("drop", "meta mark 0x10 accept"), want{"in": ""}},
		{"a mark that was set to drop", baseChain("pre", "filter", "prerouting", "-150", "accept", "iifname eth0 meta mark set 0x10") + input("accept", "meta mark 0x10 drop"), want{"in": "t input rule"}},
		{"a mark that may have been set", baseChain("pre", "filter", "prerouting", "-150", "accept", "limit rate 1/second meta mark set 0x10") + input("accept", "meta mark 0x10 drop"), want{"in": ""}},
		{"mark or not", input("drop", "meta mark 0x10 drop"), want{"in": "t input policy"}},
		{"invalid", forward("accept", "ct state invalid drop"), want{"fwd": ""}},
		{"new", forward("accept", "ct state new drop"), want{"fwd": "t forward rule"}},
		{"not established", forward("accept", "ct state != { established, related } drop"), want{"fwd": "t forward rule"}},
		{"not tracked yet", baseChain("pre", "filter", "prerouting", "-300", "accept", "ct state new drop"), want{"in": ""}},
		{"not tracked", baseChain("pre", "filter", "prerouting", "-300", "accept", "udp dport 8472 notrack") + input("accept", "ct state new drop"), want{"in": "", "fwd": ""}},
		{"status", input("drop", "ct status dnat accept"), want{"in": "t input policy"}},
		{"the reverse path", baseChain("pre", "filter", "prerouting", "-150", "accept", "fib saddr . iif oif 0 drop"), want{"in": "", "fwd": ""}},
		{"the kind of address", input("accept", "fib daddr type local drop"), want{"in": "t input rule", "fwd": ""}},
		{"not the kind of address", input("accept", "fib daddr type != local drop"), want{"in": ""}},
		{"numbers", input("drop", "numgen inc mod 2 0 accept"), want{"in": ""}},
		{"a quota", input("drop", "quota 10 mbytes accept"), want{"in": ""}},
		{"a log and a counter", input("accept", "log prefix \"x\" counter drop"), want{"in": "t input rule"}},
		{"IPv6", input("accept", "meta nfproto ipv6 drop", "ip6 saddr ::/0 drop", "meta protocol ip6 drop"), want{"in": ""}},
		{"IPv4", input("accept", "meta protocol ip drop"), want{"in": "t input rule"}},
		{"fragments", input("accept", "ip frag-off & 0x1fff != 0 drop"), want{"in": ""}},
		{"time to live", input("drop", "ip ttl > 1 accept"), want{"in": ""}},
		{"flags", forward("accept", "tcp flags & (fin|syn|rst|ack) == syn drop"), want{"fwd": "t forward rule", "fwdu": ""}},
		{"no flags", forward("accept", "tcp flags & (fin|syn|rst|ack) != syn ct state new drop"), want{"fwd": ""}},
		{"a protocol", forward("drop", "meta l4proto tcp accept"), want{"fwd": "", "fwdu": "t forward policy"}},
		{"not from", forward("accept", "ip saddr != 10.5.0.0/16 drop"), want{"fwd": "", "some": ""}},
		{"not from others", forward("accept", "ip saddr != 10.6.0.0/16 drop"), want{"fwd": "t forward rule", "some": "t forward rule"}},
		{"a part", forward("accept", "ip saddr 10.5.2.0/24 drop"), want{"fwd": "t forward rule", "some": ""}},
		{"a pod", forward("accept", "ip saddr 10.5.2.9 drop"), want{"fwd": ""}},
		{"ports of the host", forward("drop", "tcp dport { 80, 443 } accept"), want{"fwd": "t forward policy"}},
		{"many ports", forward("accept", "tcp dport 1024-65535 drop"), want{"fwd": ""}},
		{"many ports, and other ones", forward("accept", "tcp dport 1-1023 drop"), want{"fwd": ""}},
		{"all ports", forward("accept", "tcp dport 1-65535 drop"), want{"fwd": "t forward rule", "fwdu": ""}},
		{"some open ports", forward("drop", "tcp dport 8000-9000 accept"), want{"fwd": "t forward policy"}},
		{"many open ports", forward("drop", "tcp dport 1024-65535 accept"), want{"fwd": "", "fwdu": "t forward policy"}},
		{"a map of networks", forward("accept", "ip saddr vmap { 10.5.0.0/16 : drop, 10.6.0.0/16 : accept }"), want{"fwd": "t forward rule", "some": "t forward rule"}},
		{"a map of other networks", forward("drop", "ip saddr vmap { 10.5.0.0/18 : accept, 10.6.0.0/16 : accept }"), want{"fwd": "", "some": ""}},
		{"a map of parts", forward("accept", "ip saddr vmap { 10.5.2.0/25 : drop, 10.5.2.128/25 : accept }"), want{"fwd": ""}},
		{"what pods may do", forward("drop", "ip saddr 10.5.0.0/16 tcp dport 80 accept", "iifname cni0 tcp dport 53 accept"), want{"fwd": "", "back": ""}},
		{"what pods may not do", forward("accept", "ip saddr 10.5.0.0/16 tcp dport 25 drop"), want{"fwd": ""}},
		{"what pods may do, by a chain", "add chain inet t pods\n" + forward("accept", "iifname flannel.1 jump pods") + chainRules("pods", "tcp dport 80 accept", "drop"), want{"fwd": ""}},
		{"other addresses after nat", baseChain("pre", "nat", "prerouting", "-100", "accept", "ip daddr 10.5.1.0/24 tcp dport != 1 dnat ip to 10.9.0.1") + forward("drop", "ip daddr 10.9.0.0/16 accept"), want{"fwd": "", "fwdu": "t forward policy"}},
		{"masquerading", baseChain("post", "nat", "postrouting", "100", "accept", "masquerade"), want{"fwd": "", "out": ""}},
		{"a table that sleeps", input("drop") + "add table inet t { flags dormant; }\n", want{"in": ""}},
		{"two tables", "add table ip u\nadd chain ip u c { type filter hook input priority 10; policy drop; }\n" + input("accept", "drop"), want{"in": "t input rule, u c policy"}},
		{"IPv6 tables", "add table ip6 u\nadd chain ip6 u c { type filter hook input priority 10; policy drop; }\n", want{"in": ""}},
		{"our own", "add table ip flannel-ipv4\nadd chain ip flannel-ipv4 forward { type filter hook forward priority 10; policy drop; }\n", want{"fwd": ""}},
		{"someone's in our table", "add table ip flannel-ipv4\nadd chain ip flannel-ipv4 c { type filter hook input priority 10; policy drop; }\n", want{"in": "flannel-ipv4 c policy"}},
		{"bridges", "add table bridge b\nadd chain bridge b c { type filter hook input priority 10; policy drop; }\n", want{"fwd": "", "back": "b c policy", "in": ""}},
		{"a port of a bridge", "add table bridge b\nadd chain bridge b c { type filter hook input priority 10; }\nadd rule bridge b c iifname vnet0 drop\n", want{"back": ""}},
		{"two bits", input("drop", "ct state & (established | related) != 0 accept"), want{"in": "t input policy"}},
	} {
		if f == ip.V6 && strings.Contains(v.rules, "frag-off") {
			continue // there is none in the header of IPv6
		}
		v.check(t, f, "nft", "add table inet t\n"+v.rules)
	}
}

func TestRulesAtAnInterface(t *testing.T) { forEachFamily(t, testRulesAtAnInterface) }

func testRulesAtAnInterface(t *testing.T, f ip.Family) {
	rules(t, "nft", "")
	run(t, "", "ip", "link", "add", "eth0", "type", "veth", "peer", "name", "eth9")
	t.Cleanup(func() { run(t, "", "ip", "link", "del", "eth0") })
	for _, v := range []verdicts{
		{"ingress", "add table netdev t\nadd chain netdev t c { type filter hook ingress device eth0 priority 0; policy accept; }\nadd rule netdev t c ip saddr 192.168.0.2 udp dport 8472 drop\n", want{"in": "t c rule", "fwd": ""}},
		{"ingress of another", "add table netdev t\nadd chain netdev t c { type filter hook ingress device eth9 priority 0; policy drop; }\n", want{"in": ""}},
		{"ingress of several", "add table netdev t\nadd chain netdev t c { type filter hook ingress devices = { eth9, eth0 } priority 0; policy drop; }\n", want{"in": "t c policy", "hostg": "t c policy", "out": ""}},
		{"ingress of inet", "add table inet t\nadd chain inet t c { type filter hook ingress device eth0 priority 0; policy drop; }\n", want{"in": "t c policy"}},
		{"egress", "add table netdev t\nadd chain netdev t c { type filter hook egress device eth0 priority 0; policy drop; }\n", want{"in": "", "out": "t c policy"}},
	} {
		v.check(t, f, "nft", v.rules)
	}
}

func TestRulesOfIPTables(t *testing.T) { forEachFamily(t, testRulesOfIPTables) }

func testRulesOfIPTables(t *testing.T, f ip.Family) {
	for _, program := range []string{"iptables-nft", "iptables-legacy"} {
		for _, v := range []verdicts{
			{"nothing", "*filter\nCOMMIT\n", want{"in": "", "out": "", "fwd": "", "back": ""}},
			{"a policy", "*filter\n:FORWARD DROP\nCOMMIT\n", want{"in": "", "fwd": "filter FORWARD policy", "some": "filter FORWARD policy"}},
			{"our rules", "*filter\n:FORWARD DROP\n:FLANNEL-FWD -\n-A FORWARD -m comment --comment \"flanneld forward\" -j FLANNEL-FWD\n-A FLANNEL-FWD -s 10.5.0.0/16 -j ACCEPT\n-A FLANNEL-FWD -d 10.5.0.0/16 -j ACCEPT\nCOMMIT\n", want{"fwd": "", "back": "", "some": ""}},
			{"the last rule", "*filter\n-A INPUT -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT\n-A INPUT -i lo -j ACCEPT\n-A INPUT -p tcp -m tcp --dport 22 -j ACCEPT\n-A INPUT -j REJECT --reject-with icmp-host-prohibited\nCOMMIT\n", want{"in": "filter INPUT rule", "any": "filter INPUT rule"}},
			{"an open port", "*filter\n:INPUT DROP\n-A INPUT -p udp -m udp --dport 8472 -j ACCEPT\nCOMMIT\n", want{"in": "", "any": ""}},
			{"open ports", "*filter\n:INPUT DROP\n-A INPUT -p udp -m multiport --dports 53,8470:8475 -j ACCEPT\nCOMMIT\n", want{"in": ""}},
			{"other ports", "*filter\n:INPUT DROP\n-A INPUT -p udp -m multiport --dports 53,8473:8475 -j ACCEPT\n-A INPUT -p udp -m multiport --sports 8472 -j ACCEPT\nCOMMIT\n", want{"in": "filter INPUT policy"}},
			{"not a port", "*filter\n-A INPUT -p udp -m udp ! --dport 53 -j DROP\nCOMMIT\n", want{"in": "filter INPUT rule"}},
			{"an address", "*filter\n-A INPUT -s 192.168.0.2 -j DROP\nCOMMIT\n", want{"in": "filter INPUT rule", "any": ""}},
			{"not an address", "*filter\n-A INPUT ! -s 192.168.0.0/24 -j DROP\nCOMMIT\n", want{"in": "", "any": ""}},
			{"a range", "*filter\n-A INPUT -m iprange --src-range 192.168.0.2-192.168.0.9 -j DROP\nCOMMIT\n", want{"in": "filter INPUT rule", "any": ""}},
			{"interfaces", "*filter\n:FORWARD DROP\n-A FORWARD -i flannel+ -j ACCEPT\nCOMMIT\n", want{"fwd": "", "back": "filter FORWARD policy"}},
			{"not an interface", "*filter\n-A FORWARD ! -i eth0 -o cni0 -j DROP\nCOMMIT\n", want{"fwd": "filter FORWARD rule", "hostg": "", "back": ""}},
			{"an unknown interface", "*filter\n-A FORWARD -o cni0 -j DROP\nCOMMIT\n", want{"some": ""}},
			{"kube-proxy", "*filter\n:KUBE-FORWARD -\n:KUBE-FIREWALL -\n-A INPUT -j KUBE-FIREWALL\n-A FORWARD -m comment --comment \"kubernetes forwarding rules\" -j KUBE-FORWARD\n-A KUBE-FIREWALL ! -s 127.0.0.0/8 -d 127.0.0.0/8 -m conntrack ! --ctstate RELATED,ESTABLISHED,DNAT -j DROP\n-A KUBE-FIREWALL -m mark --mark 0x8000/0x8000 -j DROP\n-A KUBE-FORWARD -m conntrack --ctstate INVALID -j DROP\n-A KUBE-FORWARD -m mark --mark 0x4000/0x4000 -j ACCEPT\n-A KUBE-FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT\nCOMMIT\n*nat\n:KUBE-SVC -\n:KUBE-MARK -\n-A PREROUTING -j KUBE-SVC\n-A KUBE-SVC -d 10.96.0.1 -p tcp -m tcp --dport 443 -j KUBE-MARK\n-A KUBE-MARK -j MARK --or-mark 0x4000\n-A POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN\n-A POSTROUTING -j MASQUERADE\nCOMMIT\n", want{"in": "", "fwd": "", "back": "", "some": "", "out": ""}},
			{"docker", "*filter\n:FORWARD DROP\n:DOCKER -\n:DOCKER-USER -\n:DOCKER-ISOLATION-STAGE-1 -\n:DOCKER-ISOLATION-STAGE-2 -\n-A FORWARD -j DOCKER-USER\n-A FORWARD -j DOCKER-ISOLATION-STAGE-1\n-A FORWARD -o docker0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT\n-A FORWARD -o docker0 -j DOCKER\n-A FORWARD -i docker0 ! -o docker0 -j ACCEPT\n-A DOCKER-ISOLATION-STAGE-1 -i docker0 ! -o docker0 -j DOCKER-ISOLATION-STAGE-2\n-A DOCKER-ISOLATION-STAGE-1 -j RETURN\n-A DOCKER-ISOLATION-STAGE-2 -o docker0 -j DROP\n-A DOCKER-ISOLATION-STAGE-2 -j RETURN\n-A DOCKER-USER -j RETURN\nCOMMIT\n", want{"fwd": "filter FORWARD policy", "in": ""}},
			{"raw", "*raw\n-A PREROUTING -p udp -m udp --dport 8472 -j DROP\nCOMMIT\n", want{"in": "raw PREROUTING rule", "fwd": ""}},
			{"what docker 28 writes for a container", "*raw\n-A PREROUTING -d 10.5.1.2/32 ! -i docker0 -j DROP\nCOMMIT\n", want{"fwd": ""}},
			{"mangle", "*mangle\n:POSTROUTING DROP\nCOMMIT\n", want{"fwd": "mangle POSTROUTING policy", "out": "mangle POSTROUTING policy", "in": ""}},
			{"goto", "*filter\n:X -\n-A INPUT -g X\n-A INPUT -j DROP\n-A X -p tcp -j DROP\nCOMMIT\n", want{"in": ""}},
			{"no target", "*filter\n-A INPUT -p udp\n-A INPUT -p udp -j DROP\nCOMMIT\n", want{"in": "filter INPUT rule"}},
			{"a mark", "*mangle\n-A PREROUTING -j MARK --set-mark 7\nCOMMIT\n*filter\n:INPUT DROP\n-A INPUT -m mark --mark 7 -j ACCEPT\nCOMMIT\n", want{"in": ""}},
			{"not tracked", "*raw\n-A PREROUTING -p udp -j CT --notrack\nCOMMIT\n*filter\n:INPUT DROP\n-A INPUT -m conntrack --ctstate UNTRACKED -j ACCEPT\nCOMMIT\n", want{"in": ""}},
			{"a limit", "*filter\n:INPUT DROP\n-A INPUT -p udp -m limit --limit 1/sec -j ACCEPT\nCOMMIT\n", want{"in": ""}},
			{"kinds of addresses", "*filter\n-A INPUT -m addrtype --dst-type LOCAL -j RETURN\n-A INPUT -j DROP\nCOMMIT\n", want{"in": ""}},
			{"flags", "*filter\n-A FORWARD -p tcp -m tcp ! --tcp-flags FIN,SYN,RST,ACK SYN -m conntrack --ctstate NEW -j DROP\nCOMMIT\n", want{"fwd": ""}},
			{"new connections", "*filter\n-A FORWARD -p tcp -m tcp --tcp-flags FIN,SYN,RST,ACK SYN -j DROP\nCOMMIT\n", want{"fwd": "filter FORWARD rule", "fwdu": ""}},
			{"what someone forbade pods", "*filter\n:DOCKER-USER -\n-A FORWARD -j DOCKER-USER\n-A DOCKER-USER -s 10.5.0.0/16 -d 10.5.0.0/16 -p tcp -m tcp --dport 80 -j DROP\nCOMMIT\n", want{"fwd": ""}},
			{"a fragment", "*filter\n-A INPUT -f -j DROP\nCOMMIT\n", want{"in": ""}},
			{"security", "*security\n-A INPUT -p udp -j DROP\nCOMMIT\n", want{"in": "security INPUT rule"}},
		} {
			if f == ip.V6 && strings.Contains(v.rules, "-A INPUT -f ") {
				continue // the same
			}
			v.check(t, f, program, v.rules)
		}
	}
}

// Neighbours are found by packets of ICMPv6, which belong to no connection. What keeps one from
// its way is told; what lets it through, or may do so, is not.
func TestRulesForDiscovery(t *testing.T) {
	dataplanetest.NeedNetns(t)
	const established = "ct state established,related accept"
	input := func(policy string, rules ...string) string {
		return "add table inet t\n" + baseChain("input", "filter", "input", "filter", policy, rules...)
	}
	const xt = "*filter\n:INPUT DROP\n-A INPUT -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT\n"
	for _, v := range []verdicts{
		{"a policy", input("drop", established, "tcp dport 22 accept"), want{"ns": "t input policy", "na": "t input policy", "nsout": ""}},
		{"new connections", input("drop", "ct state new accept"), want{"ns": "t input policy"}},
		{"invalid", input("accept", "ct state invalid drop"), want{"ns": ""}},
		{"untracked", input("drop", "ct state untracked accept"), want{"ns": "", "na": ""}},
		{"some types", input("drop", established, "icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert } accept"), want{"ns": "", "na": ""}},
		{"one type", input("drop", established, "icmpv6 type nd-neighbor-solicit accept"), want{"ns": "", "na": "t input policy"}},
		{"all types", input("drop", "meta l4proto ipv6-icmp accept"), want{"ns": "", "na": ""}},
		{"of the link", input("drop", "icmpv6 type nd-neighbor-solicit ip6 hoplimit 255 accept", "ip6 hoplimit != 255 accept"), want{"ns": "", "na": "t input policy"}},
		{"multicast", input("accept", "meta pkttype multicast drop"), want{"ns": "t input rule", "na": ""}},
		{"not to this host", input("drop", "fib daddr type local accept"), want{"ns": "t input policy", "na": ""}},
		{"what leaves", "add table ip6 t\n" + strings.ReplaceAll(baseChain("output", "filter", "output", "filter", "drop", "udp dport 8472 accept"), "inet t", "ip6 t"), want{"ns": "", "nsout": "t output policy"}},

		{"a policy of ip6tables", xt + "COMMIT\n", want{"ns": "filter INPUT policy", "na": "filter INPUT policy", "nsout": ""}},
		{"all types for ip6tables", xt + "-A INPUT -p ipv6-icmp -j ACCEPT\nCOMMIT\n", want{"ns": "", "na": ""}},
		{"one type for ip6tables", xt + "-A INPUT -p ipv6-icmp -m icmp6 --icmpv6-type 135 -j ACCEPT\nCOMMIT\n", want{"ns": "", "na": "filter INPUT policy"}},
		{"all but one type", xt + "-A INPUT -p ipv6-icmp -m icmp6 ! --icmpv6-type 136 -j ACCEPT\nCOMMIT\n", want{"ns": "", "na": "filter INPUT policy"}},
		{"hop limit", xt + "-A INPUT -p ipv6-icmp -m icmp6 --icmpv6-type 135 -m hl --hl-eq 255 -j ACCEPT\nCOMMIT\n", want{"ns": ""}},
		{"untracked for ip6tables", xt + "-A INPUT -m conntrack --ctstate UNTRACKED -j ACCEPT\nCOMMIT\n", want{"ns": "", "na": ""}},
		{"untracked by state", xt + "-A INPUT -m state --state UNTRACKED -j ACCEPT\nCOMMIT\n", want{"ns": "", "na": ""}},
		{"not invalid", xt + "-A INPUT -m conntrack ! --ctstate INVALID -j ACCEPT\nCOMMIT\n", want{"ns": ""}},
		{"other protocols", xt + "-A INPUT -p udp -j ACCEPT\n-A INPUT ! -p ipv6-icmp -j ACCEPT\nCOMMIT\n", want{"ns": "filter INPUT policy"}},
	} {
		programs := []string{"ip6tables-nft", "ip6tables-legacy"}
		if !strings.HasPrefix(v.rules, "*") {
			programs = []string{"nft"}
		}
		for _, program := range programs {
			v.check(t, ip.V4, program, v.rules)
		}
	}
}

// What looks like iptables' and is not is no matter for iptables.
func TestTablesLikeThoseOfIPTables(t *testing.T) {
	dataplanetest.NeedNetns(t)
	for script, want := range map[string]state.RuleBackend{
		"add table ip filter\nadd chain ip filter INPUT { type filter hook input priority 0; policy drop; }\nadd rule ip filter INPUT tcp dport 22 accept\n":         state.IPTablesNFT,
		"add table ip filter\nadd chain ip filter INPUT { type filter hook input priority 0; policy drop; }\nadd rule ip filter INPUT tcp dport { 22, 80 } accept\n": state.NFTables,
		"add table ip filter\nadd chain ip filter input { type filter hook input priority 0; policy drop; }\n":                                                       state.NFTables,
		"add table inet filter\nadd chain inet filter INPUT { type filter hook input priority 0; policy drop; }\n":                                                   state.NFTables,
	} {
		rules(t, "nft", script)
		if err := Read(t.Context(), func(rs *Ruleset) {
			if drops, _ := rs.Drops(samples["in"]); len(drops) != 1 || drops[0].Variant != want {
				t.Errorf("it is dropped by %+v, want %s:\n%s", drops, want, script)
			}
		}); err != nil {
			t.Fatal(err)
		}
	}
}

// Rules that do not hold still are no rules.
func TestRulesThatChange(t *testing.T) {
	dataplanetest.NeedNetns(t)
	rules(t, "nft", "add table inet t\n")
	calls := 0
	err := Read(t.Context(), func(*Ruleset) {
		calls++
		run(t, fmt.Sprintf("add chain inet t c%d\n", calls), "nft", "-f", "-")
	})
	if !errors.Is(err, ErrChanging) || calls != nfdump.Attempts {
		t.Errorf("after %d calls: %v", calls, err)
	}
}
