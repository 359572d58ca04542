package main_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"flanneld/pkg/lab"
)

// startAs starts the daemon on a machine with an ID of its own, as the public
// address that all machines have.
func (h *node) startAs(id string, args ...string) {
	h.n.t.Helper()
	file := filepath.Join(h.Dir, "machine-id")
	check(h.n.t, os.WriteFile(file, []byte(id), 0o600))
	script := filepath.Join(h.Dir, "flanneld")
	check(h.n.t, os.WriteFile(script, fmt.Appendf(nil, "#!/bin/sh\nexec unshare -m sh -c 'mount --bind %s /etc/machine-id && exec %s \"$@\"' flanneld \"$@\"\n", file, daemonBinary), 0o755))
	h.runs(h.StartFlanneld(script, append([]string{"-public-ip=10.0.2.15"}, args...)...))
}

// Two machines say that they have one public address: the second is refused while
// the first is alive, and not longer.
func TestOnePublicIP(t *testing.T) { everyVariant(t, testOnePublicIP) }

func testOnePublicIP(t *testing.T, v variant) {
	if v.backend.name == hostGWBackend.name {
		v.backend = allocBackend // host-gw takes no other address than the interface's
	}
	n := newConfigured(t, v, nil)
	first, second := n.addNode(lab.HostOptions{}), n.addNode(lab.HostOptions{})
	first.startAs("1111")
	first.waitReady()
	key := first.key()
	before := n.get(key).value
	second.startAs("2222")
	second.waitLog("is also that of the machine")
	second.waitLog("which is alive and has the lease " + first.subnet().String())
	second.waitLog("-iface")
	first.waitLog("asks whether we are alive")
	n.pause(time.Second)
	if now := n.get(key).value; now != before {
		t.Errorf("the lease was %s and is %s", before, now)
	}
	select {
	case <-second.daemon.Notify.Ready():
		t.Error("the second is ready all the same")
	default:
	}

	t.Log("the first is started again")
	first.daemon.Kill()
	begin := time.Now()
	first.startAs("1111")
	first.waitReady()
	if took := time.Since(begin); took > slow(2*time.Second) {
		t.Errorf("it took %s to be ready", took)
	}

	t.Log("the first is gone, and installed anew")
	second.daemon.Kill()
	first.daemon.Kill()
	begin = time.Now()
	first.startAs("3333")
	check(t, first.daemon.WaitReady(n.ctx))
	if took := time.Since(begin); took > slow(24*time.Second) {
		t.Errorf("it took %s to be ready", took)
	}
	if first.key() != key || n.get(key).value == before {
		t.Errorf("the lease %s is %s, it was %s", first.key(), n.get(key), before)
	}
	if !strings.Contains(first.daemon.Log(), "does not answer: the lease is ours now") {
		t.Error("that is not said")
	}
}
