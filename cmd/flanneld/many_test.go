package main_test

import (
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"flanneld/pkg/lab"
)

// The daemons have no race detector: with it, two processors are busy for longer
// than the time that is tested.
func TestManyStartAtOnce(t *testing.T) { slowVariants(t, testManyStartAtOnce) }

func testManyStartAtOnce(t *testing.T, v variant) {
	const hosts = 200
	// Just as many subnets as hosts.
	n := newConfigured(t, v, settings{"SubnetMin": "10.5.1.0", "SubnetMax": fmt.Sprintf("10.5.%d.0", hosts)})
	n.binary = filepath.Join(t.TempDir(), "flanneld")
	check(t, build(n.binary, false))
	for range hosts {
		n.addNode(lab.HostOptions{})
	}
	begin := time.Now()
	for _, h := range n.nodes {
		h.start()
	}
	for _, h := range n.nodes {
		h.waitReady()
	}
	took := time.Since(begin)
	t.Logf("all ready after %s", took)
	if took > 20*time.Second {
		t.Errorf("%d hosts took %s", hosts, took)
	}
	seen := make(map[string]string)
	for _, h := range n.nodes {
		if other, ok := seen[h.key()]; ok {
			t.Errorf("%s and %s both have %s", h.Name, other, h.key())
		}
		seen[h.key()] = h.Name
		h.waitPeers(30*time.Second, h.others()...)
	}

	t.Log("one too many")
	late := n.addNode(lab.HostOptions{})
	late.start()
	late.waitLog(fmt.Sprintf("no free subnet: all %d of length /24 from 10.5.1.0 to 10.5.%d.0 in Network 10.5.0.0/16 are taken", hosts, hosts))
	freed := n.nodes[7]
	freed.daemon.Kill()
	begin = time.Now()
	n.delete(freed.key())
	late.waitReady()
	if took := time.Since(begin); took > 2*time.Second {
		t.Errorf("the freed subnet was taken after %s", took)
	}
	if late.key() != freed.key() {
		t.Errorf("got %s, free was %s", late.key(), freed.key())
	}
}
