package main

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"flanneld/network"
	"flanneld/pkg/ip"
	"flanneld/pkg/state"
	"flanneld/pkg/status"
	"flanneld/subnet"
)

// However much is missing, each peer that lacks something is told, and no other one.
func TestPeerStates(t *testing.T) {
	const peers = 400
	var f facts
	var d network.Detail
	for i := range peers {
		s := netip.MustParsePrefix(fmt.Sprintf("10.%d.%d.0/24", 1+i>>8, i&0xff))
		f.leases = append(f.leases, &subnet.Lease{Subnet: ip.SubnetOf(s), Attrs: subnet.Attrs{PublicIP: ip.Addrs{V4: netip.MustParseAddr("192.0.2.1")}}})
		if i%4 != 0 {
			for _, lease := range []netip.Prefix{s, state.BySubnetAddr(s.Addr())} {
				d.Failures = append(d.Failures, network.Failure{Object: state.KindRoute, Lease: lease, Reason: "refused", Since: time.Now()})
			}
		}
	}
	f.leaving = []subnet.Vanished{{Lease: f.leases[0]}}
	reached := []network.PeerReach{{Subnet: f.leases[4].Subnet, State: status.PeerGone, Reason: "it does not answer"}}
	count := make(map[status.PeerState]int)
	for _, p := range slices.Collect(f.peerStates(d, reached, true)) {
		count[p.State]++
	}
	if count[status.PeerMissing] != peers*3/4 || count[status.PeerGone] != 1 || count[status.PeerLeaving] != 1 || count[status.PeerUsed] != peers/4-2 {
		t.Errorf("peers by state: %v", count)
	}
	if n := len(slices.Collect(f.peerStates(d, reached, false))); n != peers*3/4+1 {
		t.Errorf("%d are in trouble", n)
	}
}

// Whoever asks for all peers while another one does waits for a moment, and not for ever.
func TestPeersAreToldToOneAtATime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCollector(&options{})
		ask := func() int {
			w := httptest.NewRecorder()
			c.replyPeers(w, httptest.NewRequest(http.MethodGet, "/peers.json", http.NoBody))
			return w.Code
		}
		must(t, c.asked.Acquire(context.Background(), 1))
		time.AfterFunc(askTime/2, func() { c.asked.Release(1) })
		if code := ask(); code != http.StatusOK {
			t.Errorf("asked while another one is told: %d", code)
		}
		must(t, c.asked.Acquire(context.Background(), 1))
		if code := ask(); code != http.StatusServiceUnavailable {
			t.Errorf("asked while another one is told for ever: %d", code)
		}
	})
}
