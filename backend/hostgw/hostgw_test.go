package hostgw

import (
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
		Iface: "eth1", MTU: 9001,
		Addr:     v4("192.0.2.1"),
		Net:      netip.MustParsePrefix("192.0.2.0/24"),
		PublicIP: v4("192.0.2.1"),
	}, V6: backend.Underlay{Iface: "eth2", MTU: 9001, Addr: v4("fd00::1"), PublicIP: v4("fd00::1")}}
	own = lease("10.5.1.0-24", "192.0.2.1", name)
)

func lease(key, public, backendType string) *subnet.Lease {
	s, err := ip.ParseKey(key)
	if err != nil {
		panic(err)
	}
	a := subnet.Attrs{PublicIP: ip.Addrs{V4: v4(public), V6: v4("fd00::2")}, BackendType: backendType}
	return &subnet.Lease{Subnet: s, Attrs: a}
}

func newBackend(t *testing.T) backend.Backend {
	t.Helper()
	b, err := backend.NewTable(Type).New(&subnet.Config{BackendType: "host-gw", Backend: []byte(`{"Type":"host-gw","Unknown":1}`)})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestAttrs(t *testing.T) {
	b := newBackend(t)
	want := subnet.Attrs{PublicIP: host.Addrs(), BackendType: "host-gw"}
	if got, err := b.Attrs(host, backend.Past{}); err != nil || got != want {
		t.Errorf("Attrs = %+v, %v", got, err)
	}
	if got := b.MTU(host); got != 9001 {
		t.Errorf("MTU = %d", got)
	}
	nat := host
	nat.V4.PublicIP = v4("203.0.113.9")
	_, err := b.Attrs(nat, backend.Past{})
	if err == nil {
		t.Fatal("a public address that is not the interface's was accepted")
	}
	for _, part := range []string{"203.0.113.9", "192.0.2.1", "eth1"} {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("error %q does not tell %s", err, part)
		}
	}
}

func TestPeer(t *testing.T) {
	b := newBackend(t)
	for _, test := range []struct {
		name string
		peer *subnet.Lease
		want []state.Object // nil is an error
	}{
		{"IPv4", lease("10.5.2.0-24", "192.0.2.2", name), []state.Object{
			state.Route{Dst: netip.MustParsePrefix("10.5.2.0/24"), Via: v4("192.0.2.2"), Dev: "eth1"},
		}},
		{"both families", lease("10.5.2.0-24&fc00::-64", "192.0.2.2", name), []state.Object{
			state.Route{Dst: netip.MustParsePrefix("10.5.2.0/24"), Via: v4("192.0.2.2"), Dev: "eth1"},
			state.Route{Dst: netip.MustParsePrefix("fc00::/64"), Via: v4("fd00::2"), Dev: "eth2"},
		}},
		{"of vxlan", lease("10.5.2.0-24", "192.0.2.2", "vxlan"), nil},
		{"of udp or alloc", lease("10.5.2.0-24", "192.0.2.2", ""), nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			var got []state.Object
			var err error
			for _, f := range test.peer.Subnet.Families() {
				var objects []state.Object
				if objects, err = b.Peer(host, f, own, test.peer); err != nil {
					break
				}
				got = append(got, objects...)
			}
			if (err != nil) != (test.want == nil) {
				t.Fatalf("error %v", err)
			}
			if err != nil && !strings.Contains(err.Error(), `"`+test.peer.BackendType+`"`) {
				t.Errorf("error %q does not tell the peer's backend", err)
			}
			if diff := cmp.Diff(test.want, got, cmpopts.EquateComparable(netip.Prefix{}, netip.Addr{})); diff != "" {
				t.Errorf("objects (-want +got):\n%s", diff)
			}
		})
	}
}
