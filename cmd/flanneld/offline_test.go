package main_test

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

// stateFile is where the daemon keeps what it needs to start without etcd.
func (h *node) stateFile() string { return filepath.Join(h.Dir, "state", "coreos.com_network.json") }

// waitSaved waits until the state file has some text in it.
func (h *node) waitSaved(text string) {
	h.n.t.Helper()
	h.n.wait(2*soon, "the state file to have "+text, func() string {
		b, err := os.ReadFile(h.stateFile())
		if err != nil {
			return err.Error()
		}
		if !strings.Contains(string(b), text) {
			return "it is " + string(b)
		}
		return ""
	})
}

// etcd is not there, and a daemon starts all the same, with all that it knew.
func TestStartWithoutEtcd(t *testing.T) { everyFamily(t, testStartWithoutEtcd) }

func testStartWithoutEtcd(t *testing.T, v variant) {
	t.Parallel() // to the other variants
	n := newNetwork(t, 2, v, nil)
	h, other := n.nodes[0], n.nodes[1]
	subnet, env := h.subnet(), h.daemon.EnvText()
	h.waitSaved(other.subnet().Addr().String())
	n.witness(other, h, func() {
		n.witness(h, other, func() {
			n.etcd.Kill()
			h.daemon.Kill()
			check(t, os.Remove(h.daemon.SubnetFile))
			begin := time.Now()
			h.start()
			h.waitReady()
			if took := time.Since(begin); took < 4*time.Second || took > 8*time.Second {
				t.Errorf("it was ready after %s", took)
			}
			h.waitPeers(0, other.peer())
			if got := h.daemon.EnvText(); got != env {
				t.Errorf("subnet.env is %q, was %q", got, env)
			}
			n.wait(soon, "the status to say so", func() string {
				if s := h.daemon.Status(); !strings.Contains(s, "etcd cannot be used since") {
					return s
				}
				return ""
			})
			n.pause(time.Second)
			check(t, n.etcd.Start(n.ctx))
			n.wait(soon, "etcd to be used", func() string {
				if s := h.daemon.Status(); strings.Contains(s, "etcd") {
					return s
				}
				return ""
			})
			late := n.stranger("10.5.200.0/24", "192.168.0.200")
			n.putPeer(late)
			h.waitPeers(soon, other.peer(), late)
		})
	})
	if h.subnet() != subnet {
		t.Errorf("the subnet is %s, before it was %s", h.subnet(), subnet)
	}
}

// What was saved is not used where it might be wrong; then the daemon waits.
func TestStateFileOfNoUse(t *testing.T) {
	t.Parallel()
	n := newNetwork(t, 1, hostGW, nil)
	h := n.nodes[0]
	h.waitSaved(h.peer().name())
	must(h.daemon.Stop(soon))(t)
	good := string(must(os.ReadFile(h.stateFile()))(t))
	n.etcd.Kill()
	date := regexp.MustCompile(`"Expires":"[^"]*"`)
	for name, c := range map[string]struct{ content, said string }{
		"expired":   {date.ReplaceAllString(good, `"Expires":"2020-01-01T00:00:00Z"`), "our lease " + h.subnet().String() + " ended at 2020-01-01"},
		"corrupt":   {good[:len(good)/2], "not valid JSON"},
		"not there": {"", "no such file or directory"},
	} {
		t.Run(name, func(t *testing.T) {
			check(t, os.WriteFile(h.stateFile(), []byte(c.content), 0o600))
			if name == "not there" {
				check(t, os.Remove(h.stateFile()))
			}
			h.start()
			check(t, h.daemon.WaitLog(n.ctx, "waiting for the store, as there is nothing to start with: "))
			h.waitLog(c.said)
			select {
			case <-h.daemon.Notify.Ready():
				t.Error("it is ready all the same")
			default:
			}
			h.daemon.Kill()
		})
	}

	t.Log("where it can't be kept, that is said once")
	check(t, os.RemoveAll(filepath.Dir(h.stateFile())))
	check(t, os.WriteFile(filepath.Dir(h.stateFile()), nil, 0o600))
	check(t, n.etcd.Start(n.ctx))
	h.start()
	h.waitReady()
	h.waitLog("a start without etcd would not be possible: ")
}

// While the host lived by what it knew, another one got its subnet.
func TestSubnetTakenWhileOffline(t *testing.T) {
	t.Parallel()
	n := newNetwork(t, 1, vxlan, nil)
	h := n.nodes[0]
	old := h.subnet()
	h.waitSaved(h.peer().name())
	key := h.key()
	must(h.daemon.Stop(soon))(t)
	n.delete(key)
	winner := stranger(old.String(), "192.168.0.200")
	n.putPeer(winner)
	n.etcd.Kill()
	h.start()
	check(t, h.daemon.WaitReady(n.ctx))
	if h.subnet() != old {
		t.Errorf("the subnet is %s, was %s", h.subnet(), old)
	}
	check(t, n.etcd.Start(n.ctx))
	h.waitLog("this host's subnet changed from " + old.String())
	n.wait(soon, "a new subnet.env", func() string {
		if h.subnet() == old {
			return "the subnet is still " + old.String()
		}
		return ""
	})
	if e := n.get(winner.key()); e == nil || e.value != n.backend.lease(winner) {
		t.Errorf("the other's lease is now %v", e)
	}
}
