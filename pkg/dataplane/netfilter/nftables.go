package netfilter

import (
	"context"
	"slices"
	"time"

	nft "github.com/google/nftables"
	"github.com/google/nftables/userdata"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"flanneld/pkg/nfdump"
	"flanneld/pkg/state"
)

// nftables is the way without any program: tables of our own in nf_tables, by
// netlink, for each family one. All of a chain is written at once.
type nftables struct{ *family }

// isOurs reports whether a table is that of the family.
func (f *family) isOurs(number byte, name string) bool {
	return f != nil && f.number == number && f.table == name
}

// IsOurs reports whether a chain of nf_tables is this program's. Others may hook some of
// their own into our tables.
func IsOurs(family byte, table, chain string) bool {
	return numbered(family).isOurs(family, table) && slices.ContainsFunc(nfOurChains, func(c nfOurChain) bool { return c.name == chain })
}

// nfOurChain is a chain of ours.
type nfOurChain struct {
	objects state.Kind
	name    nfName
	nfdump.Place
	comment string // of its rules
}

var nfOurChains = []nfOurChain{
	{state.KindMasquerade, "postrtg", nfdump.Place{Type: "nat", Hook: unix.NF_INET_POST_ROUTING, Prio: int32(*nft.ChainPriorityNATSource), Policy: nfdump.Accept}, masqComment},
	{state.KindForward, "forward", nfdump.Place{Type: "filter", Hook: unix.NF_INET_FORWARD, Prio: int32(*nft.ChainPriorityFilter), Policy: nfdump.Accept}, forwardComment},
}

// nfFound is what our table holds.
type nfFound struct {
	*nfTable // nil if there is none
	objects  map[state.Kind][]state.Object
	strange  map[state.Kind]string // what else is there, or wrong
	remake   bool                  // what is wrong with it can't be mended
}

func (f nftables) find(ctx context.Context) (nfFound, error) {
	found := nfFound{objects: make(map[state.Kind][]state.Object), strange: make(map[state.Kind]string)}
	names := make([]string, len(nfOurChains))
	for i, c := range nfOurChains {
		names[i] = c.name
	}
	err := nfAsk(ctx, "reading table "+f.table+" of nf_tables", func(c *nfdump.Conn) (err error) {
		found.nfTable, err = readTable(c, f.number, f.table, names...)
		return err
	})
	t := found.nfTable
	if t == nil || err != nil {
		return found, err
	}
	for _, our := range nfOurChains {
		c := t.chains[our.name]
		if c == nil {
			continue
		}
		rules := make([]rule, len(c.rules))
		for i, r := range c.rules {
			rules[i], _ = r.rule(f.family, false) // one that is not known is a zero rule, and so strange
		}
		objects, strange := parse(our.objects, state.NFTables, rules)
		found.objects[our.objects] = objects
		switch {
		case t.Dormant:
			found.strange[our.objects] = "the table is dormant"
		case c.Place != our.Place:
			found.strange[our.objects] = "the chain " + our.name + " is at another place, or of another kind or policy"
			found.remake = true
		case strange:
			found.strange[our.objects] = "other rules in the chain " + our.name
		case len(objects) == 0:
			found.strange[our.objects] = "the chain " + our.name + " is empty"
		}
	}
	if t.Dormant {
		found.remake = true
	} else if t.Things == 0 {
		found.strange[state.KindForward] = "the table is empty"
	}
	return found, nil
}

// dump implements way.
func (f nftables) dump(ctx context.Context) (state.Observed, error) {
	found, err := f.find(ctx)
	if err != nil {
		return nil, err
	}
	have := make(state.Observed)
	for k, what := range found.strange {
		o := unmanaged{restKey(k, state.NFTables, f.anywhere), what}
		have[o.key] = state.Entry{Object: o, Owner: state.Ours}
	}
	for _, objects := range found.objects {
		for _, o := range objects {
			if found.remake {
				o = unmanaged{o.Key(), "rules in a table that does not work"}
			}
			have[o.Key()] = state.Entry{Object: o, Owner: state.Ours}
		}
	}
	return have, nil
}

// watch implements way. All messages have the name of the table in the same attribute.
func (f nftables) watch(ctx context.Context, ready, changed func()) error {
	return nfdump.Watch(ctx, 0, ready, changed, func(_ uint16, m nfdump.Message) bool {
		a, err := nfdump.Attributes(m.Data)
		return err == nil && f.isOurs(m.Family, a.Text(unix.NFTA_TABLE_NAME))
	})
}

// others implements way.
func (f nftables) others(ctx context.Context) (what string, err error) {
	err = nfAsk(ctx, "listing the tables of nf_tables", func(c *nfdump.Conn) error {
		tables, err := listTables(c)
		what = ""
		if i := slices.IndexFunc(tables, func(t *nfTable) bool { return f.sees(t) && !t.isXT() }); i >= 0 {
			what = "table " + tables[i].Name + " of nf_tables"
		}
		return err
	})
	return what, err
}

// sees reports whether packets of the family may come to a table.
func (f *family) sees(t *nfTable) bool {
	of := numbered(t.Family)
	return of == nil || of == f
}

// apply implements way.
func (f nftables) apply(ctx context.Context, op state.Op) error {
	found, err := f.find(ctx)
	if err != nil {
		return err
	}
	k := op.Key()
	before := found.objects[k.Kind]
	objects := slices.DeleteFunc(slices.Clone(before), func(o state.Object) bool { return o.Key() == k })
	if op.Verb != state.Delete {
		objects = append(objects, op.Want)
	}
	if !found.remake && found.strange[k.Kind] == "" && sameObjects(before, objects) {
		return nil
	}
	found.objects[k.Kind] = objects
	return nfError("writing table "+f.table+" of nf_tables", f.write(found, k.Kind))
}

// sameObjects compares in any order.
func sameObjects(a, b []state.Object) bool {
	return len(a) == len(b) && !slices.ContainsFunc(a, func(o state.Object) bool { return !slices.Contains(b, o) })
}

// write makes the rules in the chain for objects of a kind, and in all if the
// table is made anew, what they were found or changed to be.
func (f nftables) write(found nfFound, kind state.Kind) error {
	t := &nft.Table{Name: f.table, Family: nft.TableFamily(f.number)}
	c, err := nfWriter()
	if err != nil {
		return err
	}
	chains, things := map[nfName]*nfChain{}, 0
	if found.nfTable != nil {
		chains, things = found.chains, found.Things
	}
	if found.remake {
		c.DelTable(t)
		chains, things = nil, 0
	}
	c.AddTable(t)
	for _, our := range nfOurChains {
		chain := our.chain(t)
		there := chains[our.name] != nil
		switch {
		case our.objects != kind && !found.remake:
			continue
		case len(found.objects[our.objects]) > 0:
			c.AddChain(chain)
			if !there {
				things++
			}
			c.FlushChain(chain)
		case there:
			c.FlushChain(chain)
			c.DelChain(chain)
			things--
		}
		for _, o := range found.objects[our.objects] {
			for _, r := range rulesOf(o) {
				c.AddRule(&nft.Rule{Table: t, Chain: chain, Exprs: r.exprs(), UserData: userdata.AppendString(nil, userdata.TypeComment, our.comment)})
			}
		}
	}
	if things <= 0 {
		c.DelTable(t)
	}
	return c.Flush()
}

// nfPatience is how long the kernel may take for an answer.
const nfPatience = 10 * time.Second

// nfWriter returns what gathers changes, and makes them all at once or not at all.
func nfWriter() (*nft.Conn, error) {
	return nft.New(nft.WithSockOptions(func(c *netlink.Conn) error { return c.SetDeadline(time.Now().Add(nfPatience)) }))
}

func (c nfOurChain) chain(t *nft.Table) *nft.Chain {
	policy := nft.ChainPolicy(c.Policy)
	return &nft.Chain{
		Name: c.name, Table: t, Type: nft.ChainType(c.Type), Policy: &policy,
		Hooknum: nft.ChainHookRef(nft.ChainHook(c.Hook)), Priority: nft.ChainPriorityRef(nft.ChainPriority(c.Prio)),
	}
}
