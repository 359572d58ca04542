// Package vxlan is the backend that carries packets in the kernel's VXLAN
// tunnels: a device on each host, and for each peer a neighbour entry, an FDB
// entry and a route. No packet ever asks user space for the way.
package vxlan

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"flanneld/backend"
	"flanneld/pkg/ip"
	"flanneld/pkg/state"
	"flanneld/subnet"
)

// Type is the backend's row in the table.
var Type = backend.Type{Name: name, Keys: keys, New: func(section json.RawMessage) (backend.Backend, error) {
	c, err := parse(section)
	if err != nil {
		return nil, err
	}
	return vxlan{c}, nil
}}

const name = "vxlan"

var keys = []string{"VNI", "Port", "GBP", "Learning", "DirectRouting", "MTU", "TxChecksumOffload"}

type vxlan struct{ config }

// leaseData is what a lease says for the peers. Nobody looks at the VNI, which
// older versions of flannel do not write.
type leaseData struct {
	VNI     int
	VtepMAC state.MAC
}

// UsesLinks implements backend.Direct.
func (b vxlan) UsesLinks() bool { return b.DirectRouting }

func (b vxlan) Device(backend.Host) string { return "flannel." + strconv.Itoa(b.VNI) }

func (b vxlan) Unencapsulated() bool { return b.DirectRouting }

// Attrs chooses the device's MAC address: the one it has, the one that the peers
// know from our lease, or one that is made from what tells this host from
// others. A clone comes with the MAC of another host, and must not keep it.
func (b vxlan) Attrs(h backend.Host, past backend.Past) (subnet.Attrs, error) {
	if b.PathMTU.MTU > h.MTU() {
		return subnet.Attrs{}, &subnet.ConfigError{
			Key:    "Backend.MTU",
			Value:  fmt.Sprint(b.PathMTU.MTU),
			Reason: fmt.Sprintf("is more than the MTU %d of the interface %s, whose packets have to hold the encapsulated ones", h.MTU(), h.First().Iface),
		}
	}
	mac := past.MAC
	if !mac.IsUnicast() && past.Lease.BackendType == name {
		mac, _ = vtep(past.Lease)
	}
	if !mac.IsUnicast() || taken(mac, past.Others) {
		mac = b.derivedMAC(h)
	}
	data, err := json.Marshal(leaseData{b.VNI, mac})
	if err != nil {
		return subnet.Attrs{}, err
	}
	return subnet.Attrs{PublicIP: h.PublicIP(), BackendType: name, BackendData: string(data)}, nil
}

// taken reports whether one of the leases says that its host has that MAC.
func taken(m state.MAC, leases []*subnet.Lease) bool {
	return slices.ContainsFunc(leases, func(l *subnet.Lease) bool {
		its, err := vtep(l.Attrs)
		return err == nil && l.BackendType == name && its == m
	})
}

// derivedMAC is locally administered, and the same whenever the same host asks.
func (b vxlan) derivedMAC(h backend.Host) state.MAC {
	sum := sha256.Sum256(fmt.Appendf(nil, "VTEP %d of %s at %s", b.VNI, h.ID, h.PublicIP()))
	mac := state.MAC(sum[:6])
	mac[0] = mac[0]&^1 | 2
	return mac
}

// vtep returns the MAC address of the device of the lease's host.
func vtep(a subnet.Attrs) (state.MAC, error) {
	if a.BackendData == "" {
		return state.MAC{}, fmt.Errorf("its BackendData, with the VtepMAC, is missing")
	}
	var d struct{ VtepMAC state.MAC }
	if m, ok := quickVTEP(a.BackendData); ok {
		d.VtepMAC = m
	} else if err := json.Unmarshal([]byte(a.BackendData), &d); err != nil {
		return state.MAC{}, fmt.Errorf("its BackendData %.100q cannot be read: %w", a.BackendData, err)
	}
	if !d.VtepMAC.IsUnicast() {
		return state.MAC{}, fmt.Errorf("its BackendData %.100q has no VtepMAC that a host could have", a.BackendData)
	}
	return d.VtepMAC, nil
}

// quickVTEP reads what is written just as flannel writes it. There may be 50,000
// of these.
func quickVTEP(data string) (state.MAC, bool) {
	rest, ok := strings.CutPrefix(data, `{"VNI":`)
	if ok {
		digits := len(rest) - len(strings.TrimLeft(rest, "0123456789"))
		if digits == 0 || rest[0] == '0' {
			return state.MAC{}, false
		}
		rest, ok = strings.CutPrefix(rest[digits:], ",")
	} else {
		rest, ok = strings.CutPrefix(data, "{")
	}
	if !ok {
		return state.MAC{}, false
	}
	rest, ok = strings.CutPrefix(rest, `"VtepMAC":"`)
	text, end := strings.CutSuffix(rest, `"}`)
	if !ok || !end {
		return state.MAC{}, false
	}
	m, err := state.ParseMAC(text)
	return m, err == nil
}

func (b vxlan) MTU(h backend.Host) int { return b.Of(h) - overhead }

func (b vxlan) Local(h backend.Host, _ ip.Subnet, own *subnet.Lease) []state.Object {
	mac, err := vtep(own.Attrs)
	if err != nil {
		mac = b.derivedMAC(h) // not in a lease that is made of our Attrs
	}
	return []state.Object{
		state.VXLAN{
			Name: b.Device(h), VNI: uint32(b.VNI), Port: uint16(b.Port),
			Lower: h.V4.Iface, Local: h.V4.Addr,
			GBP: b.GBP, Learning: b.Learning,
			MAC: mac, MTU: b.MTU(h), TxChecksumOff: !b.TxChecksumOffload,
		},
		state.Addr{Dev: b.Device(h), Prefix: netip.PrefixFrom(own.Subnet.V4.Addr(), 32)},
	}
}

// Peer returns a route that leads into the tunnel, by way of the base address of
// the peer's subnet, which the entries tie to its device and that to its host.
func (b vxlan) Peer(h backend.Host, own, peer *subnet.Lease) ([]state.Object, error) {
	if peer.BackendType != name {
		return nil, fmt.Errorf("ignored: the lease is of backend %q, not %s", peer.BackendType, name)
	}
	dst, to := peer.Subnet.V4, peer.PublicIP.V4
	if b.DirectRouting && h.OnLink(to) {
		return backend.RouteTo(h, state.Route{Dst: dst, Via: to, Dev: h.V4.Iface}), nil
	}
	mac, err := vtep(peer.Attrs)
	if err != nil {
		return nil, backend.Unreadable{Err: err}
	}
	if strings.Contains(own.BackendData, mac.String()) {
		return nil, fmt.Errorf("its VtepMAC %s is this host's own; one of the two has to get another one", mac)
	}
	dev := b.Device(h)
	return append([]state.Object{
		state.Neigh{Dev: dev, Addr: dst.Addr(), MAC: mac},
		state.FDB{Dev: dev, MAC: mac, Dst: to},
	}, backend.RouteTo(h, state.Route{Dst: dst, Via: dst.Addr(), Dev: dev, Onlink: true})...), nil
}
