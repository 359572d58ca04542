package status

import (
	"strings"

	"github.com/prometheus/client_golang/prometheus"
)

// Metrics are the metrics of a Status. How many there are does not depend on how many peers
// there are.
type Metrics struct {
	// Look returns the status at the time of a scrape.
	Look func() Status
}

func desc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("flanneld_"+name, help, labels, nil)
}

var (
	buildInfo      = desc("build_info", "1, with the version of this program.", "version")
	started        = desc("start_time_seconds", "When the daemon was started, in seconds since 1970.")
	healthy        = desc("healthy", "1 if the host has its network and there is no problem, else 0.")
	ready          = desc("ready", "1 if the host carries packets as it should, and subnet.env says so, else 0.")
	problems       = desc("problems", "What is not as it should be, by the part of the daemon that it is about.", "component")
	peers          = desc("peers", "Other hosts whose leases are used.")
	reachablePeers = desc("peers_reachable", "Other hosts that answered the last probe.")
	troubledPeers  = desc("peers_troubled", "Other hosts that packets do not get to as they should, by what is wrong.", "state")
	storeUp        = desc("store_up", "1 if the store of leases can be used, else 0.")
	storeOutages   = desc("store_outages_total", "How often the store of leases could not be used.")
	leaseLeft      = desc("lease_remaining_seconds", "How long this host's lease lasts if it is not renewed. There is none for one that does not expire.")
	renewMargin    = desc("lease_renew_margin_seconds", "How long before its end the lease is renewed. There is none for one that does not expire.")
	configurations = desc("configurations_total", "Network configurations that came into force.")
	objects        = desc("objects", "Objects that there should be on this host.", "kind")
	missing        = desc("objects_missing", "Objects that are not there, or are and should not be.", "kind")
	repairs        = desc("repairs_total", "Objects that others changed, and that are as they should be again.", "kind")
	passes         = desc("passes_total", "How often a dataplane was compared with what is desired; a full pass asks for all that is there.", "dataplane", "extent")
	passSeconds    = desc("full_pass_seconds_total", "How long full passes took.", "dataplane")
	conflict       = desc("conflict", "1 while someone keeps undoing what is repaired, else 0.", "dataplane")
	tunnelPackets  = desc("tunnel_packets_total", "Packets of pods that a tunnel of this process carried.", "device", "direction")
	tunnelBytes    = desc("tunnel_bytes_total", "Bytes of these packets, without outer headers.", "device", "direction")
	tunnelCalls    = desc("tunnel_calls_total", "System calls that carried them.", "device", "direction")
	tunnelDrops    = desc("tunnel_dropped_packets_total", "Packets that a tunnel of this process dropped.", "device", "direction", "reason")
	tunnelErrors   = desc("tunnel_errors_total", "Errors from receiving and the like.", "device", "direction")
	tunnelICMP     = desc("tunnel_icmp_total", "Answers about dropped packets: sent, or held back as there were too many.", "device", "result")
)

// Describe implements prometheus.Collector.
func (m Metrics) Describe(to chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{
		buildInfo, started, healthy, ready, problems, peers, reachablePeers, troubledPeers, storeUp, storeOutages, leaseLeft, renewMargin, configurations,
		objects, missing, repairs, passes, passSeconds, conflict, tunnelPackets, tunnelBytes, tunnelCalls, tunnelDrops, tunnelErrors, tunnelICMP,
	} {
		to <- d
	}
}

// Collect implements prometheus.Collector.
func (m Metrics) Collect(to chan<- prometheus.Metric) {
	s := m.Look()
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		to <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	counter := func(d *prometheus.Desc, v float64, labels ...string) {
		to <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, v, labels...)
	}
	gauge(buildInfo, 1, s.Version)
	gauge(started, float64(s.Started.UnixMilli())/1000)
	gauge(healthy, number(s.Health == Healthy))
	gauge(ready, number(s.Ready))
	count := make(map[Component]int)
	for _, p := range s.Problems {
		count[p.Component]++
	}
	for _, c := range Components {
		gauge(problems, float64(count[c]), string(c))
	}
	gauge(peers, float64(s.Peers.Count))
	gauge(reachablePeers, float64(s.Peers.Reachable))
	for _, state := range TroubledStates {
		gauge(troubledPeers, float64(s.Peers.States[state]), string(state))
	}
	if s.Store.Down || !s.Store.Since.IsZero() {
		gauge(storeUp, number(!s.Store.Down))
	}
	counter(storeOutages, float64(s.Store.Outages))
	if s.Lease != nil && !s.Lease.Expires.IsZero() {
		gauge(leaseLeft, s.Lease.Expires.Sub(s.At).Seconds())
		gauge(renewMargin, s.Lease.RenewMargin)
	}
	counter(configurations, float64(s.Configurations))
	for _, k := range s.Objects {
		gauge(objects, float64(k.Wanted), k.Name)
		gauge(missing, float64(k.Missing), k.Name)
		counter(repairs, float64(k.Repairs), k.Name)
	}
	for _, p := range s.Passes {
		counter(passes, float64(p.Full), p.Dataplane, "full")
		counter(passes, float64(p.Quick), p.Dataplane, "quick")
		counter(passSeconds, p.Seconds, p.Dataplane)
		gauge(conflict, number(p.Conflict), p.Dataplane)
	}
	for _, t := range s.Tunnels {
		t.collect(counter)
	}
}

// collect passes on what a tunnel counted. What counts neither what was carried nor answers
// is a reason to drop a packet.
func (t Tunnel) collect(counter func(d *prometheus.Desc, v float64, labels ...string)) {
	for name, v := range t.Counters {
		direction, of, _ := strings.Cut(name, "_")
		switch {
		case direction == "icmp":
			counter(tunnelICMP, float64(v), t.Device, of)
		case of == "packets":
			counter(tunnelPackets, float64(v), t.Device, direction)
		case of == "bytes":
			counter(tunnelBytes, float64(v), t.Device, direction)
		case of == "calls":
			counter(tunnelCalls, float64(v), t.Device, direction)
		case of == "errors":
			counter(tunnelErrors, float64(v), t.Device, direction)
		default:
			counter(tunnelDrops, float64(v), t.Device, direction, of)
		}
	}
}

func number(is bool) float64 {
	if is {
		return 1
	}
	return 0
}
