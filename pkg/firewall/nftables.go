package firewall

import (
	"bytes"
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"golang.org/x/sys/unix"

	"flanneld/pkg/dataplane/netfilter"
	"flanneld/pkg/nfdump"
)

// Ruleset is the rules of this host, as they are read while packets walk through them.
type Ruleset struct {
	conn   *nfdump.Conn
	chains map[chainKey]*chain
	bases  []*chain // as packets come to them
	sets   map[chainKey]*set
	legacy map[*chain]legacyChain // those of ip_tables
	native map[chainKey]bool      // tables, without a chain, that have what iptables does not write
	err    error                  // why something could not be read
	steps  int
}

// chainKey is the name of a chain or a set.
type chainKey struct {
	family      byte
	table, name string
}

// ErrChanging is in the error of a Read during which others changed rules all the time.
var ErrChanging = nfdump.ErrChanging

// Read calls walk with the rules of the calling process's network namespace, several times
// if they change meanwhile; ErrChanging is in the error if they always did.
// Our own chains are not among them.
func Read(ctx context.Context, walk func(*Ruleset)) error {
	c, err := nfdump.Dial()
	if err == nil {
		defer c.Close()
		err = c.Consistently(ctx, func() error { return readOnce(c, walk) })
	}
	if errors.Is(err, nfdump.ErrAbsent) {
		rs := newRuleset(nil)
		if err = rs.listLegacy(); err == nil {
			walk(rs)
			err = rs.err
		}
	}
	if err != nil {
		return fmt.Errorf("reading the rules of this host: %w", err)
	}
	return nil
}

func newRuleset(c *nfdump.Conn) *Ruleset {
	return &Ruleset{conn: c, chains: make(map[chainKey]*chain), sets: make(map[chainKey]*set), legacy: make(map[*chain]legacyChain), native: make(map[chainKey]bool)}
}

func readOnce(c *nfdump.Conn, walk func(*Ruleset)) error {
	rs := newRuleset(c)
	if err := errors.Join(rs.list(), rs.listLegacy()); err != nil {
		return err
	}
	walk(rs)
	return rs.err
}

// Drops returns where a packet is dropped for certain; and whether it is elsewhere for some
// of the addresses that it may have.
func (rs *Ruleset) Drops(p Packet) (all []Drop, vague bool) {
	slices.SortStableFunc(rs.bases, func(a, b *chain) int { return cmp.Compare(a.base.prio, b.base.prio) })
	w := newWalk(rs, p)
	all = w.drops()
	rs.steps += w.steps
	if p.Pods && p.DstPort == 0 && len(all) > 0 {
		low := newWalk(rs, p)
		binary.BigEndian.PutUint16(low.transport.data[2:], lowDstPort)
		others := low.drops()
		rs.steps += low.steps
		all = slices.DeleteFunc(all, func(d Drop) bool {
			return !slices.ContainsFunc(others, func(o Drop) bool { return o.TableName() == d.TableName() && o.Base == d.Base && o.Hook == d.Hook })
		})
	}
	return all, w.vague
}

// Steps returns with how many rules packets were compared.
func (rs *Ruleset) Steps() int { return rs.steps }

// list reads what chains there are in nf_tables.
func (rs *Ruleset) list() error {
	dormant := make(map[chainKey]bool)
	if err := rs.conn.Tables(func(t nfdump.Table) { dormant[chainKey{t.Family, t.Name, ""}] = t.Dormant }, unix.AF_UNSPEC); err != nil {
		return err
	}
	return rs.conn.Chains(func(one nfdump.Chain) {
		c := &chain{family: one.Family, table: one.Table, name: one.Name}
		if netfilter.IsOurs(c.family, c.table, c.name) || dormant[chainKey{c.family, c.table, ""}] {
			return
		}
		rs.chains[c.key()] = c
		if one.Type != "" {
			c.base = &base{typ: one.Type, hook: one.Hook, prio: one.Prio, drops: one.Policy == nfdump.Drop, ifaces: devices(one.HookData)}
			rs.bases = append(rs.bases, c)
		}
	}, unix.AF_UNSPEC)
}

func (c *chain) key() chainKey { return chainKey{c.family, c.table, c.name} }

// devices are the interfaces of a chain: names, or with a star what they begin with.
func devices(data []byte) []string {
	const (
		nftaHookDevs     = 4
		nftaDevicePrefix = 2
	)
	var all []string
	hook, _ := nfdump.Attributes(data)
	if one := hook.Text(unix.NFTA_HOOK_DEV); one != "" {
		all = append(all, one)
	}
	_ = nfdump.Each(hook[nftaHookDevs], func(typ uint16, b []byte) {
		name := string(bytes.TrimRight(b, "\x00"))
		if typ == nftaDevicePrefix {
			name += "*"
		}
		all = append(all, name)
	})
	return all
}

// rulesOf returns the rules of a chain.
func (rs *Ruleset) rulesOf(c *chain) ([]rule, error) {
	if c.loaded {
		return c.rules, nil
	}
	if _, is := rs.legacy[c]; is {
		err := rs.compileLegacy(c)
		return c.rules, err
	}
	var failed error
	err := rs.conn.Rules(func(r nfdump.Rule) {
		if r.Chain == c.name {
			one, err := rs.compile(c, r)
			c.rules = append(c.rules, one)
			failed = errors.Join(failed, err)
		}
	}, c.family, c.table, c.name)
	err = errors.Join(err, failed)
	if err != nil {
		rs.err = errors.Join(rs.err, fmt.Errorf("reading chain %s of table %s: %w", c.name, c.table, err))
		return nil, err
	}
	c.loaded = true
	return c.rules, nil
}

func (rs *Ruleset) compile(c *chain, from nfdump.Rule) (rule, error) {
	r := rule{id: from.ID()}
	var failed error
	for name, data := range from.Exprs() {
		a, err := nfdump.Attributes(data)
		if s := rs.expression(c, name, a); s != nil {
			r.steps = append(r.steps, s)
		}
		failed = errors.Join(failed, err)
	}
	return r, failed
}

// expression translates a part of a rule. It is nil for what changes nothing that other
// rules ask about.
func (rs *Ruleset) expression(c *chain, name string, a nfdump.Attrs) step {
	switch name {
	case "ct", "fib", "lookup", "reject":
		rs.native[chainKey{c.family, c.table, ""}] = true
	}
	switch name {
	case "counter", "log", "last", "notrack", "flow_offload", "objref", "dynset", "limit", "quota", "connlimit":
		return beside(name, a)
	case "meta":
		return metaStep(a)
	case "payload":
		return payloadStep(a)
	case "ct":
		return ctStep(a)
	case "fib":
		return fibStep(a)
	case "bitwise":
		return bitwiseStep(a)
	case "byteorder":
		return byteorderStep(a)
	case "cmp":
		return cmpStep(a)
	case "range":
		return rangeStep(a)
	case "lookup":
		return rs.lookupStep(c, a)
	case "immediate":
		return rs.immediateStep(c, a)
	case "reject":
		return always(verdict{kind: drop, reject: true})
	case "masq", "nat", "redir":
		return natStep(name)
	case "match":
		return xtMatch(a.Text(unix.NFTA_MATCH_NAME), byte(a.Number(unix.NFTA_MATCH_REV)), a[unix.NFTA_MATCH_INFO])
	case "target":
		return xtTarget(a.Text(unix.NFTA_TARGET_NAME))
	case "hash", "numgen", "exthdr", "rt", "socket", "osf", "xfrm", "tunnel":
		return forget
	}
	// Whatever it does, it may let the packet pass.
	return func(w *walk) (truth, verdict) {
		_, _ = forget(w)
		return maybe, verdict{kind: unknown}
	}
}

// always is a step that has an answer for each packet.
func always(v verdict) step {
	return func(*walk) (truth, verdict) { return yes, v }
}

// perhaps is a step about what a sample does not tell, such as how many there are.
func perhaps(*walk) (truth, verdict) { return maybe, verdict{} }

// forget is a step that puts something unknown into some register.
func forget(w *walk) (truth, verdict) {
	clear(w.regs.mask)
	clear(w.regs.from)
	return yes, verdict{}
}

// beside is what changes nothing in a packet, or depends on others.
func beside(name string, a nfdump.Attrs) step {
	const (
		objectType   = 1 // NFTA_OBJREF_IMM_TYPE
		quotaObject  = 2
		limitObject  = 4
		connsObject  = 5
		synproxyName = 10
	)
	switch name {
	case "notrack":
		return func(w *walk) (truth, verdict) {
			w.notrack = true
			return yes, verdict{}
		}
	case "limit", "quota", "connlimit", "dynset":
		return perhaps
	case "objref":
		switch a.Number(objectType) {
		case 1, 3, 7, 8, 9: // counters, helpers and the like
			return nil
		case quotaObject, limitObject, connsObject:
			return perhaps
		}
		return func(*walk) (truth, verdict) { return maybe, verdict{kind: unknown} }
	}
	return nil
}

// register returns where a register is; -1 if it is none for data.
func register(n uint32) int {
	switch {
	case n >= unix.NFT_REG_1 && n <= unix.NFT_REG_4:
		return int(n-unix.NFT_REG_1) * 16
	case n >= unix.NFT_REG32_00 && n <= unix.NFT_REG32_15:
		return int(n-unix.NFT_REG32_00) * 4
	}
	return -1
}

// put puts a value into a register.
func (w *walk) put(reg uint32, v value) {
	at := register(reg)
	n := len(v.data)
	if at < 0 || at+n > len(w.regs.data) {
		_, _ = forget(w)
		return
	}
	copy(w.regs.data[at:], v.data)
	copy(w.regs.mask[at:], v.mask)
	copy(w.regs.from[at:], v.from)
	for ; n%4 != 0; n++ { // the rest of the last four bytes is zero
		w.regs.data[at+n], w.regs.mask[at+n], w.regs.from[at+n] = 0, 0xff, 0
	}
}

// get returns what is in a register.
func (w *walk) get(reg uint32, n int) value {
	at := register(reg)
	if at < 0 || n < 0 || at+n > len(w.regs.data) {
		return blank(max(n, 0))
	}
	return w.regs.part(at, n)
}

func metaStep(a nfdump.Attrs) step {
	key := a.Number(unix.NFTA_META_KEY)
	if a[unix.NFTA_META_SREG] != nil {
		src := a.Number(unix.NFTA_META_SREG)
		switch key {
		case unix.NFT_META_MARK:
			return func(w *walk) (truth, verdict) {
				w.setMark(w.get(src, 4))
				return yes, verdict{}
			}
		case unix.NFT_META_PKTTYPE, unix.NFT_META_NFTRACE, unix.NFT_META_PRIORITY, unix.NFT_META_SECMARK:
			return nil
		}
		return perhaps
	}
	dst := a.Number(unix.NFTA_META_DREG)
	return func(w *walk) (truth, verdict) {
		w.put(dst, w.meta(key))
		return yes, verdict{}
	}
}

// setMark sets the packet's mark, if it comes here.
func (w *walk) setMark(v value) {
	copy(w.mark.data, v.data)
	copy(w.mark.mask, v.mask)
	if !w.sure {
		clear(w.mark.mask)
	}
}

// meta is what nft calls a packet's metadata. A key that is not known here may take up to 16
// bytes.
func (w *walk) meta(key uint32) value {
	switch key {
	case unix.NFT_META_PROTOCOL:
		return known(binary.BigEndian.AppendUint16(nil, w.ip.etherType))
	case unix.NFT_META_NFPROTO:
		if w.family == w.ip.number {
			return known([]byte{w.ip.number})
		}
	case unix.NFT_META_L4PROTO:
		return known([]byte{w.p.Proto})
	case unix.NFT_META_MARK:
		return w.mark
	case unix.NFT_META_IIF, unix.NFT_META_OIF:
		return w.ifIndex(key == unix.NFT_META_OIF)
	case unix.NFT_META_IIFNAME, unix.NFT_META_OIFNAME:
		return w.ifName(key == unix.NFT_META_OIFNAME)
	case unix.NFT_META_BRI_IIFNAME, unix.NFT_META_BRI_OIFNAME:
		if w.family == unix.NFPROTO_BRIDGE {
			i := w.p.In
			if key == unix.NFT_META_BRI_OIFNAME {
				i = w.p.Out
			}
			v := known(append([]byte(i.Name), make([]byte, unix.IFNAMSIZ-len(i.Name))...))
			if i.Pods {
				v.from[0] = fromPods
			}
			return v
		}
	case unix.NFT_META_PKTTYPE:
		if w.hasIn && w.family == w.ip.number {
			if w.p.Dst.Addr().IsMulticast() {
				return known([]byte{unix.PACKET_MULTICAST})
			}
			return known([]byte{unix.PACKET_HOST})
		}
	}
	return blank(16)
}

func payloadStep(a nfdump.Attrs) step {
	base, at, n := a.Number(unix.NFTA_PAYLOAD_BASE), int(a.Number(unix.NFTA_PAYLOAD_OFFSET)), int(a.Number(unix.NFTA_PAYLOAD_LEN))
	if a[unix.NFTA_PAYLOAD_SREG] != nil {
		return func(w *walk) (truth, verdict) {
			if base != unix.NFT_PAYLOAD_NETWORK_HEADER || at+n > w.ip.addrs {
				w.natted()
			}
			return yes, verdict{}
		}
	}
	dst := a.Number(unix.NFTA_PAYLOAD_DREG)
	const etherType, etherTypeLen = 12, 2
	return func(w *walk) (truth, verdict) {
		header := value{}
		switch base {
		case unix.NFT_PAYLOAD_NETWORK_HEADER:
			header = w.network
		case unix.NFT_PAYLOAD_TRANSPORT_HEADER:
			header = w.transport
		case unix.NFT_PAYLOAD_LL_HEADER:
			if at == etherType && n == etherTypeLen {
				w.put(dst, w.meta(unix.NFT_META_PROTOCOL))
				return yes, verdict{}
			}
		}
		if at < 0 || n < 0 || at+n > len(header.data) {
			w.put(dst, blank(min(max(n, 0), 16)))
			return yes, verdict{}
		}
		w.put(dst, header.part(at, n))
		return yes, verdict{}
	}
}

// The parts of a connection's status that tell that its addresses were changed.
const statusNAT = 1<<4 | 1<<5

func ctStep(a nfdump.Attrs) step {
	if a[unix.NFTA_CT_SREG] != nil {
		return nil // what is set there is not known when it is read
	}
	key, dst := a.Number(unix.NFTA_CT_KEY), a.Number(unix.NFTA_CT_DREG)
	return func(w *walk) (truth, verdict) {
		v, matches := blank(16), yes
		if key != unix.NFT_CT_STATE { // which alone can be asked of a packet without a connection
			matches = inverted(w.inStates(stateInvalid|stateUntracked), true)
		}
		switch key {
		case unix.NFT_CT_STATE:
			v = w.state
		case unix.NFT_CT_DIRECTION:
			v = known([]byte{0})
		case unix.NFT_CT_STATUS:
			v = blank(4)
			if !w.nat {
				binary.NativeEndian.PutUint32(v.mask, statusNAT)
			}
		}
		w.put(dst, v)
		return matches, verdict{}
	}
}

func fibStep(a nfdump.Attrs) step {
	dst, result, flags := a.Number(unix.NFTA_FIB_DREG), a.Number(unix.NFTA_FIB_RESULT), a.Number(unix.NFTA_FIB_FLAGS)
	return func(w *walk) (truth, verdict) {
		v := blank(16)
		if result == unix.NFT_FIB_RESULT_ADDRTYPE && (flags == unix.NFTA_FIB_F_SADDR || flags == unix.NFTA_FIB_F_DADDR) {
			if typ, ok := w.addrType(flags == unix.NFTA_FIB_F_DADDR); ok {
				v = knownUint32(uint32(typ))
			}
		}
		w.put(dst, v)
		return yes, verdict{}
	}
}

func bitwiseStep(a nfdump.Attrs) step {
	src, dst, n := a.Number(unix.NFTA_BITWISE_SREG), a.Number(unix.NFTA_BITWISE_DREG), int(a.Number(unix.NFTA_BITWISE_LEN))
	const nftaBitwiseOp = 6
	mask, xor := nfdump.Data(a[unix.NFTA_BITWISE_MASK]), nfdump.Data(a[unix.NFTA_BITWISE_XOR])
	if a.Number(nftaBitwiseOp) != 0 || n < 0 || len(mask) != n || len(xor) != n {
		return func(w *walk) (truth, verdict) {
			w.put(dst, blank(min(max(n, 0), 16)))
			return yes, verdict{}
		}
	}
	return func(w *walk) (truth, verdict) {
		w.put(dst, w.get(src, n).masked(mask, xor))
		return yes, verdict{}
	}
}

func byteorderStep(a nfdump.Attrs) step {
	src, dst := a.Number(unix.NFTA_BYTEORDER_SREG), a.Number(unix.NFTA_BYTEORDER_DREG)
	n, size := int(a.Number(unix.NFTA_BYTEORDER_LEN)), int(a.Number(unix.NFTA_BYTEORDER_SIZE))
	return func(w *walk) (truth, verdict) {
		v := w.get(src, n)
		swapped := blank(n)
		for i := range v.data {
			j := i
			if size > 0 && n%size == 0 && isLittleEndian {
				j = i/size*size + size - 1 - i%size
			}
			swapped.data[j], swapped.mask[j], swapped.from[j] = v.data[i], v.mask[i], v.from[i]
		}
		w.put(dst, swapped)
		return yes, verdict{}
	}
}

var isLittleEndian = binary.NativeEndian.Uint16([]byte{1, 0}) == 1

func cmpStep(a nfdump.Attrs) step {
	src, op, data := a.Number(unix.NFTA_CMP_SREG), a.Number(unix.NFTA_CMP_OP), nfdump.Data(a[unix.NFTA_CMP_DATA])
	zero, most := make([]byte, len(data)), bytes.Repeat([]byte{0xff}, len(data))
	return func(w *walk) (truth, verdict) {
		v := w.get(src, len(data))
		t := maybe
		switch op {
		case unix.NFT_CMP_EQ:
			t = v.equals(data)
		case unix.NFT_CMP_NEQ:
			t = v.equals(data).not()
		case unix.NFT_CMP_LTE:
			t = v.within(zero, data)
		case unix.NFT_CMP_GT:
			t = v.within(zero, data).not()
		case unix.NFT_CMP_GTE:
			t = v.within(data, most)
		case unix.NFT_CMP_LT:
			t = v.within(data, most).not()
		}
		return w.about(v, t), verdict{}
	}
}

func rangeStep(a nfdump.Attrs) step {
	src, op := a.Number(unix.NFTA_RANGE_SREG), a.Number(unix.NFTA_RANGE_OP)
	from, to := nfdump.Data(a[unix.NFTA_RANGE_FROM_DATA]), nfdump.Data(a[unix.NFTA_RANGE_TO_DATA])
	if len(from) != len(to) {
		return perhaps
	}
	return func(w *walk) (truth, verdict) {
		v := w.get(src, len(from))
		t := v.within(from, to)
		if op == unix.NFT_RANGE_NEQ {
			t = t.not()
		}
		return w.about(v, t), verdict{}
	}
}

func (rs *Ruleset) immediateStep(c *chain, a nfdump.Attrs) step {
	dst := a.Number(unix.NFTA_IMMEDIATE_DREG)
	if v, is := rs.verdictOf(c, a[unix.NFTA_IMMEDIATE_DATA]); is {
		return always(v)
	}
	data := nfdump.Data(a[unix.NFTA_IMMEDIATE_DATA])
	return func(w *walk) (truth, verdict) {
		w.put(dst, known(data))
		return yes, verdict{}
	}
}

// natStep is what gives a packet other addresses.
func natStep(name string) step {
	return func(w *walk) (truth, verdict) {
		if name != "masq" || w.hook != unix.NF_INET_POST_ROUTING {
			w.natted()
		}
		return yes, verdict{kind: accept}
	}
}

// verdictOf reads a verdict, if the data is one.
func (rs *Ruleset) verdictOf(c *chain, data []byte) (verdict, bool) {
	d, err := nfdump.Attributes(data)
	if err != nil || d[unix.NFTA_DATA_VERDICT] == nil {
		return verdict{}, false
	}
	a, err := nfdump.Attributes(d[unix.NFTA_DATA_VERDICT])
	if err != nil {
		return verdict{kind: unknown}, true
	}
	switch code := int32(a.Number(unix.NFTA_VERDICT_CODE)); code & 0xff {
	case nfdump.Accept:
		return verdict{kind: accept}, true
	case nfdump.Drop:
		return verdict{kind: drop}, true
	case unix.NFT_RETURN & 0xff:
		return verdict{kind: ret}, true
	case unix.NFT_CONTINUE & 0xff:
		return verdict{}, true
	case unix.NFT_JUMP & 0xff, unix.NFT_GOTO & 0xff:
		to := rs.chains[chainKey{c.family, c.table, a.Text(unix.NFTA_VERDICT_CHAIN)}]
		kind := jump
		if code == unix.NFT_GOTO {
			kind = leave
		}
		if to != nil {
			return verdict{kind: kind, to: to}, true
		}
	}
	return verdict{kind: unknown}, true // such as a queue
}
