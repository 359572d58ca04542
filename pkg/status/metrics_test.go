package status

import (
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
)

// full has everything that metrics are made of.
func full() Status {
	at := time.Unix(2_000_000_000, 0)
	return Status{
		Version: "v1.2.3", At: at, Started: at.Add(-time.Hour), Health: Degraded, Ready: true,
		Lease:    &Lease{Subnet: "10.5.1.0/24", Expires: at.Add(90 * time.Second), RenewMargin: 3600},
		Store:    Store{Down: true, Outages: 2},
		Peers:    Peers{Count: 7, Reachable: 5, TroubledCount: 1, States: map[PeerState]int{PeerUnreachable: 1}},
		Objects:  []Kind{{Name: "route", Wanted: 7, Missing: 1, Repairs: 3}},
		Passes:   []Passes{{Dataplane: "the kernel", Full: 4, Quick: 5, Seconds: 0.5, Conflict: true}},
		Tunnels:  []Tunnel{{Device: "flannel0", Counters: map[string]uint64{"out_packets": 8, "in_bytes": 9, "in_calls": 10, "out_no_route": 11, "in_errors": 12, "icmp_sent": 13}}},
		Problems: []Problem{{Component: ComponentStore}, {Component: ComponentPackets}, {Component: ComponentPackets}},
	}
}

func TestMetrics(t *testing.T) {
	r := prometheus.NewPedanticRegistry()
	m := Metrics{Look: full}
	r.MustRegister(m)
	problems, err := testutil.GatherAndLint(r)
	if err != nil || len(problems) > 0 {
		t.Errorf("%v, %v", problems, err)
	}
	families, err := r.Gather()
	if err != nil {
		t.Fatal(err)
	}
	got := make(map[string]float64)
	for _, f := range families {
		for _, m := range f.GetMetric() {
			name := strings.TrimPrefix(f.GetName(), "flanneld_")
			for _, l := range m.GetLabel() {
				name += " " + l.GetValue()
			}
			got[name] = m.GetGauge().GetValue() + m.GetCounter().GetValue()
		}
	}
	for name, want := range map[string]float64{
		"build_info v1.2.3": 1, "start_time_seconds": 2_000_000_000 - 3600, "healthy": 0, "ready": 1,
		"problems store": 1, "problems packets": 2, "problems lease": 0, "peers": 7, "peers_reachable": 5, "peers_troubled unreachable": 1, "peers_troubled gone": 0,
		"store_up": 0, "store_outages_total": 2, "lease_remaining_seconds": 90, "lease_renew_margin_seconds": 3600,
		"objects route": 7, "objects_missing route": 1, "repairs_total route": 3,
		"passes_total the kernel full": 4, "passes_total the kernel quick": 5, "full_pass_seconds_total the kernel": 0.5, "conflict the kernel": 1,
		"tunnel_packets_total flannel0 out": 8, "tunnel_bytes_total flannel0 in": 9, "tunnel_calls_total flannel0 in": 10,
		"tunnel_dropped_packets_total flannel0 out no_route": 11, "tunnel_errors_total flannel0 in": 12, "tunnel_icmp_total flannel0 sent": 13,
	} {
		if v, ok := got[name]; !ok || v != want {
			t.Errorf("%s is %v, %v, want %v", name, v, ok, want)
		}
	}
}

// Before there is a subnet there is no lease to tell of.
func TestMetricsOfADaemonThatWaits(t *testing.T) {
	r := prometheus.NewPedanticRegistry()
	r.MustRegister(Metrics{Look: func() Status { return Status{Health: Degraded, Waiting: "etcd"} }})
	families, err := r.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if name := f.GetName(); name == "flanneld_lease_remaining_seconds" || name == "flanneld_store_up" || name == "flanneld_objects" {
			t.Errorf("there is %s", f)
		}
	}
}
