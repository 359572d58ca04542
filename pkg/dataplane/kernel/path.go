package kernel

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"flanneld/pkg/ip"
	"flanneld/pkg/printable"
)

// PathQuery asks which way the kernel sends a packet.
type PathQuery struct {
	To   netip.Addr
	From netip.Addr // zero: the kernel chooses
	IIF  string     // the interface that the packet came in by; empty: this host sends it
}

// Path is the way that the kernel sends a packet.
type Path struct {
	Dev   string     // the interface
	Via   netip.Addr // the router; zero if the receiver is on the link
	Local bool       // the receiver is this host
	Err   error      // why there is no way; a syscall.Errno
}

// A batch of lookups is bounded by its answers, which must fit the default receive buffer.
const lookupBatch = 64

// Paths looks up the ways of packets. It fails if the kernel could not be asked.
func (*Kernel) Paths(ctx context.Context, queries []PathQuery) ([]Path, error) {
	s, err := open()
	if err != nil {
		return nil, err
	}
	defer s.close()
	names := newLinkNames()
	paths := make([]Path, len(queries))
	for start := 0; start < len(queries); start += lookupBatch {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		end := min(start+lookupBatch, len(queries))
		if err := s.lookUp(queries[start:end], paths[start:end], names); err != nil {
			return nil, fmt.Errorf("looking up routes: %w", err)
		}
	}
	return paths, nil
}

// lookUp sends the queries in one call and reads an answer for each.
func (s *socket) lookUp(queries []PathQuery, paths []Path, names linkNames) error {
	var b batch
	left := 0
	for i, q := range queries {
		if in, ok := names.index(q.IIF); ok {
			q.append(&b, uint32(i), 0, in)
			left++
		} else {
			paths[i] = Path{Err: unix.ENODEV}
		}
	}
	if left == 0 {
		return nil
	}
	if err := s.send(b.buf); err != nil {
		return err
	}
	return s.answers(func(m message) (done bool) {
		if int(m.seq) >= len(queries) {
			return false
		}
		left--
		if m.typ == unix.NLMSG_ERROR {
			paths[m.seq] = Path{Err: syscall.Errno(-int32(u32(m.data)))}
		} else {
			paths[m.seq] = decodePath(m.data, names)
		}
		return left == 0
	})
}

// append adds the message that asks q.
func (q PathQuery) append(b *batch, seq, flags uint32, in int) {
	header := [unix.SizeofRtMsg]byte{familyOf(q.To), byte(q.To.BitLen())}
	if q.From.IsValid() {
		header[2] = byte(q.From.BitLen())
	}
	native.PutUint32(header[8:], flags)
	b.begin(unix.RTM_GETROUTE, 0, seq, header[:])
	b.addr(unix.RTA_DST, q.To)
	if q.From.IsValid() {
		b.addr(unix.RTA_SRC, q.From)
	}
	if in != 0 {
		b.attr32(unix.RTA_IIF, uint32(in))
	}
	b.end()
}

// ask calls f with the answer to q.
func (q PathQuery) ask(flags uint32, in int, f func([]byte)) error {
	var b batch
	q.append(&b, 0, flags, in)
	return ask(unix.RTM_GETROUTE, 0, b.buf[unix.SizeofNlMsghdr:], f)
}

// decodePath reads the answer to a lookup.
func decodePath(b []byte, names linkNames) Path {
	if len(b) < unix.SizeofRtMsg {
		return Path{Err: unix.EBADMSG}
	}
	p := Path{Local: b[7] == unix.RTN_LOCAL}
	for typ, data := range attrs(b[unix.SizeofRtMsg:]) {
		switch typ {
		case unix.RTA_OIF:
			p.Dev = names.name(int(u32(data)))
		case unix.RTA_GATEWAY:
			p.Via, _ = netip.AddrFromSlice(data)
		}
	}
	return p
}

// TableRoute is a route of any table, by anyone.
type TableRoute struct {
	Dst      netip.Prefix
	Via      netip.Addr
	Dev      string // empty for none or several
	Table    uint32
	Metric   uint32
	Protocol byte
	Type     byte
	text     string
	selector string // what distinguishes the route from others
}

// Kernel reports whether the kernel made the route, for an address of an interface.
func (r TableRoute) Kernel() bool { return r.Protocol == unix.RTPROT_KERNEL }

// Main reports whether the route is in the table main.
func (r TableRoute) Main() bool { return r.Table == unix.RT_TABLE_MAIN }

// IsLocal reports whether the route is in the table local: the destination is this host.
func (r TableRoute) IsLocal() bool { return r.Table == unix.RT_TABLE_LOCAL }

// Refuses reports whether the kernel drops what the route matches.
func (r TableRoute) Refuses() bool { return refuses(r.Type) }

func refuses(typ byte) bool {
	return typ == unix.RTN_BLACKHOLE || typ == unix.RTN_UNREACHABLE || typ == unix.RTN_PROHIBIT
}

// String words the route as ip-route(8) shows it.
func (r TableRoute) String() string { return r.text }

// Delete is the command that deletes the route.
func (r TableRoute) Delete() string {
	if r.Dst.Addr().Is6() {
		return "ip -6 route del " + r.selector
	}
	return "ip route del " + r.selector
}

func (r rawRoute) tableRoute(dev string) TableRoute {
	var table string
	if r.table != unix.RT_TABLE_MAIN {
		table = " table " + TableName(r.table)
	}
	word := dev
	if dev != "" {
		word = printable.Word(dev)
	}
	bare := r
	bare.extra, bare.flags, bare.scope, bare.nexthop = nil, 0, unix.RT_SCOPE_UNIVERSE, 0
	return TableRoute{
		Dst: r.dst, Via: r.via, Dev: dev, Table: r.table, Metric: r.priority, Protocol: r.protocol, Type: r.typ,
		text: r.text(dev) + table, selector: bare.text(word) + table,
	}
}

// TableName returns the name of a routing table, or its number.
func TableName(table uint32) string {
	switch table {
	case unix.RT_TABLE_LOCAL:
		return "local"
	case unix.RT_TABLE_MAIN:
		return "main"
	case unix.RT_TABLE_DEFAULT:
		return "default"
	}
	return fmt.Sprint(table)
}

// Matched returns the route that decides the way of a packet; false if none does, or
// if the kernel, before 4.13, does not answer that.
func (*Kernel) Matched(q PathQuery) (TableRoute, bool, error) {
	names := newLinkNames()
	in, ok := names.index(q.IIF)
	if !ok {
		return TableRoute{}, false, nil
	}
	var found TableRoute
	ok = false
	var flags uint32 = unix.RTM_F_FIB_MATCH
	if q.To.Is4() {
		flags |= unix.RTM_F_LOOKUP_TABLE // else that is main; IPv6 tells always, and wants no such flag
	}
	err := q.ask(flags, in, func(payload []byte) {
		var r rawRoute
		if r, ok = decodeRoute(payload); ok {
			found = r.tableRoute(names.name(r.oif))
		}
	})
	if errno := syscall.Errno(0); errors.As(err, &errno) {
		return TableRoute{}, false, nil
	}
	return found, ok, err
}

// linkNames are the names and indexes of interfaces, as far as they were asked for.
type linkNames struct {
	byName  map[string]int
	byIndex map[int]string
}

func newLinkNames() linkNames { return linkNames{make(map[string]int), make(map[int]string)} }

// index returns the index of an interface, or 0 for no name; false if there is none.
func (n linkNames) index(name string) (int, bool) {
	if name == "" {
		return 0, true
	}
	index, known := n.byName[name]
	if !known {
		if l, ok, err := getLink(0, name); ok && err == nil {
			index = l.index
		}
		n.byName[name] = index
	}
	return index, index != 0
}

func (n linkNames) name(index int) string {
	name, known := n.byIndex[index]
	if !known && index != 0 {
		name = fmt.Sprintf("if%d", index)
		if l, ok, err := getLink(index, ""); ok && err == nil {
			name = l.name
		}
		n.byIndex[index] = name
	}
	return name
}

// allRoutes are the routes of all tables of a family.
func allRoutes(f ip.Family) table {
	return table{"routes", unix.RTM_GETROUTE, []byte{unix.SizeofRtMsg - 1: 0, 0: numberOf(f)}}
}

// ForeignRoutes returns the routes of all tables of a family that do not bear our mark, have
// no type of service, and have a destination that counts.
func (*Kernel) ForeignRoutes(ctx context.Context, f ip.Family, counts func(netip.Prefix) bool) ([]TableRoute, error) {
	found, err := list(ctx, allRoutes(f), func(payload []byte) (r rawRoute, ok bool) {
		if len(payload) < unix.SizeofRtMsg || payload[0] != numberOf(f) || payload[5] == RouteProtocol && payload[4] == unix.RT_TABLE_MAIN {
			return r, false // there may be 50,000
		}
		r, ok = decodeRoute(payload)
		return r, ok && r.tos == 0 && r.typ != unix.RTN_BROADCAST && r.typ != unix.RTN_MULTICAST && counts(r.dst)
	})
	if err != nil && !noTable(err) {
		return nil, err
	}
	routes := make([]TableRoute, len(found))
	names := newLinkNames()
	for i, r := range found {
		routes[i] = r.tableRoute(names.name(r.oif))
	}
	return routes, nil
}

// sizeofRuleHdr is that of struct fib_rule_hdr.
const sizeofRuleHdr = 12

// Rule is a routing rule.
type Rule struct {
	Priority   uint32
	Table      uint32
	src, dst   netip.Prefix // not valid: any
	iif, oif   string
	mark, mask uint32
	inverted   bool
	special    bool // it is for some users, protocols or ports only
	action     byte
}

// Rules returns the routing rules of a family in the order in which the kernel asks them.
func (*Kernel) Rules(ctx context.Context, f ip.Family) ([]Rule, error) {
	rules, err := list(ctx, table{"routing rules", unix.RTM_GETRULE, []byte{sizeofRuleHdr - 1: 0, 0: numberOf(f)}}, decodeRule)
	if err != nil && !noTable(err) {
		return nil, err
	}
	return rules, nil
}

func decodeRule(b []byte) (Rule, bool) {
	if len(b) < sizeofRuleHdr || b[0] != unix.AF_INET && b[0] != unix.AF_INET6 {
		return Rule{}, false
	}
	r := Rule{Table: uint32(b[4]), action: b[7], inverted: native.Uint32(b[8:])&unix.FIB_RULE_INVERT != 0}
	prefix := func(data []byte, bits byte) netip.Prefix {
		a, _ := netip.AddrFromSlice(data)
		return netip.PrefixFrom(a, int(bits))
	}
	for typ, data := range attrs(b[sizeofRuleHdr:]) {
		switch typ {
		case unix.FRA_DST:
			r.dst = prefix(data, b[1])
		case unix.FRA_SRC:
			r.src = prefix(data, b[2])
		case unix.FRA_IIFNAME:
			r.iif = unix.ByteSliceToString(data)
		case unix.FRA_OIFNAME:
			r.oif = unix.ByteSliceToString(data)
		case unix.FRA_PRIORITY:
			r.Priority = u32(data)
		case unix.FRA_TABLE:
			r.Table = u32(data)
		case unix.FRA_FWMARK:
			r.mark = u32(data)
		case unix.FRA_FWMASK:
			r.mask = u32(data)
		case unix.FRA_UID_RANGE, unix.FRA_IP_PROTO, unix.FRA_SPORT_RANGE, unix.FRA_DPORT_RANGE:
			r.special = true
		}
	}
	return r, true
}

// Matches reports whether the rule applies to a packet that bears no mark.
func (r Rule) Matches(q PathQuery) bool {
	iif := cmp.Or(q.IIF, "lo")
	in := func(p netip.Prefix, a netip.Addr) bool { return !p.IsValid() || a.IsValid() && p.Contains(a) }
	selected := r.mark&r.mask == 0 && !r.special && r.oif == "" &&
		in(r.src, q.From) && in(r.dst, q.To) && (r.iif == "" || r.iif == iif)
	return selected != r.inverted
}

// Refuses reports whether the kernel drops what the rule matches.
func (r Rule) Refuses() bool { return refuses(r.action) }

// LooksUp reports whether the rule leads to a table.
func (r Rule) LooksUp(table uint32) bool { return r.action == unix.FR_ACT_TO_TBL && r.Table == table }

// String words the rule as ip-rule(8) does.
func (r Rule) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%d:", r.Priority)
	if r.inverted {
		b.WriteString(" not")
	}
	if r.src.IsValid() {
		fmt.Fprintf(&b, " from %s", r.src)
	} else {
		b.WriteString(" from all")
	}
	if r.dst.IsValid() {
		fmt.Fprintf(&b, " to %s", r.dst)
	}
	if r.mark != 0 {
		fmt.Fprintf(&b, " fwmark %#x", r.mark)
	}
	if r.iif != "" {
		fmt.Fprintf(&b, " iif %s", r.iif)
	}
	if r.oif != "" {
		fmt.Fprintf(&b, " oif %s", r.oif)
	}
	if r.Refuses() {
		b.WriteString(" " + strings.TrimSpace(typeNames[r.action]))
	} else {
		fmt.Fprintf(&b, " lookup %s", TableName(r.Table))
	}
	return b.String()
}
