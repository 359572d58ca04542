package firewall

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"slices"

	"golang.org/x/sys/unix"

	"flanneld/pkg/dataplane/netfilter"
	"flanneld/pkg/ip"
	"flanneld/pkg/nfdump"
	"flanneld/pkg/state"
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

// listLegacy reads the tables of ip_tables and ip6_tables that are there.
func (rs *Ruleset) listLegacy() error {
	for _, of := range ip.Families {
		if err := rs.listLegacyOf(families[of]); err != nil {
			return err
		}
	}
	return nil
}

func (rs *Ruleset) listLegacyOf(f *family) error {
	there, err := nfdump.XTables(f.Family)
	if errors.Is(err, os.ErrPermission) {
		return nil // the kernel shows them to no one here
	}
	if err != nil {
		return err
	}
	for _, t := range legacyTables {
		if !slices.Contains(there, t.name) {
			continue
		}
		table, err := nfdump.ReadXTable(f.Family, t.name)
		if err != nil {
			return err
		}
		chains := make(map[*nfdump.XChain]*chain)
		for _, x := range table.Chains {
			c := &chain{family: f.number, table: t.name, name: x.Name}
			chains[x] = c
			rs.legacy[c] = legacyChain{f, table, x, chains}
			if x.Hook >= 0 {
				hook := uint32(x.Hook)
				code, _ := x.Policy.Verdict()
				c.base = &base{typ: t.typ, hook: hook, prio: t.prio[hook], drops: code == -nfdump.Drop-1}
				rs.bases = append(rs.bases, c)
			}
		}
	}
	return nil
}

// legacyChain is a chain of ip_tables as the kernel has it, and what those of its table are
// here.
type legacyChain struct {
	*family
	table  *nfdump.XTable
	chain  *nfdump.XChain
	chains map[*nfdump.XChain]*chain
}

const returns = -5

// compileLegacy translates the rules of a chain of ip_tables.
func (rs *Ruleset) compileLegacy(c *chain) error {
	legacy := rs.legacy[c]
	for i, e := range legacy.chain.Entries {
		r := rule{id: uint64(i + 1), steps: []step{legacy.ipHeader(e.Header())}}
		target := e.Target()
		for at := e.Matches; at < target; {
			m := e.Data[at:target]
			size := 0
			if len(m) >= nfdump.PartHead {
				size = int(binary.NativeEndian.Uint16(m))
			}
			if size < nfdump.PartHead || size > len(m) {
				rs.err = errors.Join(rs.err, fmt.Errorf("reading chain %s of table %s of %s: %w", c.name, c.table, netfilter.Program(state.IPTablesLegacy, legacy.Family), nfdump.ErrCutOff))
				return nfdump.ErrCutOff
			}
			if s := xtMatch(nfdump.PartNameOf(m), m[nfdump.PartRev], m[nfdump.PartHead:size]); s != nil {
				r.steps = append(r.steps, s)
			}
			at += size
		}
		if s := legacy.target(e); s != nil {
			r.steps = append(r.steps, s)
		}
		c.rules = append(c.rules, r)
	}
	c.loaded = true
	return nil
}

// target translates the target of an entry. It is nil for none.
func (l legacyChain) target(e nfdump.XEntry) step {
	code, ok := e.Verdict()
	to := l.table.To(e)
	switch {
	case !ok && e.TargetName() != "":
		return xtTarget(e.TargetName())
	case !ok:
		return always(verdict{kind: unknown})
	case e.GoesOn():
		return nil
	case to != nil && e.Header()[l.xt.flags]&l.xt.gotoFlag != 0:
		return always(verdict{kind: leave, to: l.chains[to]})
	case to != nil:
		return always(verdict{kind: jump, to: l.chains[to]})
	case code == returns:
		return always(verdict{kind: ret})
	case code == -nfdump.Accept-1:
		return always(verdict{kind: accept})
	case code == -nfdump.Drop-1:
		return always(verdict{kind: drop})
	}
	return always(verdict{kind: unknown})
}
