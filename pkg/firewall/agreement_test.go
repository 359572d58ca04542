package firewall

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"flanneld/pkg/dataplane/dataplanetest"
	"flanneld/pkg/ip"
	"flanneld/pkg/lab"
	"flanneld/pkg/nfdump"
)

// condition is what a rule may ask, for nft and for iptables; empty if it has no such thing.
type condition struct {
	nft, xt string
	unclear bool // a sample does not tell
}

// conditions about addresses 192.168.1.2 (left), 192.168.2.2 (right), and those of the
// router.
var conditions = []condition{
	{"ip saddr 192.168.1.2", "-s 192.168.1.2", false},
	{"ip saddr != 192.168.1.2", "! -s 192.168.1.2", false},
	{"ip saddr 192.168.1.0/24", "-s 192.168.1.0/24", false},
	{"ip saddr 192.168.2.0/23", "-s 192.168.2.0/23", false},
	{"ip daddr 192.168.2.2", "-d 192.168.2.2", false},
	{"ip daddr != 192.168.2.0/24", "! -d 192.168.2.0/24", false},
	{"ip daddr 192.168.2.1-192.168.2.77", "-m iprange --dst-range 192.168.2.1-192.168.2.77", false},
	{"ip daddr @some", "", false},
	{"ip saddr != @some", "", false},
	{"ip saddr { 10.0.0.1, 192.168.1.2 }", "", false},
	{"ip saddr . udp dport { 192.168.1.0/24 . 8000-9000, 192.168.1.9 . 53 }", "", false},
	{"iifname eth0", "-i eth0", false},
	{"iifname != eth0", "! -i eth0", false},
	{"iifname \"et*\"", "-i et+", false},
	{"iifname { lo, eth1 }", "", false},
	{"udp dport 8472", "-p udp -m udp --dport 8472", false},
	{"udp dport != 8472", "-p udp -m udp ! --dport 8472", false},
	{"udp dport 8000-8472", "-p udp -m udp --dport 8000:8472", false},
	{"udp dport > 8472", "", false},
	{"udp dport { 53, 8400-8500 }", "-p udp -m multiport --dports 53,8400:8500", false},
	{"udp dport != { 53, 67 }", "-p udp -m multiport ! --dports 53,67", false},
	{"udp sport 51013", "-p udp -m udp --sport 51013", false},
	{"meta l4proto udp", "-p udp", false},
	{"meta l4proto { tcp, icmp }", "-p tcp", false},
	{"ip protocol != tcp", "! -p tcp", false},
	{"tcp dport 8472", "-p tcp -m tcp --dport 8472", false},
	{"meta nfproto ipv6", "", false},
	{"ip frag-off & 0x1fff != 0", "-f", false},
	{"ip version 4", "", false},
	{"meta pkttype != broadcast", "", true}, // where a packet begins, it has no kind
	{"ct state new", "-m conntrack --ctstate NEW", false},
	{"ct state established,related", "-m conntrack --ctstate RELATED,ESTABLISHED", false},
	{"ct state != established", "-m conntrack ! --ctstate ESTABLISHED", false},
	{"ct state { new, untracked }", "-m state --state NEW", false},
	{"ct direction original", "", false},
	{"ct status dnat", "-m conntrack --ctstate DNAT", false},
	{"meta mark 7", "-m mark --mark 7", true},
	{"meta mark & 0x10 == 0", "-m mark ! --mark 0x10/0x10", true},
	{"ip ttl > 5", "-m ttl --ttl-gt 5", true},
	{"limit rate 100/second", "-m limit --limit 100/sec", true},
	{"ip dscp cs1", "", true},
}

// script is a random set of rules, and whether a sample tells all that they ask.
type script struct {
	text  string
	clear bool
}

// someRules makes rules for nft or iptables of a family.
func someRules(r *rand.Rand, f ip.Family, nft bool) script {
	s := someRules4(r, f, nft)
	s.text = inFamily(f, s.text)
	return s
}

// someRules4 makes them as they are written for IPv4.
func someRules4(r *rand.Rand, f ip.Family, nft bool) script {
	s := script{clear: true}
	others := []string{"a", "b", "c"}
	random := func(chain string, others []string) string {
		var text string
		for n := r.IntN(3); n > 0; n-- {
			c := conditions[r.IntN(len(conditions))]
			one := c.xt
			if nft {
				one = c.nft
			}
			if one == "" || f == ip.V6 && (one == "-f" || strings.Contains(one, "frag-off")) || !nft && (strings.Contains(one, "-p ") && strings.Contains(text, "-p ") || strings.Contains(text, one[:2]) && one[0] != '!') {
				continue
			}
			s.clear = s.clear && !c.unclear
			text += one + " "
		}
		targets := []string{"accept", "accept", "drop", "drop", "return", "counter", "log"}
		if !nft {
			targets = []string{"-j ACCEPT", "-j ACCEPT", "-j DROP", "-j DROP", "-j RETURN", "", "-j LOG"}
		}
		if nft {
			targets = append(targets, "iifname vmap { eth0 : drop, lo : accept }", "udp dport vmap { 8000-8472 : accept, 53 : drop, 8473-9000 : return }", "ip saddr . ip daddr vmap { 192.168.1.2 . 192.168.2.2 : accept, * : continue }")
		}
		for _, o := range others {
			if nft {
				targets = append(targets, "jump "+o, "goto "+o, "ip daddr vmap { 192.168.2.2 : jump "+o+", 192.168.1.3 : goto "+o+" }")
			} else {
				targets = append(targets, "-j "+o, "-g "+o)
			}
		}
		if nft {
			return "add rule inet t " + chain + " " + text + targets[r.IntN(len(targets))] + "\n"
		}
		return "-A " + chain + " " + text + targets[r.IntN(len(targets))] + "\n"
	}
	policy := func() string {
		if r.IntN(12) == 0 {
			return "drop"
		}
		return "accept"
	}
	if nft {
		s.text = "add table inet t\nadd set inet t some { type ipv4_addr; flags interval; }\nadd element inet t some { 192.168.2.0/28, 10.0.0.0/8 }\n"
		for _, o := range others {
			s.text += "add chain inet t " + o + "\n"
		}
		for i, o := range others {
			for range r.IntN(3) {
				s.text += random(o, others[i+1:])
			}
		}
		for i, hook := range []string{"prerouting", "input", "forward", "output", "postrouting"} {
			for _, prio := range []int{-300, -150, 0}[r.IntN(3):] {
				name := fmt.Sprintf("base%d_%d", i, -prio)
				s.text += fmt.Sprintf("add chain inet t %s { type filter hook %s priority %d; policy %s; }\n", name, hook, prio, policy())
				for range r.IntN(4) {
					s.text += random(name, others)
				}
			}
		}
		return s
	}
	for _, table := range legacyTables {
		if table.name == "nat" || table.name == "security" || r.IntN(3) == 0 && table.name != "filter" {
			continue
		}
		s.text += "*" + table.name + "\n"
		for _, o := range others {
			s.text += ":" + o + " -\n"
		}
		for i, o := range others {
			for range r.IntN(3) {
				s.text += random(o, others[i+1:])
			}
		}
		for hook := range nfdump.HookChains {
			if _, has := table.prio[uint32(hook)]; !has {
				continue
			}
			s.text = strings.Replace(s.text, "*"+table.name+"\n", "*"+table.name+"\n:"+nfdump.HookChains[hook]+" "+strings.ToUpper(policy())+"\n", 1)
			for range r.IntN(4) {
				one := random(nfdump.HookChains[hook], others)
				// What iptables does not take there.
				if strings.Contains(one, "-i ") && (nfdump.HookChains[hook] == "OUTPUT" || nfdump.HookChains[hook] == "POSTROUTING") {
					continue
				}
				s.text += one
			}
		}
		s.text += "COMMIT\n"
	}
	return s
}

// asksBehindRouting reports whether a rule may ask, behind routing, by which interface a
// packet came in. Only kernels since 5.7 tell that there, so Drops leaves it open.
func asksBehindRouting(script string) bool {
	const behind, shared = `(?m)^(?:add rule inet t base4_\d+|-A POSTROUTING) .*`, `(?m)^(?:add rule inet t|-A) [abc] .*`
	asks, jumps := `(?:iifname |-i )`, `(?:jump|goto|-j|-g) [abc]\b`
	match := func(pattern string) bool { return regexp.MustCompile(pattern).MatchString(script) }
	return match(behind+asks) || match(behind+jumps) && match(shared+asks)
}

// sampling is a packet that is sent, and where it arrives.
type sampling struct {
	name     string
	packet   Packet
	from, at *lab.Host
	to       netip.AddrPort
	listener *net.UDPConn
}

// newLab returns a lab, and what ends the test for an error.
func newLab(t *testing.T) (*lab.Lab, func(error)) {
	t.Helper()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	l, err := lab.New(lab.Options{BinDir: "../../build"})
	must(err)
	t.Cleanup(func() { _ = l.Close() })
	return l, must
}

// What is called dropped does not arrive; and what arrives nowhere is called so, if the
// rules ask for nothing that a sample does not tell.
func TestAgreementWithTheKernel(t *testing.T) { forEachFamily(t, testAgreementWithTheKernel) }

func testAgreementWithTheKernel(t *testing.T, f ip.Family) {
	l, must := newLab(t)
	host := func(name string, sw *lab.Switch, addr string) *lab.Host {
		h, err := l.AddHost(name, sw, lab.HostOptions{NoDefaultRoute: true})
		must(err)
		if h.Addr.String() != inFamily(f, addr) {
			t.Fatalf("%s has the address %s", name, h.Addr)
		}
		return h
	}
	leftSide, err := l.AddSwitch("lan1", netip.MustParsePrefix(inFamily(f, "192.168.1.0/24")))
	must(err)
	rightSide, err := l.AddSwitch("lan2", netip.MustParsePrefix(inFamily(f, "192.168.2.0/24")))
	must(err)
	left, right, router := host("left", leftSide, "192.168.1.2"), host("right", rightSide, "192.168.2.2"), host("router", leftSide, "192.168.1.3")
	must(router.AddNIC("eth1", rightSide, netip.MustParseAddr(inFamily(f, "192.168.2.3"))))
	must(left.SetDefaultRoute(router.Addr, "eth0"))
	must(right.SetDefaultRoute(netip.MustParseAddr(inFamily(f, "192.168.2.3")), "eth0"))

	single := func(a string) netip.Prefix {
		return dataplanetest.PrefixIn(f, netip.PrefixFrom(netip.MustParseAddr(a), 32))
	}
	port := func(a string, port uint16) netip.AddrPort { return netip.AddrPortFrom(single(a).Addr(), port) }
	var in, out Iface
	must(router.Do(func() error {
		for name, i := range map[string]*Iface{"eth0": &in, "eth1": &out} {
			dev, err := net.InterfaceByName(name)
			if err != nil {
				return err
			}
			*i = Iface{Name: name, Index: dev.Index}
		}
		return nil
	}))
	samplings := []*sampling{
		{"in", Packet{Path: Inbound, In: in, Src: single("192.168.1.2"), Dst: single("192.168.1.3"), Proto: unix.IPPROTO_UDP, DstPort: 8472}, left, router, port("192.168.1.3", 8472), nil},
		{"forwarded", Packet{Path: Forwarded, In: in, Out: out, Src: single("192.168.1.2"), Dst: single("192.168.2.2"), Proto: unix.IPPROTO_UDP, DstPort: 8472}, left, right, port("192.168.2.2", 8472), nil},
		{"out", Packet{Path: Outbound, Out: out, Src: single("192.168.2.3"), Dst: single("192.168.2.2"), Proto: unix.IPPROTO_UDP, DstPort: 8473}, router, right, port("192.168.2.2", 8473), nil},
	}
	for _, s := range samplings {
		must(s.at.Do(func() (err error) {
			s.listener, err = net.ListenUDP("udp", net.UDPAddrFromAddrPort(s.to))
			return err
		}))
		t.Cleanup(func() { _ = s.listener.Close() })
	}
	// Neighbours are found before, which has nothing to do with it.
	for _, s := range samplings {
		if !s.arrives(t, 5*time.Second) {
			t.Fatalf("%s does not arrive without rules", s.name)
		}
	}
	seed := uint64(time.Now().UnixNano())
	if text := os.Getenv("FIREWALL_SEED"); text != "" {
		seed, err = strconv.ParseUint(text, 10, 64)
		must(err)
	}
	t.Logf("FIREWALL_SEED=%d has the same rules", seed)
	rounds := 90
	if text := os.Getenv("FIREWALL_ROUNDS"); text != "" {
		rounds, err = strconv.Atoi(text)
		must(err)
	}
	r := rand.New(rand.NewPCG(seed, 0))
	count := make(map[string]int)
	for i := range rounds {
		program := inFamily(f, []string{"nft", "iptables-nft", "iptables-legacy"}[i%3])
		s := someRules(r, f, program == "nft")
		if router.Do(func() error { return tryRules(t, program, s.text) }) != nil {
			count["not taken by "+program]++
			continue
		}
		for _, one := range samplings {
			var drops []Drop
			must(router.Do(func() error {
				return Read(t.Context(), func(rs *Ruleset) { drops, _ = rs.Drops(one.packet) })
			}))
			sure := s.clear && (one.packet.Path != Forwarded || !asksBehindRouting(s.text))
			wait := 10 * time.Millisecond
			arrived := one.arrives(t, wait)
			if !arrived && len(drops) == 0 && sure {
				arrived = one.arrives(t, 5*time.Second) // on a busy machine
			}
			switch {
			case arrived && len(drops) > 0:
				t.Errorf("%s: %s arrives, and is said to be dropped by %s:\n%s", program, one.name, drops[0].Rule(), s.text)
			case !arrived && len(drops) == 0 && sure:
				t.Errorf("%s: %s does not arrive, and nothing is said to drop it:\n%s", program, one.name, s.text)
			}
			count[fmt.Sprintf("arrived %t, named %t", arrived, len(drops) > 0)]++
		}
		if t.Failed() {
			return
		}
	}
	t.Log(count)
	if !slices.ContainsFunc([]string{"arrived true, named false"}, func(k string) bool { return count[k] > 30 }) || count["arrived false, named true"] < 30 {
		t.Error("too little was tried")
	}
}

// What is said to drop that by which a host is found does, and no other.
func TestDiscoveryAgreesWithTheKernel(t *testing.T) {
	dataplanetest.NeedNetns(t)
	l, must := newLab(t)
	sw, err := l.AddSwitch("lan", netip.MustParsePrefix("2001:db8::/64"))
	must(err)
	other, err := l.AddHost("other", sw, lab.HostOptions{NoDefaultRoute: true})
	must(err)
	us, err := l.AddHost("us", sw, lab.HostOptions{NoDefaultRoute: true})
	must(err)
	// found reports whether the other host finds this one within a time.
	found := func(within time.Duration) (is bool) {
		t.Helper()
		must(other.Do(func() error {
			if err := try("", "ip", "-6", "neigh", "flush", "dev", "eth0"); err != nil {
				return err
			}
			conn, err := net.Dial("udp6", netip.AddrPortFrom(us.Addr, 9).String())
			if err != nil {
				return err
			}
			defer conn.Close()
			for end := time.Now().Add(within); !is && time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
				_, _ = conn.Write([]byte("x"))
				out, err := exec.Command("ip", "-6", "neigh", "show", us.Addr.String(), "dev", "eth0").Output()
				if is = strings.Contains(string(out), "lladdr"); err != nil {
					return err
				}
			}
			return nil
		}))
		return is
	}
	const soon, briefly = 20 * time.Second, 500 * time.Millisecond
	if !found(soon) {
		t.Fatal("it is not found without rules")
	}
	eth0 := Iface{Name: "eth0"}
	asked, sent := us.Addr.As16(), netip.MustParseAddr("ff02::1:ff00:0").As16()
	copy(sent[13:], asked[13:])
	in := Packet{Path: Inbound, In: eth0, Src: netip.PrefixFrom(other.Addr, 128), Dst: netip.PrefixFrom(netip.AddrFrom16(sent), 128), Proto: unix.IPPROTO_ICMPV6, ICMPType: NeighborSolicit}
	out := Packet{Path: Outbound, Out: eth0, Src: netip.PrefixFrom(us.Addr, 128), Dst: netip.PrefixFrom(other.Addr, 128), Proto: unix.IPPROTO_ICMPV6, ICMPType: NeighborAdvert}
	for rule, want := range map[string]bool{
		"":                                                      false,
		"ct state new accept":                                   false,
		"ct state != invalid accept":                            true,
		"ct state untracked accept":                             true,
		"meta pkttype multicast accept":                         true,
		"fib daddr type multicast accept":                       true,
		"fib daddr type local accept":                           false,
		"icmpv6 type nd-neighbor-solicit accept":                true,
		"icmpv6 type { echo-request, 136 } accept":              false,
		"ip6 hoplimit 255 meta l4proto ipv6-icmp accept":        true,
		"ip6 daddr ff02::/16 accept":                            true,
		"ip6 saddr 2001:db8::/64 icmpv6 code 0 accept":          true,
		"ip6 nexthdr 58 ip6 version 6 meta protocol ip6 accept": true,
	} {
		script := "add table ip6 t\nadd chain ip6 t in { type filter hook input priority 0; policy drop; }\n"
		if rule != "" {
			script += "add rule ip6 t in " + rule + "\n"
		}
		var drops []Drop
		must(us.Do(func() error {
			if err := tryRules(t, "nft", script); err != nil {
				return err
			}
			return Read(t.Context(), func(rs *Ruleset) { drops, _ = rs.Drops(in) })
		}))
		within := briefly
		if want {
			within = soon
		}
		if is := found(within); is != want || (len(drops) == 0) != want {
			t.Errorf("with %q this host is found: %t; it is said to be dropped by %v; want %t", rule, is, drops, want)
		}
	}
	must(us.Do(func() error {
		if err := tryRules(t, "nft", "add table ip6 t\nadd chain ip6 t out { type filter hook output priority 0; policy drop; }\n"); err != nil {
			return err
		}
		return Read(t.Context(), func(rs *Ruleset) {
			if drops, _ := rs.Drops(out); len(drops) == 0 {
				t.Error("nothing is said to drop its answers")
			}
		})
	}))
	if found(briefly) {
		t.Error("it is found though its answers are dropped")
	}
}

// arrives sends a packet, or some, and returns whether one arrives.
func (s *sampling) arrives(t *testing.T, within time.Duration) bool {
	t.Helper()
	var conn *net.UDPConn
	err := s.from.Do(func() (err error) {
		d := net.Dialer{LocalAddr: &net.UDPAddr{Port: anySrcPort}, Control: func(_, _ string, raw syscall.RawConn) error {
			return raw.Control(func(fd uintptr) { _ = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEADDR, 1) })
		}}
		c, err := d.DialContext(t.Context(), "udp", s.to.String())
		if err == nil {
			conn = c.(*net.UDPConn)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	token := fmt.Sprint(rand.Uint64())
	buffer := make([]byte, 64)
	for end := time.Now().Add(within); ; {
		_, err := conn.Write([]byte(token))
		if err != nil && !errors.Is(err, unix.EPERM) && !errors.Is(err, unix.ECONNREFUSED) && !errors.Is(err, unix.EHOSTUNREACH) {
			t.Fatal(err)
		}
		wait := time.Now().Add(10 * time.Millisecond)
		for {
			_ = s.listener.SetReadDeadline(wait)
			n, err := s.listener.Read(buffer)
			if err != nil {
				break
			}
			if string(buffer[:n]) == token {
				return true
			}
		}
		if time.Now().After(end) {
			return false
		}
	}
}
