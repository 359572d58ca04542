package main_test

import (
	"fmt"
	"os"
	"regexp"
	"testing"
	"time"

	"flanneld/pkg/lab"
	"flanneld/subnet"
)

// restartWithoutEtcd ends etcd and the daemon at once, puts back what the state file held
// at some time before, if anything, and starts the daemon.
func (h *node) restartWithoutEtcd(old []byte, meanwhile func()) {
	h.n.t.Helper()
	h.n.etcd.Kill()
	h.daemon.Kill()
	if old != nil {
		check(h.n.t, os.WriteFile(h.stateFile(), old, 0o644))
	}
	meanwhile()
	h.start()
	h.waitReady()
}

// What was saved is what was known once. A start by it adds what is missing, and leaves
// alone what the host has and the file does not know: peers that joined since.
func TestSavedStateIsNotAllThereIs(t *testing.T) {
	inParallel(t, slowVariants, testSavedStateIsNotAllThereIs)
}

func testSavedStateIsNotAllThereIs(t *testing.T, v variant) {
	n := newNetwork(t, 2, v, nil)
	h, known := n.nodes[0], n.nodes[1]
	h.waitSaved(known.peer().name())
	old := must(os.ReadFile(h.stateFile()))(t)
	joined := n.addNode(lab.HostOptions{})
	joined.start()
	joined.waitReady()
	joined.addPod()
	gone := stranger("10.5.201.0/24", "192.168.0.201")
	n.putPeer(gone)
	h.waitPeers(soon, known.peer(), joined.peer(), gone)
	h.ping(joined)
	n.witness(joined, h, func() {
		n.witness(h, joined, func() {
			h.restartWithoutEtcd(old, func() { check(t, h.DelRoute(known.subnet())) })
			h.waitPeers(0, known.peer(), joined.peer(), gone)
			h.ping(known)

			t.Log("once etcd is heard, what it does not know goes")
			n.pause(time.Second)
			check(t, n.etcd.Start(n.ctx))
			n.delete(gone.key())
			h.waitPeers(4*soon, known.peer(), joined.peer())
		})
	})
}

// Where the kernel leads to a peer by another way than the file, it is the kernel that
// learned of it last.
func TestSavedStateIsOlderThanTheKernel(t *testing.T) {
	inParallel(t, slowVariants, testSavedStateIsOlderThanTheKernel)
}

func testSavedStateIsOlderThanTheKernel(t *testing.T, v variant) {
	n := newNetwork(t, 1, v, nil)
	h := n.nodes[0]
	before, moved := stranger("10.5.200.0/24", "192.168.0.200"), stranger("10.5.200.0/24", "192.168.0.210")
	n.putPeer(before)
	h.waitPeers(soon, before)
	h.waitSaved(before.name())
	old := must(os.ReadFile(h.stateFile()))(t)
	n.putPeer(moved)
	h.waitPeers(soon, moved)
	h.restartWithoutEtcd(old, func() {})
	n.pause(time.Second)
	h.waitPeers(0, moved)
	check(t, n.etcd.Start(n.ctx))
	n.delete(moved.key())
	h.waitPeers(4 * soon)
}

// The file follows each change within about a second.
func TestSavedStateFollows(t *testing.T) {
	n := newNetwork(t, 1, hostGW, nil)
	h := n.nodes[0]
	h.waitSaved(h.peer().name())
	begin := time.Now()
	for i := range 5 {
		p := stranger(fmt.Sprintf("10.5.%d.0/24", 200+i), fmt.Sprintf("192.168.0.%d", 200+i))
		n.putPeer(p)
		h.waitSaved(p.name())
	}
	if took := time.Since(begin); took > slow(5*time.Second) {
		t.Errorf("five changes were followed after %s", took)
	}
}

// A peer whose lease vanished stays for a while, also if the daemon is started anew
// meanwhile, and again: etcd was replaced by an empty one, and the peer's daemon is away
// for a moment.
func TestVanishedPeersStayOverRestarts(t *testing.T) {
	inParallel(t, slowVariants, testVanishedPeersStayOverRestarts)
}

func testVanishedPeersStayOverRestarts(t *testing.T, v variant) {
	n := newNetwork(t, 2, v, nil)
	h, other := n.nodes[0], n.nodes[1]
	goes := stranger("10.5.201.0/24", "192.168.0.201")
	n.putPeer(goes)
	h.waitPeers(soon, other.peer(), goes)
	h.waitSaved(goes.name())
	n.witness(other, h, func() {
		n.witness(h, other, func() {
			other.daemon.Kill()
			h.daemon.Kill()
			check(t, n.etcd.Wipe(n.ctx))
			n.put("config", n.config(nil))
			vanished := time.Now()
			for range 2 {
				h.start()
				h.waitReady()
				h.waitPeers(0, other.peer(), goes)
				n.pause(1500 * time.Millisecond)
				h.waitPeers(0, other.peer(), goes)
				h.daemon.Kill()
			}
			last := time.Now()
			h.start()
			h.waitReady()
			other.start()
			other.waitReady()
			h.waitPeers(2*soon, other.peer())
			if took := time.Since(vanished); took < subnet.LingerTime {
				t.Errorf("the peer that does not come back was there for %s", took)
			}
			// Each start does not begin to wait anew.
			if took := time.Since(last); took > subnet.LingerTime-time.Second {
				t.Errorf("the peer that does not come back was there for %s after the last start", took)
			}
		})
	})
}

// What was saved long ago is no news: a peer that left meanwhile does not come back, not
// even for a moment.
func TestPeersOfLongAgoAreGone(t *testing.T) {
	t.Parallel()
	n := newNetwork(t, 1, vxlan, nil)
	h := n.nodes[0]
	gone := stranger("10.5.201.0/24", "192.168.0.201")
	n.putPeer(gone)
	h.waitPeers(soon, gone)
	h.waitSaved(gone.name())
	must(h.daemon.Stop(soon))(t)
	text := string(must(os.ReadFile(h.stateFile()))(t))
	at := regexp.MustCompile(`"At":"[^"]*"`)
	check(t, os.WriteFile(h.stateFile(), []byte(at.ReplaceAllString(text, fmt.Sprintf(`"At":%q`, time.Now().Add(-time.Hour).Format(time.RFC3339)))), 0o644))
	n.delete(gone.key())
	h.start()
	h.waitReady()
	h.waitPeers(0)
}

// So it does if the configuration is written anew meanwhile, in other words.
func TestVanishedPeersStayOverConfigurations(t *testing.T) {
	t.Parallel()
	n := newNetwork(t, 1, vxlan, nil)
	h := n.nodes[0]
	gone := stranger("10.5.201.0/24", "192.168.0.201")
	n.putPeer(gone)
	h.waitPeers(soon, gone)
	n.delete(gone.key())
	n.put("config", n.config(settings{"SubnetMin": "10.5.16.0"}))
	h.waitLog("the network configuration was changed")
	n.pause(500 * time.Millisecond)
	h.waitPeers(0, gone)
	h.waitPeers(2 * soon)
}
