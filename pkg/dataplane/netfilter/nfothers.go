package netfilter

import (
	"context"
	"fmt"
	"slices"

	nft "github.com/google/nftables"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"flanneld/pkg/state"
)

// The names of the tables and chains that iptables has in nf_tables. Who writes
// rules for nf_tables itself names chains in lower case.
var (
	xtTables = []string{"raw", "mangle", "nat", "filter", "security"}
	xtChains = []nfName{"PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"}
)

// nfListed is a table and its chains.
type nfListed struct {
	family byte
	name   string
	chains map[nfName]nfKind
}

// isXT reports whether the table is one of iptables.
func (t nfListed) isXT() bool {
	if t.family != unix.NFPROTO_IPV4 && t.family != unix.NFPROTO_IPV6 || !slices.Contains(xtTables, t.name) {
		return false
	}
	found := false
	for name, kind := range t.chains {
		found = found || slices.Contains(xtChains, name)
		if kind.typ != "" && !slices.Contains(xtChains, name) {
			return false
		}
	}
	return found
}

// listTables lists what tables and chains there are, and not ours.
func listTables() ([]nfListed, error) {
	var tables []nfListed
	err := nfAsk("listing the tables of nf_tables", func(c *netlink.Conn) error {
		messages, err := nfGet(c, unix.NFT_MSG_GETCHAIN, unix.AF_UNSPEC)
		for _, m := range messages {
			table, chain, kind, err := decodeChain(m)
			if err != nil {
				return err
			}
			is := func(t nfListed) bool { return t.family == m.Data[0] && t.name == table }
			if slices.ContainsFunc(nfFamilies, func(f nfFamily) bool { return f.number == m.Data[0] && f.table == table }) {
				continue
			}
			i := slices.IndexFunc(tables, is)
			if i < 0 {
				i = len(tables)
				tables = append(tables, nfListed{m.Data[0], table, make(map[nfName]nfKind)})
			}
			tables[i].chains[chain] = kind
		}
		return err
	})
	return tables, err
}

// others implements way.
func (nftables) others(context.Context) (string, error) {
	tables, err := listTables()
	for _, t := range tables {
		if !t.isXT() {
			return "table " + t.name + " of nf_tables", nil
		}
	}
	return "", err
}

// others implements way.
func (l xtLeft) others(context.Context) (string, error) {
	tables, err := listTables()
	for _, t := range tables {
		if !t.isXT() || err != nil {
			continue
		}
		for name, kind := range t.chains {
			if kind.typ != "" && kind.policy != uint32(nft.ChainPolicyAccept) {
				return fmt.Sprintf("the policy of chain %s of table %s", name, t.name), nil
			}
		}
		var chain nfName
		chain, err = l.foreignRule(t)
		if chain != "" {
			return fmt.Sprintf("chain %s of table %s", chain, t.name), nil
		}
	}
	return "", err
}

// foreignRule returns a chain with a rule that is not flannel's, if there is one.
func (l xtLeft) foreignRule(t nfListed) (in nfName, err error) {
	chains := make(map[nfName][]nfRule)
	err = nfAsk("listing the rules of table "+t.name, func(c *netlink.Conn) error {
		messages, err := nfGet(c, unix.NFT_MSG_GETRULE, t.family, t.name)
		for _, m := range messages {
			chain, r, err := decodeRule(m)
			if err != nil {
				return err
			}
			chains[chain] = append(chains[chain], r)
		}
		return err
	})
	for chain, rules := range chains {
		if slices.Contains([]nfName{oldChain, postrtgChain, fwdChain}, chain) {
			continue
		}
		for _, o := range l.sharedOwners(chain, t.family, rules) {
			if o == (state.Key{}) {
				return chain, err
			}
		}
	}
	return "", err
}
