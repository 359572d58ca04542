package network

import (
	"slices"
	"testing"
	"time"

	"flanneld/pkg/state"
	"flanneld/pkg/target"
	"flanneld/pkg/target/targettest"
	"flanneld/subnet"
)

// A lease that no longer says where its tunnel ends is no sign that the peer is
// gone: what the host has for it stays, also after a restart.
func TestVxlanGarbledData(t *testing.T) {
	for name, wish := range map[string]func(...*subnet.Lease) Wish{"small": vxlanWish, "large": largeVxlanWish} {
		for _, data := range []string{"", `"x"`, `{}`, `{"VNI":1,"VtepMAC":"nonsense"}`} {
			t.Run(name+data, func(t *testing.T) {
				bubble(t, func(r *rig) {
					garbled := vxlanLease(1, 1)
					garbled.BackendData = data
					stays := func() {
						t.Helper()
						r.pass(time.Minute)
						r.wantOn([]state.Neigh{neigh(1, 1), neigh(2, 2)}, []state.FDB{fdb(1), fdb(2)}, ownAddr.Prefix)
						if got := r.fake.Routes(peerSubnet(1).V4); len(got) != 1 {
							t.Fatalf("routes %v", got)
						}
					}
					r.there(wish(vxlanLease(1, 1), vxlanLease(2, 2)))
					r.start()
					r.Wish(wish(garbled, vxlanLease(2, 2)))
					stays()
					if got := r.lastStatus().Useless; got != 1 {
						t.Errorf("%d leases are said to be useless", got)
					}
					r.Wish(wish(vxlanLease(1, 1), vxlanLease(2, 2)))
					stays()
					r.Wish(wish(garbled, vxlanLease(2, 2)))
					stays()
					r.loops[0].notice(target.Event{Lost: true})
					stays()
					r.Wish(wish(vxlanLease(2, 2)))
					r.pass(time.Minute)
					r.wantOn([]state.Neigh{neigh(2, 2)}, []state.FDB{fdb(2)}, ownAddr.Prefix)
					if got := r.fake.Routes(peerSubnet(1).V4); !slices.Equal(got, []targettest.Route(nil)) {
						t.Errorf("routes %v", got)
					}
				})
			})
		}
	}
}
