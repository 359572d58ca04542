package netfilter

import (
	"bytes"
	"net/netip"

	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
)

// Where the addresses are in a header, by their length in bytes.
var (
	srcAt = map[int]uint32{4: 12, 16: 8}
	dstAt = map[int]uint32{4: 16, 16: 24}
)

const register = 1

// exprs translates a rule.
func (r rule) exprs() []expr.Any {
	var all []expr.Any
	if r.marked {
		bit := binaryutil.NativeEndian.PutUint32(keepSource)
		all = append(all,
			&expr.Meta{Key: expr.MetaKeyMARK, Register: register},
			&expr.Bitwise{SourceRegister: register, DestRegister: register, Len: 4, Mask: bit, Xor: make([]byte, 4)},
			&expr.Cmp{Op: expr.CmpOpEq, Register: register, Data: bit},
		)
	}
	all = append(all, r.src.exprs(srcAt)...)
	all = append(all, r.dst.exprs(dstAt)...)
	switch r.verdict {
	case ret:
		return append(all, &expr.Verdict{Kind: expr.VerdictReturn})
	case accept:
		return append(all, &expr.Verdict{Kind: expr.VerdictAccept})
	case masquerade:
		return append(all, &expr.Masq{FullyRandom: r.random})
	default:
	}
	return append(all, &expr.Verdict{Kind: expr.VerdictJump, Chain: string(r.verdict)})
}

func (m match) exprs(at map[int]uint32) []expr.Any {
	if !m.prefix.IsValid() {
		return nil
	}
	addr := m.prefix.Addr().AsSlice()
	size := len(addr)
	op := expr.CmpOpEq
	if m.not {
		op = expr.CmpOpNeq
	}
	all := []expr.Any{&expr.Payload{DestRegister: register, Base: expr.PayloadBaseNetworkHeader, Offset: at[size], Len: uint32(size)}}
	if mask := maskOf(m.prefix.Bits(), size); m.prefix.Bits() < 8*size {
		all = append(all, &expr.Bitwise{SourceRegister: register, DestRegister: register, Len: uint32(size), Mask: mask, Xor: make([]byte, size)})
	}
	return append(all, &expr.Cmp{Op: op, Register: register, Data: addr})
}

// maskOf returns so many bits set of so many bytes.
func maskOf(bits, size int) []byte {
	mask := make([]byte, size)
	for i := range mask {
		if n := bits - 8*i; n >= 8 {
			mask[i] = 0xff
		} else if n > 0 {
			mask[i] = ^byte(0xff >> n)
		}
	}
	return mask
}

// rule translates back, for addresses of so many bytes. It reports whether the
// rule is one that can be told so, as a whole. Tools other than this one load no
// more of an address than they compare.
func (n nfRule) rule(size int) (rule, bool) {
	var r rule
	exprs := n.exprs
	for len(exprs) > 1 {
		taken, ok := r.takeMatch(exprs, size)
		if !ok {
			return rule{}, false
		}
		exprs = exprs[taken:]
	}
	if len(exprs) == 0 {
		return rule{}, false
	}
	switch e := exprs[0].(type) {
	case *expr.Verdict:
		switch e.Kind {
		case expr.VerdictReturn:
			r.verdict = ret
		case expr.VerdictAccept:
			r.verdict = accept
		case expr.VerdictJump:
			r.verdict = verdict(e.Chain)
		default:
			return rule{}, false
		}
	case *expr.Masq:
		r.verdict, r.random = masquerade, e.FullyRandom
		return r, *e == expr.Masq{FullyRandom: e.FullyRandom}
	default:
		return rule{}, false
	}
	return r, true
}

// takeMatch translates the first match of a rule, and returns of how many
// expressions it is.
func (r *rule) takeMatch(exprs []expr.Any, size int) (taken int, ok bool) {
	var mask []byte
	at := 1
	if b, is := exprs[at].(*expr.Bitwise); is {
		if b.SourceRegister != register || b.DestRegister != register || len(bytes.Trim(b.Xor, "\x00")) > 0 {
			return 0, false
		}
		mask = b.Mask
		at++
	}
	if at >= len(exprs) {
		return 0, false
	}
	c, is := exprs[at].(*expr.Cmp)
	if !is || c.Register != register || c.Op != expr.CmpOpEq && c.Op != expr.CmpOpNeq {
		return 0, false
	}
	switch e := exprs[0].(type) {
	case *expr.Meta:
		bit := binaryutil.NativeEndian.PutUint32(keepSource)
		ok = *e == expr.Meta{Key: expr.MetaKeyMARK, Register: register} && !r.marked &&
			bytes.Equal(mask, bit) && bytes.Equal(c.Data, bit) && c.Op == expr.CmpOpEq
		r.marked = true
	case *expr.Payload:
		p, fits := prefixOf(c.Data, mask, size)
		m := match{prefix: p, not: c.Op == expr.CmpOpNeq}
		is := *e
		is.Offset, is.Len = 0, 0
		ok = fits && int(e.Len) == len(c.Data) && is == expr.Payload{DestRegister: register, Base: expr.PayloadBaseNetworkHeader}
		switch {
		case e.Offset == srcAt[size] && r.src == match{}:
			r.src = m
		case e.Offset == dstAt[size] && r.dst == match{}:
			r.dst = m
		default:
			ok = false
		}
	}
	return at + 1, ok
}

// prefixOf returns the prefix of addresses, of so many bytes, whose first bytes
// under a mask are data. No mask is a full one.
func prefixOf(data, mask []byte, size int) (netip.Prefix, bool) {
	if mask == nil {
		mask = maskOf(8*len(data), len(data))
	}
	if len(data) == 0 || len(data) > size || len(mask) != len(data) {
		return netip.Prefix{}, false
	}
	bits := 0
	for bits < 8*len(mask) && mask[bits/8]&(0x80>>(bits%8)) != 0 {
		bits++
	}
	addr, _ := netip.AddrFromSlice(append(bytes.Clone(data), make([]byte, size-len(data))...))
	p := netip.PrefixFrom(addr, bits)
	return p, bytes.Equal(mask, maskOf(bits, len(mask))) && p == p.Masked()
}
