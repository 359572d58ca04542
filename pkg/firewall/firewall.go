// Package firewall finds out whether the packet filters of this host drop packets of the
// overlay: it leads sample packets through the rules that others wrote, in nf_tables and
// ip_tables, as the kernel would. What it does not understand may let a packet pass; so
// what it calls dropped is dropped.
package firewall

import (
	"fmt"
	"net/netip"

	"flanneld/pkg/dataplane/netfilter"
	"flanneld/pkg/state"
)

// Path is the way of a packet through the host.
type Path int

// The paths.
const (
	Inbound   Path = iota // from an interface to a socket of the host
	Forwarded             // from an interface to another one
	Outbound              // from a socket of the host to an interface
)

// Iface is an interface; the zero value is one that is not known.
type Iface struct {
	Name   string
	Index  int
	Bridge bool
	Pods   bool // it has no packets but those of pods
}

// Packet is a sample: the first packet of a connection. What a packet has several of, such
// as addresses in a prefix, it is taken to have any of.
type Packet struct {
	Path     Path
	In, Out  Iface
	Src, Dst netip.Prefix
	Proto    byte
	// The ports are any that no rule is likely to be about, if they are zero.
	SrcPort, DstPort uint16
	// ICMPType is that of ICMPv6.
	ICMPType byte
	// Pods is set for what pods send to each other. A rule that names the addresses or
	// interfaces of these, and a port, shows that someone decided what they may send.
	Pods bool
}

// Drop is where a packet is dropped.
type Drop struct {
	Variant state.RuleBackend // whose program wrote it
	Family  string            // of the table, as nft calls it
	Table   string
	// Base is the chain that the packet came to by itself, at Hook, and Chain the one
	// with the rule that drops it.
	Base, Chain string
	Hook        string
	// Number is the handle of that rule in nf_tables, and its place in the chain, from 1,
	// in ip_tables. It is 0 if the policy of Base drops the packet.
	Number uint64
	Reject bool // with an answer
	Owner  Owner
}

// program is what the variant's program is called.
func (d Drop) program() string {
	for _, f := range families {
		if f.name == d.Family {
			return netfilter.Program(d.Variant, f.Family)
		}
	}
	return string(d.Variant)
}

// TableName names the table and whose program writes it.
func (d Drop) TableName() string {
	name := "table " + d.Table
	if d.Variant == state.NFTables {
		name = "table " + d.Family + " " + d.Table
	}
	name += " of " + d.program()
	if d.Owner != "" {
		name += " (" + string(d.Owner) + ")"
	}
	return name
}

// Rule names the chain and the rule, and says what it does.
func (d Drop) Rule() string {
	verb := "drop"
	if d.Reject {
		verb = "reject"
	}
	switch {
	case d.Number == 0:
		return fmt.Sprintf("policy %s of chain %s", verb, d.Base)
	case d.Variant == state.IPTablesLegacy:
		return fmt.Sprintf("%s by rule %d of chain %s", verb, d.Number, d.Chain)
	}
	return fmt.Sprintf("%s by the rule with handle %d in chain %s", verb, d.Number, d.Chain)
}
