package main_test

import (
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"flanneld/pkg/lab"
)

// Stopped in the middle of the first pass of a large network, the daemon ends at
// once, and its next start finishes what it left.
func TestStopInFirstPass(t *testing.T) {
	const leases = 10_000
	n := newWide(t, hostGW)
	n.putLeases(leases)
	h := n.addNode(lab.HostOptions{})
	var ended time.Duration
	for attempt := 1; ; attempt++ {
		ended = h.stopAtFirstRoute()
		there := len(h.routes())
		if 0 < there && there < leases {
			t.Logf("stopped with %d of %d routes in place", there, leases)
			break
		}
		if attempt == 5 {
			t.Fatal("each time, all routes were there before the signal")
		}
		// Without the NIC, everything made on it is gone.
		check(t, h.RecreateNIC("eth0"))
		_ = os.Remove(h.daemon.SubnetFile)
	}
	if text := h.daemon.EnvText(); text != "" && (!strings.HasPrefix(text, "FLANNEL_NETWORK=10.0.0.0/8\n") || !strings.HasSuffix(text, "\nFLANNEL_IPMASQ=false\n")) {
		t.Errorf("subnet.env is %q", text)
	}
	h.start()
	all := h.waitNexthops(slow(soon), leases)
	t.Logf("started again, it has all in place after %s", all)
	// Measured side by side, as the machine may be slow.
	if ended > max(all/2, time.Second) {
		t.Errorf("ended %s after the signal, and what it was to leave takes %s", ended, all)
	}
	h.waitReady()
}

// stopAtFirstRoute starts the daemon and sends SIGTERM when it has made its first
// route. It returns how long the daemon takes to end.
func (h *node) stopAtFirstRoute() time.Duration {
	h.n.t.Helper()
	routes, stop, err := h.WatchRoutes()
	check(h.n.t, err)
	defer stop()
	h.start()
	select {
	case <-routes:
	case <-h.n.ctx.Done():
		h.n.t.Fatal("no route was made")
	}
	begin := time.Now()
	check(h.n.t, h.daemon.Signal(syscall.SIGTERM))
	code, err := h.daemon.Wait(h.n.ctx)
	check(h.n.t, err)
	took := time.Since(begin)
	if code != 0 {
		h.n.t.Errorf("exit status %d", code)
	}
	h.n.t.Logf("ended %s after the signal", took)
	return took
}
