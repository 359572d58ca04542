package netfilter

import (
	"net/netip"
	"testing"

	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"flanneld/pkg/ip"
	"flanneld/pkg/nfdump"
)

// nfRuleOf is a rule as the kernel tells it. An expression that is nil is one that nobody knows.
func nfRuleOf(t *testing.T, exprs []expr.Any) (n nfRule) {
	t.Helper()
	for _, e := range exprs {
		b := nfdump.Name(unix.NFTA_EXPR_NAME, "unknown")
		if e != nil {
			var err error
			if b, err = expr.Marshal(unix.NFPROTO_IPV4, e); err != nil {
				t.Fatal(err)
			}
		}
		n.Expressions = append(n.Expressions, nfdump.Nest(unix.NFTA_LIST_ELEM, b)...)
	}
	return n
}

// A rule is translated there and back.
func TestRuleExprs(t *testing.T) {
	rules := append(masqueradeRules(testMasq), masqueradeRules(testMasq6)...)
	rules = append(rules, forwardRules(testFwd)...)
	for bits := range 33 {
		rules = append(rules, rule{src: in(netip.PrefixFrom(netip.MustParseAddr("202.101.51.25"), bits).Masked()), verdict: ret})
	}
	for bits := range 129 {
		rules = append(rules, rule{dst: notIn(netip.PrefixFrom(netip.MustParseAddr("fc00:a5a5:a5a5:a5a5:a5a5:a5a5:a5a5:a5a5"), bits).Masked()), verdict: "CHAIN"})
	}
	for _, r := range rules {
		f := families[ip.V4]
		if r.src.prefix.Addr().Is6() || r.dst.prefix.Addr().Is6() {
			f = families[ip.V6]
		}
		if got, ok := nfRuleOf(t, r.exprs()).rule(f, false); !ok || got != r {
			t.Errorf("%+v becomes %+v, %v", r, got, ok)
		}
	}
}

// A rule that says anything more, or else, is not taken for one of ours.
func TestRuleExprsStrange(t *testing.T) {
	r := masqueradeRules(testMasq)[1]
	load := func() *expr.Payload { return r.exprs()[0].(*expr.Payload) }
	tail := r.exprs()[3:]
	match := func(p *expr.Payload, rest ...expr.Any) []expr.Any {
		return append(append([]expr.Any{p}, rest...), tail...)
	}
	mask := r.exprs()[1]
	cmp := r.exprs()[2].(*expr.Cmp)
	other, transport, short, set := load(), load(), load(), load()
	other.Offset, transport.Base, short.Len, set.OperationType = 9, expr.PayloadBaseTransportHeader, 3, expr.PayloadWrite
	less := *cmp
	less.Op = expr.CmpOpLt
	host := *cmp
	host.Data = []byte{10, 1, 5, 1}
	xor := *mask.(*expr.Bitwise)
	xor.Xor = []byte{0, 0, 0, 1}
	holes := *mask.(*expr.Bitwise)
	holes.Mask = []byte{255, 0, 255, 0}
	if got, ok := nfRuleOf(t, match(load(), mask, cmp)).rule(families[ip.V4], false); !ok || got != r {
		t.Fatalf("the rule itself becomes %+v, %v", got, ok)
	}
	for what, exprs := range map[string][]expr.Any{
		"nothing":                nil,
		"unknown":                match(load(), mask, cmp, nil),
		"counter":                match(load(), mask, cmp, &expr.Counter{}),
		"other field":            match(other, mask, cmp),
		"other header":           match(transport, mask, cmp),
		"other length":           match(short, mask, cmp),
		"set":                    match(set, mask, cmp),
		"less":                   match(load(), mask, &less),
		"bits of a host":         match(load(), mask, &host),
		"exclusive or":           match(load(), &xor, cmp),
		"mask with holes":        match(load(), &holes, cmp),
		"twice":                  append(match(load(), mask, cmp)[:3:3], match(load(), mask, cmp)...),
		"no comparison":          {load(), mask},
		"no verdict":             {load(), mask, cmp},
		"drop":                   append(match(load(), mask, cmp)[:6:6], &expr.Verdict{Kind: expr.VerdictDrop}),
		"goto":                   append(match(load(), mask, cmp)[:6:6], &expr.Verdict{Kind: expr.VerdictGoto, Chain: "c"}),
		"ports":                  append(match(load(), mask, cmp)[:6:6], &expr.Masq{ToPorts: true, RegProtoMin: 1}),
		"random, not fully":      append(match(load(), mask, cmp)[:6:6], &expr.Masq{Random: true}),
		"persistent":             append(match(load(), mask, cmp)[:6:6], &expr.Masq{Persistent: true}),
		"more after the verdict": append(match(load(), mask, cmp), &expr.Verdict{Kind: expr.VerdictReturn}),
	} {
		if got, ok := nfRuleOf(t, exprs).rule(families[ip.V4], false); ok {
			t.Errorf("%s: it becomes %+v", what, got)
		}
	}
	// The mark is compared under its mask.
	m := masqueradeRules(testMasq)[0].exprs()
	if got, ok := nfRuleOf(t, append(m[:1:1], m[2:]...)).rule(families[ip.V4], false); ok {
		t.Errorf("without mask: it becomes %+v", got)
	}
}

// Others load no more of an address than they compare.
func TestRuleExprsShort(t *testing.T) {
	exprs := []expr.Any{
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: 16, Len: 2},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: []byte{10, 1}},
		&expr.Verdict{Kind: expr.VerdictAccept},
	}
	if got, ok := nfRuleOf(t, exprs).rule(families[ip.V4], false); !ok || got != (rule{dst: notIn(prefix("10.1.0.0/16")), verdict: accept}) {
		t.Errorf("it becomes %+v, %v", got, ok)
	}
}
