package state

import (
	"fmt"
	"net/netip"
)

// CloudRoute leads packets for Dst to a host's interface, in a route table of the
// cloud that the hosts are in.
type CloudRoute struct {
	Table string // its ID; empty for the table that the host's own packets go by
	Dst   netip.Prefix
	Host  netip.Addr // an address of the interface
}

// Key is the table and the destination.
func (r CloudRoute) Key() Key { return Key{Kind: KindCloudRoute, Dev: r.Table, Dst: r.Dst} }

func (r CloudRoute) String() string {
	return fmt.Sprintf("route %s to %s in %s", r.Dst, r.Host, CloudTableName(r.Table))
}

// CloudTableName is what a CloudRoute's table is called in texts.
func CloudTableName(table string) string {
	if table == "" {
		return "this host's own route table"
	}
	return "route table " + table
}

// CloudPeer is a CloudRoute that another host keeps. That it is missing can be
// reported here, and no more.
type CloudPeer struct {
	Table string // as for CloudRoute
	Dst   netip.Prefix
}

// CloudPeerKey is the key of what watches over the route to dst in a table.
func CloudPeerKey(table string, dst netip.Prefix) Key {
	return Key{Kind: KindCloudPeer, Dev: table, Dst: dst}
}

// Key is the table and the destination.
func (p CloudPeer) Key() Key { return CloudPeerKey(p.Table, p.Dst) }

func (p CloudPeer) String() string {
	return fmt.Sprintf("watch over route %s in %s", p.Dst, CloudTableName(p.Table))
}

// CloudInterface is the network interface with an address of this host, set to
// pass packets that are neither from nor to its own addresses.
type CloudInterface struct {
	Host netip.Addr
}

// Key is the address.
func (i CloudInterface) Key() Key {
	return Key{Kind: KindCloudInterface, Dst: netip.PrefixFrom(i.Host, i.Host.BitLen())}
}

func (i CloudInterface) String() string {
	return fmt.Sprintf("network interface with the address %s without source/destination check", i.Host)
}
