package state

import (
	"fmt"
	"net/netip"
)

// Forward is the rules that let packets from and to the pods of Network pass.
type Forward struct {
	Backend RuleBackend
	Network netip.Prefix
}

// Key is the way and the network.
func (f Forward) Key() Key { return ruleKey(KindForward, f.Backend, f.Network) }

func (f Forward) String() string { return fmt.Sprintf("forwarding for %s by %s", f.Network, f.Backend) }

// Owned is for our networks.
func (f Forward) Owned(o *Ownership) bool { return rulesOwned(f.Network, o) }

// SupersededBy is for the same in another way.
func (f Forward) SupersededBy(k Key) bool { return rulesSuperseded(f.Key(), k) }
