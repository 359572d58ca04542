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

// become has the host's daemons run on a machine of this ID and name.
func (h *node) become(id, name string) {
	h.n.t.Helper()
	file := filepath.Join(h.Dir, "machine-id")
	check(h.n.t, os.WriteFile(file, []byte(id), 0o600))
	h.binary = filepath.Join(h.Dir, "flanneld")
	check(h.n.t, lab.WriteProgram(h.binary, fmt.Appendf(nil, "#!/bin/sh\nexec unshare --mount --uts sh -c 'hostname %s && mount --bind %s /etc/machine-id && exec %s \"$@\"' flanneld \"$@\"\n", name, file, daemonBinary), 0o755))
}

// startAs starts the daemon on a machine of this ID and name, as the public address
// that all machines have.
func (h *node) startAs(id, name string) {
	h.n.t.Helper()
	h.become(id, name)
	h.start("-public-ip=10.0.2.15")
}

// Two machines say that they have one public address: the second is refused while
// the first is alive, and not longer.
func TestOnePublicIP(t *testing.T) { inParallel(t, everyVariant, testOnePublicIP) }

func testOnePublicIP(t *testing.T, v variant) {
	if v.backend.name == hostGWBackend.name {
		v.backend = allocBackend // host-gw takes no other address than the interface's
	}
	n := newConfigured(t, v, nil)
	first, second := n.addNode(lab.HostOptions{}), n.addNode(lab.HostOptions{})
	first.startAs("1111", "node")
	first.waitReady()
	key := first.key()
	before := n.get(key).value
	second.startAs("2222", "node")
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
	first.startAs("1111", "node")
	first.waitReady() // it would ask for longer

	t.Log("the first is gone, and installed anew")
	second.daemon.Kill()
	first.daemon.Kill()
	begin := time.Now()
	first.startAs("3333", "node")
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

// Two machines with one public address are copies that differ by name only. The second
// takes the lease for its own from before it was renamed, and learns that it is not.
func TestOnePublicIPAndID(t *testing.T) {
	t.Parallel()
	n := newConfigured(t, vxlan, nil)
	first, second := n.addNode(lab.HostOptions{}), n.addNode(lab.HostOptions{})
	first.startAs("1111", "alpha")
	first.waitReady()
	second.startAs("1111", "beta")
	second.waitLog("now belongs to the machine alpha ")
	second.waitLog("which has our public address 10.0.2.15 and our machine ID, too")
	second.waitLog("which is alive and has the lease " + first.subnet().String())
	n.wait(soon, "the status to say so", func() string { return lacks(second.daemon.Status(), "this subnet now belongs to the machine alpha ") })
	for range 20 {
		if e := n.get(first.key()); e == nil || !strings.Contains(e.value, `"Machine":"alpha `) {
			t.Fatalf("the lease is %v", e)
		}
		n.pause(100 * time.Millisecond)
	}
	if strings.Contains(first.daemon.Log(), "now belongs to") {
		t.Error("the first lost it")
	}
}

// A host that got another name has its lease at once, with etcd and without it, and
// can give it back. The lease says the new name as soon as it can.
func TestRenamed(t *testing.T) { inParallel(t, slowVariants, testRenamed) }

func testRenamed(t *testing.T, v variant) {
	n := newConfigured(t, v, nil)
	h := n.addNode(lab.HostOptions{})
	h.become("1111", "alpha")
	h.start()
	h.waitReady()
	key, subnet := h.key(), h.subnet()
	want := func(name string) {
		t.Helper()
		if h.subnet() != subnet {
			t.Errorf("as %s the subnet is %s, was %s", name, h.subnet(), subnet)
		}
		n.wait(soon, "the lease to say "+name, func() string {
			if e := n.get(key); e == nil || !strings.Contains(e.value, `"Machine":"`+name+" ") || strings.Contains(e.value, "Challenger") {
				return fmt.Sprintf("it is %v", e)
			}
			return ""
		})
		h.waitSaved(name + " ")
	}
	must(h.daemon.Stop(soon))(t)
	h.become("1111", "beta")
	h.start()
	h.waitReady() // it would ask for longer
	want("beta")

	t.Log("without etcd")
	must(h.daemon.Stop(soon))(t)
	h.become("1111", "gamma")
	n.etcd.Kill()
	h.start()
	check(t, h.daemon.WaitReady(n.ctx))
	check(t, n.etcd.Start(n.ctx))
	want("gamma")

	must(h.daemon.Stop(soon))(t)
	h.become("1111", "delta")
	if code, out := h.act("-release"); code != 0 || !strings.Contains(out, fmt.Sprintf("released %s, ", subnet)) || n.get(key) != nil {
		t.Errorf("status %d, %s", code, out)
	}
}
