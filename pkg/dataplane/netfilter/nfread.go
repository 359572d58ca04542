package netfilter

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/google/nftables/expr"
	"github.com/google/nftables/userdata"
	"github.com/google/nftables/xt"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"flanneld/pkg/dataplane"
)

// What nf_tables has is read here rather than by the nftables package: that one
// leaves out what it does not know of a rule, and does not tell whether the rules
// have changed while they were listed.

// nfTable is a table, as far as it was asked for.
type nfTable struct {
	dormant bool // its chains are not in use
	things  int  // chains, sets and the like
	chains  map[nfName]*nfChain
}

// nfName is the name of a chain.
type nfName = string

// nfChain is a chain and its rules. One that no packet comes to by itself has no
// kind.
type nfChain struct {
	nfKind
	rules []nfRule
}

// nfKind is which packets come to a chain by itself, and when.
type nfKind struct {
	typ    string // filter, nat or route
	hook   uint32
	prio   int32
	policy uint32 // 1 accepts what no rule is about
}

// nfRule is a rule.
type nfRule struct {
	handle  uint64
	exprs   []expr.Any // nil in the place of one that is not known here
	comment string
}

// nfPatience is how long the kernel may take for an answer.
const nfPatience = 10 * time.Second

// readTable returns a table of a family with those of the named chains that there
// are; nil if there is no such table.
func readTable(ctx context.Context, family byte, name string, chains ...string) (*nfTable, error) {
	var t *nfTable
	err := nfAsk("reading table "+name+" of nf_tables", func(c *netlink.Conn) (err error) {
		for range 5 {
			t, err = readTableOnce(c, family, name, chains)
			if !errors.Is(err, dataplane.ErrIncomplete) || ctx.Err() != nil {
				break
			}
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	return t, nil
}

// nfAsk calls ask with a connection to nf_tables.
func nfAsk(what string, ask func(*netlink.Conn) error) error {
	c, err := netlink.Dial(unix.NETLINK_NETFILTER, nil)
	if err == nil {
		defer c.Close()
		if err = c.SetDeadline(time.Now().Add(nfPatience)); err == nil {
			err = ask(c)
		}
	}
	if err != nil {
		return nfError(what, err)
	}
	return nil
}

func readTableOnce(c *netlink.Conn, family byte, name string, chains []string) (*nfTable, error) {
	before, err := nfGeneration(c)
	if err != nil {
		return nil, err
	}
	messages, err := nfGet(c, unix.NFT_MSG_GETTABLE, family, name)
	if errors.Is(err, unix.ENOENT) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	t := &nfTable{chains: make(map[nfName]*nfChain)}
	for _, m := range messages {
		err := nfAttributes(m, func(ad *netlink.AttributeDecoder) {
			switch ad.Type() {
			case unix.NFTA_TABLE_FLAGS:
				t.dormant = ad.Uint32()&unix.NFT_TABLE_F_DORMANT != 0
			case unix.NFTA_TABLE_USE:
				t.things = int(ad.Uint32())
			}
		})
		if err != nil {
			return nil, err
		}
	}
	for _, chain := range chains {
		if t.chains[chain], err = readChain(c, family, name, chain); err != nil {
			return nil, err
		}
		if t.chains[chain] == nil {
			delete(t.chains, chain)
		}
	}
	after, err := nfGeneration(c)
	if err == nil && after != before {
		err = dataplane.ErrIncomplete
	}
	return t, err
}

func readChain(c *netlink.Conn, family byte, table, name string) (*nfChain, error) {
	messages, err := nfGet(c, unix.NFT_MSG_GETCHAIN, family, table, name)
	if errors.Is(err, unix.ENOENT) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var chain nfChain
	for _, m := range messages {
		if _, _, chain.nfKind, err = decodeChain(m); err != nil {
			return nil, err
		}
	}
	messages, err = nfGet(c, unix.NFT_MSG_GETRULE, family, table, name)
	if errors.Is(err, unix.ENOENT) {
		return nil, dataplane.ErrIncomplete
	}
	for _, m := range messages {
		var r nfRule
		if _, r, err = decodeRule(m); err != nil {
			return nil, err
		}
		chain.rules = append(chain.rules, r)
	}
	return &chain, err
}

// nfGeneration returns the number of the last change of anything in nf_tables.
func nfGeneration(c *netlink.Conn) (id uint32, err error) {
	messages, err := nfGet(c, unix.NFT_MSG_GETGEN, unix.AF_UNSPEC)
	for _, m := range messages {
		err := nfAttributes(m, func(ad *netlink.AttributeDecoder) {
			if ad.Type() == unix.NFTA_GEN_ID {
				id = ad.Uint32()
			}
		})
		if err != nil {
			return 0, err
		}
	}
	return id, err
}

// nfGet asks for something by the names of its table and chain, of which those of
// rules are both filters.
func nfGet(c *netlink.Conn, what uint16, family byte, names ...string) ([]netlink.Message, error) {
	attributes := make([]netlink.Attribute, len(names))
	for i, name := range names {
		types := []uint16{unix.NFTA_RULE_TABLE, unix.NFTA_RULE_CHAIN}
		if what == unix.NFT_MSG_GETCHAIN {
			types = []uint16{unix.NFTA_CHAIN_TABLE, unix.NFTA_CHAIN_NAME}
		}
		attributes[i] = netlink.Attribute{Type: types[i], Data: []byte(name + "\x00")}
	}
	data, err := netlink.MarshalAttributes(attributes)
	if err != nil {
		return nil, err
	}
	flags := netlink.Request
	if what == unix.NFT_MSG_GETRULE || len(names) == 0 && what != unix.NFT_MSG_GETGEN {
		flags |= netlink.Dump
	}
	messages, err := c.Execute(netlink.Message{
		Header: netlink.Header{Type: nfType(what), Flags: flags},
		Data:   append([]byte{family, unix.NFNETLINK_V0, 0, 0}, data...),
	})
	for _, m := range messages {
		if m.Header.Flags&netlink.DumpInterrupted != 0 {
			return nil, dataplane.ErrIncomplete
		}
	}
	return messages, err
}

func nfType(what uint16) netlink.HeaderType {
	return netlink.HeaderType(unix.NFNL_SUBSYS_NFTABLES<<8 | what)
}

// nfAttributes calls take for each attribute of a message.
func nfAttributes(m netlink.Message, take func(*netlink.AttributeDecoder)) error {
	if len(m.Data) < 4 {
		return errors.New("a message of nf_tables is too short")
	}
	return nested(m.Data[4:], take)
}

func nested(data []byte, take func(*netlink.AttributeDecoder)) error {
	ad, err := netlink.NewAttributeDecoder(data)
	if err != nil {
		return err
	}
	ad.ByteOrder = binary.BigEndian
	for ad.Next() {
		take(ad)
	}
	return ad.Err()
}

func decodeChain(m netlink.Message) (table, name string, k nfKind, err error) {
	err = nfAttributes(m, func(ad *netlink.AttributeDecoder) {
		switch ad.Type() {
		case unix.NFTA_CHAIN_TABLE:
			table = ad.String()
		case unix.NFTA_CHAIN_NAME:
			name = ad.String()
		case unix.NFTA_CHAIN_TYPE:
			k.typ = ad.String()
		case unix.NFTA_CHAIN_POLICY:
			k.policy = ad.Uint32()
		case unix.NFTA_CHAIN_HOOK:
			ad.Do(func(b []byte) error {
				return nested(b, func(ad *netlink.AttributeDecoder) {
					switch ad.Type() {
					case unix.NFTA_HOOK_HOOKNUM:
						k.hook = ad.Uint32()
					case unix.NFTA_HOOK_PRIORITY:
						k.prio = int32(ad.Uint32())
					}
				})
			})
		}
	})
	return table, name, k, err
}

func decodeRule(m netlink.Message) (chain string, r nfRule, err error) {
	family := byte(0)
	if len(m.Data) > 0 {
		family = m.Data[0]
	}
	err = nfAttributes(m, func(ad *netlink.AttributeDecoder) {
		switch ad.Type() {
		case unix.NFTA_RULE_CHAIN:
			chain = ad.String()
		case unix.NFTA_RULE_HANDLE:
			r.handle = ad.Uint64()
		case unix.NFTA_RULE_USERDATA:
			r.comment, _ = userdata.GetString(ad.Bytes(), userdata.TypeComment)
		case unix.NFTA_RULE_EXPRESSIONS:
			ad.Do(func(b []byte) error {
				return nested(b, func(ad *netlink.AttributeDecoder) {
					r.exprs = append(r.exprs, decodeExpr(family, ad.Bytes()))
				})
			})
		}
	})
	for _, e := range r.exprs {
		if m, ok := e.(*expr.Match); ok {
			if c, ok := m.Info.(*xt.Comment); ok {
				r.comment = strings.TrimRight(string(*c), "\x00")
			}
		}
	}
	return chain, r, err
}

// decodeExpr returns nil for what rules of ours and of flannel do not have.
func decodeExpr(family byte, b []byte) expr.Any {
	var name string
	var data []byte
	err := nested(b, func(ad *netlink.AttributeDecoder) {
		switch ad.Type() {
		case unix.NFTA_EXPR_NAME:
			name = ad.String()
		case unix.NFTA_EXPR_DATA:
			data = ad.Bytes()
		}
	})
	known := map[string]expr.Any{
		"payload": &expr.Payload{}, "bitwise": &expr.Bitwise{}, "cmp": &expr.Cmp{}, "meta": &expr.Meta{},
		"immediate": &expr.Verdict{}, "masq": &expr.Masq{},
		"counter": &expr.Counter{}, "match": &expr.Match{}, "target": &expr.Target{},
	}
	e := known[name]
	if err != nil || e == nil || expr.Unmarshal(family, data, e) != nil {
		return nil
	}
	return e
}

// nfError names what is missing where the kernel has no nf_tables, or lets no one
// at them.
func nfError(what string, err error) error {
	switch {
	case errors.Is(err, unix.EPERM):
		return fmt.Errorf("%s: %w: this needs CAP_NET_ADMIN in the user namespace that owns the network", what, err)
	case errors.Is(err, unix.EOPNOTSUPP), errors.Is(err, unix.EINVAL), errors.Is(err, unix.EPROTONOSUPPORT):
		return fmt.Errorf("%w: %s: %w: the kernel may lack nf_tables (try modprobe nf_tables), or use -masq-mode=iptables", errAbsent, what, err)
	}
	return fmt.Errorf("%s: %w", what, err)
}
