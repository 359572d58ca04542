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

// What nf_tables has is not read by the nftables package: that one leaves out what it does
// not know of a rule, and does not tell whether the rules have changed while they were listed.

// nfTable is a table, as far as it was asked for.
type nfTable struct {
	nfdump.Table
	chains map[nfName]*nfChain
}

// nfName is the name of a chain.
type nfName = string

// nfChain is a chain and its rules.
type nfChain struct {
	nfdump.Chain
	rules []nfRule
}

// nfRule is a rule.
type nfRule struct{ nfdump.Rule }

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
	if errors.Is(err, unix.EAFNOSUPPORT) {
		return fmt.Errorf("%s: %w: the kernel may lack IPv6", what, err)
	}
	return fmt.Errorf("%s: %w", what, err)
}

// readTable returns a table of a family with those of the named chains that there
// are; nil if there is no such table.
func readTable(c *nfdump.Conn, family byte, name string, chains ...nfName) (*nfTable, error) {
	var t *nfTable
	if err := c.Tables(func(there nfdump.Table) { t = &nfTable{there, make(map[nfName]*nfChain)} }, family, name); t == nil || err != nil {
		return nil, err
	}
	for _, chain := range chains {
		if err := c.Chains(func(there nfdump.Chain) { t.chains[chain] = &nfChain{Chain: there} }, family, name, chain); err != nil {
			return nil, err
		}
		if one := t.chains[chain]; one != nil {
			if err := c.Rules(func(r nfdump.Rule) { one.rules = append(one.rules, nfRule{r}) }, family, name, chain); err != nil {
				return nil, err
			}
		}
	}
	return t, nil
}

// comment returns what a rule's comment is, or in iptables' form.
func (n nfRule) comment() string {
	for name, data := range n.Exprs() {
		if a, err := nfdump.Attributes(data); name == "match" && err == nil && a.Text(unix.NFTA_MATCH_NAME) == "comment" {
			text, _, _ := strings.Cut(string(a[unix.NFTA_MATCH_INFO]), "\x00")
			return text
		}
	}
	text, _ := userdata.GetString(n.Userdata, userdata.TypeComment)
	return text
}

// addTo adds to a digest what rules are and which they are. A rule keeps its handle when it is
// replaced, but no other one has it later.
func (n nfRule) addTo(h *maphash.Hash) {
	for _, part := range [][]byte{[]byte(n.Chain), n.Handle, n.Userdata} {
		_, _ = h.Write(part)
	}
	for name, data := range n.Exprs() {
		if name != "counter" {
			_, _ = h.WriteString(name)
			_, _ = h.Write(data)
		}
	}
}

// addTo adds to a digest what the table has of some chains. It returns how many rules that is.
func (t *nfTable) addTo(h *maphash.Hash, chains []nfName) (rules int) {
	_, _ = h.Write(t.Handle)
	for _, name := range chains {
		c := t.chains[name]
		if _, _ = fmt.Fprintln(h, name, c != nil); c == nil {
			continue
		}
		_, _ = fmt.Fprintf(h, "%x %d\n", c.Handle, c.Policy)
		for _, r := range c.rules {
			r.addTo(h)
		}
		rules += len(c.rules)
	}
	return rules
}

// register is the one that rules of ours, and of iptables, use.
const register = unix.NFT_REG_1

// rule translates a rule of a family back. It reports whether the rule is one that can be told
// so, as a whole; with xt, one as iptables has it. Others load no more of an address than they
// compare.
func (n nfRule) rule(f *family, xt bool) (r rule, ok bool) {
	var load, mask nfdump.Attrs // what is in the register
	var loaded string
	for name, data := range n.Exprs() {
		a, err := nfdump.Attributes(data)
		if err != nil || r.verdict != "" && name != "counter" {
			return rule{}, false
		}
		switch {
		case xt && (name == "counter" || name == "match" && a.Text(unix.NFTA_MATCH_NAME) == "comment"):
		case name == "meta" && a.Number(unix.NFTA_META_DREG) == register && loaded == "",
			name == "payload" && a.Number(unix.NFTA_PAYLOAD_DREG) == register && loaded == "":
			load, mask, loaded = a, nfdump.Attrs{}, name
		case name == "bitwise" && loaded != "" && mask[unix.NFTA_BITWISE_MASK] == nil && isMask(a):
			mask = a
		case name == "cmp" && a.Number(unix.NFTA_CMP_SREG) == register:
			if !r.take(loaded, load, nfdump.Data(mask[unix.NFTA_BITWISE_MASK]), a, f) {
				return rule{}, false
			}
			loaded = ""
		case loaded != "":
			return rule{}, false
		case name == "immediate":
			r.verdict = verdictOf(a)
		case name == "masq" && a[unix.NFTA_MASQ_REG_PROTO_MIN] == nil:
			const fullyRandom = 1 << 4 // NF_NAT_RANGE_PROTO_RANDOM_FULLY
			if flags := a.Number(unix.NFTA_MASQ_FLAGS); flags&^fullyRandom == 0 {
				r.verdict, r.random = masquerade, flags != 0
			}
		case xt && name == "target" && a.Text(unix.NFTA_TARGET_NAME) == string(masquerade):
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
	switch int32(v.Number(unix.NFTA_VERDICT_CODE)) {
	case unix.NFT_RETURN:
		return ret
	case nfdump.Accept:
		return accept
	case unix.NFT_JUMP:
		return verdict(v.Text(unix.NFTA_VERDICT_CHAIN))
	}
	return ""
}

// take adds the match that a comparison of what was loaded is.
func (r *rule) take(loaded string, load nfdump.Attrs, mask []byte, compare nfdump.Attrs, f *family) bool {
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
	p, fits := prefixOf(data, mask, f.size)
	to := map[uint32]*match{f.srcAt: &r.src, f.dstAt: &r.dst}[load.Number(unix.NFTA_PAYLOAD_OFFSET)]
	if loaded != "payload" || !fits || to == nil || *to != (match{}) || int(load.Number(unix.NFTA_PAYLOAD_LEN)) != len(data) ||
		load.Number(unix.NFTA_PAYLOAD_BASE) != unix.NFT_PAYLOAD_NETWORK_HEADER {
		return false
	}
	*to = match{prefix: p, not: not}
	return true
}
