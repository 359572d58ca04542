package firewall

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"flanneld/pkg/dataplane/netfilter"
)

// legacyTables are the tables of ip_tables, and where their chains are among others.
var legacyTables = []struct {
	name string
	typ  string
	prio map[uint32]int32
}{
	{"raw", "filter", map[uint32]int32{unix.NF_INET_PRE_ROUTING: -300, unix.NF_INET_LOCAL_OUT: -300}},
	{"mangle", "filter", map[uint32]int32{unix.NF_INET_PRE_ROUTING: -150, unix.NF_INET_LOCAL_IN: -150, unix.NF_INET_FORWARD: -150, unix.NF_INET_LOCAL_OUT: -150, unix.NF_INET_POST_ROUTING: -150}},
	{"nat", "nat", map[uint32]int32{unix.NF_INET_PRE_ROUTING: -100, unix.NF_INET_LOCAL_IN: 100, unix.NF_INET_LOCAL_OUT: -100, unix.NF_INET_POST_ROUTING: 100}},
	{"filter", "filter", map[uint32]int32{unix.NF_INET_LOCAL_IN: 0, unix.NF_INET_FORWARD: 0, unix.NF_INET_LOCAL_OUT: 0}},
	{"security", "filter", map[uint32]int32{unix.NF_INET_LOCAL_IN: 50, unix.NF_INET_FORWARD: 50, unix.NF_INET_LOCAL_OUT: 50}},
}

var hookChains = [...]string{"PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"}

// listLegacy reads the tables of ip_tables that are there. The kernel would make one that it
// is asked about.
func (rs *Ruleset) listLegacy() error {
	text, err := os.ReadFile("/proc/thread-self/net/ip_tables_names")
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, os.ErrPermission) {
		return nil // the kernel lacks ip_tables, or shows it to no one here
	}
	if err != nil {
		return fmt.Errorf("listing the tables of ip_tables: %w", err)
	}
	for _, t := range legacyTables {
		if !strings.Contains("\n"+string(text), "\n"+t.name+"\n") {
			continue
		}
		info, entries, err := netfilter.IPTablesEntries(t.name)
		if err != nil {
			return fmt.Errorf("reading table %s of ip_tables: %w", t.name, err)
		}
		chains, err := decodeLegacy(t.name, info, entries)
		if err != nil {
			return fmt.Errorf("reading table %s of ip_tables: %w", t.name, err)
		}
		for _, c := range chains {
			rs.legacy[c] = true
			if c.base != nil {
				c.base.typ, c.base.prio = t.typ, t.prio[c.base.hook]
				rs.bases = append(rs.bases, c)
			}
		}
	}
	return nil
}

// The layout of a table.
const (
	infoValidHooks = 32
	infoHooks      = 36
	infoUnderflows = 56
	infoLength     = 84

	entryFlags  = 82
	entryTarget = 88
	entryNext   = 90
	entryHead   = 112
	partHead    = 32 // of a match or a target: size, name, revision
	partName    = 2
	partRev     = 31
	gotoFlag    = 2
	returns     = -5
)

// entry is a rule, the head of a chain or a policy, and where it is.
type entry struct {
	at   int
	data []byte
}

func (e entry) target() int { return int(binary.NativeEndian.Uint16(e.data[entryTarget:])) }

var errCutOff = errors.New("an entry is cut off")

// decodeLegacy reads the chains of a table.
func decodeLegacy(table string, info, b []byte) ([]*chain, error) {
	if len(info) < infoLength {
		return nil, errCutOff
	}
	number := func(at int) int { return int(binary.NativeEndian.Uint32(info[at:])) }
	starts := make(map[int]*chain) // by where their rules begin
	policies := make(map[int]bool)
	for hook := range hookChains {
		if number(infoValidHooks)&(1<<hook) == 0 {
			continue
		}
		starts[number(infoHooks+4*hook)] = &chain{family: unix.NFPROTO_IPV4, table: table, name: hookChains[hook], starts: starts, base: &base{hook: uint32(hook)}}
		policies[number(infoUnderflows+4*hook)] = true
	}
	var entries []entry
	for at := 0; at < len(b); {
		if at+entryHead > len(b) {
			return nil, errCutOff
		}
		e := b[at:]
		target, size := int(binary.NativeEndian.Uint16(e[entryTarget:])), int(binary.NativeEndian.Uint16(e[entryNext:]))
		if target < entryHead || target+partHead > size || size > len(e) {
			return nil, errCutOff
		}
		e = e[:size]
		entries = append(entries, entry{at, e})
		if partNameOf(e[target:]) == "ERROR" { // the head of a chain, or the end of the table
			starts[at+size] = &chain{family: unix.NFPROTO_IPV4, table: table, name: unix.ByteSliceToString(e[target+partHead:]), starts: starts}
		}
		at += size
	}
	var all []*chain
	var in *chain
	for _, e := range entries {
		if c := starts[e.at]; c != nil {
			in = c
			all = append(all, c)
		}
		target := e.target()
		switch {
		case in == nil || partNameOf(e.data[target:]) == "ERROR":
			in = nil
		case in.base != nil && policies[e.at]:
			in.base.drops = len(e.data) >= target+partHead+4 && int32(binary.NativeEndian.Uint32(e.data[target+partHead:])) == -nfDrop-1
			in = nil
		default:
			in.entries = append(in.entries, e)
		}
	}
	return all, nil
}

// compileLegacy translates the rules of a chain of ip_tables.
func (rs *Ruleset) compileLegacy(c *chain) error {
	for i, e := range c.entries {
		r := rule{id: uint64(i + 1), steps: []step{ipHeader(e.data)}}
		target := e.target()
		for at := entryHead; at < target; {
			m := e.data[at:target]
			size := 0
			if len(m) >= partHead {
				size = int(binary.NativeEndian.Uint16(m))
			}
			if size < partHead || size > len(m) {
				rs.err = errors.Join(rs.err, fmt.Errorf("reading chain %s of table %s of ip_tables: %w", c.name, c.table, errCutOff))
				return errCutOff
			}
			if s := xtMatch(partNameOf(m), m[partRev], m[partHead:size]); s != nil {
				r.steps = append(r.steps, s)
			}
			at += size
		}
		if s := legacyTarget(e.data, target, e.at+len(e.data), c.starts); s != nil {
			r.steps = append(r.steps, s)
		}
		c.rules = append(c.rules, r)
	}
	c.loaded = true
	return nil
}

func partNameOf(b []byte) string { return unix.ByteSliceToString(b[partName:partRev]) }

// legacyTarget translates the target of an entry, after which comes the one at following.
func legacyTarget(e []byte, target, following int, starts map[int]*chain) step {
	if name := partNameOf(e[target:]); name != "" {
		return xtTarget(name)
	}
	if len(e) < target+partHead+4 {
		return always(verdict{kind: unknown})
	}
	switch v := int(int32(binary.NativeEndian.Uint32(e[target+partHead:]))); {
	case v == following: // a rule without a target
		return nil
	case v >= 0:
		kind := jump
		if e[entryFlags]&gotoFlag != 0 {
			kind = leave
		}
		if to := starts[v]; to != nil {
			return always(verdict{kind: kind, to: to})
		}
	case v == returns:
		return always(verdict{kind: ret})
	case v == -nfAccept-1:
		return always(verdict{kind: accept})
	case v == -nfDrop-1:
		return always(verdict{kind: drop})
	}
	return always(verdict{kind: unknown})
}
