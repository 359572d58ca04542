package nfdump

import (
	"encoding/binary"
	"errors"

	"golang.org/x/sys/unix"
)

// Table is a table of nf_tables.
type Table struct {
	Family  byte
	Name    string
	Handle  []byte
	Dormant bool // its chains are not in use
	Things  int  // chains, sets and the like
}

// Chain is a chain of nf_tables. One that no packet comes to by itself has no Type.
type Chain struct {
	Family      byte
	Table, Name string
	Handle      []byte
	Place
	HookAttrs Attrs // what else the kernel says about its hook
}

// Place is which packets come to a chain by itself, and when.
type Place struct {
	Type   string // filter, nat or route
	Hook   uint32
	Prio   int32
	Policy uint32 // what becomes of those that no rule is about: Drop or Accept
}

// Verdicts of the kernel.
const (
	Drop   = 0
	Accept = 1
)

// Rule is a rule of nf_tables.
type Rule struct {
	Chain    string
	Handle   []byte
	Userdata []byte
	Exprs    []Expr
}

// ID is its handle as a number.
func (r Rule) ID() uint64 {
	if len(r.Handle) < 8 {
		return 0
	}
	return binary.BigEndian.Uint64(r.Handle)
}

// Expr is a part of a rule.
type Expr struct {
	Name string
	Data []byte
}

// decodeAll decodes the messages of an answer.
func decodeAll[T any](messages []Message, err error, decode func(Message, Attrs) (T, error)) ([]T, error) {
	var all []T
	for _, m := range messages {
		a, attrErr := Attributes(m.Data)
		one, decodeErr := decode(m, a)
		all = append(all, one)
		err = errors.Join(err, attrErr, decodeErr)
	}
	return all, err
}

// Tables returns all tables, or the one of a family that is named; none if there is none.
func (c *Conn) Tables(family byte, named ...string) ([]Table, error) {
	messages, err := c.askNamed(unix.NFT_MSG_GETTABLE, family, []uint16{unix.NFTA_TABLE_NAME}, named)
	return decodeAll(messages, err, func(m Message, a Attrs) (Table, error) {
		const nftaTableHandle = 4
		return Table{
			Family: m.Family, Name: a.Text(unix.NFTA_TABLE_NAME), Handle: a[nftaTableHandle],
			Dormant: a.Number(unix.NFTA_TABLE_FLAGS)&unix.NFT_TABLE_F_DORMANT != 0, Things: int(a.Number(unix.NFTA_TABLE_USE)),
		}, nil
	})
}

// Chains returns all chains, or the one of a table that is named; none if there is none.
func (c *Conn) Chains(family byte, named ...string) ([]Chain, error) {
	messages, err := c.askNamed(unix.NFT_MSG_GETCHAIN, family, []uint16{unix.NFTA_CHAIN_TABLE, unix.NFTA_CHAIN_NAME}, named)
	return decodeAll(messages, err, func(m Message, a Attrs) (Chain, error) {
		h, err := Attributes(a[unix.NFTA_CHAIN_HOOK])
		policy := uint32(Accept)
		if a[unix.NFTA_CHAIN_POLICY] != nil {
			policy = a.Number(unix.NFTA_CHAIN_POLICY)
		}
		return Chain{
			Family: m.Family, Table: a.Text(unix.NFTA_CHAIN_TABLE), Name: a.Text(unix.NFTA_CHAIN_NAME), Handle: a[unix.NFTA_CHAIN_HANDLE],
			Place:     Place{a.Text(unix.NFTA_CHAIN_TYPE), h.Number(unix.NFTA_HOOK_HOOKNUM), int32(h.Number(unix.NFTA_HOOK_PRIORITY)), policy},
			HookAttrs: h,
		}, err
	})
}

// askNamed asks for one, by names, or without any for all.
func (c *Conn) askNamed(what uint16, family byte, types []uint16, named []string) ([]Message, error) {
	var attrs [][]byte
	for i, n := range named {
		attrs = append(attrs, Name(types[i], n))
	}
	messages, err := c.Ask(what, len(named) == 0, family, attrs...)
	if errors.Is(err, unix.ENOENT) {
		return nil, nil
	}
	return messages, err
}

// Rules returns the rules of a table, or of the chain of it that is named. ErrChanging is in
// the error if there is no such chain any more.
func (c *Conn) Rules(family byte, table string, chain ...string) ([]Rule, error) {
	filter := [][]byte{Name(unix.NFTA_RULE_TABLE, table)}
	for _, name := range chain {
		filter = append(filter, Name(unix.NFTA_RULE_CHAIN, name))
	}
	messages, err := c.Ask(unix.NFT_MSG_GETRULE, true, family, filter...)
	if errors.Is(err, unix.ENOENT) {
		err = ErrChanging
	}
	return decodeAll(messages, err, func(_ Message, a Attrs) (Rule, error) {
		r := Rule{Chain: a.Text(unix.NFTA_RULE_CHAIN), Handle: a[unix.NFTA_RULE_HANDLE], Userdata: a[unix.NFTA_RULE_USERDATA]}
		var failed error
		err := Each(a[unix.NFTA_RULE_EXPRESSIONS], func(_ uint16, b []byte) {
			e, err := Attributes(b)
			r.Exprs = append(r.Exprs, Expr{e.Text(unix.NFTA_EXPR_NAME), e[unix.NFTA_EXPR_DATA]})
			failed = errors.Join(failed, err)
		})
		return r, errors.Join(failed, err)
	})
}
