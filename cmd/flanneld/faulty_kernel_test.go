package main_test

import (
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"flanneld/pkg/lab"
)

// faultyKernelEnv makes the tests' own binary the daemon, on a kernel with faults.
const faultyKernelEnv = "LAB_FAULTY_KERNEL"

// Three in ten of all netlink operations fail, for half a minute or longer. From a
// start with stale routes the daemon makes all of a thousand right; then peers move
// and routes are deleted behind its back, again and again, and before the faults end
// all is right again. What is not ours stays, no packet is lost on the routes that
// were right from the beginning, log and processor stay quiet.
func TestFaultyKernel(t *testing.T) { everyVariant(t, testFaultyKernel) }

func testFaultyKernel(t *testing.T, v variant) {
	const (
		leases = 1000
		stale  = 100
		waves  = 4
		each   = 50 // peers that move in a wave, and routes that are deleted
		seed   = 2
	)
	length := slow(30 * time.Second)
	t.Parallel() // to the other variants
	n := newWide(t, v)
	h, other := n.addNode(lab.HostOptions{}), n.addNode(lab.HostOptions{})
	h.start()
	other.start()
	n.readyWithPods()
	_, err := h.daemon.Stop(soon)
	check(t, err)

	via := other.Addr
	check(t, h.AddRoute(lab.Route{Dst: mustPrefix("10.120.0.0/24"), Via: via, Dev: "eth0", Protocol: 4}))
	check(t, h.AddRoute(lab.Route{Dst: mustPrefix("192.168.77.0/24"), Via: via, Dev: "eth0", Protocol: ourRoutes}))
	for i := range stale {
		check(t, h.AddRoute(lab.Route{Dst: mustPrefix(fmt.Sprintf("10.121.%d.0/24", i)), Via: via, Dev: "eth0", Protocol: ourRoutes}))
	}
	n.putLeases(leases)
	peers := h.others()
	for i := range leases {
		peers = append(peers, distant(i))
	}
	kept := "192.168.77.0/24 via " + via.String()
	wrong := func() string {
		var want []string
		if v.backend.itself {
			routes := []string{"10.0.0.0/8 dev flannel0 metric 1", kept}
			if got := sorted(h.routes()...); !slices.Equal(got, routes) {
				return fmt.Sprintf("there are the routes %q", got)
			}
		} else {
			want = append(want, kept)
		}
		for _, p := range peers {
			want = append(want, v.backend.expected(h, p)...)
		}
		return h.wrong(want)
	}

	n.witness(other, h, func() {
		n.witness(h, other, func() {
			begin := time.Now()
			right := func() {
				t.Helper()
				n.wait(length-time.Since(begin), "all objects", wrong)
				took := time.Since(begin)
				t.Logf("all routes are right after %s", took)
				if took > length {
					t.Error("the faults ended before that")
				}
			}
			h.startFaulty(length, seed)
			h.waitReady()
			right()
			h.quiet(begin, 100)
			for wave := range waves {
				for i := wave * each / 2; i < wave*each/2+each; i++ { // half of them again
					p := moved(distant(i), wave)
					n.putPeer(p)
					peers[len(peers)-leases+i] = p
				}
				for i := range each {
					if v.backend.itself {
						break // the one route that there is has to carry the pings
					}
					check(t, h.DelRoute(distant(leases-1-wave*each-i).subnet))
				}
				n.pause(3 * time.Second)
			}
			right()
			h.quiet(begin, 300)
		})
	})
	hasRoute(t, h, "10.120.0.0/24 via "+via.String())
}

// quiet checks that a daemon that runs since begin has logged at most so many
// lines, or ten a second, none of them endless, and used at most a twentieth of a
// processor, or a second for its start.
func (h *node) quiet(begin time.Time, most int) {
	h.n.t.Helper()
	if code := h.daemon.ExitCode(); code != -1 {
		h.n.t.Fatalf("it ended with status %d", code)
	}
	took, cpu, log := time.Since(begin), h.cpu(), h.daemon.Log()
	lines := strings.Count(log, "\n")
	h.n.t.Logf("%s of processor time, %d lines in the log, in %s", cpu, lines, took)
	if most = max(most, int(10*took.Seconds())); lines > most {
		h.n.t.Errorf("%d lines in the log, want at most %d", lines, most)
	}
	for line := range strings.Lines(log) {
		if len(line) > 900 {
			h.n.t.Errorf("a line of %d bytes: %s", len(line), line)
		}
	}
	share := took / 20
	if h.n.backend.itself {
		share = took / 8 // a thousand packets a second are its work
	}
	if cpu > slow(max(share, time.Second)) {
		h.n.t.Errorf("%s of processor time in %s", cpu, took)
	}
}

// moved is a distant peer with another address, which is never the same.
func moved(p peer, times int) peer {
	a := p.public.As4()
	a[2] += byte(100 + times)
	p.public = netip.AddrFrom4(a)
	return p
}

// startFaulty starts the daemon on a kernel that fails for so long.
func (h *node) startFaulty(length time.Duration, seed int) {
	h.n.t.Helper()
	self, err := os.Executable()
	check(h.n.t, err)
	h.runs(h.StartFlanneldIn([]string{fmt.Sprintf("%s=%s 0.3 %d", faultyKernelEnv, length, seed)}, self, h.args...))
}
