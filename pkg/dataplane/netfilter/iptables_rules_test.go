package netfilter

import (
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"flanneld/pkg/dataplane/dataplanetest"
	"flanneld/pkg/ip"
	"flanneld/pkg/state"
)

// The rules are those of flannel 0.28, with what is excluded before the first that
// masquerades.
func TestIPTablesText(t *testing.T) {
	const want = `filter chain FLANNEL-FWD
filter FORWARD -s 192.0.2.1/32 -j REJECT --reject-with icmp-port-unreachable
filter FORWARD -m comment --comment "flanneld forward" -j FLANNEL-FWD
filter FLANNEL-FWD -s 10.1.0.0/16 -m comment --comment "flanneld forward" -j ACCEPT
filter FLANNEL-FWD -d 10.1.0.0/16 -m comment --comment "flanneld forward" -j ACCEPT
nat chain FLANNEL-POSTRTG
nat POSTROUTING -s 192.0.2.1/32 -j ACCEPT
nat POSTROUTING -m comment --comment "flanneld masq" -j FLANNEL-POSTRTG
nat FLANNEL-POSTRTG -m mark --mark 0x4000/0x4000 -m comment --comment "flanneld masq" -j RETURN
nat FLANNEL-POSTRTG -s 10.1.5.0/24 -d 10.1.0.0/16 -m comment --comment "flanneld masq" -j RETURN
nat FLANNEL-POSTRTG -s 10.1.0.0/16 -d 10.1.5.0/24 -m comment --comment "flanneld masq" -j RETURN
nat FLANNEL-POSTRTG ! -s 10.1.0.0/16 -d 10.1.5.0/24 -m comment --comment "flanneld masq" -j RETURN
nat FLANNEL-POSTRTG -s 10.1.0.0/16 -d 192.0.2.0/24 -m comment --comment "flanneld masq" -j RETURN
nat FLANNEL-POSTRTG -s 10.1.0.0/16 -d 198.51.100.7/32 -m comment --comment "flanneld masq" -j RETURN
nat FLANNEL-POSTRTG -s 10.1.0.0/16 ! -d 224.0.0.0/4 -m comment --comment "flanneld masq" -j MASQUERADE --random-fully
nat FLANNEL-POSTRTG ! -s 10.1.0.0/16 -d 10.1.0.0/16 -m comment --comment "flanneld masq" -j MASQUERADE --random-fully
`
	forEachVariant(t, func(t *testing.T, way wayKey) {
		dataplanetest.NeedNetns(t)
		h := freshIPTables(t, way)
		h.do(t, "-A FORWARD -s 192.0.2.1 -j REJECT\n-t nat -A POSTROUTING -s 192.0.2.1 -j ACCEPT")
		settle(t, New(true), way.wish())
		if diff := cmp.Diff(h.in(want), h.rules(t)); diff != "" {
			t.Errorf("want -, got +:\n%s", diff)
		}
		// Where others come to put their rules in POSTROUTING is their business.
		h.do(t, "-t nat -A POSTROUTING -s 192.0.2.2 -j ACCEPT\n-t nat -I POSTROUTING -s 192.0.2.3 -j ACCEPT")
		before := h.rules(t)
		settle(t, New(true), way.wish())
		if diff := cmp.Diff(before, h.rules(t)); diff != "" {
			t.Errorf("want -, got +:\n%s", diff)
		}
	})
}

// The chains of others in FORWARD, as docker, firewalld, ufw and kube-router leave them, and
// where our jump belongs among them: what is said to refuse the rest comes behind it.
var forwardPlaces = map[string]struct {
	chains, before, after string // of FORWARD: the rules before and behind
	overruled             string
}{
	"nothing": {},
	"exceptions": {
		before: "-s 192.0.2.1 -j DROP\n-p tcp -m tcp --dport 80 -j REJECT\n-i lo -j ACCEPT",
	},
	"exceptions, and the rest": {
		before:    "-s 192.0.2.1 -j DROP\n-i lo -j ACCEPT",
		after:     "-j REJECT\n-s 192.0.2.2 -j DROP",
		overruled: "-j REJECT --reject-with icmp-port-unreachable",
	},
	"the rest alone": {after: "-j DROP", overruled: "-j DROP"},
	"a comment": {
		after:     `-m comment --comment "what -j DROP is for" -j DROP`,
		overruled: `-m comment --comment "what -j DROP is for" -j DROP`,
	},
	"docker": {
		chains: "-N DOCKER\n-N DOCKER-ISOLATION-STAGE-1\n-N DOCKER-ISOLATION-STAGE-2\n-N DOCKER-USER\n" +
			"-A DOCKER -d 172.17.0.2 ! -i docker0 -o docker0 -p tcp -m tcp --dport 80 -j ACCEPT\n" +
			"-A DOCKER-ISOLATION-STAGE-1 -i docker0 ! -o docker0 -j DOCKER-ISOLATION-STAGE-2\n-A DOCKER-ISOLATION-STAGE-1 -j RETURN\n" +
			"-A DOCKER-ISOLATION-STAGE-2 -o docker0 -j DROP\n-A DOCKER-ISOLATION-STAGE-2 -j RETURN\n" +
			"-A DOCKER-USER -p tcp -m tcp --dport 80 -j DROP\n-A DOCKER-USER -j RETURN\n-P FORWARD DROP",
		before: "-j DOCKER-USER\n-j DOCKER-ISOLATION-STAGE-1\n-o docker0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT\n" +
			"-o docker0 -j DOCKER\n-i docker0 ! -o docker0 -j ACCEPT\n-i docker0 -o docker0 -j ACCEPT",
	},
	"docker 28": {
		chains: "-N DOCKER\n-N DOCKER-BRIDGE\n-N DOCKER-FORWARD\n-N DOCKER-USER\n-A DOCKER ! -i docker0 -o docker0 -j DROP\n" +
			"-A DOCKER-BRIDGE -o docker0 -j DOCKER\n-A DOCKER-FORWARD -j DOCKER-BRIDGE\n-A DOCKER-FORWARD -i docker0 -j ACCEPT\n" +
			"-A DOCKER-USER -p tcp -m tcp --dport 80 -j DROP\n-P FORWARD DROP",
		before:    "-j DOCKER-USER",
		after:     "-j DOCKER-FORWARD",
		overruled: "-j DOCKER-FORWARD",
	},
	"firewalld": {
		chains: "-N FORWARD_direct\n-N FORWARD_ZONES\n-N FWD_public\n-N FWD_public_deny\n" +
			"-A FORWARD_direct -s 192.0.2.1 -j DROP\n-A FWD_public -j FWD_public_deny\n-A FWD_public -j REJECT\n-A FORWARD_ZONES -g FWD_public",
		before:    "-m conntrack --ctstate RELATED,ESTABLISHED,DNAT -j ACCEPT\n-m conntrack --ctstate INVALID -j DROP\n-j FORWARD_direct",
		after:     "-j FORWARD_ZONES\n-j REJECT --reject-with icmp-host-prohibited",
		overruled: "-j FORWARD_ZONES",
	},
	"firewalld that trusts": {
		chains: "-N FORWARD_ZONES\n-N FWD_public\n-N FWD_trusted\n" +
			"-A FWD_public -j REJECT\n-A FWD_trusted -j ACCEPT\n-A FORWARD_ZONES -i lo -g FWD_public\n-A FORWARD_ZONES -g FWD_trusted\n-A FORWARD_ZONES -j DROP",
		before:    "-j FORWARD_ZONES",
		after:     "-j REJECT",
		overruled: "-j REJECT --reject-with icmp-port-unreachable",
	},
	"ufw": {
		chains: "-N ufw-before-forward\n-N ufw-user-forward\n-N ufw-reject-forward\n-N ufw-track-forward\n" +
			"-A ufw-before-forward -j ufw-user-forward\n-A ufw-user-forward -s 192.0.2.1 -j DROP\n-P FORWARD DROP",
		before: "-j ufw-before-forward\n-j ufw-reject-forward\n-j ufw-track-forward",
	},
	"ufw that rejects": {
		chains: "-N ufw-before-forward\n-N ufw-user-forward\n-N ufw-reject-forward\n-N ufw-track-forward\n" +
			"-A ufw-before-forward -j ufw-user-forward\n-A ufw-user-forward -s 192.0.2.1 -j DROP\n-A ufw-reject-forward -j REJECT",
		before:    "-j ufw-before-forward",
		after:     "-j ufw-reject-forward\n-j ufw-track-forward",
		overruled: "-j ufw-reject-forward",
	},
	"kube-router": {
		chains: "-N KUBE-ROUTER-FORWARD\n-N KUBE-POD-FW-A\n-A KUBE-ROUTER-FORWARD -d 10.1.5.7 -j KUBE-POD-FW-A\n" +
			"-A KUBE-POD-FW-A -m mark ! --mark 0x10000/0x10000 -j REJECT\n-A KUBE-ROUTER-FORWARD -m mark --mark 0x20000/0x20000 -j ACCEPT",
		before: `-m comment --comment "kube-router netpol" -j KUBE-ROUTER-FORWARD`,
	},
}

// Our jump is behind what others refuse, and before what refuses all the rest; where it is
// not, it comes to be, whoever was first.
func TestIPTablesForwardPlace(t *testing.T) {
	forEachVariant(t, func(t *testing.T, way wayKey) {
		for name, c := range forwardPlaces {
			t.Run(name, func(t *testing.T) {
				dataplanetest.NeedNetns(t)
				h := freshIPTables(t, way)
				add := func(rules string) {
					t.Helper()
					for rule := range strings.Lines(rules) {
						h.do(t, "-A FORWARD "+rule)
					}
				}
				forward := func() string {
					t.Helper()
					var rules []string
					for rule := range strings.Lines(h.rules(t)) {
						if rule, ok := strings.CutPrefix(rule, "filter FORWARD "); ok {
							rules = append(rules, rule)
						}
					}
					return strings.Join(rules, "")
				}
				h.do(t, c.chains)
				add(c.before)
				before := forward()
				add(c.after)
				want := before + "-m comment --comment \"flanneld forward\" -j FLANNEL-FWD\n" + strings.TrimPrefix(forward(), before)
				right := func(what string) {
					t.Helper()
					target := New(true)
					settle(t, target, way.wish())
					if diff := cmp.Diff(want, forward()); diff != "" {
						t.Errorf("%s: want -, got +:\n%s", what, diff)
					}
					if got := target.ways[way].(*iptables).reported; got != h.in(c.overruled) {
						t.Errorf("%s: overruled is %q, want %q", what, got, c.overruled)
					}
				}
				right("others first")
				jump := "FORWARD -m comment --comment \"flanneld forward\" -j FLANNEL-FWD"
				h.do(t, "-D "+jump+"\n-I "+jump)
				right("ours first")
				h.do(t, "-D "+jump+"\n-A "+jump)
				right("ours last")
			})
		}
	})
}

// Rules behind ours that let something through, or none, are no reason to do anything.
func TestIPTablesForwardStays(t *testing.T) {
	forEachVariant(t, func(t *testing.T, way wayKey) {
		dataplanetest.NeedNetns(t)
		h := countingIPTables(t, way, "")
		settle(t, New(true), way.wish())
		h.do(t, "-N EMPTY\n-A FORWARD -j EMPTY\n-A FORWARD -i lo -j ACCEPT\n-I FORWARD -s 192.0.2.1 -j DROP\n-A FORWARD -j RETURN")
		before := h.rules(t)
		settle(t, New(true), way.wish())
		if diff := cmp.Diff(before, h.rules(t)); diff != "" {
			t.Errorf("want -, got +:\n%s", diff)
		}
	})
}

// What excludes everything is printed by iptables without the destination.
func TestIPTablesExcludeAll(t *testing.T) {
	forEachVariant(t, func(t *testing.T, way wayKey) {
		dataplanetest.NeedNetns(t)
		freshIPTables(t, way)
		want := way.wish()
		for k, o := range want {
			if m, ok := o.(state.Masquerade); ok {
				m.Exclude = dataplanetest.In(way.Family, "0.0.0.0/0")
				want[k] = m
			}
		}
		settle(t, New(true), want)
	})
}

// Old rules go from both variants, wherever the new ones are.
func TestIPTablesOldInBoth(t *testing.T) {
	for _, way := range append(slices.Clone(variants), wayKey{state.NFTables, ip.V4}, wayKey{state.NFTables, ip.V6}) {
		t.Run(way.String(), func(t *testing.T) {
			dataplanetest.NeedNetns(t)
			h := freshIPTables(t, wayKey{state.IPTablesNFT, way.Family})
			hosts := []iptHost{h, {way: wayKey{state.IPTablesLegacy, way.Family}}}
			path := h.bin
			for _, suffix := range []string{"", "-save", "-restore"} {
				path += ":" + dirOf(program(t, hosts[1].way, suffix))
			}
			t.Setenv("PATH", path)
			for _, h := range hosts {
				h.do(t, oldIPTables["A"])
				h.do(t, oldIPTables["D"])
				h.do(t, oldIPTables["E"])
			}
			settle(t, New(true), way.wish())
			for _, h := range hosts {
				text := h.rules(t)
				if h.way != way && text != "" || h.way == way && strings.Count(text, "\n") != 14 {
					t.Errorf("%s is left with\n%s", h.way, text)
				}
			}
			settle(t, New(true), nil)
		})
	}
}

func dirOf(path string) string { return path[:strings.LastIndex(path, "/")] }

// A chain that others have come to use is left to them, without rules.
func TestIPTablesChainInUse(t *testing.T) {
	forEachVariant(t, func(t *testing.T, way wayKey) {
		dataplanetest.NeedNetns(t)
		h := freshIPTables(t, way)
		settle(t, New(true), way.wish())
		h.do(t, "-N MINE\n-A MINE -j FLANNEL-FWD\n-A MINE -s 192.0.2.1 -g FLANNEL-FWD")
		settle(t, New(true), nil)
		const want = `filter chain FLANNEL-FWD
filter chain MINE
filter MINE -j FLANNEL-FWD
filter MINE -s 192.0.2.1/32 -g FLANNEL-FWD
`
		if diff := cmp.Diff(h.in(want), h.rules(t)); diff != "" {
			t.Errorf("want -, got +:\n%s", diff)
		}
		settle(t, New(true), way.wish())
	})
}

// The chain of flannel's first versions goes with the last of their rules, unless
// it has been put to another use.
func TestIPTablesOldChain(t *testing.T) {
	forEachVariant(t, func(t *testing.T, way wayKey) {
		for name, c := range map[string]struct {
			more string
			left bool
		}{
			"of another network, too": {"-t nat -A FLANNEL -d 10.2.0.0/16 -j ACCEPT", false},
			"another rule":            {"-t nat -A FLANNEL -s 10.2.0.0/16 -j ACCEPT", true},
			"a rule for an interface": {"-t nat -A FLANNEL ! -d 224.0.0.0/4 -o lo -j MASQUERADE", true},
			"called from elsewhere":   {"-t nat -N MINE\n-t nat -A MINE -j FLANNEL", true},
			"called by more":          {"-t nat -A POSTROUTING -o lo -s 10.1.0.0/16 -j FLANNEL", true},
		} {
			t.Run(name, func(t *testing.T) {
				dataplanetest.NeedNetns(t)
				h := freshIPTables(t, way)
				h.do(t, oldIPTables["B"])
				h.do(t, c.more)
				settle(t, New(true), way.wish())
				text := h.rules(t)
				if left := strings.Contains(text, h.in("nat FLANNEL -d 10.1.0.0/16 -j ACCEPT\n")); left != c.left || strings.Contains(text, h.in("POSTROUTING -s 10.1.0.0/16 -j FLANNEL\n")) {
					t.Errorf("there is\n%s", text)
				}
			})
		}
	})
}

// Rules that anyone may have stay, with iptables and without, where nothing tells that
// flannel wrote them.
func TestIPTablesUncommented(t *testing.T) {
	forEachVariant(t, func(t *testing.T, way wayKey) {
		dataplanetest.NeedNetns(t)
		h := freshIPTables(t, way)
		h.do(t, `
-t nat -A POSTROUTING -s 10.1.0.0/16 -d 10.1.0.0/16 -j RETURN
-t nat -A POSTROUTING ! -s 10.1.0.0/16 -d 10.1.0.0/16 -j MASQUERADE
-A FORWARD -s 10.1.0.0/16 -j ACCEPT
-A FORWARD -d 10.1.0.0/16 -j ACCEPT
`)
		before := h.rules(t)
		left := func(want string) {
			t.Helper()
			if diff := cmp.Diff(h.in(want), h.rules(t)); diff != "" {
				t.Errorf("want -, got +:\n%s", diff)
			}
		}
		settle(t, New(false), wayKey{state.NFTables, way.Family}.wish())
		left(before)
		if err := os.RemoveAll(h.bin); err != nil {
			t.Fatal(err)
		}
		if way.RuleBackend == state.IPTablesNFT {
			settle(t, New(false), nil)
			left(before)
			settle(t, New(true), nil)
			_, nat, _ := strings.Cut(before, "nat ")
			left("nat " + nat)
		}
	})
}

func TestIPTablesOthers(t *testing.T) {
	forEachVariant(t, func(t *testing.T, way wayKey) {
		for lines, want := range map[string]string{
			"":                                      "",
			"-P FORWARD DROP":                       "chain FORWARD of table filter",
			"-N OTHERS":                             "",
			"-N OTHERS\n-A OTHERS -j ACCEPT":        "chain OTHERS of table filter",
			"-A FORWARD -i lo -j ACCEPT":            "chain FORWARD of table filter",
			"-t nat -A POSTROUTING -o lo -j ACCEPT": "chain POSTROUTING of table nat",
			"-t nat -A PREROUTING -i lo -j ACCEPT":  "chain PREROUTING of table nat",
			oldIPTables["A"]:                        "",
			oldIPTables["C"]:                        "",
			oldIPTables["D"]:                        "",
			oldIPTables["E"]:                        "",
			"-A FORWARD -s 10.1.0.0/16 -j ACCEPT":   "chain FORWARD of table filter",
		} {
			t.Run(lines, func(t *testing.T) {
				dataplanetest.NeedNetns(t)
				h := freshIPTables(t, way)
				h.do(t, lines)
				got, err := New(true).ways[way].others(t.Context())
				if err != nil || !strings.HasSuffix(got, want) || want == "" && got != "" {
					t.Errorf("others() = %q, %v; want %q", got, err, want)
				}
				settle(t, New(true), way.wish())
				if again, err := New(true).ways[way].others(t.Context()); err != nil || again != got {
					t.Errorf("others() = %q, %v; it was %q", again, err, got)
				}
			})
		}
	})
}
