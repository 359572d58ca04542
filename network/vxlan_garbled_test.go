package network

import (
	"slices"
	"testing"
	"time"

	"flanneld/pkg/dataplane"
	"flanneld/pkg/dataplane/dataplanetest"
	"flanneld/pkg/state"
	"flanneld/subnet"
)

// A lease that no longer says where its tunnel ends is no sign that the peer is
// gone: what the host has for it stays, also after a restart.
func TestVxlanGarbledData(t *testing.T) {
	for name, desire := range map[string]func(...*subnet.Lease) Desired{"small": vxlanDesired, "large": largeVxlanDesired} {
		for _, data := range []string{"", `"x"`, `{}`, `{"VNI":1,"VtepMAC":"nonsense"}`} {
			t.Run(name+data, func(t *testing.T) {
				fakeClock(t, func(r *fixture) {
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
					r.there(desire(vxlanLease(1, 1), vxlanLease(2, 2)))
					r.start()
					r.SetDesired(desire(garbled, vxlanLease(2, 2)))
					stays()
					if got := r.lastStatus().Unusable; got != 1 {
						t.Errorf("%d leases are said to be unusable", got)
					}
					r.SetDesired(desire(vxlanLease(1, 1), vxlanLease(2, 2)))
					stays()
					r.SetDesired(desire(garbled, vxlanLease(2, 2)))
					stays()
					r.loops[0].notice(dataplane.Event{Lost: true})
					stays()
					r.SetDesired(desire(vxlanLease(2, 2)))
					r.pass(time.Minute)
					r.wantOn([]state.Neigh{neigh(2, 2)}, []state.FDB{fdb(2)}, ownAddr.Prefix)
					if got := r.fake.Routes(peerSubnet(1).V4); !slices.Equal(got, []dataplanetest.Route(nil)) {
						t.Errorf("routes %v", got)
					}
				})
			})
		}
	}
}
