package netfilter

import (
	"errors"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"flanneld/pkg/dataplane/dataplanetest"
	"flanneld/pkg/ip"
	"flanneld/pkg/state"
)

func TestParseRule(t *testing.T) {
	a, b := netip.MustParsePrefix("10.1.0.0/16"), netip.MustParsePrefix("192.0.2.7/32")
	for text, want := range map[string]iptRule{
		"":                                      {commented: commented{}, always: true},
		"-j ACCEPT":                             {commented: commented{rule: rule{verdict: accept}}, always: true},
		"-s 10.1.0.0/16 -j RETURN":              {commented: commented{rule: rule{src: in(a), verdict: ret}}},
		"! -s 10.1.0.0/16 -d 192.0.2.7/32 -j X": {commented: commented{rule: rule{src: notIn(a), dst: in(b), verdict: "X"}}},
		"-d 192.0.2.7 -j X":                     {commented: commented{rule: rule{dst: in(b), verdict: "X"}}}, // as old versions print it
		`-m comment --comment "a \"b\" \\ c" -j X`:                 {commented: commented{rule: rule{verdict: "X"}, comment: `a "b" \ c`}, always: true},
		"-m comment --comment x -m mark --mark 0x4000/0x4000 -j X": {commented: commented{rule: rule{marked: true, verdict: "X"}, comment: "x"}},
		"-j MASQUERADE --random-fully":                             {commented: commented{rule: rule{verdict: masquerade, random: true}}, always: true},

		"-m mark ! --mark 0x4000/0x4000 -j X": {commented: commented{rule: rule{verdict: "X"}, more: true}},
		"-m mark --mark 0x4000 -j X":          {commented: commented{rule: rule{verdict: "X"}, more: true}},
		"-s 10.1.0.0/255.0.255.0 -j X":        {commented: commented{rule: rule{verdict: "X"}, more: true}},
		"-s 10.1.0.0/16 -s 192.0.2.7/32 -j X": {commented: commented{rule: rule{src: in(a), verdict: "X"}, more: true}},
		"-m socket -j X":                      {commented: commented{rule: rule{verdict: "X"}, more: true}},
		"! -i eth0 -j X":                      {commented: commented{rule: rule{verdict: "X"}, more: true}},
		"-g X":                                {commented: commented{rule: rule{verdict: "X"}, more: true}, always: true, goes: true},
		"-j MASQUERADE --to-ports 1-2":        {commented: commented{rule: rule{verdict: masquerade}, more: true}, always: true},
		"-j":                                  {commented: commented{more: true}},
		"!":                                   {commented: commented{more: true}},

		`-m comment --comment x -j REJECT --reject-with icmp-host-prohibited`: {commented: commented{rule: rule{verdict: rejected}, comment: "x", more: true}, always: true},
		"! -i br0 -o br0 -j DROP":                {commented: commented{rule: rule{verdict: dropped}, more: true}, guard: true},
		"! -i br0 -o br1 -j DROP":                {commented: commented{rule: rule{verdict: dropped}, more: true}},
		"-d 10.1.0.0/16 ! -i br0 -o br0 -j DROP": {commented: commented{rule: rule{dst: in(a), verdict: dropped}, more: true}},
		"! -i br0 -o br0 -p tcp -j DROP":         {commented: commented{rule: rule{verdict: dropped}, more: true}},
	} {
		want.text = text
		if diff := cmp.Diff(want, parseRule(text), cmp.AllowUnexported(iptRule{}, commented{}, rule{}, match{}), cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })); diff != "" {
			t.Errorf("%s: want -, got +:\n%s", text, diff)
		}
	}
}

func TestParseVersion(t *testing.T) {
	for text, want := range map[string]iptVersion{
		"iptables v1.4.21":                 {state.IPTablesLegacy, [3]int{1, 4, 21}},
		"iptables v1.8.9 (legacy)\n":       {state.IPTablesLegacy, [3]int{1, 8, 9}},
		"iptables v1.8.11 (nf_tables)":     {state.IPTablesNFT, [3]int{1, 8, 11}},
		"iptables-nft v1.10.0 (nf_tables)": {state.IPTablesNFT, [3]int{1, 10, 0}},
	} {
		if got, err := parseVersion(text); err != nil || got != want {
			t.Errorf("%q: %+v, %v", text, got, err)
		}
	}
	if _, err := parseVersion("busybox"); err == nil || !strings.Contains(err.Error(), "busybox") {
		t.Errorf("of what is no version: %v", err)
	}
	for number, want := range map[[3]int]bool{{1, 6, 1}: false, {1, 6, 2}: true, {1, 10, 0}: true, {2, 0, 0}: true} {
		if got := (iptVersion{number: number}).knowsRandomFully(); got != want {
			t.Errorf("%v: %v", number, got)
		}
	}
}

// What programs say of what is wrong, and what is made of it.
func TestExplain(t *testing.T) {
	lines := []string{"*nat", "-A X -j Y", "COMMIT"}
	for text, want := range map[string]string{
		"iptables-restore: line 2 failed":                                                      `line 2 is "-A X -j Y"`,
		"unknown option; Error occurred at line: 2":                                            `line 2 is "-A X -j Y"`,
		"iptables-restore: line 7 failed":                                                      "line 7 failed",
		"can't initialize iptables table `nat': Permission denied (you must be root)":          "CAP_NET_ADMIN",
		"can't initialize iptables table `nat': Table does not exist (do you need to insmod?)": "modprobe",
		"line 2: RULE_APPEND failed (No such file or directory): rule in chain X":              "modprobe",
		"Another app is currently holding the xtables lock":                                    "fuser",
	} {
		cause := errors.New(text)
		err := families[ip.V4].explain(cause, lines)
		if !errors.Is(err, cause) || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", text, err)
		}
	}
}

// The digest tells what is different about the chains that are shared, and about all.
func TestDigest(t *testing.T) {
	for _, f := range ip.Families {
		t.Run(f.String(), func(t *testing.T) { testDigest(t, wayKey{state.IPTablesLegacy, f}) })
	}
}

func testDigest(t *testing.T, way wayKey) {
	dataplanetest.NeedNetns(t)
	h := freshIPTables(t, way)
	h.do(t, othersIPTables)
	settle(t, New(true), h.way.wish())
	kernel := newIPTablesKernel(families[way.Family])
	filter := slices.IndexFunc(places[:], func(p place) bool { return p.table == "filter" })
	digest := func() iptDigest {
		t.Helper()
		s, err := kernel.digest()
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	before := digest()
	changed := func() (shared, whole bool) {
		t.Helper()
		now := digest()
		shared, whole = before.shared[filter] != now.shared[filter], before.all != now.all
		before = now
		return shared, whole
	}
	for lines, want := range map[string][2]bool{
		"-Z":                   {false, false},
		"-N A":                 {false, true},
		"-N B\n-A B -j ACCEPT": {false, true},
	} {
		h.do(t, lines)
		if shared, whole := changed(); shared != want[0] || whole != want[1] {
			t.Errorf("%q changes the digest of the shared chains: %t; of the table: %t", lines, shared, whole)
		}
	}
	for _, lines := range []string{"-P FORWARD DROP", "-A FORWARD -s 192.0.2.1 -j ACCEPT", "-A INPUT -s 192.0.2.1 -j ACCEPT", "-P INPUT ACCEPT", "-R FORWARD 2 -j A", "-R FLANNEL-FWD 1 -j A", "-F FLANNEL-FWD", "-F FORWARD", "-X FLANNEL-FWD"} {
		h.do(t, lines)
		if shared, whole := changed(); !shared || !whole {
			t.Errorf("%s changes the digest of the shared chains: %t; of the table: %t", lines, shared, whole)
		}
	}
}
