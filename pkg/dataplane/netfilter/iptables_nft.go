package netfilter

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"slices"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"flanneld/pkg/dataplane"
)

// nftaTableHandle is NFTA_TABLE_HANDLE of linux/netfilter/nf_tables.h.
const nftaTableHandle = 4

// nfIPTables is the kernel's nf_tables, the side of iptables-nft.
type nfIPTables struct {
	seed maphash.Seed
}

func newNFIPTables() nfIPTables { return nfIPTables{seed: maphash.MakeSeed()} }

// chains are those of the place's table that are ours, or that packets come to by themselves.
func (p place) chains() []nfName {
	return append([]nfName{p.chain, oldChain}, xtChains...)
}

// matters reports whether a change in a chain of the place's table may matter to it.
func (p place) matters(chain nfName) bool { return p.whole || slices.Contains(p.chains(), chain) }

// sum implements iptKernel. No number of a table, chain or rule is given to another
// one later; but a rule keeps its own when it is replaced.
func (k nfIPTables) sum() (sum iptSum, err error) {
	for range 5 {
		err = nfAsk("listing the rules of iptables-nft", func(c *netlink.Conn) (err error) {
			sum, err = k.sumOnce(c)
			return err
		})
		if !errors.Is(err, dataplane.ErrIncomplete) {
			break
		}
	}
	if errors.Is(err, errAbsent) {
		return iptSum{}, nil
	}
	return sum, err
}

func (k nfIPTables) sumOnce(c *netlink.Conn) (sum iptSum, err error) {
	before, err := nfGeneration(c)
	if err != nil {
		return sum, err
	}
	var all maphash.Hash
	all.SetSeed(k.seed)
	some := false
	for i, p := range places {
		var shared maphash.Hash
		shared.SetSeed(k.seed)
		there, err := addTo(&shared, c, unix.NFT_MSG_GETTABLE, nftaTableHandle, p.table)
		if err != nil {
			return sum, err
		}
		if there == 0 {
			continue
		}
		some = true
		rules := 0
		for _, chain := range p.chains() {
			there, err := addTo(&shared, c, unix.NFT_MSG_GETCHAIN, unix.NFTA_CHAIN_HANDLE, p.table, chain)
			n := 0
			if there > 0 && err == nil {
				n, err = addTo(&shared, c, unix.NFT_MSG_GETRULE, unix.NFTA_RULE_HANDLE, p.table, chain)
			}
			if err != nil {
				return sum, err
			}
			rules += n
		}
		sum.bare[i] = rules == 0
		sum.shared[i] = fmt.Sprintf("%x", shared.Sum64())
		_, _ = all.WriteString(sum.shared[i])
		if p.whole {
			if _, err := addTo(&all, c, unix.NFT_MSG_GETRULE, unix.NFTA_RULE_HANDLE, p.table); err != nil {
				return sum, err
			}
		}
	}
	if after, err := nfGeneration(c); err != nil || after != before {
		return sum, errors.Join(err, dataplane.ErrIncomplete)
	}
	if some {
		sum.all = fmt.Sprintf("%x", all.Sum64())
	}
	return sum, nil
}

// addTo adds the number of something to a sum, with a chain's policy, and what the rules
// say but for their counters. It returns how many there are.
func addTo(h *maphash.Hash, c *netlink.Conn, what, handle uint16, names ...string) (n int, err error) {
	messages, err := nfGet(c, what, unix.NFPROTO_IPV4, names...)
	if errors.Is(err, unix.ENOENT) {
		return 0, nil
	}
	_, _ = fmt.Fprintln(h, names)
	for _, m := range messages {
		e := nfAttributes(m, func(ad *netlink.AttributeDecoder) {
			switch {
			case ad.Type() == handle, what == unix.NFT_MSG_GETCHAIN && ad.Type() == unix.NFTA_CHAIN_POLICY,
				what == unix.NFT_MSG_GETRULE && slices.Contains([]uint16{unix.NFTA_RULE_USERDATA, unix.NFTA_RULE_CHAIN}, ad.Type()):
				_, _ = h.Write(ad.Bytes())
			case what == unix.NFT_MSG_GETRULE && ad.Type() == unix.NFTA_RULE_EXPRESSIONS:
				ad.Do(func(b []byte) error { return addExprs(h, b) })
			}
		})
		err = errors.Join(err, e)
	}
	return len(messages), err
}

func addExprs(h *maphash.Hash, b []byte) error {
	return nested(b, func(ad *netlink.AttributeDecoder) {
		one := ad.Bytes()
		ad.Do(func(b []byte) error {
			return nested(b, func(ad *netlink.AttributeDecoder) {
				if ad.Type() == unix.NFTA_EXPR_NAME && ad.String() != "counter" {
					_, _ = h.Write(one)
				}
			})
		})
	})
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
		if err == nil && table == p.table && (chainName == 0 || p.matters(chain)) {
			return true
		}
	}
	return false
}
