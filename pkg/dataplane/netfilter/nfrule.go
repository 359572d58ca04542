package netfilter

import (
	"bytes"
	"net"
	"net/netip"

	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
)

// Where the addresses are in a header, by their length in bytes.
var (
	srcAt = map[int]uint32{4: 12, 16: 8}
	dstAt = map[int]uint32{4: 16, 16: 24}
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
