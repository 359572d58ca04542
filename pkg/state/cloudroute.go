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
func (r CloudRoute) Key() Key { return Key{Kind: KindCloudRoute, Scope: r.Table, Prefix: r.Dst} }

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

// Owned is for what could be a lease's.
func (r CloudRoute) Owned(o *Ownership) bool { return o.CanBeLease(r.Dst) }

// LeaseSubnet is the destination.
func (r CloudRoute) LeaseSubnet() netip.Prefix { return r.Dst }

// OffHost says what becomes of the route.
func (r CloudRoute) OffHost() string {
	return fmt.Sprintf("the route to %s in %s: another host takes it over with the subnet, or removes it when this instance does not run and nobody has a lease of the subnet", r.Dst, CloudTableName(r.Table))
}

// KeptBy is the peer that keeps it.
func (r CloudRoute) KeptBy() Key { return CloudPeerKey(r.Table, r.Dst) }
