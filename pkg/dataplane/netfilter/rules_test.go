package netfilter

import (
	"net/netip"
	"reflect"
	"slices"
	"testing"

	"flanneld/pkg/ip"
	"flanneld/pkg/state"
)

func prefix(s string) netip.Prefix { return netip.MustParsePrefix(s) }

var (
	testMasq  = state.Masquerade{Backend: state.NFTables, Network: prefix("10.1.0.0/16"), Own: prefix("10.1.5.0/24"), RandomFully: true}
	testMasq6 = state.Masquerade{Backend: state.NFTables, Network: prefix("fc00:1::/48"), Own: prefix("fc00:1:0:7::/64"), Exclude: "fc00::/7"}
	testFwd   = state.Forward{Backend: state.NFTables, Network: prefix("10.1.0.0/16")}
)

// The rules are what flannel 0.28 has by iptables, and what is excluded before any
// that masquerades.
func TestMasqueradeRules(t *testing.T) {
	m := testMasq
	m.Exclude = "192.0.2.0/24 10.0.0.0/8"
	own, network := in(m.Own), in(m.Network)
	outside := notIn(m.Network)
	want := []rule{
		{marked: true, verdict: ret},
		{src: own, dst: network, verdict: ret},
		{src: network, dst: own, verdict: ret},
		{src: outside, dst: own, verdict: ret},
		{src: network, dst: in(prefix("192.0.2.0/24")), verdict: ret},
		{src: network, dst: in(prefix("10.0.0.0/8")), verdict: ret},
		{src: network, dst: notIn(prefix("224.0.0.0/4")), verdict: masquerade, random: true},
		{src: outside, dst: network, verdict: masquerade, random: true},
	}
	if got := masqueradeRules(m); !slices.Equal(got, want) {
		t.Errorf("the rules are %v, want %v", got, want)
	}
	if got := masqueradeRules(testMasq6)[5].dst; got != notIn(prefix("ff00::/8")) {
		t.Errorf("of IPv6, what is not masqueraded is %v", got)
	}
}

// Objects are read back from their rules; whatever is not all of one is strange.
func TestParse(t *testing.T) {
	other := state.Masquerade{Backend: state.NFTables, Network: prefix("10.2.0.0/16"), Own: prefix("10.2.0.0/20"), Exclude: "10.1.0.0/16 10.2.0.0/20"}
	both := append(masqueradeRules(testMasq), masqueradeRules(other)...)
	check := func(what string, rules []rule, strange bool, objects ...state.Object) {
		t.Helper()
		got, odd := parse(state.KindMasquerade, state.NFTables, rules)
		if !reflect.DeepEqual(got, objects) || odd != strange {
			t.Errorf("%s: it is %v, strange %v; want %v, %v", what, got, odd, objects, strange)
		}
	}
	check("nothing", nil, false)
	check("two networks", both, false, testMasq, other)
	check("two networks, the other way round", append(masqueradeRules(other), masqueradeRules(testMasq)...), false, other, testMasq)
	check("one of them twice", append(both, masqueradeRules(testMasq)...), true, testMasq, other)
	n := len(masqueradeRules(testMasq))
	for i := range both {
		excluding := i == n+4 || i == n+5 // there can be any number of these, in any order
		left := other
		if i >= n {
			left = testMasq
		}
		if !excluding {
			check("one is missing", slices.Delete(slices.Clone(both), i, i+1), true, left)
		}
		changed := slices.Clone(both)
		changed[i].verdict = accept
		check("one accepts", changed, true, left)
		if i+1 != n && i+1 < len(both) && i != n+4 {
			swapped := slices.Clone(both)
			swapped[i], swapped[i+1] = swapped[i+1], swapped[i]
			check("two are exchanged", swapped, true, left)
		}
	}
	mixed := slices.Clone(masqueradeRules(testMasq))
	mixed[n-1].random = false
	check("one is random", mixed, true)

	objects, strange := parse(state.KindForward, state.NFTables, append(forwardRules(testFwd), rule{src: in(prefix("10.9.0.0/16")), verdict: accept}))
	if !strange || !reflect.DeepEqual(objects, []state.Object{testFwd}) {
		t.Errorf("of forwarding it is %v, strange %v", objects, strange)
	}
}

// What is like a rule of an older flannel, and not one, is someone else's.
func TestLeftovers(t *testing.T) {
	network, own := in(testMasq.Network), in(testMasq.Own)
	outside := notIn(testMasq.Network)
	none := netip.Prefix{}
	for _, c := range []struct {
		what string
		kind state.Kind
		rule commented
		want netip.Prefix
	}{
		{"A's jump", state.KindMasquerade, commented{rule: rule{src: network, verdict: oldChain}}, testMasq.Network},
		{"C's first", state.KindMasquerade, commented{rule: rule{src: network, dst: network, verdict: ret}}, testMasq.Network},
		{"D's second", state.KindMasquerade, commented{rule: rule{src: network, dst: notIn(families[ip.V4].multicast), verdict: masquerade, random: true}, comment: masqComment}, testMasq.Network},
		{"C's third", state.KindMasquerade, commented{rule: rule{src: outside, dst: own, verdict: ret}}, testMasq.Network},
		{"B's second", state.KindMasquerade, commented{rule: rule{src: outside, dst: network, verdict: masquerade}}, testMasq.Network},
		{"D's forward", state.KindForward, commented{rule: rule{dst: network, verdict: accept}, comment: forwardComment}, testMasq.Network},

		{"docker's", state.KindMasquerade, commented{rule: rule{src: network, verdict: masquerade}, more: true}, none},
		{"all of it", state.KindMasquerade, commented{rule: rule{src: network, verdict: masquerade}}, none},
		{"of more", state.KindMasquerade, commented{rule: rule{src: network, dst: network, verdict: ret}, more: true}, none},
		{"marked", state.KindMasquerade, commented{rule: rule{marked: true, src: network, dst: network, verdict: ret}}, none},
		{"commented", state.KindMasquerade, commented{rule: rule{src: network, dst: network, verdict: ret}, comment: "mine"}, none},
		{"other destination", state.KindMasquerade, commented{rule: rule{src: outside, dst: in(prefix("192.0.2.0/24")), verdict: ret}}, none},
		{"without source", state.KindMasquerade, commented{rule: rule{dst: notIn(families[ip.V4].multicast), verdict: masquerade}}, none},
		{"nothing", state.KindMasquerade, commented{}, none},
		{"jump elsewhere", state.KindMasquerade, commented{rule: rule{src: network, verdict: "KUBE"}}, none},
		{"half of C's forward", state.KindForward, commented{rule: rule{src: network, verdict: accept}}, none},
		{"other half of C's forward", state.KindForward, commented{rule: rule{dst: network, verdict: accept}}, none},
		{"forward to and from", state.KindForward, commented{rule: rule{src: network, dst: network, verdict: accept}, comment: forwardComment}, none},
	} {
		second := commented{rule: rule{src: network, dst: notIn(families[ip.V4].multicast), verdict: masquerade}} // C's
		if got := leftovers(c.kind, []commented{c.rule, second}, true)[0]; got != c.want {
			t.Errorf("%s is of %s, want %s", c.what, got, c.want)
		}
		alone := c.want
		if r := c.rule; r.comment == "" && r.verdict != oldChain {
			alone = none
		}
		if got := leftovers(c.kind, []commented{c.rule}, true)[0]; got != alone {
			t.Errorf("alone, %s is of %s, want %s", c.what, got, alone)
		}
	}
	pair := []commented{{rule: rule{src: network, verdict: accept}}, {rule: rule{dst: network, verdict: accept}}}
	if got := leftovers(state.KindForward, pair, true); got[0] != testMasq.Network || got[1] != testMasq.Network {
		t.Errorf("C's forward is of %s", got)
	}
	if got := leftovers(state.KindForward, pair, false); got[0] != none || got[1] != none {
		t.Errorf("what is like C's forward is of %s", got)
	}
}
