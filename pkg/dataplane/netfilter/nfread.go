package netfilter

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"slices"
	"strings"

	"github.com/google/nftables/userdata"
	"golang.org/x/sys/unix"

	"flanneld/pkg/nfdump"
)

// What nf_tables has is read here rather than by the nftables package: that one
// leaves out what it does not know of a rule, and does not tell whether the rules
// have changed while they were listed.

// nfTable is a table, as far as it was asked for.
type nfTable struct {
	dormant bool // its chains are not in use
	things  int  // chains, sets and the like
	handle  []byte
	chains  map[nfName]*nfChain
}

// nfName is the name of a chain.
type nfName = string

// nfChain is a chain and its rules. One that no packet comes to by itself has no
// kind.
type nfChain struct {
	nfKind
	handle []byte
	rules  []nfRule
}

// nfKind is which packets come to a chain by itself, and when.
type nfKind struct {
	typ    string // filter, nat or route
	hook   uint32
	prio   int32
	policy uint32 // 1 accepts what no rule is about
}

// nfRule is a rule.
type nfRule struct {
	chain    nfName
	handle   []byte
	userdata []byte
	exprs    []nfExpr
}

// nfExpr is a part of a rule.
type nfExpr struct {
	name string
	data []byte
}

// nfAsk calls ask with a connection to nf_tables, again if rules changed meanwhile.
func nfAsk(ctx context.Context, what string, ask func(*nfdump.Conn) error) error {
	c, err := nfdump.Dial()
	if err == nil {
		defer c.Close()
		err = c.Consistently(ctx, func() error { return ask(c) })
	}
	return nfError(what, err)
}

// nfError names what is missing where the kernel has no nf_tables, or lets no one
// at them.
func nfError(what string, err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, unix.EPERM):
		return fmt.Errorf("%s: %w: this needs CAP_NET_ADMIN in the user namespace that owns the network", what, err)
	case errors.Is(err, nfdump.ErrAbsent), errors.Is(err, unix.EOPNOTSUPP), errors.Is(err, unix.EINVAL), errors.Is(err, unix.EPROTONOSUPPORT):
		return fmt.Errorf("%w: %s: %w: the kernel may lack nf_tables (try modprobe nf_tables), or use -masq-mode=iptables", errAbsent, what, err)
	}
	return fmt.Errorf("%s: %w", what, err)
}

// readTable returns a table of a family with those of the named chains that there
// are; nil if there is no such table.
func readTable(c *nfdump.Conn, family byte, name string, chains ...nfName) (*nfTable, error) {
	messages, err := c.Ask(unix.NFT_MSG_GETTABLE, false, family, nfdump.Name(unix.NFTA_TABLE_NAME, name))
	if errors.Is(err, unix.ENOENT) {
		return nil, nil
	}
	t := &nfTable{chains: make(map[nfName]*nfChain)}
	for _, m := range messages {
		const nftaTableHandle = 4
		a, e := nfdump.Attributes(m.Data)
		t.dormant = a.Number(unix.NFTA_TABLE_FLAGS)&unix.NFT_TABLE_F_DORMANT != 0
		t.things = int(a.Number(unix.NFTA_TABLE_USE))
		t.handle = a[nftaTableHandle]
		err = errors.Join(err, e)
	}
	for _, chain := range chains {
		messages, e := c.Ask(unix.NFT_MSG_GETCHAIN, false, family, nfdump.Name(unix.NFTA_CHAIN_TABLE, name), nfdump.Name(unix.NFTA_CHAIN_NAME, chain))
		if errors.Is(e, unix.ENOENT) {
			continue
		}
		for _, m := range messages {
			_, _, t.chains[chain], err = decodeChain(m)
		}
		if err = errors.Join(err, e); err != nil {
			return nil, err
		}
		if t.chains[chain].rules, err = readRules(c, family, name, chain); err != nil {
			return nil, err
		}
	}
	return t, err
}

// readRules returns the rules of a table, or of one of its chains.
func readRules(c *nfdump.Conn, family byte, table string, chain ...nfName) ([]nfRule, error) {
	filter := [][]byte{nfdump.Name(unix.NFTA_RULE_TABLE, table)}
	for _, name := range chain {
		filter = append(filter, nfdump.Name(unix.NFTA_RULE_CHAIN, name))
	}
	messages, err := c.Ask(unix.NFT_MSG_GETRULE, true, family, filter...)
	if errors.Is(err, unix.ENOENT) {
		err = nfdump.ErrChanging
	}
	var rules []nfRule
	for _, m := range messages {
		a, e := nfdump.Attributes(m.Data)
		r := nfRule{chain: a.Text(unix.NFTA_RULE_CHAIN), handle: a[unix.NFTA_RULE_HANDLE], userdata: a[unix.NFTA_RULE_USERDATA]}
		e = errors.Join(e, nfdump.Each(a[unix.NFTA_RULE_EXPRESSIONS], func(_ uint16, b []byte) {
			one, exprErr := nfdump.Attributes(b)
			r.exprs = append(r.exprs, nfExpr{one.Text(unix.NFTA_EXPR_NAME), one[unix.NFTA_EXPR_DATA]})
			err = errors.Join(err, exprErr)
		}))
		rules = append(rules, r)
		err = errors.Join(err, e)
	}
	return rules, err
}

func decodeChain(m nfdump.Message) (table, name string, c *nfChain, err error) {
	a, err := nfdump.Attributes(m.Data)
	h, hookErr := nfdump.Attributes(a[unix.NFTA_CHAIN_HOOK])
	return a.Text(unix.NFTA_CHAIN_TABLE), a.Text(unix.NFTA_CHAIN_NAME), &nfChain{
		handle: a[unix.NFTA_CHAIN_HANDLE],
		nfKind: nfKind{
			typ: a.Text(unix.NFTA_CHAIN_TYPE), hook: h.Number(unix.NFTA_HOOK_HOOKNUM),
			prio: int32(h.Number(unix.NFTA_HOOK_PRIORITY)), policy: a.Number(unix.NFTA_CHAIN_POLICY),
		},
	}, errors.Join(err, hookErr)
}

// comment returns what a rule's comment is, or in iptables' form.
func (n nfRule) comment() string {
	for _, e := range n.exprs {
		if a, err := nfdump.Attributes(e.data); e.name == "match" && err == nil && a.Text(unix.NFTA_MATCH_NAME) == "comment" {
			text, _, _ := strings.Cut(string(a[unix.NFTA_MATCH_INFO]), "\x00")
			return text
		}
	}
	text, _ := userdata.GetString(n.userdata, userdata.TypeComment)
	return text
}

// addTo adds to a sum what rules are and which they are. A rule keeps its handle when it is
// replaced, but no other one has it later.
func (n nfRule) addTo(h *maphash.Hash) {
	for _, part := range [][]byte{[]byte(n.chain), n.handle, n.userdata} {
		_, _ = h.Write(part)
	}
	for _, e := range n.exprs {
		if e.name != "counter" {
			_, _ = h.WriteString(e.name)
			_, _ = h.Write(e.data)
		}
	}
}

// addTo adds to a sum what the table has of some chains. It returns how many rules that is.
func (t *nfTable) addTo(h *maphash.Hash, chains []nfName) (rules int) {
	_, _ = h.Write(t.handle)
	for _, name := range chains {
		c := t.chains[name]
		if _, _ = fmt.Fprintln(h, name, c != nil); c == nil {
			continue
		}
		_, _ = fmt.Fprintf(h, "%x %d\n", c.handle, c.policy)
		for _, r := range c.rules {
			r.addTo(h)
		}
		rules += len(c.rules)
	}
	return rules
}

// register is the one that rules of ours, and of iptables, use.
const register = unix.NFT_REG_1

// rule translates a rule back, for addresses of so many bytes. It reports whether the rule is
// one that can be told so, as a whole; with xt, one as iptables has it. Others load no more of
// an address than they compare.
func (n nfRule) rule(size int, xt bool) (r rule, ok bool) {
	var load, mask nfdump.Attrs // what is in the register
	var loaded string
	for _, e := range n.exprs {
		a, err := nfdump.Attributes(e.data)
		if err != nil || r.verdict != "" && e.name != "counter" {
			return rule{}, false
		}
		switch {
		case xt && (e.name == "counter" || e.name == "match" && a.Text(unix.NFTA_MATCH_NAME) == "comment"):
		case e.name == "meta" && a.Number(unix.NFTA_META_DREG) == register && loaded == "",
			e.name == "payload" && a.Number(unix.NFTA_PAYLOAD_DREG) == register && loaded == "":
			load, mask, loaded = a, nfdump.Attrs{}, e.name
		case e.name == "bitwise" && loaded != "" && mask[unix.NFTA_BITWISE_MASK] == nil && isMask(a):
			mask = a
		case e.name == "cmp" && a.Number(unix.NFTA_CMP_SREG) == register:
			if !r.take(loaded, load, nfdump.Data(mask[unix.NFTA_BITWISE_MASK]), a, size) {
				return rule{}, false
			}
			loaded = ""
		case loaded != "":
			return rule{}, false
		case e.name == "immediate":
			r.verdict = verdictOf(a)
		case e.name == "masq" && a[unix.NFTA_MASQ_REG_PROTO_MIN] == nil:
			const fullyRandom = 1 << 4 // NF_NAT_RANGE_PROTO_RANDOM_FULLY
			if flags := a.Number(unix.NFTA_MASQ_FLAGS); flags&^fullyRandom == 0 {
				r.verdict, r.random = masquerade, flags != 0
			}
		case xt && e.name == "target" && a.Text(unix.NFTA_TARGET_NAME) == string(masquerade):
			r.verdict = masquerade
		default:
			return rule{}, false
		}
	}
	return r, r.verdict != "" && loaded == ""
}

// isMask reports whether an expression only puts a mask over what is in the register.
func isMask(a nfdump.Attrs) bool {
	const nftaBitwiseOp = 6
	return a.Number(unix.NFTA_BITWISE_SREG) == register && a.Number(unix.NFTA_BITWISE_DREG) == register && a.Number(nftaBitwiseOp) == 0 &&
		strings.Trim(string(nfdump.Data(a[unix.NFTA_BITWISE_XOR])), "\x00") == ""
}

// verdictOf returns that of an expression; empty if a rule of ours has no such one.
func verdictOf(immediate nfdump.Attrs) verdict {
	data, err := nfdump.Attributes(immediate[unix.NFTA_IMMEDIATE_DATA])
	v, verdictErr := nfdump.Attributes(data[unix.NFTA_DATA_VERDICT])
	if errors.Join(err, verdictErr) != nil || v[unix.NFTA_VERDICT_CODE] == nil {
		return ""
	}
	const nfAccept = 1
	switch int32(v.Number(unix.NFTA_VERDICT_CODE)) {
	case unix.NFT_RETURN:
		return ret
	case nfAccept:
		return accept
	case unix.NFT_JUMP:
		return verdict(v.Text(unix.NFTA_VERDICT_CHAIN))
	}
	return ""
}

// take adds the match that a comparison of what was loaded is.
func (r *rule) take(loaded string, load nfdump.Attrs, mask []byte, compare nfdump.Attrs, size int) bool {
	data, op := nfdump.Data(compare[unix.NFTA_CMP_DATA]), compare.Number(unix.NFTA_CMP_OP)
	not := op == unix.NFT_CMP_NEQ
	if op != unix.NFT_CMP_EQ && !not {
		return false
	}
	if loaded == "meta" {
		was := r.marked
		r.marked = true
		return !was && !not && load.Number(unix.NFTA_META_KEY) == unix.NFT_META_MARK && slices.Equal(mask, keepSourceBit) && slices.Equal(data, keepSourceBit)
	}
	p, fits := prefixOf(data, mask, size)
	to := map[uint32]*match{srcAt[size]: &r.src, dstAt[size]: &r.dst}[load.Number(unix.NFTA_PAYLOAD_OFFSET)]
	if loaded != "payload" || !fits || to == nil || *to != (match{}) || int(load.Number(unix.NFTA_PAYLOAD_LEN)) != len(data) ||
		load.Number(unix.NFTA_PAYLOAD_BASE) != unix.NFT_PAYLOAD_NETWORK_HEADER {
		return false
	}
	*to = match{prefix: p, not: not}
	return true
}
