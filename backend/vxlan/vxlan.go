// Package vxlan is the backend that carries packets in the kernel's VXLAN
// tunnels: in each address family a device on each host, and for each peer a neighbour
// entry, an FDB entry and a route. No packet ever asks user space for the way.
package vxlan

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"math"
	"net/netip"
	"slices"
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
	return vxlan{c, state.VXLANName(ip.V4, uint32(c.VNI)), state.VXLANName(ip.V6, uint32(c.VNI))}, nil
}}

const name = "vxlan"

var keys = []string{"VNI", "Port", "GBP", "Learning", "DirectRouting", "MTU", "TxChecksumOffload"}

type vxlan struct {
	config
	device4, device6 string // tens of thousands of objects share these names
}

// leaseData is what a lease says for the peers. Nobody looks at the VNI, which
// older versions of flannel do not write.
type leaseData struct {
	VNI     int
	VtepMAC state.MAC
}

// UsesLinks implements backend.Direct.
func (b vxlan) UsesLinks() bool { return b.DirectRouting }

// Device is one of its own in each family, as flannel has it.
func (b vxlan) Device(_ backend.Host, f ip.Family) string {
	if f == ip.V4 {
		return b.device4
	}
	return b.device6
}

func (b vxlan) Unencapsulated() bool { return b.DirectRouting }

// Attrs chooses the MAC address of each device: the one it has, the one that the peers
// know from our lease, or one that is made from what tells this host from
// others. A clone comes with the MAC of another host, and must not keep it.
func (b vxlan) Attrs(h backend.Host, past backend.Past) (subnet.Attrs, error) {
	if b.PathMTU.MTU > h.MTU() {
		return subnet.Attrs{}, &subnet.ConfigError{
			Key:    "Backend.MTU",
			Value:  fmt.Sprint(b.PathMTU.MTU),
			Reason: fmt.Sprintf("is more than the MTU %d of the interface %s, whose packets have to hold the encapsulated ones", h.MTU(), h.Narrowest().Iface),
		}
	}
	if h.V6.Iface != "" && b.VNI > maxVNI6 {
		return subnet.Attrs{}, &subnet.ConfigError{
			Key:    "Backend.VNI",
			Value:  fmt.Sprint(b.VNI),
			Reason: fmt.Sprintf("is above %d, the most with EnableIPv6: the device is called flannel-v6.VNI, and its name can have 15 characters", maxVNI6),
		}
	}
	attrs := subnet.Attrs{PublicIP: h.PublicIP(), BackendType: name}
	for _, f := range ip.Families {
		if h.Of(f).Iface == "" {
			continue
		}
		mac := past.MACs[b.Device(h, f)]
		if !mac.IsUnicast() && past.Lease.BackendType == name {
			mac, _ = vtep(past.Lease, f)
		}
		if !mac.IsUnicast() || taken(mac, f, past.Others) {
			mac = b.derivedMAC(h.Of(f))
		}
		data, err := json.Marshal(leaseData{b.VNI, mac})
		if err != nil {
			return subnet.Attrs{}, err
		}
		_, to := dataOf(&attrs, f)
		*to = string(data)
	}
	return attrs, nil
}

// dataOf returns where a lease has its data for a family, and the name of that.
func dataOf(a *subnet.Attrs, f ip.Family) (name string, data *string) {
	if f == ip.V4 {
		return "BackendData", &a.BackendData
	}
	return "BackendV6Data", &a.BackendV6Data
}

// taken reports whether one of the leases says that its host has that MAC.
func taken(m state.MAC, f ip.Family, leases []*subnet.Lease) bool {
	return slices.ContainsFunc(leases, func(l *subnet.Lease) bool {
		its, err := vtep(l.Attrs, f)
		return err == nil && l.BackendType == name && its == m
	})
}

// derivedMAC is locally administered, and the same whenever the same host asks.
func (b vxlan) derivedMAC(u backend.Underlay) state.MAC {
	sum := sha256.Sum256(fmt.Appendf(nil, "VTEP %d of %s at %s", b.VNI, u.ID, u.PublicIP))
	mac := state.MAC(sum[:6])
	mac[0] = mac[0]&^1 | 2
	return mac
}

// vtep returns the MAC address of the device that the lease's host has for a family.
func vtep(a subnet.Attrs, f ip.Family) (state.MAC, error) {
	field, data := dataOf(&a, f)
	if *data == "" {
		return state.MAC{}, fmt.Errorf("its %s, with the VtepMAC, is missing", field)
	}
	var d struct{ VtepMAC state.MAC }
	if m, ok := quickVTEP(*data); ok {
		d.VtepMAC = m
	} else if err := json.Unmarshal([]byte(*data), &d); err != nil {
		return state.MAC{}, fmt.Errorf("its %s %.100q cannot be read: %w", field, *data, err)
	}
	if !d.VtepMAC.IsUnicast() {
		return state.MAC{}, fmt.Errorf("its %s %.100q has no VtepMAC that a host could have", field, *data)
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

// MTU is that of the smallest device: pods have one for both families.
func (b vxlan) MTU(h backend.Host) int {
	least := math.MaxInt
	for _, f := range ip.Families {
		if u := h.Of(f); u.Iface != "" {
			least = min(least, b.deviceMTU(f, u))
		}
	}
	return least
}

func (b vxlan) deviceMTU(f ip.Family, u backend.Underlay) int {
	return b.By(u) - state.VXLANOverhead(f)
}

// Local has a device for each family of our subnet.
func (b vxlan) Local(h backend.Host, _ ip.Subnet, own *subnet.Lease) []state.Object {
	var objects []state.Object
	for _, f := range own.Subnet.Families() {
		u, dev := h.Of(f), b.Device(h, f)
		mac, err := vtep(own.Attrs, f)
		if err != nil {
			mac = b.derivedMAC(u) // not in a lease that is made of our Attrs
		}
		objects = append(objects,
			state.VXLAN{
				Name: dev, VNI: uint32(b.VNI), Port: uint16(b.Port),
				Lower: u.Iface, Local: u.Addr,
				GBP: b.GBP, Learning: b.Learning,
				MAC: mac, MTU: b.deviceMTU(f, u), TxChecksumOff: !b.TxChecksumOffload,
			},
			state.Addr{Dev: dev, Prefix: netip.PrefixFrom(own.Subnet.Of(f).Addr(), f.Bits())},
		)
	}
	return objects
}

// Peer returns a route that leads into the tunnel, by way of the base address of
// the peer's subnet, which the entries tie to its device and that to its host.
func (b vxlan) Peer(h backend.Host, f ip.Family, own, peer *subnet.Lease) ([]state.Object, error) {
	if peer.BackendType != name {
		return nil, fmt.Errorf("ignored: the lease is of backend %q, not %s", peer.BackendType, name)
	}
	dst, to := peer.Subnet.Of(f), peer.PublicIP.Of(f)
	if b.DirectRouting && h.OnLink(to) {
		return backend.RouteTo(h, state.Route{Dst: dst, Via: to, Dev: h.Of(f).Iface}), nil
	}
	mac, err := vtep(peer.Attrs, f)
	if err != nil {
		return nil, backend.Unreadable{Err: err}
	}
	if its, err := vtep(own.Attrs, f); err == nil && its == mac {
		return nil, fmt.Errorf("its VtepMAC %s is this host's own; one of the two has to get another one", mac)
	}
	dev := b.Device(h, f)
	objects := make([]state.Object, 0, 4)
	objects = append(objects, state.Neigh{Dev: dev, Addr: dst.Addr(), MAC: mac}, state.FDB{Dev: dev, MAC: mac, Dst: to})
	return append(objects, backend.RouteTo(h, state.Route{Dst: dst, Via: dst.Addr(), Dev: dev, Onlink: true})...), nil
}
