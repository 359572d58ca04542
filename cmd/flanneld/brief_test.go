package main_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"flanneld/pkg/lab"
)

// What is over within a second is no alarm, and costs few lines however many peers there
// are: a network manager takes the address away and puts it back, and etcd is restarted.
func TestBriefChangesAreNoAlarm(t *testing.T) {
	t.Parallel()
	const peers = 140
	n := newConfigured(t, hostGW, settings{"SubnetMax": "10.5.50.0"})
	h := n.addNode(lab.HostOptions{})
	h.start()
	h.waitReady()
	for i := range peers {
		n.putPeer(stranger(fmt.Sprintf("10.5.%d.0/24", i+100), fmt.Sprintf("192.168.0.%d", i+80)))
	}
	restored := func() string {
		if got := len(h.routes()); got < peers {
			return fmt.Sprintf("there are %d routes", got)
		}
		return ""
	}
	n.wait(soon, "the routes", restored)
	n.pause(2 * time.Second)
	before := h.daemon.Log()
	addr := h.Addr.String() + "/24"
	for range 2 {
		h.run("sh", "-c", "ip addr del "+addr+" dev eth0; sleep 0.03; ip addr add "+addr+" dev eth0")
		n.wait(soon, "the routes", restored)
		n.pause(2 * time.Second)
	}
	flapped := strings.TrimPrefix(h.daemon.Log(), before)
	for line := range strings.Lines(flapped) {
		if line[0] != 'I' {
			t.Errorf("an alarm: %s", line)
		}
	}
	n.etcd.Kill()
	check(t, n.etcd.Start(n.ctx))
	n.pause(3 * time.Second)
	more := strings.TrimPrefix(h.daemon.Log(), before)
	if lines := strings.Count(more, "\n"); lines > 6 {
		t.Errorf("%d lines:\n%s", lines, more)
	}
	for line := range strings.Lines(more) {
		if line[0] != 'I' && !strings.Contains(line, "etcd") { // which may take longer than a second to start
			t.Errorf("an alarm: %s", line)
		}
	}
}
