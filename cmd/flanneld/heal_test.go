package main_test

import (
	"net/netip"
	"strings"
	"syscall"
	"testing"
	"time"

	"flanneld/pkg/ip"
	"flanneld/pkg/lab"
)

func mustPrefix(s string) netip.Prefix { return netip.MustParsePrefix(s) }

// slow is how much longer things may take under the race detector.
func slow(d time.Duration) time.Duration {
	if raceEnabled {
		return 3 * d
	}
	return d
}

func TestHeal(t *testing.T) {
	for _, v := range []variant{hostGW, hostGW.in(dualStack)} {
		t.Run(v.name(), func(t *testing.T) { testHeal(t, v) })
	}
}

func testHeal(t *testing.T, v variant) {
	n := newNetwork(t, 4, v, nil)
	h := n.nodes[0]
	want := h.others()
	h.waitPeers(soon, want...)
	foreign := lab.Route{Dst: mustPrefix("10.77.0.0/16"), Via: n.nodes[1].Addr, Dev: "eth0", Protocol: 4}
	check(t, h.AddRoute(foreign))

	for _, peer := range n.nodes[1].peer().views() {
		check(t, h.DelRoute(peer.subnet))
		t.Logf("a route deleted: back after %s", h.waitPeers(slow(100*time.Millisecond), want...))
	}

	_, err := h.DelRoutesByProtocol(ourRoutes)
	check(t, err)
	t.Logf("all routes deleted: back after %s", h.waitPeers(slow(100*time.Millisecond), want...))

	for _, peer := range n.nodes[1].peer().views() {
		wrong := n.nodes[2].Of(ip.FamilyOf(peer.public))
		check(t, h.ReplaceRoute(lab.Route{Dst: peer.subnet, Via: wrong, Dev: "eth0", Protocol: ourRoutes}))
		t.Logf("a route changed: right after %s", h.waitPeers(slow(100*time.Millisecond), want...))
	}
	hasRoute(t, h, "10.77.0.0/16 via "+n.nodes[1].Addr.String())

	check(t, h.LinkDown("eth0"))
	h.waitPeers(soon)
	check(t, h.LinkUp("eth0"))
	t.Logf("NIC down and up: routes back after %s", h.waitPeers(slow(time.Second), want...))

	check(t, h.RecreateNIC("eth0"))
	t.Logf("NIC made anew: routes back after %s", h.waitPeers(slow(time.Second), want...))
	n.pingAll()
}

// NetworkManager makes the route to the network of an address itself, some time after the
// address: routes of ours come back with it.
func TestHealsWithRouteToNetwork(t *testing.T) {
	n := newNetwork(t, 2, hostGW, nil)
	h := n.nodes[0]
	want := h.others()
	h.waitPeers(soon, want...)
	h.ip("addr del " + h.Addr.String() + "/24 dev eth0")
	h.ip("addr add " + h.Addr.String() + "/24 dev eth0 noprefixroute")
	time.Sleep(2500 * time.Millisecond) // tries become rare
	h.ip("route add 192.168.0.0/24 dev eth0 proto kernel metric 100 src " + h.Addr.String())
	t.Logf("routes back after %s", h.waitPeers(slow(100*time.Millisecond), want...))
	n.pingAll()
}

func hasRoute(t *testing.T, h *node, start string) {
	t.Helper()
	all, err := h.Routes(ip.V4, ip.V6)
	check(t, err)
	for _, r := range all {
		if strings.HasPrefix(r, start+" ") {
			return
		}
	}
	t.Errorf("%s has no route %q; its routes are %q", h.Name, start, all)
}

// What is not ours stays, even where it is in our way.
func TestForeignRoutes(t *testing.T) {
	n := newNetwork(t, 2, hostGW, nil)
	h, peer := n.nodes[0], n.nodes[1]
	want := h.others()
	h.waitPeers(soon, want...)
	check(t, h.AddRoute(lab.Route{Dst: mustPrefix("10.5.250.0/24"), Via: peer.Addr, Dev: "eth0", Protocol: 4}))
	stranger := stranger("10.5.250.0/24", "192.168.0.250")
	n.putPeer(stranger)
	h.waitLog("in its place is something that is not ours, to be removed by hand: 10.5.250.0/24 via " + peer.Addr.String())
	hasRoute(t, h, "10.5.250.0/24 via "+peer.Addr.String())
	n.pingAll()

	check(t, h.DelRoute(mustPrefix("10.5.250.0/24")))
	h.waitPeers(slow(time.Second), append(want, stranger)...)

	t.Log("the lease goes, a foreign route of the same destination stays")
	h.daemon.Kill()
	_, err := h.DelRoutesByProtocol(ourRoutes)
	check(t, err)
	check(t, h.AddRoute(lab.Route{Dst: mustPrefix("10.5.250.0/24"), Via: peer.Addr, Dev: "eth0", Protocol: 4}))
	n.delete(stranger.key())
	h.start()
	h.waitReady()
	h.waitPeers(soon, want...)
	hasRoute(t, h, "10.5.250.0/24 via "+peer.Addr.String())
}

// A host that is upgraded keeps the routes that flannel made, in place.
func TestAdoptsFlannelsRoutes(t *testing.T) {
	n := newNetwork(t, 2, hostGW, nil)
	h, peer := n.nodes[0], n.nodes[1]
	n.witness(h, peer, func() {
		code, err := h.daemon.Stop(soon)
		check(t, err)
		if code != 0 {
			t.Errorf("exit status %d", code)
		}
		check(t, h.ReplaceRoute(lab.Route{Dst: peer.subnet(), Via: peer.Addr, Dev: "eth0"}))
		h.start()
		h.waitReady()
	})
	h.waitPeers(soon, peer.peer())
}

func TestRestart(t *testing.T) { restInParallel(t, everyFamily, testRestart) }

func testRestart(t *testing.T, v variant) {
	n := newNetwork(t, 3, v, nil)
	h, peer, third := n.nodes[0], n.nodes[1], n.nodes[2]
	subnet := h.subnet()
	foreign := lab.Route{Dst: n.stranger("10.5.251.0/24", "192.168.0.251").subnet, Via: peer.Addr, Dev: "eth0", Protocol: 4}
	check(t, h.AddRoute(foreign))
	sigterm := func() {
		start := time.Now()
		code, err := h.daemon.Stop(soon)
		check(t, err)
		if took := time.Since(start); code != 0 || took > slow(time.Second) {
			t.Errorf("SIGTERM: exit status %d after %s", code, took)
		}
	}
	for name, stop := range map[string]func(){"kill -9": func() { h.daemon.Kill() }, "SIGTERM": sigterm} {
		t.Log(name)
		n.witness(peer, h, func() {
			n.witness(h, peer, func() {
				stop()
				h.start()
				h.waitReady()
			})
		})
		if h.subnet() != subnet {
			t.Errorf("after %s the subnet is %s, before it was %s", name, h.subnet(), subnet)
		}
		h.waitPeers(soon, h.others()...)
	}

	n.parallel(t)
	t.Log("a peer leaves while the daemon is down")
	check(t, third.daemon.Signal(syscall.SIGKILL))
	h.daemon.Kill()
	n.delete(third.key())
	h.start()
	t.Logf("its route is gone %s after the start", h.waitPeers(2*soon, peer.peer())) // it lingers
	hasRoute(t, h, foreign.Dst.String()+" via "+peer.Addr.String())
}
