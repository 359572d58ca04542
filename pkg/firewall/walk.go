package firewall

import (
	"bytes"
	"encoding/binary"
	"net"
	"net/netip"
	"strings"

	"golang.org/x/sys/unix"

	"flanneld/pkg/ip"
)

// truth is whether a packet matches, as far as that is known.
type truth byte

const (
	no truth = iota
	maybe
	yes
)

func (t truth) not() truth { return yes - t }

func (t truth) and(u truth) truth { return min(t, u) }

func truthOf(b bool) truth {
	if b {
		return yes
	}
	return no
}

// verdict is what a rule does with a packet that it matches.
type verdict struct {
	kind   verdictKind
	to     *chain // of jump and leave
	reject bool
}

type verdictKind byte

const (
	next   verdictKind = iota // rule
	accept                    // as far as the base chain is concerned
	drop
	ret
	jump
	leave   // for another chain, without a return ("goto")
	unknown // it may be accepted, or go on
)

// step is a part of a rule: it changes the state of a walk, or returns whether the packet
// matches, or a verdict.
type step func(*walk) (truth, verdict)

// rule is a rule.
type rule struct {
	id    uint64 // see Drop.Number
	steps []step
}

// chain is a chain. One that no packet comes to by itself has no base.
type chain struct {
	family byte
	table  string
	name   string
	base   *base
	rules  []rule
	loaded bool // has rules
}

// base is what makes a chain a base chain.
type base struct {
	typ    string
	hook   uint32
	prio   int32
	drops  bool     // its policy
	ifaces []string // of those at an interface
}

// Where a byte in a register comes from.
const (
	fromPods  byte = 1 << iota // an address or interface of pods
	fromPorts                  // a port that was made up
	fromRange                  // an address of which only a prefix is known
)

// value is bytes of which some bits are known.
type value struct {
	data, mask, from []byte
}

// maxSteps bounds how many rules a packet may be compared with. One that meets more is taken
// to pass.
const maxSteps = 200_000

// walk is a packet on its way.
type walk struct {
	rs *Ruleset
	p  Packet
	ip *family

	network, transport value
	stage

	regs  value
	mark  value // 4 bytes
	state value // of the connection, 4 bytes
	// nat is set once the packet may have got other addresses.
	nat, notrack bool

	steps  int
	sure   bool  // the packet comes here, and the rule so far matches it
	named  bool  // a rule on the way here names pods' addresses or interfaces
	missed bool  // the rule names a port, and not the one that was made up
	place  place // of the last drop
	vague  bool  // it depends on which of its addresses the packet has
}

func known(data []byte) value {
	return value{data, bytes.Repeat([]byte{0xff}, len(data)), make([]byte, len(data))}
}

func blank(n int) value { return value{make([]byte, n), make([]byte, n), make([]byte, n)} }

// knownUint32 is a number as the kernel has it in a register.
func knownUint32(n uint32) value { return known(binary.NativeEndian.AppendUint32(nil, n)) }

// What is in the place of ports that do not matter: few rules are about just these. As some
// are about many, a pod's packet is dropped only if it is with either port.
const (
	anySrcPort = 51013
	anyDstPort = 47119
	lowDstPort = 981
)

func newWalk(rs *Ruleset, p Packet) *walk {
	f := familyOf(p.Dst)
	w := &walk{rs: rs, p: p, ip: f, network: blank(f.header), transport: blank(20), regs: blank(64), mark: blank(4)}
	set := func(v value, at int, data ...byte) {
		copy(v.data[at:], data)
		for i := range data {
			v.mask[at+i] = 0xff
		}
	}
	w.network.data[0], w.network.mask[0] = f.first, f.firstMask
	if f.Family == ip.V4 {
		w.network.mask[6], w.network.mask[7] = 0xbf, 0xff // no fragment
	}
	set(w.network, f.proto, p.Proto)
	for i, prefix := range []netip.Prefix{p.Src, p.Dst} {
		at := f.addrs + i*f.len
		set(w.network, at, prefix.Addr().AsSlice()...)
		copy(w.network.mask[at:], net.CIDRMask(prefix.Bits(), 8*f.len))
		var from byte
		if p.Pods {
			from = fromPods
		}
		if !prefix.IsSingleIP() {
			from |= fromRange
		}
		copy(w.network.from[at:], bytes.Repeat([]byte{from}, f.len))
	}
	switch p.Proto {
	case unix.IPPROTO_TCP, unix.IPPROTO_UDP:
		for at, port := range []uint16{p.SrcPort, p.DstPort} {
			at *= 2
			if port == 0 {
				port = [...]uint16{anySrcPort, 0, anyDstPort}[at]
				w.transport.from[at], w.transport.from[at+1] = fromPorts, fromPorts
			}
			set(w.transport, at, binary.BigEndian.AppendUint16(nil, port)...)
		}
		if p.Proto == unix.IPPROTO_TCP {
			w.transport.data[13], w.transport.mask[13] = 0x02, 0x3f // SYN
		}
	case unix.IPPROTO_ICMPV6:
		const hopLimit, most = 7, 255
		set(w.network, hopLimit, most) // as the hosts on a link have it among themselves
		set(w.transport, 0, p.ICMPType, 0)
	}
	return w
}

// place is a rule, or the policy of a chain if there is none.
type place struct {
	chain  *chain
	rule   uint64
	reject bool
}

// stage is a hook on the way of a packet, and the interfaces that rules see there.
type stage struct {
	family        byte // that of IP stands for that of inet, too
	hook          uint32
	in, out       Iface
	hasIn, hasOut bool
}

// The hooks of an interface.
const (
	netdevIngress = 0
	netdevEgress  = 1
	inetIngress   = 5 // of the family inet
)

// stages are the hooks that a packet comes to, in their order.
func stages(p Packet) []stage {
	var all []stage
	ip := familyOf(p.Dst).number
	enter := func() {
		all = append(all, stage{family: unix.NFPROTO_NETDEV, hook: netdevIngress, in: p.In, hasIn: true})
		if p.In.Bridge {
			port := Iface{Pods: p.In.Pods}
			all = append(all,
				stage{family: unix.NFPROTO_BRIDGE, hook: unix.NF_INET_PRE_ROUTING, in: port, hasIn: true},
				stage{family: unix.NFPROTO_BRIDGE, hook: unix.NF_INET_LOCAL_IN, in: port, hasIn: true})
		}
		all = append(all, stage{family: ip, hook: unix.NF_INET_PRE_ROUTING, in: p.In, hasIn: true})
	}
	exit := func() {
		// Older kernels do not tell here where a packet came from.
		all = append(all, stage{family: ip, hook: unix.NF_INET_POST_ROUTING, hasIn: p.Path == Forwarded, out: p.Out, hasOut: true})
		if p.Out.Bridge {
			port := Iface{Pods: p.Out.Pods}
			all = append(all,
				stage{family: unix.NFPROTO_BRIDGE, hook: unix.NF_INET_LOCAL_OUT, out: port, hasOut: true},
				stage{family: unix.NFPROTO_BRIDGE, hook: unix.NF_INET_POST_ROUTING, out: port, hasOut: true})
		}
		all = append(all, stage{family: unix.NFPROTO_NETDEV, hook: netdevEgress, out: p.Out, hasOut: true})
	}
	switch p.Path {
	case Inbound:
		enter()
		all = append(all, stage{family: ip, hook: unix.NF_INET_LOCAL_IN, in: p.In, hasIn: true})
	case Forwarded:
		enter()
		all = append(all, stage{family: ip, hook: unix.NF_INET_FORWARD, in: p.In, hasIn: true, out: p.Out, hasOut: true})
		exit()
	case Outbound:
		all = append(all, stage{family: ip, hook: unix.NF_INET_LOCAL_OUT, out: p.Out, hasOut: true})
		exit()
	}
	return all
}

// holds reports whether packets come to a base chain at this stage.
func (s stage) holds(c *chain) bool {
	atIface := func(name string) bool {
		for _, i := range c.base.ifaces {
			if prefix, wild := strings.CutSuffix(i, "*"); name != "" && (i == name || wild && strings.HasPrefix(name, prefix)) {
				return true
			}
		}
		return false
	}
	switch {
	case s.family == unix.NFPROTO_NETDEV && s.hook == netdevEgress:
		return c.family == unix.NFPROTO_NETDEV && c.base.hook == netdevEgress && atIface(s.out.Name)
	case s.family == unix.NFPROTO_NETDEV:
		ingress := c.family == unix.NFPROTO_NETDEV && c.base.hook == netdevIngress || c.family == unix.NFPROTO_INET && c.base.hook == inetIngress
		return ingress && atIface(s.in.Name)
	case numbered(s.family) != nil && c.family == unix.NFPROTO_INET:
		return c.base.hook == s.hook
	}
	return c.family == s.family && c.base.hook == s.hook
}

// name is that of the hook, as nft has it.
func (s stage) name() string {
	if s.family == unix.NFPROTO_NETDEV {
		return [...]string{"ingress", "egress"}[s.hook]
	}
	return [...]string{"prerouting", "input", "forward", "output", "postrouting"}[s.hook]
}

// drops returns where the packet is dropped for certain: there may be several such places,
// and opening the first opens none of the others.
func (w *walk) drops() []Drop {
	var all []Drop
	for _, s := range stages(w.p) {
		w.stage = s
		for _, c := range w.rs.bases {
			if !s.holds(c) {
				continue
			}
			w.state = w.connection(c)
			w.place = place{}
			end := w.run(c, 0, true, false)
			if end&endFall != 0 && c.base.drops {
				end |= endDrop
			} else if end&endFall != 0 {
				end |= endAccept
			}
			if end&^endFall == endDrop {
				all = append(all, w.rs.describe(w.place, c, s))
			}
		}
	}
	return all
}

// ends are all the ways in which a walk through a chain may end.
type ends byte

const (
	endAccept ends = 1 << iota
	endDrop
	endFall // it comes to the chain's end, or returns
)

// maxDepth is more than the kernel allows.
const maxDepth = 32

// run leads the packet through a chain. It is sure if the packet comes there for certain.
func (w *walk) run(c *chain, depth int, sure, named bool) (all ends) {
	rules, err := w.rs.rulesOf(c)
	if err != nil || depth > maxDepth {
		return endAccept | endFall
	}
	for i := range rules {
		if w.steps++; w.steps > maxSteps {
			return all | endAccept | endFall
		}
		w.named = named
		t, v := w.match(&rules[i], sure)
		if t == no {
			continue
		}
		switch v.kind {
		case next:
			continue
		case accept:
			all |= endAccept
		case unknown:
			all |= endAccept
			t = maybe
		case drop:
			all |= endDrop
			w.place = place{c, rules[i].id, v.reject}
		case ret:
			all |= endFall
		case jump:
			end := w.run(v.to, depth+1, sure && t == yes, w.named)
			all |= end &^ endFall
			if end&endFall != 0 {
				t = maybe
			}
		case leave:
			all |= w.run(v.to, depth+1, sure && t == yes, w.named)
		}
		if t == yes {
			return all
		}
		sure = false // it may have ended before
	}
	if depth == 0 {
		w.place = place{}
	}
	return all | endFall
}

// match returns whether the packet matches a rule, and what becomes of it then.
func (w *walk) match(r *rule, sure bool) (truth, verdict) {
	t := yes
	w.missed = false
	for _, s := range r.steps {
		w.sure = sure && t == yes && !w.missed
		u, v := s(w)
		if t = t.and(u); t == no {
			break
		}
		if v.kind != next {
			if w.missed && !w.named {
				return no, verdict{}
			}
			if w.missed {
				t = maybe
			}
			return t, v
		}
	}
	return t, verdict{}
}

// about returns t, what a comparison of v says, with what follows from where v comes from.
func (w *walk) about(v value, t truth) truth {
	var from byte
	for _, f := range v.from {
		from |= f
	}
	w.vague = w.vague || t == maybe && from&fromRange != 0
	switch {
	case t != no && from&fromPods != 0:
		w.named = true
	case t == no && w.p.Pods && from == fromPorts:
		w.missed = true
		return yes
	case t == no && w.p.Pods && from&fromPorts != 0:
		return maybe
	}
	return t
}

// equals compares a value with what a rule says.
func (v value) equals(data []byte) truth {
	t := yes
	for i := range data {
		if (v.data[i]^data[i])&v.mask[i] != 0 {
			return no
		}
		if v.mask[i] != 0xff {
			t = maybe
		}
	}
	return t
}

// within compares a value, as a number, with a range.
func (v value) within(from, to []byte) truth {
	least, most := v.bounds()
	switch {
	case bytes.Compare(most, from) < 0 || bytes.Compare(least, to) > 0:
		return no
	case bytes.Compare(least, from) >= 0 && bytes.Compare(most, to) <= 0:
		return yes
	}
	return maybe
}

// bounds are the least and the largest that the value may be.
func (v value) bounds() (least, most []byte) {
	least, most = make([]byte, len(v.data)), make([]byte, len(v.data))
	for i := range v.data {
		least[i] = v.data[i] & v.mask[i]
		most[i] = v.data[i] | ^v.mask[i]
	}
	return least, most
}

// isKnown reports whether all bits are.
func (v value) isKnown() bool {
	return len(bytes.Trim(v.mask, "\xff")) == 0
}

// part is a part of the bytes.
func (v value) part(at, n int) value {
	return value{v.data[at : at+n], v.mask[at : at+n], v.from[at : at+n]}
}

// masked is the value under a mask.
func (v value) masked(mask, xor []byte) value {
	m := blank(len(v.data))
	for i := range v.data {
		m.data[i] = v.data[i]&mask[i] ^ xor[i]
		m.mask[i] = v.mask[i] | ^mask[i]
		if mask[i] != 0 {
			m.from[i] = v.from[i]
		}
	}
	return m
}

// name is an interface's, as rules see it.
func (s stage) iface(out bool) (i Iface, there bool) {
	if out {
		return s.out, s.hasOut
	}
	return s.in, s.hasIn
}

// ifName is the name of the interface that the packet came by, or leaves by.
func (w *walk) ifName(out bool) value {
	i, there := w.iface(out)
	v := blank(unix.IFNAMSIZ)
	switch {
	case !there:
		return known(v.data)
	case i.Name != "":
		copy(v.data, i.Name)
		v = known(v.data)
	}
	if i.Pods {
		v.from[0] = fromPods
	}
	return v
}

// ifIndex is its number.
func (w *walk) ifIndex(out bool) value {
	i, there := w.iface(out)
	v := knownUint32(uint32(i.Index))
	if there && i.Index == 0 {
		v = blank(4)
	}
	if i.Pods {
		v.from[0] = fromPods
	}
	return v
}

// The states of a connection, as nft has them.
const (
	stateInvalid   = 1 << 0
	stateNew       = 1 << 3
	stateUntracked = 1 << 6
)

// What hosts on a link find each other by.
const (
	NeighborSolicit = 135
	NeighborAdvert  = 136
)

// isDiscovery reports whether the packet is one by which hosts find each other, which belongs
// to no connection.
func (p Packet) isDiscovery() bool {
	return p.Proto == unix.IPPROTO_ICMPV6 && (p.ICMPType == NeighborSolicit || p.ICMPType == NeighborAdvert)
}

// conntrackPrio is where the kernel looks for the connection of a packet.
const conntrackPrio = -200

// connection is the state of the packet's connection, as a chain sees it.
func (w *walk) connection(c *chain) value {
	first := w.hook == unix.NF_INET_PRE_ROUTING || w.hook == unix.NF_INET_LOCAL_OUT
	switch {
	case w.family != w.ip.number, w.notrack, first && c.base.prio == conntrackPrio:
		return blank(4)
	case first && c.base.prio < conntrackPrio:
		return knownUint32(stateInvalid)
	case w.p.isDiscovery():
		return knownUint32(stateUntracked)
	}
	return knownUint32(stateNew)
}

// natted takes that the packet may have got other addresses.
func (w *walk) natted() {
	w.nat = true
	clear(w.network.mask[w.ip.addrs:][:2*w.ip.len])
	clear(w.transport.mask[:4])
}

// addrType is the kind of the source's or the destination's address, RTN_LOCAL or
// RTN_UNICAST, if it is known.
func (w *walk) addrType(dst bool) (byte, bool) {
	if w.nat {
		return 0, false
	}
	if dst && w.p.Dst.Addr().IsMulticast() {
		return unix.RTN_MULTICAST, true
	}
	if dst && w.p.Path == Inbound || !dst && w.p.Path == Outbound {
		return unix.RTN_LOCAL, true
	}
	return unix.RTN_UNICAST, true
}
