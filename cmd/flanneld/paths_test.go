package main_test

import (
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"flanneld/pkg/lab"
)

const inTheWay = "packets are kept from their way"

var remedies = regexp.MustCompile(`; mend it by: ([^,;\n]*)`)

// waitObstacle waits until the status names all the texts, and returns the commands that
// it recommends.
func (h *node) waitObstacle(what string, texts ...string) []string {
	h.n.t.Helper()
	var status string
	h.n.wait(soon, fmt.Sprintf("%s: %q in the status", what, texts), func() string {
		status = h.daemon.Status()
		for _, text := range append(texts, inTheWay) {
			if !strings.Contains(status, text) {
				return status
			}
		}
		return ""
	})
	var commands []string
	for _, m := range remedies.FindAllStringSubmatch(status, -1) {
		if !slices.Contains(commands, m[1]) {
			commands = append(commands, m[1])
		}
	}
	return commands
}

// waitNoObstacle waits until the status names none.
func (h *node) waitNoObstacle(what string) {
	h.n.t.Helper()
	h.n.wait(soon, what+": a status without obstacles", func() string {
		if status := h.daemon.Status(); strings.Contains(status, inTheWay) || strings.Contains(status, "not in place") {
			return status
		}
		return ""
	})
}

// reaches reports whether pods of two hosts reach each other.
func (h *node) reaches(to *node) bool {
	_, err := h.pod.Ping(h.n.ctx, to.pod.Addr, time.Second)
	return err == nil
}

// What leads packets for peers or for the own pods astray is named, with the rule or the
// route, and the commands that are recommended mend it.
func TestAstray(t *testing.T) {
	inParallel(t, everyVariant, testAstray)
}

func testAstray(t *testing.T, v variant) {
	n := newNetwork(t, 3, v, nil)
	h, peer, third := n.nodes[0], n.nodes[1], n.nodes[2]
	dst, own := peer.subnet(), h.subnet()
	half := netip.PrefixFrom(dst.Addr(), 25)
	podOf := peer.pod.Addr.String()
	h.ip("tuntap add vpn mode tun")
	h.ip("link set vpn up")
	h.waitNoObstacle("at first")
	for _, c := range []struct {
		name     string
		commands []string
		texts    []string // in the status
		undo     []string // what the recommended commands leave
		cut      *node    // whose pods are out of reach meanwhile; nil for those of h itself, or none
	}{
		{
			"a VPN that accepts routes",
			[]string{"route add 10.0.0.0/8 dev vpn table 52", "rule add prio 5270 lookup 52"},
			[]string{dst.String(), third.subnet().String(), "not reachable", `"5270: from all lookup 52"`, "10.0.0.0/8 dev vpn", "table 52"},
			[]string{"rule del prio 5269", "rule del prio 5270", "route flush table 52"},
			peer,
		},
		{
			"a rule for pods",
			[]string{"route add 10.0.0.0/8 dev vpn table 52", "rule add prio 100 iif docker0 to 10.5.0.0/16 lookup 52"},
			[]string{dst.String(), third.subnet().String(), "not reachable", "iif docker0", "10.0.0.0/8 dev vpn"},
			[]string{"rule del prio 99", "rule del prio 100", "route flush table 52"},
			peer,
		},
		{
			"a rule that refuses",
			[]string{"rule add prio 100 to " + dst.String() + " prohibit"},
			[]string{dst.String(), "not reachable", "dropped", "prohibit"},
			[]string{"rule del prio 99", "rule del prio 100"},
			peer,
		},
		{
			"a bridge with a part of a peer's subnet",
			[]string{"link add br9 type bridge", "addr add " + half.Addr().Next().String() + "/25 dev br9", "link set br9 up"},
			[]string{dst.String(), "in part not reachable", half.String() + " dev br9 proto kernel"},
			[]string{"link del br9"},
			nil,
		},
		{
			"a route to a pod of a peer",
			[]string{"route add " + podOf + "/32 dev vpn proto static"},
			[]string{dst.String(), "in part not reachable", podOf + "/32 dev vpn proto static"},
			nil,
			peer,
		},
		{
			"a black hole",
			[]string{"route add blackhole " + podOf + "/32"},
			[]string{dst.String(), "in part not reachable", "blackhole " + podOf + "/32"},
			nil,
			peer,
		},
		{
			"an unmarked route by another device",
			[]string{"route replace " + dst.String() + " dev vpn"},
			[]string{dst.String(), "not reachable", dst.String() + " dev vpn proto boot"},
			nil,
			peer,
		},
		{
			"a marked route with several next hops",
			[]string{"route replace " + dst.String() + " proto static nexthop via 192.168.0.77 nexthop via 192.168.0.78"},
			[]string{dst.String(), "not reachable", dst.String() + " proto static multipath"},
			nil,
			peer,
		},
		{
			"a black hole in the place of ours",
			[]string{"route replace blackhole " + dst.String()},
			[]string{dst.String(), "not reachable", "dropped", "blackhole " + dst.String() + " proto boot"},
			nil,
			peer,
		},
		{
			"a route to a pod of this host",
			[]string{"route add " + h.pod.Addr.String() + "/32 dev vpn"},
			[]string{own.String(), "(this host's own)", "in part not reachable", h.pod.Addr.String() + "/32 dev vpn proto boot"},
			nil,
			nil,
		},
		{
			"a route to the own subnet",
			[]string{"route add " + netip.PrefixFrom(own.Addr(), 25).String() + " dev vpn", "route add " + netip.PrefixFrom(own.Addr(), 25).String() + " dev vpn metric 7 proto bird"},
			[]string{own.String(), "(this host's own)", "proto boot"},
			[]string{"route flush dev vpn"},
			nil,
		},
	} {
		for _, command := range c.commands {
			h.ip(command)
		}
		commands := h.waitObstacle(c.name, c.texts...)
		if c.cut != nil && h.reaches(c.cut) {
			t.Errorf("%s: %s is reached all the same", c.name, c.cut.Name)
		}
		t.Logf("%s: %s; recommended: %q", c.name, h.daemon.Status(), commands)
		if len(commands) == 0 {
			t.Fatalf("%s: no command is recommended", c.name)
		}
		for range 5 { // one command may bring to light what is behind
			for _, command := range commands {
				h.run(strings.Fields(command)...)
			}
			n.wait(soon, c.name+": another status", func() string {
				status := h.daemon.Status()
				for _, command := range commands {
					if strings.Contains(status, command) {
						return status
					}
				}
				return ""
			})
			if commands = nil; strings.Contains(h.daemon.Status(), inTheWay) {
				commands = h.waitObstacle(c.name)
			} else {
				break
			}
		}
		h.waitNoObstacle(c.name + ", mended")
		n.pingAll()
		for _, command := range c.undo {
			h.ip(command)
		}
	}
	h.waitNoObstacle("at last")
	n.pingAll()
}

// Where there are no pods yet, a route to the own subnet is named as well.
func TestAstrayBeforePods(t *testing.T) {
	t.Parallel()
	n := newConfigured(t, vxlan, nil)
	h := n.addNode(lab.HostOptions{})
	h.start()
	h.waitReady()
	h.ip("route add " + h.subnet().String() + " via 192.168.0.77 proto static")
	h.ip("route add blackhole " + h.subnet().String() + " metric 9") // drops what is for pods that are gone
	route := h.subnet().String() + " via 192.168.0.77 dev eth0 proto static"
	commands := h.waitObstacle("a route to the own subnet", h.subnet().String()+" (this host's own): not reachable", route)
	if want := "ip route del " + route; !slices.Equal(commands, []string{want}) {
		t.Fatalf("recommended: %q, not %q", commands, want)
	}
	h.run(strings.Fields(commands[0])...)
	h.waitNoObstacle("mended")
}

// What others do for their own good is no obstacle, and nothing is said of it.
func TestNotAstray(t *testing.T) {
	inParallel(t, everyVariant, testNotAstray)
}

func testNotAstray(t *testing.T, v variant) {
	n := newNetwork(t, 2, v, nil)
	h, peer := n.nodes[0], n.nodes[1]
	dst, own := peer.subnet().String(), h.subnet()
	before := h.daemon.Log()
	for _, command := range []string{
		"tuntap add vpn mode tun", "addr add 10.77.0.1/24 dev vpn", "link set vpn up",
		// Less specific.
		"route add 10.0.0.0/8 dev vpn proto static",
		"route add unreachable 10.5.0.0/16 metric 4278198272 proto static",
		// What wg-quick does.
		"route add default dev vpn table 51820",
		"rule add not fwmark 51820 table 51820 prio 101",
		"rule add table main suppress_prefixlength 0 prio 100",
		// Rules that are not about pods.
		"route add 10.0.0.0/8 dev vpn table 52",
		"rule add from 10.77.0.0/24 lookup 52 prio 50",
		"rule add iif vpn lookup 52 prio 51",
		"rule add fwmark 0x80000/0xff0000 lookup 52 prio 52",
		"rule add to 10.99.0.0/16 lookup 52 prio 53",
		// A pod as the ptp plugin connects it.
		"link add pod7 type veth peer name pod7-far", "link set pod7 up", "link set pod7-far up",
		"route add " + own.Addr().Next().Next().Next().Next().Next().Next().Next().String() + "/32 dev pod7",
	} {
		h.ip(command)
	}
	if !n.backend.itself { // behind ours
		h.ip("route add " + dst + " dev vpn metric 50 proto static")
		h.ip("route append " + dst + " via 192.168.0.77 dev eth0 proto static")
	}
	h.ping(peer)
	time.Sleep(4 * time.Second) // nothing is said after that
	if status := h.daemon.Status(); strings.Contains(status, inTheWay) || strings.Contains(status, "not in place") {
		t.Errorf("the status is %q", status)
	}
	for line := range strings.Lines(strings.TrimPrefix(h.daemon.Log(), before)) {
		if strings.HasPrefix(line, "W") || strings.HasPrefix(line, "E") {
			t.Errorf("logged: %s", line)
		}
	}
	n.pingAll()
}

// A route without a mark to just a peer's subnet is what an older flannel left: it is
// replaced, wherever it leads. One that an administrator marked stays, and is named.
func TestRoutesOfOlderFlannel(t *testing.T) {
	t.Parallel()
	for _, v := range []variant{hostGW, vxlan} {
		t.Run(v.name(), func(t *testing.T) {
			t.Parallel()
			n := newNetwork(t, 3, v, nil)
			h, peer, third := n.nodes[0], n.nodes[1], n.nodes[2]
			h.daemon.Kill()
			_, err := h.DelRoutesByProtocol(ourRoutes)
			check(t, err)
			check(t, h.AddRoute(lab.Route{Dst: peer.subnet(), Via: netip.MustParseAddr("192.168.0.77"), Dev: "eth0"}))
			check(t, h.AddRoute(lab.Route{Dst: third.subnet(), Via: peer.Addr, Dev: "eth0", Protocol: 4}))
			h.start()
			h.waitReady()
			n.wait(soon, "pings to the peer that moved", func() string {
				if !h.reaches(peer) {
					return "none arrives"
				}
				return ""
			})
			h.waitLog("replaced an unmarked route")
			stays := third.subnet().String() + " via " + peer.Addr.String()
			commands := h.waitObstacle("an administrator's route", third.subnet().String()+": not reachable", stays+" dev eth0 proto static")
			hasRoute(t, h, stays)
			for _, command := range commands {
				h.run(strings.Fields(command)...)
			}
			h.waitNoObstacle("mended")
			n.pingAll()
		})
	}
}

// A VPN that takes the way to the other hosts cuts off what travels by it.
func TestAstrayHosts(t *testing.T) {
	t.Parallel()
	n := newNetwork(t, 2, udp, nil)
	h, peer := n.nodes[0], n.nodes[1]
	h.ip("tuntap add vpn mode tun")
	h.ip("link set vpn up")
	h.ip("route add 192.168.0.0/24 dev vpn table 52")
	h.ip("rule add prio 5270 to " + peer.Addr.String() + " lookup 52")
	commands := h.waitObstacle("a VPN", peer.Addr.String(), "the host of "+peer.subnet().String(), "192.168.0.0/24 dev vpn")
	if h.reaches(peer) {
		t.Error("the peer is reached all the same")
	}
	for _, command := range commands {
		h.run(strings.Fields(command)...)
	}
	h.waitNoObstacle("mended")
	n.pingAll()
}

// With host-gw, a host behind a router cannot be reached; the status says so.
func TestHostGWBehindRouter(t *testing.T) {
	t.Parallel()
	n := newNetwork(t, 2, hostGW, nil)
	h, peer := n.nodes[0], n.nodes[1]
	h.ip("route add " + peer.Addr.String() + " via 192.168.0.1")
	commands := h.waitObstacle("a router", peer.Addr.String(), "the host of "+peer.subnet().String(), "via 192.168.0.1")
	for _, command := range commands {
		h.run(strings.Fields(command)...)
	}
	h.waitNoObstacle("mended")
	n.pingAll()
}
