package state

import (
	"fmt"
	"net/netip"
)

// Masquerade is the rules by which packets between the pods of Network keep their
// source, and what pods send elsewhere gets that of this host.
type Masquerade struct {
	Backend RuleBackend
	Network netip.Prefix
	Own     netip.Prefix // this host's subnet
	// Exclude are the destinations, in CIDR notation and separated by spaces,
	// for which packets keep their source, too.
	Exclude string
	// RandomFully has the source port chosen at random.
	RandomFully bool
}

// Key is the way and the network.
func (m Masquerade) Key() Key { return ruleKey(KindMasquerade, m.Backend, m.Network) }

func (m Masquerade) String() string {
	s := fmt.Sprintf("masquerading of %s by %s, own subnet %s", m.Network, m.Backend, m.Own)
	if m.Exclude != "" {
		s += ", not to " + m.Exclude
	}
	if !m.RandomFully {
		s += ", ports not random"
	}
	return s
}

// Owned is for our networks.
func (m Masquerade) Owned(o *Ownership) bool { return rulesOwned(m.Network, o) }

// SupersededBy is for the same in another way.
func (m Masquerade) SupersededBy(k Key) bool { return rulesSuperseded(m.Key(), k) }
