package netfilter

import (
	"bytes"
	"net/netip"
	"slices"
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
	text string
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

// parseRule understands what rules of ours and of flannel's say. One that says
// anything else is about more.
func parseRule(text string) iptRule {
	r := iptRule{text: text, always: true}
	words := splitWords(text)
	if len(words) >= 7 && slices.Equal(words[:2], []string{"!", "-i"}) && words[3] == "-o" && words[2] == words[4] && words[5] == "-j" {
		r.guard = words[6] == string(dropped) || words[6] == string(rejected)
	}
	for len(words) > 0 {
		not := words[0] == "!"
		if not {
			words = words[1:]
		}
		n := 1 // the option and its value
		for n < len(words) && words[n] != "!" && !strings.HasPrefix(words[n], "-") {
			n++
		}
		n = min(n, len(words))
		known := false
		switch option := words[:n]; {
		case n == 2 && option[0] == "-s":
			known = r.src.set(option[1], not)
		case n == 2 && option[0] == "-d":
			known = r.dst.set(option[1], not)
		case not:
		case n == 2 && option[0] == "-m":
			// Without an option of its own it would match nothing that matters.
			known = option[1] == "comment" || option[1] == "mark"
		case n == 2 && option[0] == "--comment":
			r.comment, known = option[1], true
		case n == 2 && option[0] == "--mark":
			r.marked = option[1] == keepSourceMark
			known = r.marked
		case n == 2 && option[0] == "-j":
			r.verdict, known = verdict(option[1]), true
		case n == 2 && option[0] == "-g": // as a jump, but for where it returns to
			r.verdict, r.goes = verdict(option[1]), true
		case n == 1 && option[0] == "--random-fully":
			r.random, known = true, true
		}
		r.more = r.more || !known
		// What follows the verdict is about what it does.
		comment := slices.Equal(words[:n], []string{"-m", "comment"}) || n > 0 && words[0] == "--comment"
		r.always = r.always && !not && (r.verdict != "" || comment)
		words = words[n:]
	}
	return r
}

// set takes a value of -s or -d.
func (m *match) set(value string, not bool) bool {
	if !strings.Contains(value, "/") {
		value += "/32"
	}
	p, err := netip.ParsePrefix(value)
	if err != nil || m.prefix.IsValid() {
		return false
	}
	*m = match{prefix: p, not: not}
	return true
}

// splitWords splits what iptables-save prints: words that need it are in double
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
