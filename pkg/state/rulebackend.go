package state

import "net/netip"

// RuleBackend is one of the ways to give a kernel rules about packets. Each has rules of
// its own: what is written one way is not seen by the other.
type RuleBackend string

// The ways.
const (
	NFTables       RuleBackend = "nftables"        // tables of our own
	IPTablesNFT    RuleBackend = "iptables-nft"    // the tables of iptables, in nf_tables
	IPTablesLegacy RuleBackend = "iptables-legacy" // the tables of iptables, in ip_tables
)

// ruleKey is the key of the rules of a kind for a network.
func ruleKey(k Kind, w RuleBackend, network netip.Prefix) Key {
	return Key{Kind: k, Scope: string(w), Prefix: network}
}

// rulesOwned is for a network of ours. In chains with our name, what is for no network is
// nobody's, and goes.
func rulesOwned(network netip.Prefix, o *Ownership) bool {
	return network.Bits() == 0 || o.Contains(network.Addr())
}

// rulesSuperseded is for the same rules as another way writes them: until those are there,
// these stay.
func rulesSuperseded(is, by Key) bool {
	return by.Kind == is.Kind && by.Prefix == is.Prefix && by.Scope != is.Scope
}

// RulesOf returns the rules of a key as far as that tells what they are.
func RulesOf(k Key) Object {
	if k.Kind == KindForward {
		return Forward{Backend: RuleBackend(k.Scope), Network: k.Prefix}
	}
	return Masquerade{Backend: RuleBackend(k.Scope), Network: k.Prefix}
}
