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
