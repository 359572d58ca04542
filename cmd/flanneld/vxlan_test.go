package main_test

import (
	"fmt"
	"net"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"flanneld/pkg/ip"
	"flanneld/pkg/lab"
)

const directConfig = `{"Type":"vxlan","DirectRouting":true}`

// directRouting is vxlan where peers on the link get plain routes, and no entries.
var directRouting = func() variant {
	v := vxlan
	v.backend.config = directConfig
	v.backend.expected = func(h *node, p peer) []string {
		if h.onLink(p) {
			return []string{p.route()}
		}
		return vxlanBackend.expected(h, p)
	}
	return v
}()

// onLink reports whether the peer's public address is on the host's own link.
func (h *node) onLink(p peer) bool {
	f := ip.FamilyOf(p.public)
	bits := map[ip.Family]int{ip.V4: 24, ip.V6: 64}[f]
	return netip.PrefixFrom(h.Of(f), bits).Masked().Contains(p.public)
}

// Three hosts on two links: every pod and every VXLAN device reaches all others,
// and what operators' scripts read is as they know it.
func TestVXLAN(t *testing.T) {
	t.Run("tunnels", func(t *testing.T) { testVXLAN(t, vxlan) })
	t.Run("DirectRouting", func(t *testing.T) { testVXLAN(t, directRouting) })
	t.Run("tunnels, both families", func(t *testing.T) { testVXLAN(t, vxlan.in(dualStack)) })
	t.Run("DirectRouting, both families", func(t *testing.T) { testVXLAN(t, directRouting.in(dualStack)) })
}

func testVXLAN(t *testing.T, v variant) {
	n := newConfigured(t, v, nil)
	newRouted(n)
	n.pingAll()
	h, near, far := n.nodes[0], n.nodes[1], n.nodes[2]
	for _, from := range n.nodes {
		for _, to := range n.nodes {
			for _, view := range to.peer().views() {
				if _, err := from.Ping(n.ctx, view.subnet.Addr(), 2*time.Second); err != nil {
					t.Errorf("%s to %s of %s: %v", from.Name, view.vtep(), to.Name, err)
				}
			}
		}
	}
	for _, to := range []*node{near, far} {
		for _, f := range v.families.list() {
			took, err := h.pod.Transfer(n.ctx, to.pod.In(f), 100<<20)
			check(t, err)
			t.Logf("100 MiB to the pod of %s in %s by %s", to.Name, took, f)
		}
	}
	macs := make(map[string]bool)
	for _, view := range h.peer().views() {
		h.wantVTEP(view)
		macs[view.vtepMAC().String()] = true
	}
	if families := len(v.families.list()); len(macs) != families {
		t.Errorf("the devices of %d families have the MAC addresses %v", families, macs)
	}
}

// wantVTEP checks that what operators' scripts read of a VXLAN device, that of the host's
// own end in a family, is as they know it.
func (h *node) wantVTEP(own peer) {
	t := h.n.t
	t.Helper()
	vtep, f := own.vtep(), ip.FamilyOf(own.subnet.Addr())
	mtu := map[ip.Family]int{ip.V4: 1450, ip.V6: 1430}[f]
	link := regexp.MustCompile(`^\d+: ` + vtep + `: <BROADCAST,MULTICAST,UP,LOWER_UP> mtu ` + strconv.Itoa(mtu) + ` qdisc noqueue state UNKNOWN mode DEFAULT group default( qlen 1000)? ?
    link/ether ` + own.vtepMAC().String() + ` brd ff:ff:ff:ff:ff:ff promiscuity 0 .*
    vxlan id 1 local ` + own.public.String() + ` dev eth0 srcport 0 0 dstport 8472 nolearning ttl auto ageing 300 udpcsum noudp6zerocsumtx noudp6zerocsumrx`)
	if got := h.run("ip", "-d", "link", "show", vtep); !link.MatchString(got) {
		t.Errorf("ip -d link: %s", got)
	}
	var fdb, neighbours, routes, direct string
	for _, peer := range h.others() {
		for _, p := range peer.views() {
			if p.vtep() != vtep {
				continue
			}
			base := p.subnet.Addr()
			if h.n.backend.config == directConfig && h.onLink(p) {
				direct += p.route() + "\n"
				continue
			}
			fdb += fmt.Sprintf("%s dst %s self permanent\n", p.vtepMAC(), p.public)
			neighbours += fmt.Sprintf("%s lladdr %s PERMANENT\n", base, p.vtepMAC())
			routes += fmt.Sprintf("%s via %s proto 70 onlink\n", p.subnet, base)
		}
	}
	inet := map[ip.Family]string{ip.V4: "inet", ip.V6: "inet6"}[f]
	scope := map[ip.Family]string{ip.V4: "global " + vtep, ip.V6: "global nodad "}[f]
	family := fmt.Sprintf("-%d ", f)
	for _, c := range []struct{ command, want string }{
		{"ip " + family + "-o addr show " + vtep + " scope global", fmt.Sprintf("    %s %s/%d scope %s\\       valid_lft forever preferred_lft forever", inet, own.subnet.Addr(), f.Bits(), scope)},
		{"bridge fdb show dev " + vtep, fdb},
		{"ip " + family + "neigh show dev " + vtep + " nud permanent", neighbours},
		{"ip " + family + "route show dev " + vtep + " proto 70", strings.ReplaceAll(routes, "proto 70 ", "")},
		{"ip " + family + "route show dev eth0 proto 70", direct},
	} {
		got := regexp.MustCompile(`(?m)^\d+: `+vtep+` `).ReplaceAllString(h.run(strings.Fields(c.command)...), "")
		if f == ip.V6 { // what its routes have for nothing
			got = regexp.MustCompile(`( metric 1024)?( onlink)?( pref medium)`).ReplaceAllString(got, "$2")
		}
		if sortLines(got) != sortLines(c.want) {
			t.Errorf("%s:\n%swant\n%s", c.command, got, c.want)
		}
	}
	if f == ip.V4 {
		if got := h.run("ip", "-4", "-o", "route", "show", "dev", vtep); strings.Count(got, "\n") != strings.Count(routes, "\n") {
			t.Errorf("there are more routes: %s", got)
		}
	}
	if got := h.run("ip", "-6", "-o", "route", "show", "default", "dev", vtep); got != "" {
		t.Errorf("the device has taken a router's word: %s", got)
	}
}

// sortLines sorts lines, and ends each alike.
func sortLines(s string) string {
	var lines []string
	for line := range strings.Lines(s) {
		if line = strings.TrimSpace(line); line != "" {
			lines = append(lines, strings.Join(strings.Fields(line), " "))
		}
	}
	return strings.Join(sorted(lines...), "\n")
}

// With DirectRouting, a peer that moves from one link to another changes over.
func TestDirectRoutingMoves(t *testing.T) {
	n := newConfigured(t, directRouting, nil)
	newRouted(n)
	h := n.nodes[0]
	moving := stranger("10.5.200.0/24", "192.168.0.200")
	for _, public := range []string{"192.168.0.200", "192.168.1.200", "192.168.0.201", "192.168.1.201"} {
		moving.public = netip.MustParseAddr(public)
		n.putPeer(moving)
		t.Logf("a peer at %s: right after %s", public, h.waitPeers(slow(time.Second), append(h.others(), moving)...))
	}
}

// lost is what else goes with something, because the kernel drops it.
type lost int

const (
	nothing lost = 0
	entries lost = 1 << iota // of the VXLAN device
	routes                   // by eth0
)

func TestVXLANHeals(t *testing.T) {
	for _, v := range []variant{vxlan, vxlan.in(dualStack)} {
		t.Run(v.name(), func(t *testing.T) {
			n := newNetwork(t, 3, v, nil)
			for i, f := range v.families.list() {
				if t.Log(f); i > 0 {
					n.pause(2 * time.Second) // so many repairs in a row are taken for a conflict
				}
				testVXLANHeals(t, n, f)
			}
		})
	}
}

// testVXLANHeals hurts what there is of a family.
func testVXLANHeals(t *testing.T, n *network, f ip.Family) {
	h, other := n.nodes[0], n.nodes[1]
	in := func(h *node) peer {
		all := h.peer().views()
		return all[slices.IndexFunc(all, func(p peer) bool { return ip.FamilyOf(p.subnet.Addr()) == f })]
	}
	peer, vtep := in(other), vtepOf(f)
	want := h.others()
	foreign := net.HardwareAddr{2, 1, 1, 1, 1, 1}
	others := map[ip.Family]struct{ dst, host, also string }{
		ip.V4: {"10.77.0.0/16", "192.168.0.99", "192.168.0.98"},
		ip.V6: {"fd00:77::/48", "fd00::99", "fd00::98"},
	}[f]
	foreignFDB := fmt.Sprintf("%s dst %s", foreign, others.host)
	addForeign := func() {
		t.Helper()
		check(t, h.AddFDB(vtep, foreign, netip.MustParseAddr(others.host)))
		check(t, h.ReplaceRoute(lab.Route{Dst: mustPrefix(others.dst), Via: peer.public, Dev: "eth0", Protocol: 4}))
	}
	addForeign()
	// ours is what the host has for its peers, without the foreign entry, which
	// must be there as well unless it went with the device.
	n.backend.present = func(h *node) []string {
		var ours []string
		for _, s := range vxlanBackend.present(h) {
			if !strings.HasPrefix(s, foreign.String()) {
				ours = append(ours, s)
			}
		}
		return ours
	}
	mac := h.macOf(vtep)
	base := netip.PrefixFrom(in(h).subnet.Addr(), f.Bits())
	mtu := map[ip.Family]int{ip.V4: 1450, ip.V6: 1430}[f]
	addr := func() string {
		if addrs, _ := h.Addrs(vtep, f); len(addrs) == 0 || addrs[0] != base {
			return fmt.Sprintf("%s has %v", vtep, addrs)
		}
		return ""
	}
	healed := func() string {
		if now, err := h.MTU(vtep); err != nil || now != mtu {
			return fmt.Sprintf("%s has the MTU %d, %v", vtep, now, err)
		}
		if now, _, err := h.HardwareAddr(vtep); err != nil || now.String() != mac.String() {
			return fmt.Sprintf("%s has %v, %v", vtep, now, err)
		}
		return addr()
	}
	each := func(list []string, err error, do func(fields []string)) {
		t.Helper()
		check(t, err)
		for _, text := range list {
			if text != foreignFDB {
				do(strings.Fields(text))
			}
		}
	}
	delFDB := func(f []string) { check(t, h.DelFDB(vtep, must(net.ParseMAC(f[0]))(t), netip.MustParseAddr(f[2]))) }
	delNeighbour := func(f []string) { check(t, h.DelNeighbour(vtep, netip.MustParseAddr(f[0]))) }
	for _, c := range []struct {
		name string
		hurt func()
		lost lost // with it, of what is foreign
	}{
		{"a route deleted", func() { check(t, h.DelRoute(peer.subnet)) }, nothing},
		{"all routes deleted", func() { must(h.DelRoutesByProtocol(ourRoutes))(t) }, nothing},
		{"an FDB entry deleted", func() { check(t, h.DelFDB(vtep, peer.vtepMAC(), peer.public)) }, nothing},
		{"an FDB entry changed", func() { check(t, h.AddFDB(vtep, peer.vtepMAC(), netip.MustParseAddr(others.also))) }, nothing},
		{"all FDB entries deleted", func() { list, err := h.FDB(vtep); each(list, err, delFDB) }, nothing},
		{"a neighbour deleted", func() { check(t, h.DelNeighbour(vtep, peer.subnet.Addr())) }, nothing},
		{"a neighbour changed", func() { check(t, h.AddNeighbour(vtep, peer.subnet.Addr(), net.HardwareAddr{2, 2, 2, 2, 2, 2})) }, nothing},
		{"all neighbours deleted", func() { list, err := h.Neighbours(vtep); each(list, err, delNeighbour) }, nothing},
		{"the device down", func() { check(t, h.LinkDown(vtep)) }, nothing},
		{"the device deleted", func() { check(t, h.DelLink(vtep)) }, entries},
		{"its MAC changed", func() { check(t, h.SetHardwareAddr(vtep, foreign)) }, nothing},
		{"its address flushed", func() { check(t, h.FlushAddrs(vtep, f)) }, nothing},
		{"its MTU changed", func() { h.run("ip", "link", "set", vtep, "mtu", "1200") }, nothing},
		{"eth0 down and up", func() { check(t, h.LinkDown("eth0")); check(t, h.LinkUp("eth0")) }, routes},
		{"eth0 made anew", func() { check(t, h.RecreateNIC("eth0")) }, entries | routes},
	} {
		c.hurt()
		begin := time.Now()
		n.wait(slow(time.Second), "the device after: "+c.name, healed)
		h.waitPeers(slow(time.Second), want...)
		_, err := h.pod.Ping(n.ctx, other.pod.In(f).Addr, 2*time.Second)
		check(t, err)
		took := time.Since(begin)
		t.Logf("%s: right and pinging after %s", c.name, took)
		if took > slow(time.Second) {
			t.Errorf("%s: that took %s", c.name, took)
		}
		if c.lost&entries == 0 && !strings.Contains(strings.Join(h.fdb(), "\n"), foreignFDB) {
			t.Errorf("%s: the foreign FDB entry is gone; there are %q", c.name, h.fdb())
		}
		if c.lost&routes == 0 {
			hasRoute(t, h, others.dst+" via "+peer.public.String())
		}
		if c.lost != nothing {
			addForeign()
		}
	}
	n.pingAll()
}

// Another daemon makes the device anew, with a MAC and an address of its own, as flannel's does
// when it starts: it comes to be as it was, with all that leads there, and the log says so.
func TestVXLANTakenOver(t *testing.T) {
	t.Parallel()
	n := newNetwork(t, 2, vxlan, nil)
	h, other := n.nodes[0], n.nodes[1]
	mac := h.macOf("flannel.1")
	check(t, h.daemon.Freeze()) // else it is faster, and the other one finds the device there
	check(t, h.DelLink("flannel.1"))
	h.run("ip", "link", "add", "flannel.1", "address", "02:01:01:01:01:01", "type", "vxlan", "id", "1", "local", h.Addr.String(), "dev", "eth0", "dstport", "8472", "nolearning")
	h.run("ip", "address", "add", h.peer().subnet.Addr().Next().String()+"/32", "dev", "flannel.1")
	h.run("ip", "link", "set", "flannel.1", "up")
	check(t, h.daemon.Thaw())
	n.wait(soon, "the device to be as it was", func() string {
		is, _, err := h.HardwareAddr("flannel.1")
		if err != nil || is.String() != mac.String() {
			return fmt.Sprintf("it has the MAC %v, %v", is, err)
		}
		return ""
	})
	h.waitPeers(soon, h.others()...)
	_, err := h.pod.Ping(n.ctx, other.pod.Addr, soon)
	check(t, err)
	n.pingAll()
	h.waitLine("device flannel.1 vxlan id 1", mac.String(), "restored")
}

func must[T any](v T, err error) func(testing.TB) T {
	return func(t testing.TB) T {
		t.Helper()
		check(t, err)
		return v
	}
}
