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
	// Host is an address of the interface. Without one it is a route that another host
	// keeps: that it is missing can be reported, and no more.
	Host netip.Addr
}

// Key is the table and the destination.
func (r CloudRoute) Key() Key { return Key{Kind: KindCloudRoute, Scope: r.Table, Prefix: r.Dst} }

func (r CloudRoute) String() string {
	if !r.Host.IsValid() {
		return fmt.Sprintf("watch over route %s in %s", r.Dst, CloudTableName(r.Table))
	}
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

// Path is by the external interface.
func (r CloudRoute) Path() Path { return Path{Dst: r.Dst} }
