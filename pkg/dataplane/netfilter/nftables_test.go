package netfilter

import (
	"bytes"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"testing"

	"flanneld/pkg/dataplane"
	"flanneld/pkg/dataplane/dataplanetest"
	"flanneld/pkg/ip"
	"flanneld/pkg/nfdump"
	"flanneld/pkg/state"
)

func TestMain(m *testing.M) { dataplanetest.InNetns(m) }

// run runs a program with the given input and returns what it says.
func run(t testing.TB, stdin string, argv ...string) string {
	t.Helper()
	c := exec.Command(argv[0], argv[1:]...)
	c.Stdin = strings.NewReader(stdin)
	var stderr bytes.Buffer
	c.Stderr = &stderr
	out, err := c.Output()
	if err != nil {
		t.Fatalf("%v: %v\n%s%s", argv, err, stderr.String(), stdin)
	}
	return string(out)
}

// nft returns what has nft do as the script says.
func nftScript(script string) func(testing.TB) {
	return func(t testing.TB) {
		t.Helper()
		run(t, script, "nft", "-f", "-")
	}
}

var details = regexp.MustCompile(`counter packets \d+ bytes \d+ |comment "[^"]*"`)

// nftRules lists rules by table and chain, one a line, without comments.
func nftRules(t testing.TB) string {
	t.Helper()
	var table, chain string
	var lines []string
	for line := range strings.Lines(details.ReplaceAllString(run(t, "", "nft", "list", "ruleset"), "")) {
		line = strings.TrimSpace(line)
		switch word, _, _ := strings.Cut(line, " "); {
		case word == "table":
			table, chain = strings.TrimSuffix(line, " {"), ""
			lines = append(lines, table+"\n")
		case word == "chain":
			chain = strings.TrimSuffix(line, " {")
		case word != "" && word != "}":
			lines = append(lines, table+" "+chain+": "+line+"\n")
		}
	}
	slices.SortStableFunc(lines, func(a, b string) int {
		of := func(s string) string { s, _, _ = strings.Cut(s, ":"); return s }
		return strings.Compare(of(a), of(b))
	})
	return strings.Join(lines, "")
}

// nftGeneration returns how often rules in nf_tables have changed.
func nftGeneration(t testing.TB) (generation uint32) {
	t.Helper()
	err := nfAsk(t.Context(), "reading the generation", func(c *nfdump.Conn) (err error) {
		generation, err = c.Generation()
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return generation
}

// noRules takes away all rules of the test's namespace.
func noRules(t testing.TB) {
	t.Helper()
	nftScript("flush ruleset")(t)
	for _, f := range ip.Families {
		run(t, flushed, program(t, wayKey{state.IPTablesLegacy, f}, "-restore"))
	}
}

// oldNFTables is what flannel 0.28 leaves.
const oldNFTables = `
add table ip flannel-ipv4 { comment "rules for flannel-ipv4"; }
add table ip6 flannel-ipv6 { comment "rules for flannel-ipv6"; }
add chain ip flannel-ipv4 forward { type filter hook forward priority filter; }
add chain ip6 flannel-ipv6 forward { type filter hook forward priority filter; }
add chain ip flannel-ipv4 postrtg { type nat hook postrouting priority srcnat; }
add chain ip6 flannel-ipv6 postrtg { type nat hook postrouting priority srcnat; }
add rule ip flannel-ipv4 forward ip saddr 10.1.0.0/16 accept
add rule ip flannel-ipv4 forward ip daddr 10.1.0.0/16 accept
add rule ip flannel-ipv4 postrtg meta mark 0x4000 return
add rule ip flannel-ipv4 postrtg ip saddr 10.1.5.0/24 ip daddr 10.1.0.0/16 return
add rule ip flannel-ipv4 postrtg ip saddr 10.1.0.0/16 ip daddr 10.1.5.0/24 return
add rule ip flannel-ipv4 postrtg ip saddr != 10.1.5.0/24 ip daddr 10.1.0.0/16 return
add rule ip flannel-ipv4 postrtg ip saddr 10.1.0.0/16 ip daddr != 224.0.0.0/4 masquerade fully-random
add rule ip flannel-ipv4 postrtg ip saddr != 10.1.0.0/16 ip daddr 10.1.0.0/16 masquerade fully-random
`

const someoneElses = `
table inet theirs {
	chain forward { type filter hook forward priority 0; ip saddr 10.1.0.0/16 counter accept; }
}
table ip theirs {
	chain postrtg { type nat hook postrouting priority 100; ip saddr 10.1.0.0/16 masquerade; }
}
table ip6 flannel-ipv4 {
	chain forward { type filter hook forward priority 0; tcp dport 1 accept; }
}
`

func TestNFTables(t *testing.T) {
	for _, f := range ip.Families {
		t.Run(f.String(), func(t *testing.T) { testNFTables(t, f) })
	}
}

func testNFTables(t *testing.T, f ip.Family) {
	spoils := map[string]string{
		"rule added":     "add rule ip flannel-ipv4 postrtg accept",
		"rule inserted":  "insert rule ip flannel-ipv4 forward drop",
		"unknown rule":   "insert rule ip flannel-ipv4 postrtg ct state new accept",
		"first deleted":  "flush chain ip flannel-ipv4 forward; add rule ip flannel-ipv4 forward ip saddr 10.1.0.0/16 accept",
		"chain flushed":  "flush chain ip flannel-ipv4 postrtg",
		"chain deleted":  "flush chain ip flannel-ipv4 postrtg; delete chain ip flannel-ipv4 postrtg",
		"both exchanged": "flush chain ip flannel-ipv4 forward; add rule ip flannel-ipv4 forward ip daddr 10.1.0.0/16 accept; add rule ip flannel-ipv4 forward ip saddr 10.1.0.0/16 accept",
		"other network":  "flush chain ip flannel-ipv4 forward; add rule ip flannel-ipv4 forward ip saddr 10.1.0.0/15 accept; add rule ip flannel-ipv4 forward ip daddr 10.1.0.0/16 accept",
		"narrower":       "flush chain ip flannel-ipv4 forward; add rule ip flannel-ipv4 forward ip saddr 10.1.0.0/16 tcp dport 80 accept; add rule ip flannel-ipv4 forward ip daddr 10.1.0.0/16 accept",
		"policy":         "add chain ip flannel-ipv4 forward { type filter hook forward priority filter; policy drop; }",
		"priority":       "delete table ip flannel-ipv4; add table ip flannel-ipv4; add chain ip flannel-ipv4 forward { type filter hook forward priority 10; }; add rule ip flannel-ipv4 forward ip saddr 10.1.0.0/16 accept; add rule ip flannel-ipv4 forward ip daddr 10.1.0.0/16 accept",
		"dormant":        "add table ip flannel-ipv4 { flags dormant; }",
		"table flushed":  "flush table ip flannel-ipv4",
		"table deleted":  "delete table ip flannel-ipv4",
		"ruleset":        "flush ruleset",
		"twice":          "add rule ip flannel-ipv4 forward ip saddr 10.1.0.0/16 accept; add rule ip flannel-ipv4 forward ip daddr 10.1.0.0/16 accept",
	}
	h := dataplanetest.RulesHost{
		Backend: state.NFTables, Family: f, Rules: nftRules, Generation: nftGeneration, Quiet: true,
		Others: nftScript(dataplanetest.In(f, someoneElses)),
		Spoils: make(map[string]func(testing.TB)),
		Old:    map[string]func(testing.TB){"E": nftScript(dataplanetest.In(f, oldNFTables))},
	}
	for name, script := range spoils {
		h.Spoils[name] = nftScript(dataplanetest.In(f, script))
	}
	dataplanetest.RulesSuite(t, func(t *testing.T) (dataplane.Dataplane, dataplanetest.RulesHost) {
		dataplanetest.NeedNetns(t)
		noRules(t)
		return New(true), h
	})
}
