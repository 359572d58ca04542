package main_test

import (
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"flanneld/pkg/ip"
	"flanneld/pkg/lab"
)

// Of all that a daemon made nothing is left, and of all else everything.
func TestCleanup(t *testing.T) {
	inParallel(t, dualToo, testCleanup)
}

func testCleanup(t *testing.T, v variant) {
	n := newConfigured(t, v, nil)
	h := n.addNode(lab.HostOptions{})
	before := h.inventory()
	n.addNode(lab.HostOptions{}).start()
	h.start()
	h.waitReady()
	n.nodes[1].waitReady()
	gone := n.stranger("10.5.200.0/24", "192.168.0.200")
	n.putPeer(gone)
	h.waitPeers(soon, append(h.others(), gone)...)
	if code, out := h.act("-cleanup"); code != 1 || !strings.Contains(out, "another flanneld works for it; stop it first") {
		t.Errorf("while the daemon runs: status %d, %s", code, out)
	}
	h.waitPeers(0, append(h.others(), gone)...)

	foreign := []lab.Route{
		{Dst: mustPrefix("10.77.0.0/16"), Via: n.nodes[1].Addr, Dev: "eth0", Protocol: 4},
		{Dst: mustPrefix("10.5.201.0/24"), Via: n.nodes[1].Addr, Dev: "eth0", Protocol: 4},
		{Dst: mustPrefix("10.6.201.0/24"), Via: n.nodes[1].Addr, Dev: "eth0", Protocol: ourRoutes}, // another daemon's
	}
	if six := n.nodes[1].Of(ip.V6); six.IsValid() {
		foreign = append(foreign,
			lab.Route{Dst: mustPrefix("fd00:77::/48"), Via: six, Dev: "eth0", Protocol: 4},
			lab.Route{Dst: mustPrefix("fd00:5:0:5c9::/64"), Via: six, Dev: "eth0", Protocol: 4},
			lab.Route{Dst: mustPrefix("fd00:6:0:5c9::/64"), Via: six, Dev: "eth0", Protocol: ourRoutes})
	}
	for _, r := range foreign {
		check(t, h.AddRoute(r))
	}
	h.run("ip", "link", "add", "flannel.7", "type", "vxlan", "id", "7", "dstport", "4789")
	h.run("ip", "addr", "add", "10.6.0.1/32", "dev", "flannel.7")

	h.waitSaved(h.subnet().Addr().String())
	must(h.daemon.Stop(soon))(t)
	switch v.backend.name { // whatever has become of the device meanwhile
	case "vxlan":
		check(t, h.LinkDown(vtep))
	case "udp":
		check(t, h.LinkDown(tunDevice))
		check(t, h.FlushAddrs(tunDevice))
	}
	key := h.key()
	lease := n.get(key)
	code, out := h.act("-cleanup")
	if code != 0 || !strings.Contains(out, "removed "+h.daemon.SubnetFile) {
		t.Errorf("status %d, %s", code, out)
	}
	for _, r := range foreign {
		hasRoute(t, h, r.Dst.String()+" via "+r.Via.String())
		check(t, h.DelRoute(r.Dst))
	}
	h.run("ip", "link", "show", "flannel.7")
	check(t, h.DelLink("flannel.7"))
	if v.backend.itself { // a neighbour entry of the test's own
		check(t, h.DelNeighbour("eth0", netip.MustParseAddr("192.168.0.200")))
	}
	if after := h.inventory(); !slices.Equal(after, before) {
		t.Errorf("before:\n%s\nafter:\n%s", strings.Join(before, "\n"), strings.Join(after, "\n"))
	}
	for _, file := range []string{h.daemon.SubnetFile, h.stateFile()} {
		if _, err := os.Stat(file); err == nil || !strings.Contains(out, "removed "+file) {
			t.Errorf("%s is there, or nothing was said of it: %s", file, out)
		}
	}
	if now := n.get(key); now == nil || now.value != lease.value {
		t.Errorf("the lease was %s and is %s", lease, now)
	}

	if code, out := h.act("-cleanup"); code != 0 || !strings.Contains(out, "there is nothing to remove") {
		t.Errorf("again: status %d, %s", code, out)
	}
}

// inventory lists the host's interfaces, addresses, routes, nexthops and
// permanent neighbours.
func (h *node) inventory() []string {
	h.n.t.Helper()
	var all []string
	check(h.n.t, h.Do(func() error {
		list, err := net.Interfaces()
		if err != nil {
			return err
		}
		for _, i := range list {
			addrs, err := i.Addrs()
			if err != nil {
				return err
			}
			text := i.Name
			for _, a := range addrs {
				if a, ok := a.(*net.IPNet); ok && !a.IP.IsLinkLocalUnicast() {
					text += " " + a.String()
				}
			}
			all = append(all, text)
		}
		return nil
	}))
	all = append(all, must(h.Routes(ip.V4, ip.V6))(h.n.t)...)
	for _, cmd := range [][]string{{"ip", "nexthop"}, {"ip", "neigh", "show", "nud", "permanent"}} {
		all = append(all, h.run(cmd...))
	}
	return all
}

// Without the subnet file, or with one that tells nothing, it can't be known
// what is whose.
func TestCleanupUnclear(t *testing.T) {
	t.Parallel()
	n := newNetwork(t, 2, hostGW, nil)
	h := n.nodes[0]
	h.daemon.Kill()
	check(t, os.Remove(h.daemon.SubnetFile))
	if code, out := h.act("-cleanup"); code != 1 || !strings.Contains(out, "does not say which network this host was in, so whose the 1 routes") {
		t.Errorf("status %d, %s", code, out)
	}
	h.waitPeers(0, h.others()...)
	check(t, os.WriteFile(h.daemon.SubnetFile, []byte("FLANNEL_NETWORK=nonsense\n"), 0o600))
	if code, out := h.act("-cleanup"); code != 1 || !strings.Contains(out, `bad line "FLANNEL_NETWORK=nonsense"`) {
		t.Errorf("status %d, %s", code, out)
	}
	check(t, os.WriteFile(h.daemon.SubnetFile, []byte("FLANNEL_NETWORK=10.5.0.0/16\n"), 0o600))
	if code, out := h.act("-cleanup"); code != 0 || !strings.Contains(out, "removed route 10.5.") {
		t.Errorf("status %d, %s", code, out)
	}
	h.waitPeers(0)
}

// -cleanup needs to be told neither where the subnet was from nor what the host was called
// there, and leaves alone what other daemons saved.
func TestCleanupOfKubernetes(t *testing.T) {
	t.Parallel()
	n := newKubeNetwork(t, 2, kubeVXLAN, nil)
	h, other := n.nodes[0], n.nodes[1]
	h.waitKubeSaved(other.subnet().Addr().String())
	saved := h.kubeStateFile()
	must(h.daemon.Stop(soon))(t)
	check(t, os.WriteFile(filepath.Join(h.Dir, "state", "foreign.json"), []byte("{}"), 0o600))
	others := filepath.Join(h.Dir, "state", "others.json")
	check(t, os.WriteFile(others, []byte(readFile(t, other.kubeStateFile())), 0o600))
	p, err := h.Start("flanneld", []string{daemonBinary, "-cleanup", "-subnet-file=" + h.daemon.SubnetFile, "-state-dir=" + filepath.Dir(saved)}, nil, lab.ProcessOptions{})
	check(t, err)
	code, err := p.Wait(n.ctx)
	check(t, err)
	out := p.Log()
	if code != 0 {
		t.Errorf("it ended with %d", code)
	}
	for _, want := range []string{"removed device " + vtep, "removed " + saved + "\n", "removed " + h.daemon.SubnetFile + "\n"} {
		if !strings.Contains(out, want) {
			t.Errorf("there is no %q in\n%s", want, out)
		}
	}
	if strings.Contains(out, "foreign") || strings.Contains(out, others) {
		t.Errorf("it has to do with files of others:\n%s", out)
	}
	if left := must(os.ReadDir(filepath.Dir(saved)))(t); len(left) != 2 {
		t.Errorf("left are %v", left)
	}
}

// Of two daemons with one subnet file the second waits for the end of the first.
func TestOneDaemonForAFile(t *testing.T) {
	n := newNetwork(t, 2, hostGW, nil)
	h := n.nodes[0]
	first := h.daemon
	n.witness(h, n.nodes[1], func() {
		second, err := h.StartFlanneld(daemonBinary, "-subnet-file="+filepath.Clean(first.SubnetFile))
		check(t, err)
		check(t, second.WaitLog(n.ctx, "another flanneld works for it"))
		n.pause(500 * time.Millisecond)
		select {
		case <-second.Notify.Ready():
			t.Error("it is ready all the same")
		default:
		}
		must(first.Stop(soon))(t)
		check(t, second.WaitReady(n.ctx))
	})
}
