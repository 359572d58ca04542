package main_test

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"flanneld/pkg/lab"
)

// BenchmarkScale starts one daemon in a network of so many leases. It reports
//
//	start-ms    from exec to the last route in place
//	restart-ms  from exec to READY, with everything in place
//	batch-ms    the same routes loaded by ip -batch, if ip is there
//	p50-ms, p99-ms  from the write of a new lease to its route
//	rss-MB      resident memory afterwards
//	idle-cpu-%  processor time during ten seconds without changes
func BenchmarkScale(b *testing.B) {
	for _, leases := range []int{10, 1000, 10000} {
		b.Run(fmt.Sprintf("host-gw/leases=%d", leases), func(b *testing.B) {
			for range b.N {
				scale(b, leases)
			}
		})
	}
}

func scale(b *testing.B, leases int) {
	n := newWide(b, hostGW)
	h := n.addNode(lab.HostOptions{})
	n.putLeases(leases)

	h.start()
	begin := time.Now()
	n.wait(testTimeout, "all routes", func() string {
		if c := h.countRoutes(); c < leases {
			return fmt.Sprintf("there are %d", c)
		}
		return ""
	})
	b.ReportMetric(ms(time.Since(begin)), "start-ms")
	h.waitReady()

	_, err := h.daemon.Stop(soon)
	check(b, err)
	begin = time.Now()
	h.start()
	h.waitReady()
	b.ReportMetric(ms(time.Since(begin)), "restart-ms")

	p50, p99 := h.latency(leases)
	b.ReportMetric(ms(p50), "p50-ms")
	b.ReportMetric(ms(p99), "p99-ms")

	before := h.cpu()
	time.Sleep(10 * time.Second)
	b.ReportMetric((h.cpu()-before).Seconds()*10, "idle-cpu-%")
	b.ReportMetric(h.rss(), "rss-MB")

	h.daemon.Kill()
	_, err = h.DelRoutesByProtocol(ourRoutes)
	check(b, err)
	if took, ok := h.batch(leases); ok {
		b.ReportMetric(ms(took), "batch-ms")
	}
	b.ReportMetric(0, "ns/op")
}

func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

func (h *node) countRoutes() int {
	h.n.t.Helper()
	routes, err := h.Routes()
	check(h.n.t, err)
	var c int
	for _, r := range routes {
		if strings.Contains(r, " proto 70") {
			c++
		}
	}
	return c
}

// latency is how long it takes from the write of a lease until its route is
// there: the kernel tells when.
func (h *node) latency(leases int) (p50, p99 time.Duration) {
	h.n.t.Helper()
	const rounds = 200
	routes, stop, err := h.WatchRoutes()
	check(h.n.t, err)
	defer stop()
	var took []time.Duration
	for i := range rounds {
		p := distant(leases + i)
		begin := time.Now()
		h.n.putPeer(p)
		for r := range routes {
			if r == p.subnet.String() {
				break
			}
		}
		took = append(took, time.Since(begin))
	}
	slices.Sort(took)
	return took[rounds/2], took[rounds*99/100]
}

// batch loads the same routes with iproute2.
func (h *node) batch(leases int) (time.Duration, bool) {
	ip, err := exec.LookPath("ip")
	if err != nil {
		return 0, false
	}
	var commands bytes.Buffer
	for i := range leases {
		fmt.Fprintf(&commands, "route add %s dev eth0 proto 70\n", distant(i).route())
	}
	file := h.Dir + "/batch"
	check(h.n.t, os.WriteFile(file, commands.Bytes(), 0o644))
	begin := time.Now()
	p, err := h.Start("ip", []string{ip, "-batch", file}, nil, lab.ProcessOptions{})
	check(h.n.t, err)
	code, err := p.Wait(h.n.ctx)
	check(h.n.t, err)
	if code != 0 {
		h.n.t.Fatalf("ip -batch: %s", p.Log())
	}
	return time.Since(begin), true
}

// cpu is the processor time that the daemon has used.
func (h *node) cpu() time.Duration {
	h.n.t.Helper()
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", h.daemon.Pid()))
	check(h.n.t, err)
	fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
	var ticks int
	for _, f := range fields[11:13] { // utime and stime, of 10 ms each
		t, err := strconv.Atoi(f)
		check(h.n.t, err)
		ticks += t
	}
	return time.Duration(ticks) * 10 * time.Millisecond
}

// rss is the daemon's resident memory, in megabytes.
func (h *node) rss() float64 {
	h.n.t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", h.daemon.Pid()))
	check(h.n.t, err)
	for line := range strings.Lines(string(status)) {
		if f := strings.Fields(line); f[0] == "VmRSS:" {
			kb, err := strconv.Atoi(f[1])
			check(h.n.t, err)
			return float64(kb) / 1024
		}
	}
	h.n.t.Fatal("no VmRSS")
	return 0
}
