package dataplanetest

import (
	"net/netip"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"flanneld/pkg/dataplane"
	"flanneld/pkg/state"
)

// The fake's tunnels need their devices, and are needed by their peers.
func TestFakeTunnels(t *testing.T) {
	f := NewFake()
	r := &fixture{T: t, target: f, host: f}
	r.dump()
	d := tunDevice()
	tunnel := state.Tunnel{
		Dev: d.Name, Local: netip.MustParseAddrPort("192.168.5.1:8285"), MTU: d.MTU,
		Own: netip.MustParsePrefix("10.1.0.0/24"), Network: netip.MustParsePrefix("10.0.0.0/8"), SourceCheck: true,
	}
	peerAt := func(subnet, host string) state.TunnelPeer {
		return state.TunnelPeer{Dev: d.Name, Subnet: netip.MustParsePrefix(subnet), Host: netip.MustParseAddr(host)}
	}
	p, q := peerAt("10.1.2.0/24", "192.168.5.11"), peerAt("10.1.1.0/24", "192.168.5.12")
	all := []state.Object{tunnel, p, q}
	w := r.watch()

	r.refused(create(tunnel), dataplane.ErrNoLink)
	r.check(f.AddTUN(d.Name, d.Alias, false))
	r.refused(create(tunnel), unix.EBUSY)
	r.check(f.DelLink(d.Name))
	r.dump()
	r.apply(create(d))
	if got := f.TUNs(); !slices.Equal(got, []state.TUN{d}) {
		t.Errorf("TUN devices: %v", got)
	}
	r.refused(create(p), nil)
	r.apply(remove(p), remove(tunnel))
	r.wantGone(all...)

	r.apply(creations(all...)...)
	r.wantThere(all...)
	r.refused(create(tunnel), unix.EEXIST)
	altered := tunnel
	altered.SourceCheck = false
	r.apply(replace(tunnel, altered))
	r.wantThere(altered, p, q)
	if got := f.Tunnels(); !slices.Equal(got, []state.Tunnel{altered}) {
		t.Errorf("tunnels: %v", got)
	}
	if got := f.TunnelPeers(d.Name); !slices.Equal(got, []state.TunnelPeer{q, p}) {
		t.Errorf("peers: %v", got)
	}
	moved := p
	moved.Host = q.Host
	r.apply(replace(p, moved), remove(q))
	r.wantThere(moved)
	r.wantGone(q)

	for what, end := range map[string]func(){
		"deleted":                   func() { r.apply(remove(tunnel)) },
		"ended by itself":           func() { f.EndTunnel(d.Name) },
		"gone with its device":      func() { r.apply(remove(d)) },
		"gone with someone's doing": func() { r.check(f.DelLink(d.Name)) },
	} {
		f.Apply(t.Context(), creations(append([]state.Object{d}, all...)...)) // as far as they are missing
		f.Apply(t.Context(), creations(all...))
		r.wantThere(all[1:]...)
		end()
		r.wantGone(all...)
		if f.Tunnels() != nil || f.TunnelPeers(d.Name) != nil {
			t.Errorf("%s: there are %v, %v", what, f.Tunnels(), f.TunnelPeers(d.Name))
		}
		w.expect("the tunnel "+what, goneKey(tunnel))
	}
}
