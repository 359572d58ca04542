// Package hostgw is the backend that makes each host the gateway to its own
// subnet: a plain route for each peer, and so all hosts on one link.
package hostgw

import (
	"encoding/json"
	"fmt"

	"flanneld/backend"
	"flanneld/pkg/ip"
	"flanneld/pkg/state"
	"flanneld/subnet"
)

// Type is the backend's row in the table.
var Type = backend.Type{Name: name, Keys: []string{"MTU"}, New: func(section json.RawMessage) (backend.Backend, error) {
	mtu, err := backend.ParsePathMTU(section)
	if err != nil {
		return nil, err
	}
	return hostgw{mtu}, nil
}}

const name = "host-gw"

type hostgw struct{ backend.PathMTU }

func (hostgw) Device(backend.Host, ip.Family) string { return "" }

func (hostgw) Unencapsulated() bool { return true }

// Attrs refuses a public address that is not the interface's own: the peers
// could not use it as a gateway.
func (hostgw) Attrs(h backend.Host, _ backend.Past) (subnet.Attrs, error) {
	for _, f := range ip.Families {
		if u := h.Of(f); u.PublicIP != u.Addr {
			return subnet.Attrs{}, fmt.Errorf("backend host-gw needs peers to send straight to this host: the public address %s must be the address of %s, %s",
				u.PublicIP, u.Iface, u.Addr)
		}
	}
	return subnet.Attrs{PublicIP: h.PublicIP(), BackendType: name}, nil
}

// MTU is for pods alone: packets go out by the interface as they are.
func (b hostgw) MTU(h backend.Host) int { return b.Of(h) }

func (hostgw) Local(backend.Host, ip.Subnet, *subnet.Lease) []state.Object { return nil }

func (hostgw) Peer(h backend.Host, f ip.Family, _, peer *subnet.Lease) ([]state.Object, error) {
	if peer.BackendType != name {
		return nil, fmt.Errorf("ignored: the lease is of backend %q, not %s", peer.BackendType, name)
	}
	return backend.RouteTo(h, state.Route{Dst: peer.Subnet.Of(f), Via: peer.PublicIP.Of(f), Dev: h.Of(f).Iface}), nil
}
