package netfilter

import (
	"context"
	"fmt"
	"slices"
	"time"

	nft "github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/mdlayher/netlink"

	"flanneld/pkg/state"
)

// xtLeft takes away what is in the tables that iptables has in nf_tables, where
// the program itself is not on this host: a flannel in a container brings its own.
type xtLeft struct {
	forward bool // that of New
}

// xtPlace is where in those tables flannel has its rules for objects of a kind.
type xtPlace struct {
	objects     state.Kind
	table       string
	shared, own nfName
}

var xtPlaces = []xtPlace{
	{state.KindMasquerade, "nat", "POSTROUTING", postrtgChain},
	{state.KindForward, "filter", "FORWARD", fwdChain},
}

// xtFound is the rules of flannel in a table: whose each one is by its chain and
// place there. What is of no network has the key of the rest; what is not
// flannel's, and the jumps to its chain, have none.
type xtFound struct {
	*nfTable
	owners map[nfName][]state.Key
}

func (l xtLeft) find(ctx context.Context, p xtPlace, f nfFamily) (xtFound, error) {
	t, err := readTable(ctx, f.number, p.table, p.shared, p.own, oldChain)
	if t == nil || err != nil {
		return xtFound{}, err
	}
	found := xtFound{t, make(map[nfName][]state.Key)}
	if c := t.chains[p.shared]; c != nil {
		found.owners[p.shared] = l.sharedOwners(p.shared, f.number, c.rules)
	}
	if c := t.chains[p.own]; c != nil {
		rules := make([]rule, len(c.rules))
		for i, r := range c.rules {
			rules[i] = r.commented(f.addrSize()).rule
		}
		for _, o := range owners(p.objects, state.IPTablesNFT, rules) {
			k := restKey(p.objects, state.IPTablesNFT, f.anywhere)
			if o != nil {
				k = o.Key()
			}
			found.owners[p.own] = append(found.owners[p.own], k)
		}
	}
	return found, nil
}

// sharedOwners tells, of each rule of POSTROUTING or FORWARD, whose it is: the
// network's, or the rest's if it is the jump to a chain of flannel. The key is zero
// for what is someone else's, which is all in other chains.
func (l xtLeft) sharedOwners(chain nfName, family byte, rules []nfRule) []state.Key {
	keys := make([]state.Key, len(rules))
	i := slices.IndexFunc(xtPlaces, func(p xtPlace) bool { return p.shared == chain })
	j := slices.IndexFunc(nfFamilies, func(f nfFamily) bool { return f.number == family })
	if i < 0 || j < 0 {
		return keys
	}
	place, f := xtPlaces[i], nfFamilies[j]
	all := make([]commented, len(rules))
	for i, r := range rules {
		all[i] = r.commented(f.addrSize())
	}
	for i, network := range leftovers(place.objects, all, l.forward) {
		if all[i].verdict == verdict(place.own) {
			network = f.anywhere
		}
		if network.IsValid() {
			keys[i] = state.Key{Kind: place.objects, Scope: string(state.IPTablesNFT), Prefix: network}
		}
	}
	return keys
}

// commented translates a rule as iptables writes it.
func (n nfRule) commented(size int) commented {
	plain := nfRule{comment: n.comment}
	for _, e := range n.exprs {
		switch e := e.(type) {
		case *expr.Counter:
		case *expr.Match:
			if e.Name != "comment" {
				plain.exprs = append(plain.exprs, nil)
			}
		case *expr.Target:
			if e.Name == string(masquerade) {
				plain.exprs = append(plain.exprs, &expr.Masq{})
			} else {
				plain.exprs = append(plain.exprs, nil)
			}
		default:
			plain.exprs = append(plain.exprs, e)
		}
	}
	r, ok := plain.rule(size)
	return commented{rule: r, comment: n.comment, more: !ok}
}

// dump implements way.
func (l xtLeft) dump(ctx context.Context) (state.Observed, error) {
	have := make(state.Observed)
	for _, f := range nfFamilies {
		for _, p := range xtPlaces {
			found, err := l.find(ctx, p, f)
			if err != nil {
				return nil, err
			}
			rest := restKey(p.objects, state.IPTablesNFT, f.anywhere)
			used := slices.ContainsFunc(found.owners[p.own], func(k state.Key) bool { return k != rest })
			for name, keys := range found.owners {
				for _, k := range keys {
					jump := name == p.shared && k == rest
					if k != (state.Key{}) && (!jump || !used) { // that goes with the last rule
						have[k] = state.Entry{Object: unmanaged{k, "rules of a flannel that is no longer here"}, Owner: state.Ours}
					}
				}
			}
		}
	}
	return have, nil
}

// apply implements way, as far as there is something to take away.
func (l xtLeft) apply(ctx context.Context, op state.Op) error {
	k := op.Key()
	if op.Verb != state.Delete {
		return fmt.Errorf("%w: there is no iptables", errAbsent)
	}
	f := familyOf(k.Prefix)
	for _, p := range xtPlaces {
		if p.objects != k.Kind {
			continue
		}
		found, err := l.find(ctx, p, f)
		if err == nil && found.nfTable != nil {
			err = p.clear(f, found, k)
		}
		if err != nil {
			return nfError("taking old rules from table "+p.table+" of iptables", err)
		}
	}
	return nil
}

// clear deletes the rules that are under a key, and the chains of flannel that
// have none any more, with the jumps there.
func (p xtPlace) clear(f nfFamily, found xtFound, k state.Key) error {
	c, err := nft.New(nft.WithSockOptions(func(c *netlink.Conn) error { return c.SetDeadline(time.Now().Add(nfPatience)) }))
	if err != nil {
		return err
	}
	t := &nft.Table{Name: p.table, Family: nft.TableFamily(f.number)}
	rest := restKey(p.objects, state.IPTablesNFT, f.anywhere)
	left := make(map[nfName]int)
	for _, key := range found.owners[p.own] {
		if key != k {
			left[p.own]++
		}
	}
	for name, keys := range found.owners {
		for i, key := range keys {
			r := found.chains[name].rules[i]
			goes := key == k
			if name == p.shared && key == rest {
				goes = left[p.own] == 0
			}
			if goes {
				_ = c.DelRule(&nft.Rule{Table: t, Chain: &nft.Chain{Name: name}, Handle: r.handle})
			} else if r.commented(f.addrSize()).verdict == oldChain {
				left[oldChain]++
			}
		}
	}
	for _, name := range []nfName{p.own, oldChain} {
		if found.chains[name] != nil && left[name] == 0 {
			chain := &nft.Chain{Name: name, Table: t}
			c.FlushChain(chain)
			c.DelChain(chain)
		}
	}
	return c.Flush()
}

// watch implements way: who writes there would have the program.
func (xtLeft) watch(context.Context, func(), func()) error { return nil }
