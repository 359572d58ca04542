package awsvpc

import (
	"encoding/json"
	"errors"
	"net/netip"
	"reflect"
	"testing"

	"flanneld/backend"
	"flanneld/pkg/ip"
	"flanneld/pkg/state"
	"flanneld/subnet"
)

var (
	host = backend.Host{V4: backend.Underlay{
		Iface: "eth0", MTU: 9001,
		Addr:     netip.MustParseAddr("10.0.1.4"),
		PublicIP: netip.MustParseAddr("203.0.113.9"),
	}}
	dst = netip.MustParsePrefix("10.1.5.0/24")
	own = &subnet.Lease{Subnet: ip.SubnetOf(dst)}
)

func newBackend(t *testing.T, section string) backend.Backend {
	t.Helper()
	b, err := backend.NewTable(Type).New(&subnet.Config{BackendType: "aws-vpc", Backend: json.RawMessage(section)})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestTables(t *testing.T) {
	for section, tables := range map[string][]string{
		`{"Type": "aws-vpc"}`:                                          {""},
		`{"RouteTableID": null}`:                                       {""},
		`{"RouteTableID": ""}`:                                         {""},
		`{"routetableid": "rtb-1a"}`:                                   {"rtb-1a"},
		`{"RouteTableID": ["rtb-2", "rtb-0123456789abcdef0"]}`:         {"rtb-0123456789abcdef0", "rtb-2"},
		`{"RouteTableID": ["rtb-2", "rtb-1", "rtb-2"], "Other": true}`: {"rtb-1", "rtb-2"},
	} {
		b := newBackend(t, section)
		want := []state.Object{state.CloudInterface{Host: host.V4.Addr}}
		var peers []state.Object
		for _, table := range tables {
			want = append(want, state.CloudRoute{Table: table, Dst: dst, Host: host.V4.Addr})
			peers = append(peers, state.CloudRoute{Table: table, Dst: dst})
		}
		if got := b.Local(host, ip.Subnet{}, own); !reflect.DeepEqual(got, want) {
			t.Errorf("%s: Local = %v, want %v", section, got, want)
		}
		if got, err := b.Peer(host, ip.V4, nil, own); err != nil || !reflect.DeepEqual(got, peers) {
			t.Errorf("%s: Peer = %v, %v, want %v", section, got, err, peers)
		}
	}
}

// Each family has its routes, and each interface is set once: that of both addresses, or one for
// each.
func TestFamilies(t *testing.T) {
	four, six := netip.MustParsePrefix("10.1.5.0/24"), netip.MustParsePrefix("fd00:5:0:1::/64")
	addr6 := netip.MustParseAddr("2001:db8::4")
	b := newBackend(t, `{"RouteTableID": "rtb-1"}`)
	route := func(dst netip.Prefix, to netip.Addr) state.Object {
		return state.CloudRoute{Table: "rtb-1", Dst: dst, Host: to}
	}
	for _, c := range []struct {
		own    ip.Subnet
		iface6 string
		want   []state.Object
	}{
		{ip.Subnet{V4: four}, "eth0", []state.Object{state.CloudInterface{Host: host.V4.Addr}, route(four, host.V4.Addr)}},
		{ip.Subnet{V6: six}, "eth0", []state.Object{state.CloudInterface{Host: addr6}, route(six, addr6)}},
		{ip.Subnet{V4: four, V6: six}, "eth0", []state.Object{state.CloudInterface{Host: host.V4.Addr}, route(four, host.V4.Addr), route(six, addr6)}},
		{ip.Subnet{V4: four, V6: six}, "eth1", []state.Object{
			state.CloudInterface{Host: host.V4.Addr}, route(four, host.V4.Addr), state.CloudInterface{Host: addr6}, route(six, addr6),
		}},
	} {
		h := host
		h.V6 = backend.Underlay{Iface: c.iface6, MTU: 9001, Addr: addr6, PublicIP: addr6}
		lease := &subnet.Lease{Subnet: c.own}
		if got := b.Local(h, ip.Subnet{}, lease); !reflect.DeepEqual(got, c.want) {
			t.Errorf("%s, %s: Local = %v, want %v", c.own, c.iface6, got, c.want)
		}
		for _, f := range c.own.Families() {
			if got, err := b.Peer(h, f, nil, lease); err != nil || !reflect.DeepEqual(got, []state.Object{route(c.own.Of(f), netip.Addr{})}) {
				t.Errorf("%s: Peer in %s = %v, %v", c.own, f, got, err)
			}
		}
	}
}

func TestBadTables(t *testing.T) {
	for section, want := range map[string]string{
		`{"RouteTableID": 7}`:              `network configuration: Backend.RouteTableID 7 is neither the ID of a route table nor a list of such`,
		`{"RouteTableID": ["rtb-1", 7]}`:   `network configuration: Backend.RouteTableID ["rtb-1", 7] is neither the ID of a route table nor a list of such`,
		`{"RouteTableID": []}`:             `network configuration: Backend.RouteTableID [] names no route table; without the key, the host's own is used`,
		`{"RouteTableID": "eni-1"}`:        `network configuration: Backend.RouteTableID "eni-1" is not the ID of a route table, such as rtb-0123456789abcdef0`,
		`{"RouteTableID": ["rtb-1", ""]}`:  `network configuration: Backend.RouteTableID "" is not the ID of a route table, such as rtb-0123456789abcdef0`,
		`{"RouteTableID": "rtb-1 "}`:       `network configuration: Backend.RouteTableID "rtb-1 " is not the ID of a route table, such as rtb-0123456789abcdef0`,
		`{"RouteTableID": "rtb-1\nrtb-2"}`: `network configuration: Backend.RouteTableID "rtb-1\nrtb-2" is not the ID of a route table, such as rtb-0123456789abcdef0`,
	} {
		_, err := Type.New(json.RawMessage(section))
		if err == nil || err.Error() != want || !errors.As(err, new(*subnet.ConfigError)) {
			t.Errorf("%s:\n%v, want\n%s", section, err, want)
		}
	}
}

func TestHost(t *testing.T) {
	b := newBackend(t, `{}`)
	if got := b.MTU(host); got != 9001 {
		t.Errorf("MTU = %d", got)
	}
	// The value under the key has never named this backend.
	if got, err := b.Attrs(host, backend.Past{}); err != nil || got != (subnet.Attrs{PublicIP: host.PublicIP()}) {
		t.Errorf("Attrs = %+v, %v", got, err)
	}
	if b.Device(backend.Host{}, ip.V4) != "" {
		t.Errorf("Device = %q", b.Device(backend.Host{}, ip.V4))
	}
}
