package netfilter

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"slices"

	"golang.org/x/sys/unix"

	"flanneld/pkg/nfdump"
	"flanneld/pkg/state"
)

// nfIPTables is the kernel's nf_tables, the side of iptables-nft.
type nfIPTables struct {
	*family
	seed maphash.Seed
}

func newNFIPTables(f *family) nfIPTables { return nfIPTables{f, maphash.MakeSeed()} }

// chains are those of the place's table that are ours, or that packets come to by themselves.
func (p place) chains() []nfName {
	return append([]nfName{p.chain, oldChain}, nfdump.HookChains[:]...)
}

// matters reports whether a change in a chain of the place's table may matter to it.
func (p place) matters(chain nfName) bool { return p.whole || slices.Contains(p.chains(), chain) }

// digest implements iptKernel. No number of a table, chain or rule is given to another
// one later; but a rule keeps its own when it is replaced.
func (k nfIPTables) digest() (digest iptDigest, err error) {
	err = nfAsk(context.Background(), "listing the rules of "+Program(state.IPTablesNFT, k.Family), func(c *nfdump.Conn) (err error) {
		digest, err = k.digestOnce(c)
		return err
	})
	if errors.Is(err, errAbsent) {
		return iptDigest{}, nil
	}
	return digest, err
}

func (k nfIPTables) digestOnce(c *nfdump.Conn) (digest iptDigest, err error) {
	var all maphash.Hash
	all.SetSeed(k.seed)
	some := false
	for i, p := range places {
		t, err := readTable(c, k.number, p.table, p.chains()...)
		if err != nil {
			return digest, err
		}
		if t == nil {
			continue
		}
		some = true
		var shared maphash.Hash
		shared.SetSeed(k.seed)
		digest.bare[i] = t.addTo(&shared, p.chains()) == 0
		digest.shared[i] = fmt.Sprintf("%x", shared.Sum64())
		_, _ = all.WriteString(digest.shared[i])
		if p.whole {
			if err := c.Rules(func(r nfdump.Rule) { nfRule{r}.addTo(&all) }, k.number, p.table); err != nil {
				return digest, err
			}
		}
	}
	if some {
		digest.all = fmt.Sprintf("%x", all.Sum64())
	}
	return digest, nil
}

// watch implements iptKernel.
func (k nfIPTables) watch(ctx context.Context, ready, changed func()) error {
	return nfdump.Watch(ctx, 0, ready, changed, k.ofIPTables)
}

// ofIPTables reports whether a message is about a table of iptables-nft, or about
// what is in a chain there that matters.
func (f *family) ofIPTables(what uint16, m nfdump.Message) bool {
	a, err := nfdump.Attributes(m.Data)
	chain := ""
	switch what {
	case unix.NFT_MSG_NEWCHAIN, unix.NFT_MSG_DELCHAIN:
		chain = a.Text(unix.NFTA_CHAIN_NAME)
	case unix.NFT_MSG_NEWRULE, unix.NFT_MSG_DELRULE:
		chain = a.Text(unix.NFTA_RULE_CHAIN)
	case unix.NFT_MSG_NEWTABLE, unix.NFT_MSG_DELTABLE:
	default:
		return false
	}
	return err == nil && m.Family == f.number && slices.ContainsFunc(places[:], func(p place) bool {
		return a.Text(unix.NFTA_TABLE_NAME) == p.table && (chain == "" || p.matters(chain))
	})
}
