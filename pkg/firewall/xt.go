package firewall

import (
	"bytes"
	"encoding/binary"
	"slices"

	"golang.org/x/sys/unix"
)

// What iptables calls matches and targets is a name and a struct of the kernel, in both
// variants.

// xtMatch translates a match. One that is not known here may match.
func xtMatch(name string, revision byte, info []byte) step {
	if name == "comment" {
		return nil
	}
	m, known := xtMatches[name]
	if !known || !slices.Contains(m.revisions, revision) || len(info) < m.size {
		return perhaps
	}
	return func(w *walk) (truth, verdict) { return m.match(w, info), verdict{} }
}

type xtKnown struct {
	revisions []byte
	size      int // of the struct, as far as it is read
	match     func(*walk, []byte) truth
}

var xtMatches = map[string]xtKnown{
	"conntrack": {[]byte{2, 3}, 154, xtConntrack},
	"state":     {[]byte{0}, 4, func(w *walk, b []byte) truth { return w.inStates(binary.NativeEndian.Uint32(b)) }},
	"tcp":       {[]byte{0}, 12, xtTCP},
	"udp":       {[]byte{0}, 9, func(w *walk, b []byte) truth { return xtPorts(w, unix.IPPROTO_UDP, b, b[8]) }},
	"icmp":      {[]byte{0}, 4, func(w *walk, _ []byte) truth { return truthOf(w.p.Proto == unix.IPPROTO_ICMP).and(maybe) }},
	"icmp6":     {[]byte{0}, 4, xtICMP6},
	"multiport": {[]byte{1}, 48, xtMultiport},
	"mark":      {[]byte{1}, 9, xtMark},
	"addrtype":  {[]byte{1}, 8, xtAddrType},
	"iprange":   {[]byte{1}, 65, xtIPRange},
	"pkttype":   {[]byte{0}, 8, xtPktType},
}

// inverted turns an answer around if it is to be.
func inverted(t truth, invert bool) truth {
	if invert {
		return t.not()
	}
	return t
}

// inStates returns whether the connection is in one of some states, as xt_state has them.
func (w *walk) inStates(mask uint32) truth {
	if !w.state.isKnown() {
		return maybe
	}
	return truthOf(binary.NativeEndian.Uint32(w.state.data)&mask != 0)
}

func xtConntrack(w *walk, b []byte) truth {
	const (
		byState    = 1 << 0
		stateAlias = 1 << 13
		snat, dnat = 1 << 6, 1 << 7
		untracked  = 1 << 8
	)
	flags, invert, states := binary.NativeEndian.Uint16(b[146:]), binary.NativeEndian.Uint16(b[148:]), binary.NativeEndian.Uint16(b[150:])
	t := yes
	if flags&byState != 0 {
		in := uint32(states &^ (snat | dnat | untracked))
		if states&untracked != 0 {
			in |= stateUntracked
		}
		if t = w.inStates(in); t == no && states&(snat|dnat) != 0 && w.nat {
			t = maybe
		}
		t = inverted(t, invert&byState != 0)
	}
	if flags&^(byState|stateAlias) != 0 {
		t = t.and(maybe)
	}
	return t
}

// port compares a port with a range.
func (w *walk) port(at int, from, to uint16) truth {
	v := w.transport.part(at, 2)
	return v.within(binary.BigEndian.AppendUint16(nil, from), binary.BigEndian.AppendUint16(nil, to))
}

// xtPorts is about source and destination ports, which a struct begins with.
func xtPorts(w *walk, proto byte, b []byte, invert byte) truth {
	if w.p.Proto != proto {
		return no
	}
	t := yes
	for i := range 2 {
		from, to := binary.NativeEndian.Uint16(b[4*i:]), binary.NativeEndian.Uint16(b[4*i+2:])
		if from == 0 && to == 0xffff && invert&(1<<i) == 0 {
			continue
		}
		t = t.and(w.about(w.transport.part(2*i, 2), inverted(w.port(2*i, from, to), invert&(1<<i) != 0)))
	}
	return t
}

func xtTCP(w *walk, b []byte) truth {
	invert := b[11]
	t := xtPorts(w, unix.IPPROTO_TCP, b, invert)
	if t == no {
		return no
	}
	if option := b[8]; option != 0 {
		t = t.and(maybe)
	}
	if mask, flags := b[9], b[10]; mask != 0 {
		v := w.transport.part(13, 1).masked([]byte{mask}, []byte{0})
		t = t.and(inverted(v.equals([]byte{flags}), invert&4 != 0))
	}
	return t
}

func xtICMP6(w *walk, b []byte) truth {
	const anyType, invert = 0xff, 1
	if w.p.Proto != unix.IPPROTO_ICMPV6 {
		return no
	}
	typ, code := w.transport.part(0, 1), w.transport.part(1, 1)
	t := typ.equals(b[:1]).and(code.within(b[1:2], b[2:3]))
	if b[0] == anyType {
		t = yes
	}
	return inverted(t, b[3]&invert != 0)
}

func xtMultiport(w *walk, b []byte) truth {
	const source, destination = 0, 1
	if w.p.Proto != unix.IPPROTO_TCP && w.p.Proto != unix.IPPROTO_UDP {
		return maybe
	}
	count := min(int(b[1]), 15)
	any := func(at int) truth {
		t := no
		for i := 0; i < count; i++ {
			from := binary.NativeEndian.Uint16(b[2+2*i:])
			to := from
			if b[32+i] != 0 && i+1 < count { // the first of a range
				i++
				to = binary.NativeEndian.Uint16(b[2+2*i:])
			}
			t = max(t, w.port(at, from, to))
		}
		return t
	}
	var t truth
	switch b[0] {
	case source:
		t = any(0)
	case destination:
		t = any(2)
	default:
		t = max(any(0), any(2))
	}
	return w.about(w.transport.part(2, 2), inverted(t, b[47] != 0))
}

func xtMark(w *walk, b []byte) truth {
	return inverted(w.mark.masked(b[4:8], make([]byte, 4)).equals(b[:4]), b[8] != 0)
}

func xtAddrType(w *walk, b []byte) truth {
	const invertSource, invertDest = 1, 2
	flags := binary.NativeEndian.Uint32(b[4:])
	t := yes
	for i, invert := range []uint32{invertSource, invertDest} {
		types := binary.NativeEndian.Uint16(b[2*i:])
		if types == 0 {
			continue
		}
		one := maybe
		if typ, ok := w.addrType(i == 1); ok && flags&^(invertSource|invertDest) == 0 {
			one = inverted(truthOf(types&(1<<typ) != 0), flags&invert != 0)
		}
		t = t.and(one)
	}
	return t
}

func xtIPRange(w *walk, b []byte) truth {
	flags := b[64]
	t := yes
	for i := range 2 {
		if flags&(1<<i) == 0 {
			continue
		}
		n := w.ip.len
		v := w.network.part(w.ip.addrs+n*i, n)
		t = t.and(w.about(v, inverted(v.within(b[32*i:][:n], b[32*i+16:][:n]), flags&(0x10<<i) != 0)))
	}
	return t
}

func xtPktType(w *walk, b []byte) truth {
	v := w.meta(unix.NFT_META_PKTTYPE)
	return inverted(v.part(0, 1).equals([]byte{byte(binary.NativeEndian.Uint32(b))}), binary.NativeEndian.Uint32(b[4:]) != 0)
}

// xtTarget translates a target. It is nil for one that rules go on after, with nothing
// changed that others ask about.
func xtTarget(name string) step {
	switch name {
	case "REJECT":
		return always(verdict{kind: drop, reject: true})
	case "LOG", "NFLOG", "AUDIT", "CHECKSUM", "CLASSIFY", "CONNSECMARK", "DSCP", "ECN", "IDLETIMER", "LED", "RATEEST", "SECMARK", "SET", "TCPMSS", "TCPOPTSTRIP", "TOS", "TRACE", "TTL", "HL":
		return nil
	case "MARK", "CONNMARK":
		return func(w *walk) (truth, verdict) {
			clear(w.mark.mask)
			return yes, verdict{}
		}
	case "CT", "NOTRACK":
		return func(w *walk) (truth, verdict) {
			w.notrack = true
			return yes, verdict{}
		}
	case "MASQUERADE":
		return natStep("masq")
	case "DNAT", "SNAT", "REDIRECT", "NETMAP", "DNPT", "SNPT":
		return natStep(name)
	}
	return func(w *walk) (truth, verdict) { // also a queue
		w.natted()
		clear(w.mark.mask)
		return maybe, verdict{kind: unknown}
	}
}

// ipHeader translates what each entry of ip_tables says about addresses, interfaces and
// protocol.
func (f *family) ipHeader(b []byte) step {
	const (
		invIn, invOut, invSrc, invDst, invFrag, invProto = 1, 2, 8, 0x10, 0x20, 0x40
	)
	x := f.xt
	b = bytes.Clone(b)
	flags, invert := b[x.flags], b[x.invert]
	proto := byte(binary.NativeEndian.Uint16(b[x.proto:]))
	asks := proto != 0
	if x.protoFlag != 0 {
		asks = flags&x.protoFlag != 0
	}
	ifaces := b[x.ifaces:]
	// The plus that stands for the rest of a name is no part of it.
	for i := range 2 * unix.IFNAMSIZ {
		ifaces[i] &= ifaces[2*unix.IFNAMSIZ+i]
	}
	zero := make([]byte, unix.IFNAMSIZ)
	return func(w *walk) (truth, verdict) {
		t := yes
		check := func(v value, data, mask []byte, invert bool) {
			if t != no && len(bytes.Trim(mask, "\x00")) > 0 {
				t = t.and(w.about(v, inverted(v.masked(mask, zero).equals(data), invert)))
			}
		}
		for i, inverts := range []byte{invSrc, invDst} {
			check(w.network.part(f.addrs+i*f.len, f.len), b[i*f.len:][:f.len], b[(2+i)*f.len:][:f.len], invert&inverts != 0)
		}
		for i, inverts := range []byte{invIn, invOut} {
			check(w.ifName(i == 1), ifaces[i*unix.IFNAMSIZ:][:unix.IFNAMSIZ], ifaces[(2+i)*unix.IFNAMSIZ:][:unix.IFNAMSIZ], invert&inverts != 0)
		}
		if asks {
			t = t.and(inverted(truthOf(proto == w.p.Proto), invert&invProto != 0))
		}
		if flags&x.otherFlag != 0 {
			t = t.and(inverted(x.other, invert&invFrag != 0))
		}
		return t, verdict{}
	}
}
