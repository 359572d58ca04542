package netfilter

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"flanneld/pkg/dataplane"
	"flanneld/pkg/dataplane/dataplanetest"
	"flanneld/pkg/ip"
	"flanneld/pkg/state"
)

// variants are both kinds of iptables, for both families.
var variants = []wayKey{
	{state.IPTablesLegacy, ip.V4}, {state.IPTablesNFT, ip.V4}, {state.IPTablesLegacy, ip.V6}, {state.IPTablesNFT, ip.V6},
}

// wish is dataplanetest's.
func (k wayKey) wish() state.Set { return dataplanetest.RulesWish(k.RuleBackend, k.Family) }

// iptHost is the hand of someone else on a host's rules by iptables. What it is told is
// written for IPv4, and what it tells is not.
type iptHost struct {
	way wayKey
	bin string // what is in PATH
}

// in is dataplanetest's.
func (h iptHost) in(text string) string { return dataplanetest.In(h.way.Family, text) }

// freshIPTables makes a host without rules whose iptables is of the given variant.
// Its lock file is not there yet.
func freshIPTables(t testing.TB, way wayKey) iptHost {
	t.Helper()
	h := iptHost{way: way, bin: t.TempDir()}
	t.Setenv("XTABLES_LOCKFILE", filepath.Join(t.TempDir(), "xtables.lock"))
	for _, v := range variants {
		run(t, flushed, program(t, v, "-restore"))
	}
	if err := os.Remove(os.Getenv("XTABLES_LOCKFILE")); err != nil {
		t.Fatal(err)
	}
	for _, suffix := range []string{"", "-save", "-restore"} {
		if err := os.Symlink(program(t, way, suffix), filepath.Join(h.bin, h.in("iptables")+suffix)); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("PATH", h.bin)
	return h
}

// program returns the path of a program, whatever PATH is by now.
func program(t testing.TB, way wayKey, suffix string) string {
	t.Helper()
	for _, dir := range []string{"/usr/sbin", "/sbin", "/usr/local/sbin"} {
		if path, err := exec.LookPath(filepath.Join(dir, way.String()+suffix)); err == nil {
			return path
		}
	}
	t.Fatalf("there is no %s%s: run make tools", way, suffix)
	return ""
}

// flushed is what iptables-restore leaves nothing but policies for.
const flushed = `*nat
:PREROUTING ACCEPT
:INPUT ACCEPT
:OUTPUT ACCEPT
:POSTROUTING ACCEPT
COMMIT
*filter
:INPUT ACCEPT
:FORWARD ACCEPT
:OUTPUT ACCEPT
COMMIT
`

// do runs iptables once for each line of arguments.
func (h iptHost) do(t testing.TB, lines string) {
	t.Helper()
	for line := range strings.Lines(h.in(lines)) {
		if words := splitWords(strings.TrimSpace(line)); len(words) > 0 {
			run(t, "", append([]string{program(t, h.way, "")}, words...)...)
		}
	}
}

// script returns what has do run the lines.
func (h iptHost) script(lines string) func(testing.TB) {
	return func(t testing.TB) {
		t.Helper()
		h.do(t, lines)
	}
}

// rules lists all rules, chains of users, and policies that let not all pass.
func (h iptHost) rules(t testing.TB) string {
	t.Helper()
	var b strings.Builder
	table := ""
	for line := range strings.Lines(run(t, "", program(t, h.way, "-save"))) {
		word, rest, _ := strings.Cut(strings.TrimSpace(line), " ")
		switch {
		case strings.HasPrefix(word, "*"):
			table = word[1:]
		case word == "-A":
			fmt.Fprintf(&b, "%s %s\n", table, rest)
		case strings.HasPrefix(word, ":") && !strings.HasPrefix(rest, "ACCEPT"):
			fmt.Fprintf(&b, "%s chain %s\n", table, word[1:])
		}
	}
	return b.String()
}

// What versions of flannel leave for RulesWish.
var oldIPTables = map[string]string{
	"A": `
-t nat -N FLANNEL
-t nat -A FLANNEL -d 10.1.0.0/16 -j ACCEPT
-t nat -A FLANNEL ! -d 224.0.0.0/4 -j MASQUERADE
-t nat -A POSTROUTING -s 10.1.0.0/16 -j FLANNEL
`,
	"B": `
-t nat -N FLANNEL
-t nat -A FLANNEL -d 10.1.0.0/16 -j ACCEPT
-t nat -A FLANNEL ! -d 224.0.0.0/4 -j MASQUERADE
-t nat -A POSTROUTING -s 10.1.0.0/16 -j FLANNEL
-t nat -A POSTROUTING ! -s 10.1.0.0/16 -d 10.1.0.0/16 -j MASQUERADE
`,
	"C": `
-t nat -A POSTROUTING -s 10.1.0.0/16 -d 10.1.0.0/16 -j RETURN
-t nat -A POSTROUTING -s 10.1.0.0/16 ! -d 224.0.0.0/4 -j MASQUERADE --random-fully
-t nat -A POSTROUTING ! -s 10.1.0.0/16 -d 10.1.5.0/24 -j RETURN
-t nat -A POSTROUTING ! -s 10.1.0.0/16 -d 10.1.0.0/16 -j MASQUERADE --random-fully
-A FORWARD -s 10.1.0.0/16 -j ACCEPT
-A FORWARD -d 10.1.0.0/16 -j ACCEPT
`,
	"D": `
-t nat -A POSTROUTING -s 10.1.0.0/16 -d 10.1.0.0/16 -m comment --comment "flanneld masq" -j RETURN
-t nat -A POSTROUTING -s 10.1.0.0/16 ! -d 224.0.0.0/4 -m comment --comment "flanneld masq" -j MASQUERADE --random-fully
-t nat -A POSTROUTING ! -s 10.1.0.0/16 -d 10.1.9.0/24 -m comment --comment "flanneld masq" -j RETURN
-t nat -A POSTROUTING ! -s 10.1.0.0/16 -d 10.1.5.0/24 -m comment --comment "flanneld masq" -j RETURN
-t nat -A POSTROUTING ! -s 10.1.0.0/16 -d 10.1.0.0/16 -m comment --comment "flanneld masq" -j MASQUERADE --random-fully
-A FORWARD -s 10.1.0.0/16 -m comment --comment "flanneld forward" -j ACCEPT
-A FORWARD -d 10.1.0.0/16 -m comment --comment "flanneld forward" -j ACCEPT
`,
	"E": `
-t nat -N FLANNEL-POSTRTG
-t nat -A POSTROUTING -m comment --comment "flanneld masq" -j FLANNEL-POSTRTG
-t nat -A FLANNEL-POSTRTG -m mark --mark 0x4000/0x4000 -m comment --comment "flanneld masq" -j RETURN
-t nat -A FLANNEL-POSTRTG -s 10.1.5.0/24 -d 10.1.0.0/16 -m comment --comment "flanneld masq" -j RETURN
-t nat -A FLANNEL-POSTRTG -s 10.1.0.0/16 -d 10.1.5.0/24 -m comment --comment "flanneld masq" -j RETURN
-t nat -A FLANNEL-POSTRTG ! -s 10.1.0.0/16 -d 10.1.5.0/24 -m comment --comment "flanneld masq" -j RETURN
-t nat -A FLANNEL-POSTRTG -s 10.1.0.0/16 ! -d 224.0.0.0/4 -m comment --comment "flanneld masq" -j MASQUERADE --random-fully
-t nat -A FLANNEL-POSTRTG ! -s 10.1.0.0/16 -d 10.1.0.0/16 -m comment --comment "flanneld masq" -j MASQUERADE --random-fully
-N FLANNEL-FWD
-A FORWARD -m comment --comment "flanneld forward" -j FLANNEL-FWD
-A FLANNEL-FWD -s 10.1.0.0/16 -m comment --comment "flanneld forward" -j ACCEPT
-A FLANNEL-FWD -d 10.1.0.0/16 -m comment --comment "flanneld forward" -j ACCEPT
`,
}

// iptSpoils are what is done to our rules.
var iptSpoils = map[string]string{
	"rule added":        `-t nat -A FLANNEL-POSTRTG -j ACCEPT`,
	"rule inserted":     `-I FLANNEL-FWD -j DROP`,
	"unknown rule":      `-t nat -I FLANNEL-POSTRTG -p tcp --dport 80 -j RETURN`,
	"first deleted":     `-t nat -D FLANNEL-POSTRTG 1`,
	"last deleted":      `-D FLANNEL-FWD 2`,
	"chain flushed":     `-t nat -F FLANNEL-POSTRTG`,
	"jump deleted":      `-t nat -D POSTROUTING -m comment --comment "flanneld masq" -j FLANNEL-POSTRTG`,
	"jump doubled":      `-t nat -A POSTROUTING -m comment --comment "flanneld masq" -j FLANNEL-POSTRTG`,
	"jump narrower":     `-t nat -R POSTROUTING 1 -o lo -m comment --comment "flanneld masq" -j FLANNEL-POSTRTG`,
	"jump goes":         `-t nat -R POSTROUTING 1 -m comment --comment "flanneld masq" -g FLANNEL-POSTRTG`,
	"jump uncommented":  `-R FORWARD 1 -j FLANNEL-FWD`,
	"comment changed":   `-R FLANNEL-FWD 1 -s 10.1.0.0/16 -m comment --comment "flanneld forwards" -j ACCEPT`,
	"comment missing":   `-R FLANNEL-FWD 1 -s 10.1.0.0/16 -j ACCEPT`,
	"second comment":    `-R FLANNEL-FWD 1 -s 10.1.0.0/16 -m comment --comment "flanneld forward" -m comment --comment x -j ACCEPT`,
	"narrower":          `-R FLANNEL-FWD 2 -d 10.1.0.0/16 -p tcp -m comment --comment "flanneld forward" -j ACCEPT`,
	"other network":     `-R FLANNEL-FWD 1 -s 10.1.0.0/15 -m comment --comment "flanneld forward" -j ACCEPT`,
	"mark without mask": `-t nat -R FLANNEL-POSTRTG 1 -m mark --mark 0x4000 -m comment --comment "flanneld masq" -j RETURN`,
	"not random":        `-t nat -R FLANNEL-POSTRTG 7 -s 10.1.0.0/16 ! -d 224.0.0.0/4 -m comment --comment "flanneld masq" -j MASQUERADE`,
	"ports":             `-t nat -R FLANNEL-POSTRTG 7 -s 10.1.0.0/16 ! -d 224.0.0.0/4 -p tcp -m comment --comment "flanneld masq" -j MASQUERADE --to-ports 1000-2000 --random-fully`,
	"own comment":       `-t nat -I POSTROUTING -s 192.0.2.1 -m comment --comment "flanneld masq" -j ACCEPT`,
	"own forward":       `-A FORWARD -p tcp -m comment --comment "flanneld forward" -j ACCEPT`,
	"both exchanged": `
-F FLANNEL-FWD
-A FLANNEL-FWD -d 10.1.0.0/16 -m comment --comment "flanneld forward" -j ACCEPT
-A FLANNEL-FWD -s 10.1.0.0/16 -m comment --comment "flanneld forward" -j ACCEPT`,
	"twice": `
-A FLANNEL-FWD -s 10.1.0.0/16 -m comment --comment "flanneld forward" -j ACCEPT
-A FLANNEL-FWD -d 10.1.0.0/16 -m comment --comment "flanneld forward" -j ACCEPT`,
	"chains deleted": `
-t nat -F POSTROUTING
-t nat -F FLANNEL-POSTRTG
-t nat -X FLANNEL-POSTRTG
-F FORWARD
-F FLANNEL-FWD
-X FLANNEL-FWD`,
	"old rules":   oldIPTables["C"],
	"older rules": oldIPTables["B"],
}

// othersIPTables are rules that are like ours.
const othersIPTables = `
-t nat -N KUBE-POSTROUTING
-t nat -A KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN
-t nat -A KUBE-POSTROUTING -m comment --comment "it's \"theirs\"" -j MASQUERADE --random-fully
-t nat -A POSTROUTING -m comment --comment "kubernetes postrouting rules" -j KUBE-POSTROUTING
-t nat -A POSTROUTING -s 172.17.0.0/16 ! -o docker0 -j MASQUERADE
-t nat -A POSTROUTING -s 10.1.0.0/16 -m comment --comment mine -j MASQUERADE
-t nat -A POSTROUTING -s 10.1.0.0/16 -p tcp ! -d 224.0.0.0/4 -j MASQUERADE
-t nat -A OUTPUT -s 10.1.0.0/16 -d 10.1.0.0/16 -j RETURN
-N DOCKER-USER
-A FORWARD -j DOCKER-USER
-A FORWARD -s 10.1.0.0/16 -i lo -j ACCEPT
-A FORWARD -s 10.1.0.0/16 -j ACCEPT
-A INPUT -s 10.1.0.0/16 -j ACCEPT
-P INPUT DROP
`

// hasty is when hastened takes others to have come to rest.
const hasty = 30 * time.Millisecond

// hastened takes others to have come to rest sooner.
func hastened() *Dataplane {
	t := New(true)
	for _, way := range variants {
		t.ways[way].(*iptables).await(hasty)
	}
	return t
}

func TestIPTables(t *testing.T) {
	for _, way := range variants {
		t.Run(way.String(), func(t *testing.T) {
			dataplanetest.RulesSuite(t, func(t *testing.T) (dataplane.Dataplane, dataplanetest.RulesHost) {
				dataplanetest.NeedNetns(t)
				h := freshIPTables(t, way)
				r := dataplanetest.RulesHost{
					Backend: way.RuleBackend, Family: way.Family, Settle: hasty, Rules: h.rules, Others: h.script(othersIPTables),
					Spoils: make(map[string]func(testing.TB)), Old: make(map[string]func(testing.TB)),
				}
				if way.RuleBackend == state.IPTablesNFT {
					r.Generation = nftGeneration
				}
				for name, lines := range iptSpoils {
					// The others look the same in both families.
					if way.Family == ip.V4 || h.in(lines) != lines {
						r.Spoils[name] = h.script(lines)
					}
				}
				for name, lines := range oldIPTables {
					r.Old[name] = h.script(lines)
				}
				return hastened(), r
			})
		})
	}
}

// splitWords splits arguments as a shell does: words that need it are in double
// quotes, in which a backslash stands before what would have a meaning.
func splitWords(text string) []string {
	var words []string
	var word strings.Builder
	inWord, quoted, escaped := false, false, false
	for _, c := range text {
		switch {
		case escaped:
			word.WriteRune(c)
			escaped = false
		case quoted && c == '\\':
			escaped = true
		case c == '"':
			quoted, inWord = !quoted, true
		case c == ' ' && !quoted:
			if inWord {
				words = append(words, word.String())
			}
			word.Reset()
			inWord = false
		default:
			word.WriteRune(c)
			inWord = true
		}
	}
	if inWord {
		words = append(words, word.String())
	}
	return words
}
