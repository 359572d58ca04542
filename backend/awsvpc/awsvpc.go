// Package awsvpc is the backend for hosts in a VPC of Amazon: packets go from host
// to host as they are, for each host keeps a route to its own subnet in the VPC's
// route tables.
package awsvpc

import (
	"encoding/json"
	"fmt"
	"regexp"
	"slices"

	"flanneld/backend"
	"flanneld/pkg/ip"
	"flanneld/pkg/state"
	"flanneld/subnet"
)

// Type is the backend's row in the table.
var Type = backend.Type{Name: "aws-vpc", Keys: []string{"RouteTableID", "MTU"}, New: func(section json.RawMessage) (backend.Backend, error) {
	var c config
	if err := backend.Section(section, &c); err != nil {
		return nil, err
	}
	if err := c.Check(0); err != nil {
		return nil, err
	}
	if len(c.RouteTableID) == 0 {
		c.RouteTableID = tables{""}
	}
	return awsvpc{c}, nil
}}

// config is the Backend object of the configuration.
type config struct {
	RouteTableID tables
	backend.PathMTU
}

// tables are the IDs of route tables, each once. None stand for the one that the
// host's own packets go by.
type tables []string

var tableID = regexp.MustCompile(`^rtb-[0-9a-f]+$`)

// UnmarshalJSON reads an ID or a list of such. An empty ID is none, as it was in
// flannel.
func (t *tables) UnmarshalJSON(raw []byte) error {
	bad := func(value, why string) error {
		return &subnet.ConfigError{Key: "Backend.RouteTableID", Value: value, Reason: why}
	}
	*t = nil
	var list []string
	if one := ""; json.Unmarshal(raw, &one) == nil {
		if one == "" {
			return nil
		}
		list = []string{one}
	} else if json.Unmarshal(raw, &list) != nil {
		return bad(string(raw), "is neither the ID of a route table nor a list of such")
	}
	if len(list) == 0 {
		return bad("[]", "names no route table; without the key, the host's own is used")
	}
	for _, id := range list {
		if !tableID.MatchString(id) {
			return bad(fmt.Sprintf("%q", id), "is not the ID of a route table, such as rtb-0123456789abcdef0")
		}
	}
	slices.Sort(list)
	*t = slices.Compact(list)
	return nil
}

// MarshalJSON has the host's own table as one writes it.
func (t tables) MarshalJSON() ([]byte, error) {
	if slices.Equal(t, tables{""}) {
		return []byte(`""`), nil
	}
	return json.Marshal([]string(t))
}

type awsvpc struct{ config }

func (awsvpc) Device(backend.Host, ip.Family) string { return "" }

func (awsvpc) Unencapsulated() bool { return true }

// Attrs name no backend, as they never have.
func (awsvpc) Attrs(h backend.Host, _ backend.Past) (subnet.Attrs, error) {
	return subnet.Attrs{PublicIP: h.PublicIP()}, nil
}

func (b awsvpc) MTU(h backend.Host) int { return b.Of(h) }

// Local is in each family the route to this host's subnet in each table, and an interface
// that lets the pods' packets pass: one, where it has the addresses of both families.
func (b awsvpc) Local(h backend.Host, _ ip.Subnet, own *subnet.Lease) []state.Object {
	var objects []state.Object
	before := ""
	for _, f := range own.Subnet.Families() {
		u := h.Of(f)
		if u.Iface != before {
			objects = append(objects, state.CloudInterface{Host: u.Addr})
		}
		before = u.Iface
		for _, table := range b.RouteTableID {
			objects = append(objects, state.CloudRoute{Table: table, Dst: own.Subnet.Of(f), Host: u.Addr})
		}
	}
	return objects
}

// Peer is the route that the peer keeps in each table.
func (b awsvpc) Peer(_ backend.Host, f ip.Family, _, peer *subnet.Lease) ([]state.Object, error) {
	objects := make([]state.Object, len(b.RouteTableID))
	for i, table := range b.RouteTableID {
		objects[i] = state.CloudRoute{Table: table, Dst: peer.Subnet.Of(f)}
	}
	return objects, nil
}
