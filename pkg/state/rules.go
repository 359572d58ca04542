package state

import (
	"fmt"
	"net/netip"
)

// Way is one of the ways to give a kernel rules about packets. Each has rules of
// its own: what is written one way is not seen by the other.
type Way string

// The ways.
const (
	NFTables       Way = "nftables"        // tables of our own
	IPTablesNFT    Way = "iptables-nft"    // the tables of iptables, in nf_tables
	IPTablesLegacy Way = "iptables-legacy" // the tables of iptables, in ip_tables
)

// Masquerade is the rules by which packets between the pods of Network keep their
// source, and what pods send elsewhere gets that of this host.
type Masquerade struct {
	Way     Way
	Network netip.Prefix
	Own     netip.Prefix // this host's subnet
	// Exclude are the destinations, in CIDR notation and separated by spaces,
	// for which packets keep their source, too.
	Exclude string
	// RandomFully has the source port chosen at random.
	RandomFully bool
}

// Key is the way and the network.
func (m Masquerade) Key() Key {
	return Key{Kind: KindMasquerade, Dev: string(m.Way), Dst: m.Network}
}

func (m Masquerade) String() string {
	s := fmt.Sprintf("masquerading of %s by %s, own subnet %s", m.Network, m.Way, m.Own)
	if m.Exclude != "" {
		s += ", not to " + m.Exclude
	}
	if !m.RandomFully {
		s += ", ports not random"
	}
	return s
}

// Forward is the rules that let packets from and to the pods of Network pass.
type Forward struct {
	Way     Way
	Network netip.Prefix
}

// Key is the way and the network.
func (f Forward) Key() Key {
	return Key{Kind: KindForward, Dev: string(f.Way), Dst: f.Network}
}

func (f Forward) String() string { return fmt.Sprintf("forwarding for %s by %s", f.Network, f.Way) }
