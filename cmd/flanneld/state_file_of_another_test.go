package main_test

import (
	"os"
	"strings"
	"testing"
)

// What takes one network off a host leaves the state file of another daemon alone,
// and so does an action that finds nothing of this host's.
func TestStateFileOfAnother(t *testing.T) {
	n := newNetwork(t, 1, hostGW, nil)
	h := n.nodes[0]
	h.waitSaved(h.peer().name())
	must(h.daemon.Stop(soon))(t)
	if code, out := h.act("-release", "-public-ip=192.168.0.99"); code != 0 || !strings.Contains(out, "there is nothing to release") {
		t.Errorf("releasing: status %d, %s", code, out)
	}
	if _, err := os.Stat(h.stateFile()); err != nil {
		t.Errorf("after nothing was released: %v", err)
	}

	// The other one has no prefix of its own on the command line: -cleanup needs none.
	other := h.Dir + "/other.env"
	check(t, os.WriteFile(other, []byte("FLANNEL_NETWORK=10.6.0.0/16\nFLANNEL_SUBNET=10.6.1.1/24\n"), 0o600))
	if code, out := h.act("-cleanup", "-subnet-file="+other); code != 0 || !strings.Contains(out, "left "+h.stateFile()+": it is of the subnet "+h.subnet().String()+", not of 10.6.1.0/24") {
		t.Errorf("cleaning up: status %d, %s", code, out)
	}
	if _, err := os.Stat(h.stateFile()); err != nil {
		t.Errorf("after another network was removed: %v", err)
	}
	if _, err := os.Stat(other); err == nil {
		t.Errorf("%s is still there", other)
	}
}
