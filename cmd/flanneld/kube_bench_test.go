package main_test

import (
	"slices"
	"testing"
	"time"

	"google.golang.org/protobuf/encoding/protowire"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
)

// BenchmarkKube starts one daemon in a cluster of 5,000 Nodes of 4 kB. It reports
//
//	api-ms      the API's own answer: the same listing, whose Nodes nobody reads
//	start-ms    from exec to READY; then everything is in place
//	restart-ms  the same, with everything in place before
//	start/api   how much longer than the API alone a start takes
//	p50-ms, p99-ms  from the API's answer to who made a new Node to its route
//	beat-µs, burst-beat-µs  processor time for a heartbeat of a Node: at 20 a second, and as
//	            fast as the API takes them
//	beats/s     how fast that is
//	ready-MB, rss-MB, peak-MB  resident memory right after READY, a second after that, and at
//	            most up to the last heartbeat
//	idle-cpu-%  processor time during ten seconds without changes
func BenchmarkKube(b *testing.B) {
	for _, v := range []variant{kubeVXLAN, kubeHostGW} {
		b.Run(v.name(), func(b *testing.B) {
			for range b.N {
				kubeScale(b, v)
			}
		})
	}
}

func kubeScale(b *testing.B, v variant) {
	const nodes = 5000
	n := newKube(b, v, settings{"Network": "10.0.0.0/8"})
	n.widen()
	n.atOnce(0, nodes, n.putLargeNode)
	h := n.addKubeNode()
	h.createNode("10.200.0.0/24")

	var lists []time.Duration
	for range 5 {
		lists = append(lists, n.listNodes())
	}
	slices.Sort(lists)
	api := lists[2]
	b.ReportMetric(ms(api), "api-ms")

	begin := time.Now()
	h.start()
	h.waitReady()
	start := time.Since(begin)
	b.ReportMetric(h.memory("VmRSS"), "ready-MB")
	b.ReportMetric(ms(start), "start-ms")
	b.ReportMetric(float64(start)/float64(api), "start/api")
	h.wantObjects(nodes)
	time.Sleep(time.Second) // until the memory of the start is given back
	b.ReportMetric(h.memory("VmRSS"), "rss-MB")

	_, after := h.latency(nodes, func(p peer) { check(b, n.putLargeNode(p)) })
	b.ReportMetric(ms(after[latencyRounds/2]), "p50-ms")
	b.ReportMetric(ms(after[latencyRounds*99/100]), "p99-ms")

	before := h.cpu()
	time.Sleep(10 * time.Second)
	idle := h.cpu() - before
	b.ReportMetric(idle.Seconds()*10, "idle-cpu-%")

	log := h.daemon.Log()
	used, _ := h.beats(distant, 300, 20)
	b.ReportMetric(ms(used)*1000, "beat-µs")
	used, rate := h.beats(distant, 5000, 0)
	b.ReportMetric(ms(used)*1000, "burst-beat-µs")
	b.ReportMetric(rate, "beats/s")
	if more := h.daemon.Log()[len(log):]; more != "" {
		b.Errorf("heartbeats had this logged: %s", more)
	}
	b.ReportMetric(h.memory("VmHWM"), "peak-MB")

	_, err := h.daemon.Stop(soon)
	check(b, err)
	begin = time.Now()
	h.start()
	h.waitReady()
	b.ReportMetric(ms(time.Since(begin)), "restart-ms")
	h.wantObjects(nodes + latencyRounds)
	b.ReportMetric(0, "ns/op")
}

// listNodes lists all Nodes as daemons do, and returns how long that takes.
func (n *network) listNodes() time.Duration {
	n.t.Helper()
	begin := time.Now()
	for next := ""; ; {
		page, err := n.kube.REST.Get().Resource("nodes").Param("limit", "500").Param("continue", next).
			SetHeader("Accept", runtime.ContentTypeProtobuf).DoRaw(n.ctx)
		check(n.t, err)
		var list runtime.Unknown
		check(n.t, list.Unmarshal(page[len("k8s\x00"):]))
		_, _, tag := protowire.ConsumeTag(list.Raw) // that of what all lists begin with
		meta, _ := protowire.ConsumeBytes(list.Raw[tag:])
		var is metav1.ListMeta
		check(n.t, is.Unmarshal(meta))
		if next = is.Continue; next == "" {
			return time.Since(begin)
		}
	}
}
