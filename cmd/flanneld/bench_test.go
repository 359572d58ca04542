package main_test

import (
	"bytes"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"flanneld/pkg/lab"
)

// BenchmarkScale starts one daemon in a network of so many leases. It reports
//
//	start-ms    from exec to READY; then everything is in place
//	start-cpu-ms  the daemon's processor time until then
//	restart-ms  the same, with everything in place before
//	batch-ms    the same objects loaded by "ip -batch" and "bridge -batch"
//	p50-ms, p99-ms  from the write of a new lease to its route of each family, the last of its objects
//	rss-MB      resident memory afterwards
//	idle-cpu-%  processor time during ten seconds without changes
//
// What udp has of its peers is not in the kernel, so of these it reports some.
func BenchmarkScale(b *testing.B) {
	for _, c := range []struct {
		variant
		leases []int
	}{
		{hostGW, []int{10, 1000, 10000}},
		{variant{backend: vxlanBackend, store: etcdV2}, []int{10, 1000, 10000, 50000}},
		{vxlan, []int{10, 10000}},
		{vxlan.in(dualStack), []int{10000}},
		{udp, []int{10, 1000, 10000, 50000}},
	} {
		for _, leases := range c.leases {
			b.Run(fmt.Sprintf("%s/leases=%d", c.name(), leases), func(b *testing.B) {
				for range b.N {
					scale(b, c.variant, leases)
				}
			})
		}
	}
}

func scale(b *testing.B, v variant, leases int) {
	n := newWide(b, v)
	h := n.addNode(lab.HostOptions{})
	n.putLeases(leases)

	begin := time.Now()
	h.start()
	h.waitReady()
	b.ReportMetric(ms(time.Since(begin)), "start-ms")
	b.ReportMetric(ms(h.cpu()), "start-cpu-ms")
	h.wantObjects(leases)

	_, err := h.daemon.Stop(soon)
	check(b, err)
	begin = time.Now()
	h.start()
	h.waitReady()
	b.ReportMetric(ms(time.Since(begin)), "restart-ms")

	if !v.backend.itself {
		took, _ := h.latency(leases, n.putPeer)
		b.ReportMetric(ms(took[latencyRounds/2]), "p50-ms")
		b.ReportMetric(ms(took[latencyRounds*99/100]), "p99-ms")
		leases += latencyRounds
	}
	h.wantObjects(leases)

	before := h.cpu()
	time.Sleep(10 * time.Second)
	b.ReportMetric((h.cpu()-before).Seconds()*10, "idle-cpu-%")
	b.ReportMetric(h.memory("VmRSS"), "rss-MB")

	if !v.backend.itself {
		h.daemon.Kill()
		b.ReportMetric(ms(h.batch(leases-latencyRounds)), "batch-ms")
	}
	b.ReportMetric(0, "ns/op")
}

// wantObjects checks that the host has all there must be for so many leases; with
// udp, for some of them.
func (h *node) wantObjects(leases int) {
	h.n.t.Helper()
	if h.n.backend.itself {
		var some []peer
		for i := 0; i < leases; i += 1 + leases/100 {
			some = append(some, h.n.distant(i))
		}
		h.waitPeers(0, some...)
		return
	}
	got := h.n.backend.present(h)
	if want := leases * len(h.expected(h.n.distant(0))); len(got) != want {
		h.n.t.Fatalf("there are %d objects, want %d", len(got), want)
	}
}

func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

const latencyRounds = 200

// latency is how long it takes until a new lease's routes are there, as the kernel tells: from
// the beginning of its writing, and from the end. Each is sorted.
func (h *node) latency(leases int, put func(peer)) (took, after []time.Duration) {
	h.n.t.Helper()
	routes, stop, err := h.WatchRoutes()
	check(h.n.t, err)
	defer stop()
	for i := range latencyRounds {
		p := h.n.distant(leases + i)
		seen := make(chan time.Time, 1)
		go func() {
			missing := p.texts(netip.Prefix.String)
			for r := range routes {
				if missing = slices.DeleteFunc(missing, func(s string) bool { return s == r }); len(missing) == 0 {
					seen <- time.Now()
					return
				}
			}
		}()
		begin := time.Now()
		put(p)
		end := time.Now()
		select {
		case at := <-seen:
			took, after = append(took, at.Sub(begin)), append(after, at.Sub(end))
		case <-h.n.ctx.Done():
			h.n.t.Fatalf("no route to %s: %v", p.subnet, h.n.ctx.Err())
		}
	}
	slices.Sort(took)
	slices.Sort(after)
	return took, after
}

// batch loads the same objects with iproute2, as root would by hand.
func (h *node) batch(leases int) time.Duration {
	h.n.t.Helper()
	_, err := h.DelRoutesByProtocol(ourRoutes)
	check(h.n.t, err)
	if h.n.backend.name == vxlanBackend.name {
		for _, own := range h.peer().views() {
			vtep := own.vtep()
			check(h.n.t, h.DelLink(vtep))
			h.run("ip", "link", "add", vtep, "type", "vxlan", "id", "1", "dev", "eth0", "local", own.public.String(), "dstport", "8472", "nolearning")
			h.run("ip", "addr", "add", netip.PrefixFrom(own.subnet.Addr(), own.subnet.Addr().BitLen()).String(), "dev", vtep)
			h.run("ip", "link", "set", vtep, "up")
		}
	}
	byNexthop := h.n.backend.name == vxlanBackend.name && leases >= large
	var ip, bridge bytes.Buffer
	id := 0
	for i := range leases {
		for _, p := range h.n.distant(i).views() {
			if h.n.backend.name != vxlanBackend.name {
				fmt.Fprintf(&ip, "route add %s dev eth0 proto 70\n", p.route())
				continue
			}
			base, vtep := p.subnet.Addr(), p.vtep()
			fmt.Fprintf(&ip, "neigh add %s lladdr %s dev %s nud permanent\n", base, p.vtepMAC(), vtep)
			fmt.Fprintf(&bridge, "fdb add %s dev %s dst %s self permanent\n", p.vtepMAC(), vtep, p.public)
			if byNexthop {
				id++
				fmt.Fprintf(&ip, "nexthop add id %d via %s dev %s onlink proto 70\n", id, base, vtep)
				fmt.Fprintf(&ip, "route add %s nhid %d proto 70\n", p.subnet, id)
			} else {
				fmt.Fprintf(&ip, "route add %s via %s dev %s onlink proto 70\n", p.subnet, base, vtep)
			}
		}
	}
	files := map[string][]byte{"bridge": bridge.Bytes(), "ip": ip.Bytes()}
	for tool, text := range files {
		check(h.n.t, os.WriteFile(h.Dir+"/"+tool, text, 0o600))
	}
	begin := time.Now()
	for tool := range files {
		h.run(tool, "-batch", h.Dir+"/"+tool)
	}
	return time.Since(begin)
}

// memory is what the kernel says of the daemon's memory under a name, in megabytes.
func (h *node) memory(name string) float64 {
	h.n.t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", h.daemon.Pid()))
	check(h.n.t, err)
	for line := range strings.Lines(string(status)) {
		if f := strings.Fields(line); f[0] == name+":" {
			kb, err := strconv.Atoi(f[1])
			check(h.n.t, err)
			return float64(kb) / 1024
		}
	}
	h.n.t.Fatalf("no %s", name)
	return 0
}
