package main_test

import (
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"flanneld/pkg/lab"
)

func TestManyStartAtOnce(t *testing.T) {
	slowVariants(t, func(t *testing.T, v variant) {
		testStartAtOnce(t, v, 40, daemonBinary, slow(5*time.Second))
	})
}

// Without a data path, as what two processors do for two hundred hosts is to be about
// subnets, and without the race detector.
func TestManySubnetsAtOnce(t *testing.T) {
	binary := filepath.Join(t.TempDir(), "flanneld")
	check(t, build(binary, false))
	slowVariants(t, func(t *testing.T, v variant) {
		v.backend = allocBackend
		testStartAtOnce(t, v, 200, binary, 20*time.Second)
	})
}

// testStartAtOnce has hosts take just as many subnets as there are.
func testStartAtOnce(t *testing.T, v variant, hosts int, binary string, limit time.Duration) {
	n := newConfigured(t, v, settings{"SubnetMin": "10.5.1.0", "SubnetMax": fmt.Sprintf("10.5.%d.0", hosts)})
	n.binary = binary
	for range hosts {
		n.addNode(lab.HostOptions{})
	}
	begin, lost := time.Now(), n.lostTime()
	for _, h := range n.nodes {
		h.start()
	}
	for _, h := range n.nodes {
		h.waitReady()
	}
	took := time.Since(begin)
	lost = n.lostTime() - lost
	t.Logf("all ready after %s, in which the processors were elsewhere for %s", took, lost)
	if took-lost > limit {
		t.Errorf("%d hosts took %s, besides %s in which the processors were elsewhere", hosts, took-lost, lost)
	}
	seen := make(map[string]string)
	for _, h := range n.nodes {
		if other, ok := seen[h.key()]; ok {
			t.Errorf("%s and %s both have %s", h.Name, other, h.key())
		}
		seen[h.key()] = h.Name
		h.waitPeers(soon, h.others()...)
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
	if took := time.Since(begin); took > slow(2*time.Second) {
		t.Errorf("the freed subnet was taken after %s", took)
	}
	if late.key() != freed.key() {
		t.Errorf("got %s, free was %s", late.key(), freed.key())
	}
}
