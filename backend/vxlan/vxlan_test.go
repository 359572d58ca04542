package vxlan

import (
	"encoding/json"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"flanneld/backend"
	"flanneld/pkg/ip"
	"flanneld/pkg/state"
	"flanneld/subnet"
)

var (
	v4   = netip.MustParseAddr
	host = backend.Host{V4: backend.Underlay{
		Iface: "eth1", MTU: 1500, Up: true,
		Addr:     v4("192.0.2.1"),
		Net:      netip.MustParsePrefix("192.0.2.0/24"),
		PublicIP: v4("203.0.113.1"),
		ID:       "machine 02:00:00:00:00:01",
	}}
	ownMAC  = state.MAC{2, 0, 0, 0, 0, 0xaa}
	peerMAC = state.MAC{2, 0, 0, 0, 0, 0xbb}
)

func lease(key, public, data string) *subnet.Lease {
	s, err := ip.ParseKey(key)
	if err != nil {
		panic(err)
	}
	return &subnet.Lease{Subnet: s, Attrs: subnet.Attrs{PublicIP: ip.Addrs{V4: v4(public)}, BackendType: name, BackendData: data}}
}

func newBackend(t *testing.T, section string) backend.Backend {
	t.Helper()
	b, err := backend.NewTable(Type).New(&subnet.Config{BackendType: name, Backend: []byte(section)})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestConfig(t *testing.T) {
	for section, want := range map[string]config{
		``:                 {VNI: 1, Port: 8472, TxChecksumOffload: true},
		`{"Type":"vxlan"}`: {VNI: 1, Port: 8472, TxChecksumOffload: true},
		`{"vni":7,"PORT":4789,"gbp":true,"Learning":true,"DirectRouting":true,"MTU":1400,"TxChecksumOffload":false,"Other":[1]}`: {
			VNI: 7, Port: 4789, GBP: true, Learning: true, DirectRouting: true, PathMTU: backend.PathMTU{MTU: 1400},
		},
		`{"VNI":9999999,"Port":65535,"MTU":65535}`: {VNI: 9999999, Port: 65535, PathMTU: backend.PathMTU{MTU: 65535}, TxChecksumOffload: true},
		`{"VNI":0,"Port":0,"MTU":0}`:               {Port: 8472, TxChecksumOffload: true},
		`{"VNI":null,"MTU":null}`:                  {VNI: 1, Port: 8472, TxChecksumOffload: true},
	} {
		if got, err := parse([]byte(section)); err != nil || got != want {
			t.Errorf("%s: %+v, %v; want %+v", section, got, err, want)
		}
	}
	for section, parts := range map[string][]string{
		`{"VNI":10000000}`:             {"Backend.VNI 10000000", "9999999", "15 characters"},
		`{"VNI":16777216}`:             {"Backend.VNI 16777216", "9999999"},
		`{"MTU":117}`:                  {"Backend.MTU 117", "118"},
		`{"MTU":65536}`:                {"Backend.MTU 65536", "65535"},
		`{"VNI":-1}`:                   {"Backend.VNI -1"},
		`{"VNI":"1"}`:                  {"Backend.VNI", "string", "whole number"},
		`{"VNI":1.5}`:                  {"Backend.VNI", "1.5", "whole number"},
		`{"Port":65536}`:               {"Backend.Port 65536", "8472"},
		`{"Port":"4789"}`:              {"Backend.Port", "whole number"},
		`{"MTU":50}`:                   {"Backend.MTU 50", "118"},
		`{"MTU":99999999999999999999}`: {"Backend.MTU", "whole number"},
		`{"GBP":1}`:                    {"Backend.GBP", "true or false"},
		`{"Learning":"yes"}`:           {"Backend.Learning", "true or false"},
		`{"DirectRouting":[]}`:         {"Backend.DirectRouting", "true or false"},
		`{"TxChecksumOffload":0}`:      {"Backend.TxChecksumOffload", "true or false"},
	} {
		_, err := Type.New([]byte(section))
		if err == nil {
			t.Errorf("%s is accepted", section)
			continue
		}
		for _, part := range parts {
			if !strings.Contains(err.Error(), part) {
				t.Errorf("%s: the error %q does not tell %q", section, err, part)
			}
		}
	}
}

func macOf(t *testing.T, a subnet.Attrs) state.MAC {
	t.Helper()
	m, err := vtep(a, ip.V4)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// at5 is the MAC of flannel.5.
func at5(m state.MAC) map[string]state.MAC { return map[string]state.MAC{"flannel.5": m} }

func TestAttrs(t *testing.T) {
	b := newBackend(t, `{"VNI":5}`)
	if b.Device(backend.Host{}, ip.V4) != "flannel.5" {
		t.Errorf("the device is %s", b.Device(backend.Host{}, ip.V4))
	}
	other := lease("10.5.1.0-24", "203.0.113.1", `{"VtepMAC":"02:00:00:00:00:cc"}`).Attrs
	attrs, err := b.Attrs(host, backend.Past{MACs: at5(ownMAC), Lease: other})
	if want := (subnet.Attrs{PublicIP: host.PublicIP(), BackendType: "vxlan", BackendData: `{"VNI":5,"VtepMAC":"02:00:00:00:00:aa"}`}); err != nil || attrs != want {
		t.Errorf("with a device: %+v, %v, want %+v", attrs, err, want)
	}
	attrs, err = b.Attrs(host, backend.Past{Lease: other})
	if err != nil || macOf(t, attrs).String() != "02:00:00:00:00:cc" {
		t.Errorf("with a lease: %+v, %v", attrs, err)
	}

	derive := func(h backend.Host, p backend.Past) state.MAC {
		t.Helper()
		attrs, err := b.Attrs(h, p)
		if err != nil {
			t.Fatal(err)
		}
		return macOf(t, attrs)
	}
	mac := derive(host, backend.Past{})
	if !mac.IsUnicast() || mac[0]&2 == 0 {
		t.Errorf("%s is not a locally administered unicast address", mac)
	}
	for name, p := range map[string]backend.Past{
		"again":                    {},
		"a lease of host-gw":       {Lease: subnet.Attrs{BackendType: "host-gw", BackendData: other.BackendData}},
		"a lease without data":     {Lease: subnet.Attrs{BackendType: "vxlan"}},
		"a lease with a group MAC": {Lease: subnet.Attrs{BackendType: "vxlan", BackendData: `{"VtepMAC":"01:00:00:00:00:cc"}`}},
		"a device with a zero MAC": {MACs: at5(state.MAC{})},
	} {
		if m := derive(host, p); m != mac {
			t.Errorf("%s: %s, want %s", name, m, mac)
		}
	}
	others := []*subnet.Lease{
		lease("10.5.1.0-24", "203.0.113.1", `{"VtepMAC":"02:00:00:00:00:CC"}`),
		lease("10.5.2.0-24", "203.0.113.2", ""),
	}
	for name, p := range map[string]backend.Past{
		"another host has the device's MAC": {MACs: at5(state.MAC{2, 0, 0, 0, 0, 0xcc}), Others: others},
		"another host has the lease's MAC":  {Lease: other, Others: others},
	} {
		if m := derive(host, p); m != mac {
			t.Errorf("%s: %s, want %s", name, m, mac)
		}
	}
	if m := derive(host, backend.Past{MACs: at5(ownMAC), Others: others}); m != ownMAC {
		t.Errorf("other hosts have other MACs: %s", m)
	}
	clone := host
	clone.V4.ID, clone.V4.MTU = "machine 02:00:00:00:00:02", 9000
	if m := derive(clone, backend.Past{}); m == mac {
		t.Error("a clone of the host has the same MAC")
	}
	larger := host
	larger.V4.MTU = 9000
	if m := derive(larger, backend.Past{}); m != mac {
		t.Error("the MAC depends on the MTU")
	}
}

func TestMTU(t *testing.T) {
	h := host
	if m := newBackend(t, ``).MTU(h); m != 1450 {
		t.Errorf("MTU %d", m)
	}
	b := newBackend(t, `{"MTU":1400}`)
	if m := b.MTU(h); m != 1350 {
		t.Errorf("MTU %d", m)
	}
	h.V4.MTU = 1300
	if m := b.MTU(h); m != 1250 {
		t.Errorf("MTU %d on an interface that got a smaller one", m)
	}
	_, err := newBackend(t, `{"MTU":1501}`).Attrs(host, backend.Past{})
	for _, part := range []string{"1501", "1500", "eth1"} {
		if err == nil || !strings.Contains(err.Error(), part) {
			t.Errorf("the error %v does not tell %s", err, part)
		}
	}
}

var compare = cmpopts.EquateComparable(netip.Prefix{}, netip.Addr{}, state.MAC{})

func ownLease(t *testing.T, b backend.Backend) *subnet.Lease {
	t.Helper()
	attrs, err := b.Attrs(host, backend.Past{MACs: map[string]state.MAC{b.Device(host, ip.V4): ownMAC}})
	if err != nil {
		t.Fatal(err)
	}
	return &subnet.Lease{Subnet: ip.SubnetOf(netip.MustParsePrefix("10.5.1.0/24")), Attrs: attrs}
}

func TestLocal(t *testing.T) {
	b := newBackend(t, `{"VNI":3,"Port":4789,"GBP":true,"Learning":true,"TxChecksumOffload":false}`)
	want := []state.Object{
		state.VXLAN{
			Name: "flannel.3", VNI: 3, Port: 4789, Lower: "eth1", Local: v4("192.0.2.1"), // not the public address
			GBP: true, Learning: true, MAC: ownMAC, MTU: 1450, TxChecksumOff: true,
		},
		state.Addr{Dev: "flannel.3", Prefix: netip.MustParsePrefix("10.5.1.0/32")},
	}
	if diff := cmp.Diff(want, b.Local(host, ip.Subnet{}, ownLease(t, b)), compare); diff != "" {
		t.Errorf("objects (-want +got):\n%s", diff)
	}
}

func TestPeer(t *testing.T) {
	const data = `{"VNI":1,"VtepMAC":"02:00:00:00:00:BB"}`
	tunnel, direct := newBackend(t, ``), newBackend(t, `{"DirectRouting":true}`)
	dst := netip.MustParsePrefix("10.5.2.0/24")
	entries := func(public string) []state.Object {
		return []state.Object{
			state.Neigh{Dev: "flannel.1", Addr: v4("10.5.2.0"), MAC: peerMAC},
			state.FDB{Dev: "flannel.1", MAC: peerMAC, Dst: v4(public)},
		}
	}
	far := state.Route{Dst: dst, Via: v4("10.5.2.0"), Dev: "flannel.1", Onlink: true}
	near := state.Route{Dst: dst, Via: v4("192.0.2.2"), Dev: "eth1"}
	byNexthop := func(r state.Route) []state.Object {
		r.Nexthop = 0x0a050200
		return []state.Object{state.Nexthop{ID: r.Nexthop, Via: r.Via, Dev: r.Dev, Onlink: r.Onlink}, r}
	}
	for _, test := range []struct {
		name     string
		b        backend.Backend
		peer     *subnet.Lease
		nexthops bool
		want     []state.Object
	}{
		{"on the link", tunnel, lease("10.5.2.0-24", "192.0.2.2", data), false, append(entries("192.0.2.2"), far)},
		{"elsewhere", tunnel, lease("10.5.2.0-24", "198.51.100.2", data), false, append(entries("198.51.100.2"), far)},
		{"of an old flannel", tunnel, lease("10.5.2.0-24", "198.51.100.2", `{"VtepMAC":"02:00:00:00:00:bb"}`), false, append(entries("198.51.100.2"), far)},
		{"with an odd VNI", tunnel, lease("10.5.2.0-24", "198.51.100.2", `{"VNI":"one","VtepMAC":"02:00:00:00:00:bb"}`), false, append(entries("198.51.100.2"), far)},
		{"large", tunnel, lease("10.5.2.0-24", "198.51.100.2", data), true, append(entries("198.51.100.2"), byNexthop(far)...)},
		{"direct", direct, lease("10.5.2.0-24", "192.0.2.2", data), false, []state.Object{near}},
		{"direct, large", direct, lease("10.5.2.0-24", "192.0.2.2", data), true, byNexthop(near)},
		{"direct, without data", direct, lease("10.5.2.0-24", "192.0.2.2", ""), false, []state.Object{near}},
		{"not direct: behind a router", direct, lease("10.5.2.0-24", "192.0.2.99", data), false, append(entries("192.0.2.99"), far)},
		{"not direct: elsewhere", direct, lease("10.5.2.0-24", "198.51.100.2", data), false, append(entries("198.51.100.2"), far)},
	} {
		t.Run(test.name, func(t *testing.T) {
			h := host
			h.Nexthops = test.nexthops
			h.Links = links{"eth1", v4("192.0.2.2")}
			got, err := test.b.Peer(h, ip.V4, ownLease(t, test.b), test.peer)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(test.want, got, compare); diff != "" {
				t.Errorf("objects (-want +got):\n%s", diff)
			}
		})
	}
}

// dual is host with IPv6, too, by an interface of its own.
func dual() backend.Host {
	h := host
	h.V6 = backend.Underlay{
		Iface: "eth2", MTU: 1500, Up: true,
		Addr:     v4("2001:db8::1"),
		Net:      netip.MustParsePrefix("2001:db8::/64"),
		PublicIP: v4("2001:db8::1"),
		ID:       "machine 02:00:00:00:00:09",
	}
	return h
}

// With IPv6 there is a second device, with a MAC address and an MTU of its own, and nothing
// about IPv4 is another than without.
func TestFamilies(t *testing.T) {
	b := newBackend(t, `{"VNI":5}`)
	alone, err := b.Attrs(host, backend.Past{})
	if err != nil {
		t.Fatal(err)
	}
	attrs, err := b.Attrs(dual(), backend.Past{})
	if err != nil {
		t.Fatal(err)
	}
	m4, err4 := vtep(attrs, ip.V4)
	m6, err6 := vtep(attrs, ip.V6)
	if err4 != nil || err6 != nil || m4 == m6 || attrs.BackendData != alone.BackendData || attrs.PublicIP != (ip.Addrs{V4: host.V4.PublicIP, V6: dual().V6.PublicIP}) {
		t.Errorf("got %+v, want the MAC address of %+v, and another one for IPv6", attrs, alone)
	}
	later, err := b.Attrs(dual(), backend.Past{Lease: alone})
	if err != nil || later != attrs {
		t.Errorf("a host that gets IPv6 later says %+v, %v; want %+v", later, err, attrs)
	}
	kept, err := b.Attrs(dual(), backend.Past{MACs: map[string]state.MAC{"flannel-v6.5": ownMAC}})
	if m, _ := vtep(kept, ip.V6); err != nil || m != ownMAC || kept.BackendData != alone.BackendData {
		t.Errorf("with a device for IPv6 alone: %+v, %v", kept, err)
	}

	own := &subnet.Lease{Subnet: ip.Subnet{V4: netip.MustParsePrefix("10.5.1.0/24"), V6: netip.MustParsePrefix("fc00:5:0:1::/64")}, Attrs: attrs}
	v4Device := state.VXLAN{Name: "flannel.5", VNI: 5, Port: 8472, Lower: "eth1", Local: v4("192.0.2.1"), MAC: m4, MTU: 1450}
	v6Device := state.VXLAN{Name: "flannel-v6.5", VNI: 5, Port: 8472, Lower: "eth2", Local: v4("2001:db8::1"), MAC: m6, MTU: 1430}
	v4Addr := state.Addr{Dev: "flannel.5", Prefix: netip.MustParsePrefix("10.5.1.0/32")}
	v6Addr := state.Addr{Dev: "flannel-v6.5", Prefix: netip.MustParsePrefix("fc00:5:0:1::/128")}
	if diff := cmp.Diff([]state.Object{v4Device, v4Addr, v6Device, v6Addr}, b.Local(dual(), ip.Subnet{}, own), compare); diff != "" {
		t.Errorf("objects (-want +got):\n%s", diff)
	}
	if mtu := b.MTU(dual()); mtu != 1430 {
		t.Errorf("pods get the MTU %d", mtu)
	}
	only := *own // of a host that has no IPv6 subnet yet
	only.Subnet.V6 = netip.Prefix{}
	if diff := cmp.Diff([]state.Object{v4Device, v4Addr}, b.Local(dual(), ip.Subnet{}, &only), compare); diff != "" {
		t.Errorf("objects with one family (-want +got):\n%s", diff)
	}

	peer := lease("10.5.2.0-24&fc00:5:0:2::-64", "192.0.2.2", `{"VNI":5,"VtepMAC":"02:00:00:00:00:BB"}`)
	peer.PublicIP.V6, peer.BackendV6Data = v4("2001:db8:7::2"), `{"VNI":5,"VtepMAC":"02:00:00:00:00:cc"}`
	cc := state.MAC{2, 0, 0, 0, 0, 0xcc}
	got, err := b.Peer(dual(), ip.V6, own, peer)
	want := []state.Object{
		state.Neigh{Dev: "flannel-v6.5", Addr: v4("fc00:5:0:2::"), MAC: cc},
		state.FDB{Dev: "flannel-v6.5", MAC: cc, Dst: v4("2001:db8:7::2")},
		state.Route{Dst: netip.MustParsePrefix("fc00:5:0:2::/64"), Via: v4("fc00:5:0:2::"), Dev: "flannel-v6.5", Onlink: true},
	}
	if diff := cmp.Diff(want, got, compare); err != nil || diff != "" {
		t.Errorf("%v, objects (-want +got):\n%s", err, diff)
	}
	peer.BackendV6Data = ""
	if _, err := b.Peer(dual(), ip.V6, own, peer); err == nil || !strings.Contains(err.Error(), "BackendV6Data") {
		t.Errorf("without data for IPv6: %v", err)
	}
	if _, err := b.Peer(dual(), ip.V4, own, peer); err != nil {
		t.Errorf("without data for IPv6, IPv4 is not served: %v", err)
	}

	h := dual()
	h.Links = links{"eth2", v4("2001:db8::2")}
	peer.PublicIP.V6 = v4("2001:db8::2")
	got, err = newBackend(t, `{"DirectRouting":true}`).Peer(h, ip.V6, own, peer)
	want = []state.Object{state.Route{Dst: netip.MustParsePrefix("fc00:5:0:2::/64"), Via: v4("2001:db8::2"), Dev: "eth2"}}
	if diff := cmp.Diff(want, got, compare); err != nil || diff != "" {
		t.Errorf("direct: %v, objects (-want +got):\n%s", err, diff)
	}

	if _, err := newBackend(t, `{"VNI":10000}`).Attrs(dual(), backend.Past{}); err == nil || !strings.Contains(err.Error(), "9999") {
		t.Errorf("the VNI 10000 with IPv6: %v", err)
	}
	if _, err := newBackend(t, `{"VNI":10000}`).Attrs(host, backend.Past{}); err != nil {
		t.Errorf("the VNI 10000: %v", err)
	}
	h.V6.MTU = 1349
	if err := backend.CheckMTU(&subnet.Config{}, b, h); err == nil || !strings.Contains(err.Error(), "eth2") || !strings.Contains(err.Error(), "1280") {
		t.Errorf("an interface that is too small for IPv6: %v", err)
	}
	h.V6.MTU++
	if err := backend.CheckMTU(&subnet.Config{}, b, h); err != nil {
		t.Error(err)
	}
	const small = `{"MTU":1340}`
	err = backend.CheckMTU(&subnet.Config{Backend: []byte(small)}, newBackend(t, small), dual())
	if want := "Backend.MTU 1340 leaves 1270 bytes for pods' packets, and IPv6 needs 1280: it has to be 1350 or more"; err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("%s with IPv6: %v, want %s", small, err, want)
	}
	if err := backend.CheckMTU(&subnet.Config{Backend: []byte(small)}, newBackend(t, small), host); err != nil {
		t.Errorf("%s without IPv6: %v", small, err)
	}
}

// links have one host on the link of one interface.
type links struct {
	iface string
	host  netip.Addr
}

func (l links) OnLink(iface string, a netip.Addr) bool { return l == links{iface, a} }

// While it is not known who is on the link, all packets are tunnelled.
func TestDirectRoutingWithoutLinks(t *testing.T) {
	b := newBackend(t, `{"DirectRouting":true}`)
	objects, err := b.Peer(host, ip.V4, ownLease(t, b), lease("10.5.2.0-24", "192.0.2.2", `{"VNI":1,"VtepMAC":"02:00:00:00:00:BB"}`))
	if err != nil || len(objects) != 3 {
		t.Errorf("objects %v, %v", objects, err)
	}
	if b.(backend.Direct).UsesLinks() == newBackend(t, ``).(backend.Direct).UsesLinks() {
		t.Error("a backend that tunnels always asks for links, too")
	}
}

func TestUnusablePeers(t *testing.T) {
	b := newBackend(t, ``)
	hostGW := lease("10.5.2.0-24", "192.0.2.2", "")
	hostGW.BackendType = "host-gw"
	udp := lease("10.5.2.0-24", "192.0.2.2", "")
	udp.BackendType = ""
	for want, peer := range map[string]*subnet.Lease{
		`"host-gw"`:            hostGW,
		`""`:                   udp,
		"is missing":           lease("10.5.2.0-24", "192.0.2.2", ""),
		"cannot be read":       lease("10.5.2.0-24", "192.0.2.2", `"x"`),
		"not a MAC":            lease("10.5.2.0-24", "192.0.2.2", `{"VtepMAC":"x"}`),
		"no VtepMAC":           lease("10.5.2.0-24", "192.0.2.2", `{}`),
		"that a host":          lease("10.5.2.0-24", "192.0.2.2", `{"VtepMAC":"ff:ff:ff:ff:ff:ff"}`),
		"02:00:00:00:00:aa is": lease("10.5.2.0-24", "192.0.2.2", `{"VtepMAC":"02:00:00:00:00:AA"}`),
	} {
		objects, err := b.Peer(host, ip.V4, ownLease(t, b), peer)
		if err == nil || !strings.Contains(err.Error(), want) || len(objects) > 0 {
			t.Errorf("%s: %v, %v; want an error with %q", peer.BackendData, objects, err, want)
		}
	}
}

// Whatever a lease says, there is no panic, and nothing half.
func FuzzPeer(f *testing.F) {
	f.Add(`{"VNI":1,"VtepMAC":"02:00:00:00:00:bb"}`)
	f.Add(`{"VtepMAC":null}`)
	f.Add(`[]`)
	b, err := Type.New(nil)
	if err != nil {
		f.Fatal(err)
	}
	own := &subnet.Lease{Attrs: subnet.Attrs{BackendData: `{"VtepMAC":"02:00:00:00:00:aa"}`}}
	f.Fuzz(func(t *testing.T, data string) {
		objects, err := b.Peer(host, ip.V4, own, lease("10.5.2.0-24", "192.0.2.2", data))
		if (err == nil) != (len(objects) == 3) {
			t.Fatalf("%d objects, %v", len(objects), err)
		}
		if err == nil && !json.Valid([]byte(data)) {
			t.Fatalf("%q is accepted", data)
		}
	})
}
