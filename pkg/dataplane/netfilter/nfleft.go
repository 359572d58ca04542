package netfilter

import (
	"context"
	"fmt"
	"slices"
	"strings"

	nft "github.com/google/nftables"
	"golang.org/x/sys/unix"

	"flanneld/pkg/nfdump"
)

// isXT reports whether the table is one of iptables. Who writes rules for nf_tables itself
// names chains in lower case.
func (t *nfTable) isXT() bool {
	if numbered(t.Family) == nil || !slices.Contains(nfdump.TableNames, t.Name) {
		return false
	}
	found := false
	for name, c := range t.chains {
		atHook := slices.Contains(nfdump.HookChains[:], name)
		found = found || atHook
		if c.Type != "" && !atHook {
			return false
		}
	}
	return found
}

// listTables lists what tables and chains there are, and not ours.
func listTables(c *nfdump.Conn) (tables []*nfTable, err error) {
	err = c.Chains(func(one nfdump.Chain) {
		if numbered(one.Family).isOurs(one.Family, one.Table) {
			return
		}
		i := slices.IndexFunc(tables, func(t *nfTable) bool { return t.Family == one.Family && t.Name == one.Table })
		if i < 0 {
			i = len(tables)
			tables = append(tables, &nfTable{nfdump.Table{Family: one.Family, Name: one.Table}, make(map[nfName]*nfChain)})
		}
		tables[i].chains[one.Name] = &nfChain{Chain: one}
	}, unix.AF_UNSPEC)
	return tables, err
}

// save returns the rules of a table of iptables as iptables-save would print them, as far as
// they are like flannel's; of those in chains that do not matter, only how many they are.
func (t *nfTable) save(c *nfdump.Conn, p place) (map[string]*iptChain, error) {
	chains := make(map[string]*iptChain)
	for name, c := range t.chains {
		chains[name] = &iptChain{policy: noPolicy}
		if c.Type != "" {
			chains[name].policy = map[uint32]string{nfdump.Drop: string(dropped), nfdump.Accept: string(accept)}[c.Policy]
		}
	}
	err := c.Rules(func(from nfdump.Rule) {
		chain := chains[from.Chain]
		if chain == nil {
			return
		}
		var r iptRule
		if slices.Contains(p.chains(), from.Chain) {
			r = parseRule(nfRule{from}.text(numbered(t.Family)))
		}
		r.handle = from.ID()
		chain.rules = append(chain.rules, r)
	}, t.Family, t.Name)
	return chains, err
}

// text is a rule as iptables-save would print it, if it is like those of flannel.
func (n nfRule) text(f *family) string {
	if r, ok := n.rule(f, true); ok {
		return r.text(n.comment())
	}
	return fmt.Sprintf("-m comment --comment %q handle %x", n.comment(), n.Handle)
}

// xtLeft takes rules away from the tables that iptables has in nf_tables, where the program
// itself is not on this host: a flannel in a container brings its own.
type xtLeft struct{ *family }

// tables returns those that matter.
func (l xtLeft) tables(ctx context.Context) (tables iptTables, err error) {
	err = nfAsk(ctx, "reading the tables of "+l.program, func(c *nfdump.Conn) error {
		tables = make(iptTables)
		all, err := listTables(c)
		for _, t := range all {
			for _, p := range places {
				if t.Family == l.number && t.Name == p.table && err == nil {
					tables[t.Name], err = t.save(c, p)
				}
			}
		}
		return err
	})
	return tables, err
}

// change is that of a tool, as far as it only takes away.
func (l xtLeft) change(ctx context.Context, table string, lines []string, _ func() bool) error {
	tables, err := l.tables(ctx)
	if err != nil {
		return err
	}
	c, err := nfWriter()
	if err != nil {
		return err
	}
	t := &nft.Table{Name: table, Family: nft.TableFamily(l.number)}
	stay := make(map[string][]string) // of the chains that are written anew
	var unused []string
	for _, line := range lines {
		word, rest, _ := strings.Cut(line, " ")
		name, text, _ := strings.Cut(rest, " ")
		chain := tables[table][name]
		switch {
		case strings.HasPrefix(word, ":"):
			stay[word[1:]] = []string{}
		case word == "-A" && stay[name] != nil:
			stay[name] = append(stay[name], text)
		case word == "-X":
			unused = append(unused, name)
		case word == "-D" && chain != nil:
			// Of rules that are the same flannel appended the last.
			i := len(chain.rules) - 1
			for i >= 0 && chain.rules[i].text != text {
				i--
			}
			if i >= 0 {
				_ = c.DelRule(&nft.Rule{Table: t, Chain: &nft.Chain{Name: name}, Handle: chain.rules[i].handle})
				chain.rules = slices.Delete(chain.rules, i, i+1)
			}
		default:
			return fmt.Errorf("%w: there is no %s", errAbsent, l.program)
		}
	}
	for name, texts := range stay {
		chain := tables[table][name]
		for i := 0; chain != nil && i < len(chain.rules); i++ {
			if len(texts) > 0 && chain.rules[i].text == texts[0] {
				texts = texts[1:]
			} else {
				_ = c.DelRule(&nft.Rule{Table: t, Chain: &nft.Chain{Name: name}, Handle: chain.rules[i].handle})
			}
		}
		if len(texts) > 0 {
			return fmt.Errorf("%w: there is no %s", errAbsent, l.program)
		}
	}
	for _, name := range unused {
		c.DelChain(&nft.Chain{Name: name, Table: t})
	}
	return nfError("taking old rules from table "+table+" of "+l.program, c.Flush())
}

// knowsRandomFully is that of a tool.
func (xtLeft) knowsRandomFully() bool { return true }

// othersNF is others in nf_tables. It starts no process.
func (w *iptables) othersNF(ctx context.Context) (what string, err error) {
	err = nfAsk(ctx, "listing the rules of "+Program(w.way, w.family.Family), func(c *nfdump.Conn) error {
		tables, err := listTables(c)
		what = ""
		for _, t := range tables {
			if !t.isXT() || t.Family != w.family.number || what != "" || err != nil {
				continue
			}
			p := place{table: t.Name}
			if i := slices.IndexFunc(places[:], func(p place) bool { return p.table == t.Name }); i >= 0 {
				p = places[i]
			}
			var chains map[string]*iptChain
			chains, err = t.save(c, p)
			what = p.find(iptTables{t.Name: chains}, w.way, w.family, w.forward).foreign()
		}
		return err
	})
	return what, err
}
