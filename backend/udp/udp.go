// Package udp is the backend that carries packets in UDP datagrams, by way of a
// TUN device and this process: for hosts where the kernel, the provider or the
// policy allows no VXLAN.
package udp

import (
	"encoding/json"
	"fmt"
	"net/netip"

	"flanneld/backend"
	"flanneld/pkg/ip"
	"flanneld/pkg/state"
	"flanneld/subnet"
)

// Type is the backend's row in the table.
var Type = backend.Type{Name: "udp", Keys: []string{"Port", "MTU", "SourceCheck"}, IPv4Alone: true, New: func(section json.RawMessage) (backend.Backend, error) {
	b := udp{config{Port: defaultPort, SourceCheck: true}}
	if err := backend.Section(section, &b.config); err != nil {
		return nil, err
	}
	if err := b.Check(overhead); err != nil {
		return nil, err
	}
	if b.Port < 1 || b.Port > 65535 {
		return nil, &subnet.ConfigError{Key: "Backend.Port", Value: fmt.Sprint(b.Port), Reason: "is not between 1 and 65535"}
	}
	return b, nil
}}

const (
	defaultPort = 8285
	// overhead is the outer IP (20) and UDP (8) headers.
	overhead = 28
	maxMTU   = 65535
)

type udp struct{ config }

// config is the Backend object of the configuration.
type config struct {
	Port int
	backend.PathMTU
	// SourceCheck may be turned off where the addresses of peers are rewritten
	// on the way.
	SourceCheck bool
}

func (udp) Device(h backend.Host, _ ip.Family) string { return h.Prepared }

func (udp) Unencapsulated() bool { return false }

// Attrs name no backend, as they never have.
func (udp) Attrs(h backend.Host, _ backend.Past) (subnet.Attrs, error) {
	return subnet.Attrs{PublicIP: h.PublicIP()}, nil
}

// MTU has an end where a datagram has.
func (b udp) MTU(h backend.Host) int { return min(b.Of(h), maxMTU) - overhead }

func (b udp) Local(h backend.Host, network ip.Subnet, own *subnet.Lease) []state.Object {
	dev := h.Prepared
	// The peers send to the public address, and expect it as the source.
	local := h.V4.Addr
	if h.V4.OwnsPublicIP {
		local = h.V4.PublicIP
	}
	return []state.Object{
		state.TUN{Name: dev, MTU: b.MTU(h), Alias: state.TUNAlias(network.V4)},
		state.Addr{Dev: dev, Prefix: netip.PrefixFrom(own.Subnet.V4.Addr(), 32)},
		state.Tunnel{
			Dev: dev, Local: netip.AddrPortFrom(local, uint16(b.Port)),
			Own: own.Subnet.V4, Network: network.V4, MTU: b.MTU(h), SourceCheck: b.SourceCheck,
		},
		// It stays when this process ends, so that no packet takes another way. flannel, if
		// that is started then, makes a device of its own and a route with metric 0.
		state.Route{Dst: network.V4, Dev: dev, Metric: state.YieldingMetric},
	}
}

// Peer does not look at the lease's backend: leases of this one never named it.
func (udp) Peer(h backend.Host, _ ip.Family, _, peer *subnet.Lease) ([]state.Object, error) {
	return []state.Object{state.TunnelPeer{Dev: h.Prepared, Subnet: peer.Subnet.V4, Host: peer.PublicIP.V4}}, nil
}
