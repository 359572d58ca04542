package netfilter

import (
	"bytes"
	"net/netip"
	"regexp"
	"strconv"
	"strings"
)

// iptTables are the chains of iptables, by the names of their tables and their own.
type iptTables map[string]map[string]*iptChain

// iptChain is a chain as iptables-save prints it.
type iptChain struct {
	policy string // noPolicy if packets come to it by jumps alone
	rules  []iptRule
}

const noPolicy = "-"

// iptRule is a rule as iptables-save prints it after the name of the chain, and what
// is understood of it here.
type iptRule struct {
	text   string
	handle uint64 // where nf_tables was read, and not what iptables-save prints
	commented
	always bool // it is about all packets
	goes   bool // it does not return from the chain that it leads to
	guard  bool // it refuses what comes to an interface from all others
}

// parseSave reads what iptables-save has printed. Tables that it says it cannot
// print are unreadable.
func parseSave(out []byte) (tables iptTables, unreadable []string) {
	tables = make(iptTables)
	var table map[string]*iptChain
	for line := range bytes.Lines(out) {
		word, rest, _ := strings.Cut(strings.TrimSpace(string(line)), " ")
		switch {
		case word == "#":
			name, why, _ := strings.Cut(strings.TrimPrefix(rest, "Table `"), "'")
			if strings.HasPrefix(why, " is incompatible") {
				unreadable = append(unreadable, name)
			}
		case strings.HasPrefix(word, "*"):
			table = make(map[string]*iptChain)
			tables[word[1:]] = table
		case strings.HasPrefix(word, ":") && table != nil:
			policy, _, _ := strings.Cut(rest, " ")
			table[word[1:]] = &iptChain{policy: policy}
		case word == "-A":
			name, text, _ := strings.Cut(rest, " ")
			if c := table[name]; c != nil {
				c.rules = append(c.rules, parseRule(text))
			}
		}
	}
	return tables, unreadable
}

// What iptables-save prints of a comment; of where a rule leads to that is about all packets;
// and what refuses what comes to an interface from all others.
var (
	commentText = regexp.MustCompile(`-m comment --comment ("(?:[^"\\]|\\.)*"|[^" ]+) `)
	alwaysText  = regexp.MustCompile(`^$|^-[jg] `)
	guardText   = regexp.MustCompile(`^! -i (\S+) -o (\S+) -j (DROP|REJECT)`)
)

// parseRule understands what rules of ours and of flannel's say: they are as we would write
// them. One that is not is about more.
func parseRule(text string) iptRule {
	r := iptRule{text: text}
	comments := commentText.FindAllStringSubmatch(text, -1)
	plain := commentText.ReplaceAllString(text, "")
	if len(comments) > 0 {
		r.comment = comments[0][1]
		if unquoted, err := strconv.Unquote(r.comment); err == nil {
			r.comment = unquoted
		}
	}
	words := strings.Fields(plain)
	for i := len(words) - 2; i >= 0; i-- {
		value := words[i+1]
		switch words[i] {
		case "-s":
			r.src = matchOf(value, i > 0 && words[i-1] == "!")
		case "-d":
			r.dst = matchOf(value, i > 0 && words[i-1] == "!")
		case "-j", "-g": // the second as a jump, but for where it returns to
			r.verdict, r.goes = verdict(value), words[i] == "-g"
		}
	}
	r.marked = strings.Contains(plain, "-m mark --mark "+keepSourceMark+" ")
	r.random = strings.HasSuffix(plain, " --random-fully")
	r.always = alwaysText.MatchString(plain)
	if g := guardText.FindStringSubmatch(plain); g != nil {
		r.guard = g[1] == g[2]
	}
	// Old versions print addresses without the length of a prefix.
	r.more = len(comments) > 1 || withoutLength.Replace(r.rule.text("")) != withoutLength.Replace(plain)
	return r
}

// withoutLength takes away the length of prefixes that are one address.
var withoutLength = strings.NewReplacer("/32 ", " ", "/128 ", " ")

// matchOf reads a value of -s or -d.
func matchOf(value string, not bool) match {
	p, err := netip.ParsePrefix(value)
	if err != nil {
		if a, err := netip.ParseAddr(value); err == nil {
			p = netip.PrefixFrom(a, a.BitLen())
		}
	}
	return match{p, not && p.IsValid()}
}
