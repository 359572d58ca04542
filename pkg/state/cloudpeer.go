package state

import (
	"fmt"
	"net/netip"
)

// CloudPeer is a CloudRoute that another host keeps. That it is missing can be
// reported here, and no more.
type CloudPeer struct {
	Table string // as for CloudRoute
	Dst   netip.Prefix
}

// CloudPeerKey is the key of what watches over the route to dst in a table.
func CloudPeerKey(table string, dst netip.Prefix) Key {
	return Key{Kind: KindCloudPeer, Scope: table, Prefix: dst}
}

// Key is the table and the destination.
func (p CloudPeer) Key() Key { return CloudPeerKey(p.Table, p.Dst) }

func (p CloudPeer) String() string {
	return fmt.Sprintf("watch over route %s in %s", p.Dst, CloudTableName(p.Table))
}

// Path is by the external interface.
func (p CloudPeer) Path() Path { return Path{Dst: p.Dst} }
