package masq

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"flanneld/pkg/target"
)

// nftaTableHandle is NFTA_TABLE_HANDLE of linux/netfilter/nf_tables.h.
const nftaTableHandle = 4

// nfIPTables is the kernel's nf_tables, the side of iptables-nft.
type nfIPTables struct{}

// chains are those of the place's table that matter to it.
func (p place) chains() []nfName {
	return []nfName{p.hook, p.chain, oldChain}
}

// sum implements iptKernel. No number of a table, chain or rule is ever given to
// another one, and what a rule says never changes.
func (nfIPTables) sum() (sum string, err error) {
	for range 5 {
		err = nfAsk("listing the rules of iptables-nft", func(c *netlink.Conn) (err error) {
			sum, err = handles(c)
			return err
		})
		if !errors.Is(err, target.ErrIncomplete) {
			break
		}
	}
	if errors.Is(err, errAbsent) {
		return "", nil
	}
	return sum, err
}

// handles lists the numbers of the tables, the chains that matter, and their rules.
func handles(c *netlink.Conn) (string, error) {
	before, err := nfGeneration(c)
	if err != nil {
		return "", err
	}
	var all strings.Builder
	list := func(what uint16, handle uint16, names ...string) (there bool, err error) {
		messages, err := nfGet(c, what, unix.NFPROTO_IPV4, names...)
		if errors.Is(err, unix.ENOENT) {
			return false, nil
		}
		for _, m := range messages {
			if e := nfAttributes(m, func(ad *netlink.AttributeDecoder) {
				if ad.Type() == handle {
					fmt.Fprintf(&all, "%s %d\n", names, ad.Uint64())
				}
			}); e != nil {
				return false, e
			}
		}
		return true, err
	}
	for _, p := range places {
		there, err := list(unix.NFT_MSG_GETTABLE, nftaTableHandle, p.table)
		if err != nil {
			return "", err
		}
		if !there {
			continue
		}
		for _, chain := range p.chains() {
			there, err := list(unix.NFT_MSG_GETCHAIN, unix.NFTA_CHAIN_HANDLE, p.table, chain)
			if there && err == nil {
				_, err = list(unix.NFT_MSG_GETRULE, unix.NFTA_RULE_HANDLE, p.table, chain)
			}
			if err != nil {
				return "", err
			}
		}
	}
	after, err := nfGeneration(c)
	if err == nil && after != before {
		err = target.ErrIncomplete
	}
	return all.String(), err
}

// watch implements iptKernel.
func (nfIPTables) watch(ctx context.Context, ready, changed func()) error {
	return watchNF(ctx, ready, changed, ofIPTables)
}

// ofIPTables reports whether a message is about a table of iptables-nft, or about
// what is in a chain there that matters.
func ofIPTables(m netlink.Message) bool {
	if m.Header.Type>>8 != unix.NFNL_SUBSYS_NFTABLES || len(m.Data) == 0 || m.Data[0] != unix.NFPROTO_IPV4 {
		return false
	}
	chainName := uint16(0)
	switch m.Header.Type & 0xff {
	case unix.NFT_MSG_NEWCHAIN, unix.NFT_MSG_DELCHAIN:
		chainName = unix.NFTA_CHAIN_NAME
	case unix.NFT_MSG_NEWRULE, unix.NFT_MSG_DELRULE:
		chainName = unix.NFTA_RULE_CHAIN
	case unix.NFT_MSG_NEWTABLE, unix.NFT_MSG_DELTABLE:
	default:
		return false
	}
	var table, chain string
	err := nfAttributes(m, func(ad *netlink.AttributeDecoder) {
		switch ad.Type() {
		case unix.NFTA_TABLE_NAME: // all kinds of messages have it there
			table = ad.String()
		case chainName:
			chain = ad.String()
		}
	})
	for _, p := range places {
		if err == nil && table == p.table && (chainName == 0 || slices.Contains(p.chains(), chain)) {
			return true
		}
	}
	return false
}
