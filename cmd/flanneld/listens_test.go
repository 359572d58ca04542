package main_test

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"flanneld/pkg/lab"
)

// A host in a network of IPv4 alone has no work with what happens to the IPv6 routes of others,
// of which a router has very many. With IPv6 that begins, and nothing of it escapes the daemon.
func TestListensToItsFamilies(t *testing.T) {
	v := vxlan
	n := newLab(t, v.in(dualStack)) // the hosts have both addresses
	n.families = ipv4Only
	n.startEtcd(lab.EtcdOptions{})
	n.put("config", n.config(nil))
	h, other := n.addNode(lab.HostOptions{}), n.addNode(lab.HostOptions{})
	h.start()
	other.start()
	n.readyWithPods()

	const routes = 10000
	work := func() time.Duration {
		t.Helper()
		var add, remove bytes.Buffer
		for i := range routes {
			fmt.Fprintf(&add, "route add fd99:0:%x::/48 dev lo proto static\n", i)
			fmt.Fprintf(&remove, "route del fd99:0:%x::/48 dev lo\n", i)
		}
		n.wait(soon, "the daemon to have ended what follows its start", func() string {
			before := h.cpu()
			n.pause(500 * time.Millisecond)
			if used := h.cpu() - before; used > slow(10*time.Millisecond) {
				return fmt.Sprintf("it takes %s in half a second", used)
			}
			return ""
		})
		before := h.cpu()
		for name, text := range map[string][]byte{"add": add.Bytes(), "remove": remove.Bytes()} {
			check(t, os.WriteFile(filepath.Join(h.Dir, name), text, 0o600))
		}
		for _, name := range []string{"add", "remove"} {
			h.run("ip", "-6", "-batch", filepath.Join(h.Dir, name))
		}
		time.Sleep(time.Second)
		return h.cpu() - before
	}
	idle := work()

	n.families = dualStack
	n.put("config", n.config(nil))
	for _, node := range n.nodes {
		node.waitFamilies(dualStack)
	}
	h.waitPeers(soon, other.peer())
	n.pingFresh(n.nodes...)
	busy := work()
	t.Logf("%d routes took the daemon %s with IPv4 alone, and %s with IPv6", routes, idle, busy)
	if idle > busy/3 {
		t.Errorf("%d routes of IPv6 took the daemon %s with IPv4 alone, and %s with IPv6, too", routes, idle, busy)
	}
	h.run("ip", "-6", "route", "del", other.peer().views()[1].subnet.String())
	h.waitPeers(soon, other.peer())
	n.pingAll()
}
