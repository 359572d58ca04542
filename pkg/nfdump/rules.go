package nfdump

import (
	"encoding/binary"
	"errors"
	"iter"

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
	HookData []byte // all that the kernel says about its hook
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
	Chain       string
	Handle      []byte
	Userdata    []byte
	Expressions []byte // as the kernel tells them
}

// ID is its handle as a number.
func (r Rule) ID() uint64 {
	if len(r.Handle) < 8 {
		return 0
	}
	return binary.BigEndian.Uint64(r.Handle)
}

// Exprs yields the parts of a rule by their names; one that cannot be decoded has none.
func (r Rule) Exprs() iter.Seq2[string, []byte] {
	return func(yield func(string, []byte) bool) {
		more := true
		err := Each(r.Expressions, func(_ uint16, b []byte) {
			if !more {
				return
			}
			e, err := Attributes(b)
			if err != nil {
				e = Attrs{}
			}
			more = yield(e.Text(unix.NFTA_EXPR_NAME), e[unix.NFTA_EXPR_DATA])
		})
		if err != nil && more {
			yield("", nil)
		}
	}
}

// Tables calls take for all tables, or for the one of a family that is named, if it is there.
func (c *Conn) Tables(take func(Table), family byte, named ...string) error {
	return c.eachNamed(unix.NFT_MSG_GETTABLE, family, []uint16{unix.NFTA_TABLE_NAME}, named, func(m Message, a Attrs) error {
		const nftaTableHandle = 4
		take(Table{
			Family: m.Family, Name: a.Text(unix.NFTA_TABLE_NAME), Handle: a[nftaTableHandle],
			Dormant: a.Number(unix.NFTA_TABLE_FLAGS)&unix.NFT_TABLE_F_DORMANT != 0, Things: int(a.Number(unix.NFTA_TABLE_USE)),
		})
		return nil
	})
}

// Chains calls take for all chains, or for the one of a table that is named, if it is there.
func (c *Conn) Chains(take func(Chain), family byte, named ...string) error {
	return c.eachNamed(unix.NFT_MSG_GETCHAIN, family, []uint16{unix.NFTA_CHAIN_TABLE, unix.NFTA_CHAIN_NAME}, named, func(m Message, a Attrs) error {
		h, err := Attributes(a[unix.NFTA_CHAIN_HOOK])
		policy := uint32(Accept)
		if a[unix.NFTA_CHAIN_POLICY] != nil {
			policy = a.Number(unix.NFTA_CHAIN_POLICY)
		}
		take(Chain{
			Family: m.Family, Table: a.Text(unix.NFTA_CHAIN_TABLE), Name: a.Text(unix.NFTA_CHAIN_NAME), Handle: a[unix.NFTA_CHAIN_HANDLE],
			Place:    Place{a.Text(unix.NFTA_CHAIN_TYPE), h.Number(unix.NFTA_HOOK_HOOKNUM), int32(h.Number(unix.NFTA_HOOK_PRIORITY)), policy},
			HookData: a[unix.NFTA_CHAIN_HOOK],
		})
		return err
	})
}

// Rules calls take for the rules of a table, or of the chain of it that is named. ErrChanging
// is in the error if there is no such chain any more.
func (c *Conn) Rules(take func(Rule), family byte, table string, chain ...string) error {
	filter := [][]byte{Name(unix.NFTA_RULE_TABLE, table)}
	for _, name := range chain {
		filter = append(filter, Name(unix.NFTA_RULE_CHAIN, name))
	}
	messages, err := c.Ask(unix.NFT_MSG_GETRULE, true, family, filter...)
	if errors.Is(err, unix.ENOENT) {
		err = ErrChanging
	}
	return decode(messages, err, func(_ Message, a Attrs) error {
		take(Rule{a.Text(unix.NFTA_RULE_CHAIN), a[unix.NFTA_RULE_HANDLE], a[unix.NFTA_RULE_USERDATA], a[unix.NFTA_RULE_EXPRESSIONS]})
		return nil
	})
}

// eachNamed decodes what is named, or all without names.
func (c *Conn) eachNamed(what uint16, family byte, types []uint16, named []string, take func(Message, Attrs) error) error {
	var attrs [][]byte
	for i, n := range named {
		attrs = append(attrs, Name(types[i], n))
	}
	messages, err := c.Ask(what, len(named) == 0, family, attrs...)
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	return decode(messages, err, take)
}

// decode calls take for each message of an answer.
func decode(messages []Message, err error, take func(Message, Attrs) error) error {
	for _, m := range messages {
		a, attrErr := Attributes(m.Data)
		err = errors.Join(err, attrErr, take(m, a))
	}
	return err
}
