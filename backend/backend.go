// Package backend is what carries packets between hosts: each backend says, by
// pure functions, which objects a host must have to reach its peers.
package backend

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"flanneld/pkg/ip"
	"flanneld/pkg/state"
	"flanneld/subnet"
)

// Host is what a backend may know of this host.
type Host struct {
	// Iface is the name of the external interface: the one by which the other
	// hosts are reached.
	Iface string
	// MTU of the external interface, in bytes.
	MTU int
	// Addr is the address of the external interface that was chosen.
	Addr ip.Addrs
	// Net is the network of that address, on the interface's link.
	Net ip.Subnet
	// PublicIP is what the other hosts know this host by: Addr, unless told
	// otherwise.
	PublicIP ip.Addrs
	// Nexthops asks for routes by way of nexthop objects.
	Nexthops bool
}

// Backend is one way to carry packets. Its methods have no effects and give the
// same answer for the same arguments.
type Backend interface {
	// Attrs returns what this host's lease must say, or why the backend cannot
	// work on this host.
	Attrs(Host) (subnet.Attrs, error)

	// MTU returns how large a pod's packet may be, in bytes.
	MTU(Host) int

	// Peer returns the objects by which peer is reached. An error is about this
	// peer alone.
	Peer(h Host, own, peer *subnet.Lease) ([]state.Object, error)
}

// Type is a row of the table of backends.
type Type struct {
	// Name as in the configuration's Backend.Type, in lower case.
	Name string
	// New makes a backend from the configuration's Backend object.
	New func(section json.RawMessage) (Backend, error)
}

// Table is the backends that there are.
type Table []Type

// NewTable makes a table of the given types. It panics if two have one name.
func NewTable(types ...Type) Table {
	t := Table(types)
	slices.SortFunc(t, func(a, b Type) int { return strings.Compare(a.Name, b.Name) })
	for i, b := range t {
		if i > 0 && t[i-1].Name == b.Name {
			panic(fmt.Sprintf("backend %q is in the table twice", b.Name))
		}
	}
	return t
}

// New makes the backend that the configuration names.
func (t Table) New(c *subnet.Config) (Backend, error) {
	names := make([]string, len(t))
	for i, b := range t {
		if b.Name == c.BackendType {
			return b.New(c.Backend)
		}
		names[i] = b.Name
	}
	return nil, &subnet.ConfigError{
		Key:    "Backend.Type",
		Value:  fmt.Sprintf("%q", c.BackendType),
		Reason: "is not a known backend; there are " + strings.Join(names, ", "),
	}
}
