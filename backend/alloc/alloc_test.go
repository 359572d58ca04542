package alloc

import (
	"net/netip"
	"testing"

	"flanneld/backend"
	"flanneld/pkg/ip"
	"flanneld/subnet"
)

func TestAlloc(t *testing.T) {
	b, err := backend.NewTable(Type).New(&subnet.Config{BackendType: "alloc"})
	if err != nil {
		t.Fatal(err)
	}
	h := backend.Host{V4: backend.Underlay{
		Iface: "eth0", MTU: 1500,
		Addr:     netip.MustParseAddr("192.0.2.1"),
		PublicIP: netip.MustParseAddr("203.0.113.9"),
	}}
	// The value under the key has never named this backend.
	want := subnet.Attrs{PublicIP: h.PublicIP()}
	if got, err := b.Attrs(h, backend.Past{}); err != nil || got != want {
		t.Errorf("Attrs = %+v, %v", got, err)
	}
	if got := b.MTU(h); got != 1500 {
		t.Errorf("MTU = %d", got)
	}
	for _, backendType := range []string{"", "vxlan"} {
		peer := &subnet.Lease{Attrs: subnet.Attrs{BackendType: backendType}}
		if objects, err := b.Peer(h, ip.V4, &subnet.Lease{}, peer); err != nil || len(objects) != 0 {
			t.Errorf("peer of backend %q: %v, %v", backendType, objects, err)
		}
	}
}
