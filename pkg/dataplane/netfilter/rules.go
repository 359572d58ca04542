package netfilter

import (
	"net/netip"
	"slices"
	"strings"

	"flanneld/pkg/state"
)

// verdict is what becomes of a packet: one of those below, or the name of the
// chain that goes on with it.
type verdict string

const (
	ret        verdict = "RETURN"
	accept     verdict = "ACCEPT"
	masquerade verdict = "MASQUERADE"
)

// match is on an address; the zero match is on any.
type match struct {
	prefix netip.Prefix
	not    bool // of any address outside of prefix
}

func in(p netip.Prefix) match    { return match{prefix: p} }
func notIn(p netip.Prefix) match { return match{prefix: p, not: true} }

// rule is about the packets that all its matches are about.
type rule struct {
	marked   bool // of which the bit keepSource is set in the mark
	src, dst match
	verdict  verdict
	random   bool // with masquerade: ports are chosen at random
}

// keepSource is the bit of a packet's mark by which others, kube-proxy for one,
// say that they see to its source themselves.
const keepSource = 0x4000

// masqueradeRules are the rules in our NAT chain, in their order.
func masqueradeRules(m state.Masquerade) []rule {
	rules := []rule{
		{marked: true, verdict: ret},
		{src: in(m.Own), dst: in(m.Network), verdict: ret},
		{src: in(m.Network), dst: in(m.Own), verdict: ret},
		// What is let in to a pod shows who sent it.
		{src: notIn(m.Network), dst: in(m.Own), verdict: ret},
	}
	for text := range strings.FieldsSeq(m.Exclude) {
		if p, err := netip.ParsePrefix(text); err == nil {
			rules = append(rules, rule{src: in(m.Network), dst: in(p), verdict: ret})
		}
	}
	return append(rules,
		rule{src: in(m.Network), dst: notIn(familyOf(m.Network).multicast), verdict: masquerade, random: m.RandomFully},
		// What this host sends to pods elsewhere from another address would be
		// answered by another way.
		rule{src: notIn(m.Network), dst: in(m.Network), verdict: masquerade, random: m.RandomFully},
	)
}

// forwardRules are the rules in our filter chain, in their order.
func forwardRules(f state.Forward) []rule {
	return []rule{
		{src: in(f.Network), verdict: accept},
		{dst: in(f.Network), verdict: accept},
	}
}

// rulesOf returns the rules that a Masquerade or a Forward is.
func rulesOf(o state.Object) []rule {
	switch o := o.(type) {
	case state.Masquerade:
		return masqueradeRules(o)
	case state.Forward:
		return forwardRules(o)
	}
	return nil
}

// parse is the inverse of rulesOf for a chain of ours, which holds the rules of
// each network one after the other. Rules that are not all of an object, just as
// it should be, are strange. A network is there once.
func parse(kind state.Kind, way state.RuleBackend, rules []rule) (objects []state.Object, strange bool) {
	for i, o := range owners(kind, way, rules) {
		switch {
		case o == nil:
			strange = true
		case i == 0 || !slices.Contains(objects, o):
			objects = append(objects, o)
		}
	}
	return objects, strange
}

// owners tells, of each of these rules, which object it is of; nil if it is
// strange.
func owners(kind state.Kind, way state.RuleBackend, rules []rule) []state.Object {
	of := make([]state.Object, len(rules))
	networks := make(map[netip.Prefix]bool)
	for i := 0; i < len(rules); {
		o := first(kind, way, rules[i:])
		if o == nil || networks[o.Key().Prefix] {
			i++
			continue
		}
		networks[o.Key().Prefix] = true
		for range rulesOf(o) {
			of[i] = o
			i++
		}
	}
	return of
}

// first returns the object that the first of the rules are; nil if there is none.
func first(kind state.Kind, way state.RuleBackend, rules []rule) state.Object {
	var o state.Object
	if kind == state.KindForward {
		o = state.Forward{Backend: way, Network: rules[0].src.prefix}
	} else {
		if len(rules) < 2 {
			return nil
		}
		m := state.Masquerade{Backend: way, Own: rules[1].src.prefix, Network: rules[1].dst.prefix}
		var exclude []string
		for i := 4; i < len(rules) && rules[i].verdict == ret; i++ {
			exclude = append(exclude, rules[i].dst.prefix.String())
		}
		if i := 4 + len(exclude); i < len(rules) {
			m.RandomFully = rules[i].random
		}
		m.Exclude = strings.Join(exclude, " ")
		o = m
	}
	network := o.Key().Prefix
	should := rulesOf(o)
	if !network.IsValid() || len(rules) < len(should) || !slices.Equal(should, rules[:len(should)]) {
		return nil
	}
	return o
}

// commented is a rule in a chain that others use, too.
type commented struct {
	rule
	comment string
	// more is set if the rule is about more than rule says: an interface, say.
	more bool
}

// The comments of flannel's rules, and so of ours.
const (
	masqComment    = "flanneld masq"
	forwardComment = "flanneld forward"
)

// The chains that flannel has in iptables.
const (
	postrtgChain = "FLANNEL-POSTRTG" // of table nat
	fwdChain     = "FLANNEL-FWD"     // of table filter
	// oldChain is that of the first versions, to which there is a jump for each
	// network.
	oldChain = "FLANNEL"
)

// leftovers tells, of each rule of iptables' POSTROUTING (KindMasquerade) or
// FORWARD (KindForward) chain, which network some flannel wrote it for; none if it
// is someone else's. Those versions that have chains for their rules leave here a
// jump alone: it is not among them. Without a comment, a rule is known by those beside
// it, for anyone may have such a one. forward is that of New.
func leftovers(kind state.Kind, rules []commented, forward bool) []netip.Prefix {
	networks := make([]netip.Prefix, len(rules))
	sure := make(map[netip.Prefix]bool) // that flannel has rules without a comment for it
	for _, r := range rules {
		n := r.src.prefix
		r.random = false
		sure[n] = sure[n] || r == commented{rule: rule{src: in(n), verdict: oldChain}} ||
			r == commented{rule: rule{src: in(n), dst: notIn(familyOf(n).multicast), verdict: masquerade}}
	}
	for i, r := range rules {
		switch {
		case r.more || r.marked:
		case kind == state.KindMasquerade && (r.comment == "" && sure[r.src.prefix] || r.comment == masqComment):
			networks[i] = r.oldMasquerade()
		case kind == state.KindForward && r.comment == forwardComment && r.verdict == accept:
			if n := r.src.prefix; (r == commented{rule: rule{src: in(n), verdict: accept}, comment: r.comment}) {
				networks[i] = n
			}
			if n := r.dst.prefix; (r == commented{rule: rule{dst: in(n), verdict: accept}, comment: r.comment}) {
				networks[i] = n
			}
		case kind == state.KindForward && forward && r.comment == "" && i+1 < len(rules):
			// Without a comment it takes both to know them by.
			n := r.src.prefix
			both := forwardRules(state.Forward{Network: n})
			if n.IsValid() && r.rule == both[0] && rules[i+1] == (commented{rule: both[1]}) {
				networks[i], networks[i+1] = n, n
			}
		}
	}
	return networks
}

// oldMasquerade returns the network that a flannel without chains of its own
// wrote the rule for, in POSTROUTING.
func (r rule) oldMasquerade() netip.Prefix {
	src, dst := r.src.prefix, r.dst.prefix
	plain := r
	plain.random = false
	switch plain {
	case rule{src: in(src), verdict: oldChain}, rule{src: in(src), dst: in(src), verdict: ret},
		rule{src: in(src), dst: notIn(familyOf(src).multicast), verdict: masquerade},
		rule{src: notIn(src), dst: in(src), verdict: masquerade}:
		return src
	case rule{src: notIn(src), dst: in(dst), verdict: ret}:
		if src.Contains(dst.Addr()) && src.Bits() < dst.Bits() {
			return src
		}
	}
	return netip.Prefix{}
}
