package netfilter

import (
	"bytes"
	"net"
	"net/netip"

	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
)

// keepSourceBit is keepSource as it is in a register.
var keepSourceBit = binaryutil.NativeEndian.PutUint32(keepSource)

// exprs translates a rule.
func (r rule) exprs() []expr.Any {
	var all []expr.Any
	if r.marked {
		all = append(all,
			&expr.Meta{Key: expr.MetaKeyMARK, Register: register},
			&expr.Bitwise{SourceRegister: register, DestRegister: register, Len: 4, Mask: keepSourceBit, Xor: make([]byte, 4)},
			&expr.Cmp{Op: expr.CmpOpEq, Register: register, Data: keepSourceBit},
		)
	}
	all = append(all, r.src.exprs(func(f *family) uint32 { return f.srcAt })...)
	all = append(all, r.dst.exprs(func(f *family) uint32 { return f.dstAt })...)
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

// exprs translates a match on what is at a place in the header.
func (m match) exprs(at func(*family) uint32) []expr.Any {
	if !m.prefix.IsValid() {
		return nil
	}
	addr, f := m.prefix.Addr().AsSlice(), familyOf(m.prefix)
	size := f.size
	op := expr.CmpOpEq
	if m.not {
		op = expr.CmpOpNeq
	}
	all := []expr.Any{&expr.Payload{DestRegister: register, Base: expr.PayloadBaseNetworkHeader, Offset: at(f), Len: uint32(size)}}
	if mask := net.CIDRMask(m.prefix.Bits(), 8*size); m.prefix.Bits() < 8*size {
		all = append(all, &expr.Bitwise{SourceRegister: register, DestRegister: register, Len: uint32(size), Mask: mask, Xor: make([]byte, size)})
	}
	return append(all, &expr.Cmp{Op: op, Register: register, Data: addr})
}

// prefixOf returns the prefix of addresses, of so many bytes, whose first bytes
// under a mask are data. No mask is a full one.
func prefixOf(data, mask []byte, size int) (netip.Prefix, bool) {
	bits, of := 8*len(data), 8*len(data)
	if mask != nil {
		bits, of = net.IPMask(mask).Size()
	}
	if len(data) == 0 || len(data) > size || of != 8*len(data) {
		return netip.Prefix{}, false
	}
	addr, _ := netip.AddrFromSlice(append(bytes.Clone(data), make([]byte, size-len(data))...))
	p := netip.PrefixFrom(addr, bits)
	return p, p == p.Masked()
}
