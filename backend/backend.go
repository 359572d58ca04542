// Package backend is what carries packets between hosts: each backend says, by
// pure functions, which objects a host must have to reach its peers.
package backend

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"reflect"
	"slices"
	"strings"

	"flanneld/pkg/ip"
	"flanneld/pkg/state"
	"flanneld/subnet"
)

// Underlay is how the other hosts reach this one in one address family. It is zero where
// the family is off, or this host has no way in it.
type Underlay struct {
	// Iface is the name of the external interface: the one by which the other
	// hosts are reached.
	Iface string
	// MTU of the external interface, in bytes.
	MTU int
	// Up is whether the external interface is.
	Up bool
	// Addr is the address of the external interface that was chosen.
	Addr netip.Addr
	// Net is the network of that address, on the interface's link.
	Net netip.Prefix
	// PublicIP is what the other hosts know this host by: Addr, unless told
	// otherwise.
	PublicIP netip.Addr
	// ID tells this host from any other, also from one that was made from the
	// same image, and is the same after a reboot.
	ID string
	// OwnsPublicIP is whether PublicIP is an address of this host, on whichever
	// interface, and not one that a NAT translates.
	OwnsPublicIP bool
}

// Host is what a backend may know of this host.
type Host struct {
	V4, V6 Underlay
	// Nexthops asks for routes by way of nexthop objects.
	Nexthops bool
	// Prepared is the device that a Preparer has made on this host.
	Prepared string
	// Links tell which peers are on this host's link; nil if that is not known.
	Links Links
}

// Links tell how the kernel reaches other hosts. Of one value the answers stay the
// same; when the kernel's routing changes, there is another value. Its type is
// comparable.
type Links interface {
	// OnLink reports whether the kernel sends packets for a straight out of iface,
	// with no router between. It is false while that is not known.
	OnLink(iface string, a netip.Addr) bool
}

// Of returns the underlay of a family.
func (h Host) Of(f ip.Family) Underlay {
	if f == ip.V4 {
		return h.V4
	}
	return h.V6
}

// Set makes u the underlay of a family.
func (h *Host) Set(f ip.Family, u Underlay) {
	if f == ip.V4 {
		h.V4 = u
	} else {
		h.V6 = u
	}
}

// For returns h with the underlays that a network has use for.
func (h Host) For(network ip.Subnet) Host {
	for _, f := range ip.Families {
		if !network.Of(f).IsValid() {
			h.Set(f, Underlay{})
		}
	}
	return h
}

// IsExternal reports whether an interface is the external one of a family.
func (h Host) IsExternal(iface string) bool {
	return iface != "" && (iface == h.V4.Iface || iface == h.V6.Iface)
}

// Ifaces are the external interfaces, IPv4's first.
func (h Host) Ifaces() []string {
	var names []string
	for _, f := range ip.Families {
		if name := h.Of(f).Iface; name != "" && !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	return names
}

// Up is whether the external interfaces of all families are.
func (h Host) Up() bool {
	return (h.V4.Up || h.V4.Iface == "") && (h.V6.Up || h.V6.Iface == "")
}

// First returns the underlay of the first family that h has: what is said of a host in one
// word.
func (h Host) First() Underlay {
	if h.V4.Iface != "" {
		return h.V4
	}
	return h.V6
}

// Addrs are those that were chosen.
func (h Host) Addrs() ip.Addrs { return ip.Addrs{V4: h.V4.Addr, V6: h.V6.Addr} }

// PublicIP is what the other hosts know h by.
func (h Host) PublicIP() ip.Addrs { return ip.Addrs{V4: h.V4.PublicIP, V6: h.V6.PublicIP} }

// Net are the networks of the addresses.
func (h Host) Net() ip.Subnet { return ip.Subnet{V4: h.V4.Net, V6: h.V6.Net} }

// Narrowest returns the underlay with the smallest MTU.
func (h Host) Narrowest() Underlay {
	if h.V6.Iface != "" && (h.V4.Iface == "" || h.V6.MTU < h.V4.MTU) {
		return h.V6
	}
	return h.V4
}

// MTU is the smallest of the external interfaces'.
func (h Host) MTU() int { return h.Narrowest().MTU }

// OnLink reports whether a is known to be on the link of the external interface of its
// family.
func (h Host) OnLink(a netip.Addr) bool {
	return h.Links != nil && h.Links.OnLink(h.Of(ip.FamilyOf(a)).Iface, a)
}

// Direct is a Backend whose objects for a peer depend on Host.Links.
type Direct interface {
	// UsesLinks reports whether they do.
	UsesLinks() bool
}

// UsesLinks reports whether the objects of a backend depend on Host.Links.
func UsesLinks(b Backend) bool {
	d, ok := b.(Direct)
	return ok && d.UsesLinks()
}

// Preparer is a Backend that makes its device itself. Prepare is the one method of a backend
// that has effects.
type Preparer interface {
	// Prepare returns the name of this host's device in a network. It is the one that an
	// earlier run left, in this network or a former one, else a new one.
	Prepare(ctx context.Context, network ip.Subnet, former []netip.Prefix) (device string, err error)
}

// Past is what there is already of this host's end of the overlay.
type Past struct {
	// MACs are those of the backend's devices that there are, by their names.
	MACs map[string]state.MAC
	// Lease is what this host's lease says; zero if it has none.
	Lease subnet.Attrs
	// Others are the leases of which any may be another host's; none if what
	// Lease says is not to be put in question.
	Others []*subnet.Lease
}

// Backend is one way to carry packets. Its methods have no effects and give the
// same answer for the same arguments. As JSON it is the section of the configuration that it
// goes by, with the defaults of what is not there.
type Backend interface {
	// Device is the name of the interface that the backend has on the host for pods'
	// packets of a family; empty if it has none.
	Device(Host, ip.Family) string

	// Unencapsulated reports whether packets between pods cross the network between the
	// hosts as they are, and so come in by the external interface.
	Unencapsulated() bool

	// Attrs returns what this host's lease must say, or why the backend cannot
	// work on this host.
	Attrs(Host, Past) (subnet.Attrs, error)

	// MTU returns how large a pod's packet may be, in bytes.
	MTU(Host) int

	// Local returns the objects that the host has whoever its peers are.
	Local(h Host, network ip.Subnet, own *subnet.Lease) []state.Object

	// Peer returns the objects by which peer is reached in a family in which both have a
	// subnet. An error is about this peer and family alone; if it is Unreadable, what the
	// host has for the peer stays.
	Peer(h Host, f ip.Family, own, peer *subnet.Lease) ([]state.Object, error)
}

// Unreadable is an error about a lease that does not say what it must. It is no
// sign that the peer is gone.
type Unreadable struct{ Err error }

func (u Unreadable) Error() string { return u.Err.Error() }

func (u Unreadable) Unwrap() error { return u.Err }

// Type is a row of the table of backends.
type Type struct {
	// Name as in the configuration's Backend.Type, in lower case.
	Name string
	// New makes a backend from the configuration's Backend object.
	New func(section json.RawMessage) (Backend, error)
	// Keys are those of the Backend object that New reads.
	Keys []string
	// IPv4Alone is set if the backend carries no IPv6.
	IPv4Alone bool
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
			if b.IPv4Alone && c.V6.Network.IsValid() {
				return nil, &subnet.ConfigError{
					Key: "EnableIPv6", Value: "true",
					Reason: fmt.Sprintf("asks the backend %s for what it cannot do: it carries IPv4 alone; Backend.Type can be one of %s", b.Name, strings.Join(t.carryingIPv6(), ", ")),
				}
			}
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

// Value is what a key of a Backend object says.
type Value struct {
	Key   string          `json:"key"`
	Value json.RawMessage `json:"value"`
}

// Values returns what the backend of a configuration goes by, defaults included.
func (t Table) Values(c *subnet.Config, b Backend) ([]Value, error) {
	section, err := json.Marshal(b)
	if err != nil {
		return nil, err
	}
	all := make(map[string]json.RawMessage)
	if err := json.Unmarshal(section, &all); err != nil {
		return nil, err
	}
	var values []Value
	for _, is := range t {
		for _, key := range is.Keys {
			if is.Name == c.BackendType {
				values = append(values, Value{key, all[key]})
			}
		}
	}
	return values, nil
}

// carryingIPv6 returns the names of the backends that do.
func (t Table) carryingIPv6() []string {
	var names []string
	for _, b := range t {
		if !b.IPv4Alone {
			names = append(names, b.Name)
		}
	}
	return names
}

// Section decodes a configuration's Backend object into a struct of booleans,
// ints and strings. Its errors are subnet.ConfigErrors.
func Section(raw json.RawMessage, into any) error {
	if len(raw) == 0 {
		return nil
	}
	err := json.Unmarshal(raw, into)
	var mismatch *json.UnmarshalTypeError
	if !errors.As(err, &mismatch) {
		return err
	}
	want := "a whole number"
	if kind := mismatch.Type.Kind(); kind == reflect.Bool {
		want = "true or false"
	} else if kind == reflect.String {
		want = "a string"
	}
	path := strings.Split(mismatch.Field, ".") // with the names of embedded structs
	return &subnet.ConfigError{
		Key:    "Backend." + path[len(path)-1],
		Value:  "(a JSON " + mismatch.Value + ")",
		Reason: "is not " + want,
	}
}

// RouteTo returns r, by way of a nexthop object where the host is to have them.
func RouteTo(h Host, r state.Route) []state.Object {
	if h.Nexthops {
		r.Nexthop = state.NexthopID(r.Dst)
	}
	if r.Nexthop == 0 {
		return []state.Object{r}
	}
	return []state.Object{state.Nexthop{ID: r.Nexthop, Via: r.Via, Dev: r.Dev, Onlink: r.Onlink}, r}
}
