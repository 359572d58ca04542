package netfilter

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"flanneld/pkg/state"
)

// place is where iptables has the rules of a kind.
type place struct {
	kind    state.Kind
	table   string
	hook    string // the chain that packets come to
	chain   string // ours, to which a rule in hook jumps
	comment string // of all rules
	// whole is set if all chains of the table matter, else hook and ours.
	whole bool
	// last is set if our jump must be behind whatever rule of hook refuses something, and
	// before the one that refuses all.
	last bool
}

// places have the names that flannel gives its chains.
//
// In FORWARD our jump lets through what nobody refuses: it comes behind the rules of
// others, and before one that refuses everything else, as firewalls have it, for behind
// that it would be of no use.
//
// In POSTROUTING it is appended, and then is right wherever it is. A rule of ours
// that lets a packet keep its source does so by RETURN, so rules that follow still
// get to see the packet: kube-proxy's and those for host ports must. To be first
// would therefore save no pod's address from what others masquerade, and would only
// take from them the packets that they have made exceptions for.
var places = [...]place{
	{kind: state.KindMasquerade, table: "nat", hook: "POSTROUTING", chain: postrtgChain, comment: masqComment},
	{kind: state.KindForward, table: "filter", hook: "FORWARD", chain: fwdChain, comment: forwardComment, whole: true, last: true},
}

func placeOf(k state.Kind) place {
	return places[slices.IndexFunc(places[:], func(p place) bool { return p.kind == k })]
}

// keepSourceMark is keepSource and the mask by which it is looked at.
var keepSourceMark = fmt.Sprintf("%#x/%#x", keepSource, keepSource)

// text is a rule as iptables takes it, after the name of the chain.
func (r rule) text(comment string) string {
	var b strings.Builder
	for _, m := range []struct {
		option string
		match
	}{{"-s", r.src}, {"-d", r.dst}} {
		if !m.prefix.IsValid() || m.prefix.Bits() == 0 && !m.not { // which iptables leaves out
			continue
		}
		if m.not {
			b.WriteString("! ")
		}
		fmt.Fprintf(&b, "%s %s ", m.option, m.prefix)
	}
	if r.marked {
		b.WriteString("-m mark --mark " + keepSourceMark + " ")
	}
	if comment != "" {
		fmt.Fprintf(&b, "-m comment --comment %q ", comment)
	}
	if r.verdict != "" {
		b.WriteString("-j " + string(r.verdict))
	}
	if r.random {
		b.WriteString(" --random-fully")
	}
	return b.String()
}

// found is what there is at a place.
type found struct {
	place
	chains  map[string]*iptChain // of the table
	objects []state.Object       // in our chain
	strange bool                 // our chain has other rules
	// Of the rules in hook: what flannel left there, by network; what bears our
	// comment for no known reason; what jumps to our chain.
	old   map[netip.Prefix][]iptRule
	loose []iptRule
	jumps []iptRule
	// others is set if there are more rules than these in hook.
	others bool
	// right is set if the jump is as it should be, and is not behind a rule that refuses
	// all.
	right bool
	// late is a rule behind the jump that refuses something, overruled the one that
	// refuses all; empty if there is none.
	late, overruled string
	refusing        *refusing
	fixed           bool // rules can only be taken away
}

// find tells what is at a place. forward is that of New.
func (p place) find(tables iptTables, way state.RuleBackend, of *family, forward bool) found {
	f := found{place: p, chains: tables[p.table], old: make(map[netip.Prefix][]iptRule)}
	f.refusing = newRefusing(f.chains)
	if c := f.chains[p.chain]; c != nil {
		rules := make([]rule, len(c.rules))
		for i, r := range c.rules {
			if r.comment != p.comment || r.more {
				continue // it is as no rule of ours is
			}
			if r.verdict == ret && r.src.prefix.IsValid() && !r.dst.prefix.IsValid() {
				r.dst = in(of.anywhere) // which iptables leaves out
			}
			rules[i] = r.rule
		}
		f.objects, f.strange = parse(p.kind, way, rules)
	}
	hook := f.chains[p.hook]
	if hook == nil {
		return f
	}
	rules := make([]commented, len(hook.rules))
	for i, r := range hook.rules {
		rules[i] = r.commented
	}
	for i, network := range leftovers(p.kind, rules, forward) {
		switch r := hook.rules[i]; {
		case r.verdict == verdict(p.chain):
			f.jumps = append(f.jumps, r)
			f.right = len(f.jumps) == 1 && r.commented == p.jump() && f.overruled == ""
		case network.IsValid():
			f.old[network] = append(f.old[network], r)
		case r.comment == p.comment:
			f.loose = append(f.loose, r)
		default:
			f.others = true
			f.judge(r)
		}
	}
	return f
}

// judge takes a rule of someone else in hook.
func (f *found) judge(r iptRule) {
	switch {
	case !f.last || f.overruled != "": // no packet gets here
	case f.refusing.rest(r):
		f.overruled = r.text
	case f.late == "" && len(f.jumps) > 0 && f.refusing.some(r):
		f.late = r.text
	}
}

// foreign says in which chain of the table someone else has rules, or a policy; empty if in
// none.
func (f found) foreign() string {
	for _, name := range slices.Sorted(maps.Keys(f.chains)) {
		c := f.chains[name]
		switch {
		case name == f.chain || name == oldChain:
		case c.policy != noPolicy && c.policy != string(accept):
			return "the policy of chain " + name + " of table " + f.table
		case len(c.rules) > 0 && name != f.hook, f.others && name == f.hook:
			return "chain " + name + " of table " + f.table
		}
	}
	return ""
}

// jump is the rule in hook that leads to our chain.
func (p place) jump() commented {
	return commented{rule: rule{verdict: verdict(p.chain)}, comment: p.comment}
}

// wrong says what is wrong with our chain, or with what leads to it; empty if
// nothing is.
func (f found) wrong() string {
	c := f.chains[f.chain]
	switch {
	case f.strange:
		return "chain " + f.chain + " has rules that it should not have"
	case len(f.loose) > 0:
		return "there is a rule with our comment: " + f.loose[0].text
	case len(f.objects) > 0 && f.fixed:
		return ""
	case len(f.objects) > 0 && len(f.jumps) == 0:
		return "no rule of " + f.hook + " leads to chain " + f.chain
	case len(f.objects) > 0 && !f.right:
		return "a jump to " + f.chain + " that is not the only one of " + f.hook + ", or not in its place"
	case len(f.objects) > 0 && f.late != "":
		return "a jump to " + f.chain + " in front of a rule of " + f.hook + " that refuses something: " + f.late
	case len(f.objects) == 0 && (len(f.jumps) > 0 || c != nil && f.calls(f.chain, nil) == 0):
		return "chain " + f.chain + " has no rules"
	}
	return ""
}

// calls counts the rules that lead to a chain, but for some.
func (f found) calls(chain string, without []iptRule) int {
	n := 0
	for _, c := range f.chains {
		for _, r := range c.rules {
			if r.verdict == verdict(chain) {
				n++
			}
		}
	}
	for _, r := range without {
		if r.verdict == verdict(chain) {
			n--
		}
	}
	return n
}

// after returns what should be in our chain after a step.
func (f found) after(op state.Op) []state.Object {
	objects := slices.Clone(f.objects)
	i := slices.IndexFunc(objects, func(o state.Object) bool { return o.Key() == op.Key() })
	switch {
	case op.Want == nil && i >= 0:
		objects = slices.Delete(objects, i, i+1)
	case op.Want != nil && i >= 0:
		objects[i] = op.Want
	case op.Want != nil:
		objects = append(objects, op.Want)
	}
	return objects
}

// edit returns what iptables-restore has to be told for a step: the lines between
// that with the name of the table and COMMIT. plain is set if iptables does not
// know --random-fully.
func (f found) edit(op state.Op, plain bool) []string {
	var lines []string
	line := func(format string, args ...any) { lines = append(lines, fmt.Sprintf(format, args...)) }
	objects := f.after(op)
	network := op.Key().Prefix
	rest := op.Want != nil || network.Bits() == 0
	remove := slices.Clone(f.old[network])
	if rest {
		remove = append(remove, f.loose...)
	}
	if !slices.Equal(objects, f.objects) || f.strange && rest {
		line(":%s %s [0:0]", f.chain, noPolicy)
		for _, o := range objects {
			for _, r := range rulesOf(o) {
				r.random = r.random && !plain
				line("-A %s %s", f.chain, r.text(f.comment))
			}
		}
	}
	place := len(objects) > 0 && (!f.right || f.late != "") && !f.fixed
	if len(objects) == 0 || place {
		remove = append(remove, f.jumps...)
	}
	for _, r := range remove {
		line("-D %s %s", f.hook, r.text)
	}
	switch {
	case len(objects) == 0 && f.chains[f.chain] != nil:
		lines = append(lines, f.drop(f.chain, remove)...)
	case place:
		line("%s %s", f.position(remove), f.jump().text(f.comment))
	}
	if f.oldChainUnused(remove) {
		lines = append(lines, f.drop(oldChain, remove)...)
	}
	return lines
}

// position returns how to add the jump to hook, once some rules are removed. It cannot be
// added there if the rules before it are gone by then.
func (f found) position(without []iptRule) string {
	n := 0
	if hook := f.chains[f.hook]; hook != nil {
		gone := make(map[string]int)
		for _, r := range without {
			gone[r.text]++
		}
		for _, r := range hook.rules {
			switch {
			case gone[r.text] > 0:
				gone[r.text]--
				continue
			case f.last && r.text == f.overruled:
				return fmt.Sprintf("-I %s %d", f.hook, n+1)
			}
			n++
		}
	}
	if n == 0 {
		return "-A " + f.hook
	}
	return fmt.Sprintf("-I %s %d", f.hook, n+1)
}

// guarded reports whether iptables-restore refuses the lines where the rules are gone that
// they were made for.
func guarded(lines []string) bool {
	return slices.ContainsFunc(lines, func(line string) bool {
		words := strings.Fields(line)
		return words[0] == "-D" || words[0] == "-I" && words[2] != "1"
	})
}

// drop returns the lines that empty a chain, and delete it unless others use it.
func (f found) drop(chain string, without []iptRule) []string {
	lines := []string{":" + chain + " " + noPolicy + " [0:0]"}
	if f.calls(chain, without) == 0 {
		lines = append(lines, "-X "+chain)
	}
	return lines
}

// oldChainUnused reports whether the chain of flannel's first versions has no other
// rules than theirs, and is not called any more once some rules are removed that
// called it.
func (f found) oldChainUnused(remove []iptRule) bool {
	c := f.chains[oldChain]
	if c == nil || f.calls(oldChain, remove) > 0 || f.calls(oldChain, nil) == 0 {
		return false
	}
	return !slices.ContainsFunc(c.rules, func(r iptRule) bool {
		n := r.dst.prefix
		return r.commented != commented{rule: rule{dst: in(n), verdict: accept}} &&
			r.commented != commented{rule: rule{dst: notIn(familyOf(n).multicast), verdict: masquerade}}
	})
}
