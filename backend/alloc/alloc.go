// Package alloc is the backend that gives this host a subnet and does nothing
// else: something other than this program carries the packets.
package alloc

import (
	"encoding/json"

	"flanneld/backend"
	"flanneld/pkg/ip"
	"flanneld/pkg/state"
	"flanneld/subnet"
)

// Type is the backend's row in the table.
var Type = backend.Type{Name: "alloc", Keys: []string{"MTU"}, New: func(section json.RawMessage) (backend.Backend, error) {
	mtu, err := backend.ParsePathMTU(section)
	if err != nil {
		return nil, err
	}
	return alloc{mtu}, nil
}}

type alloc struct{ backend.PathMTU }

func (alloc) Device(backend.Host, ip.Family) string { return "" }

func (alloc) Unencapsulated() bool { return true }

func (alloc) Attrs(h backend.Host, _ backend.Past) (subnet.Attrs, error) {
	return subnet.Attrs{PublicIP: h.PublicIP()}, nil
}

func (b alloc) MTU(h backend.Host) int { return b.Of(h) }

func (alloc) Local(backend.Host, ip.Subnet, *subnet.Lease) []state.Object { return nil }

func (alloc) Peer(backend.Host, ip.Family, *subnet.Lease, *subnet.Lease) ([]state.Object, error) {
	return nil, nil
}
