package main_test

import (
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"flanneld/pkg/lab"
)

// Where this daemon stops, however that is, flannel can be started in its place, and
// this one again in flannel's. What is done here in flannel's place are the steps that
// its version 0.28.9 takes.
func TestRollBackToFlannelWithUDP(t *testing.T) {
	n := newNetwork(t, 2, udp, nil)
	h, peer := n.nodes[0], n.nodes[1]
	for what, stop := range map[string]func(){
		"SIGTERM": func() { must(h.daemon.Stop(soon))(t) },
		"kill -9": func() { h.daemon.Kill() },
	} {
		t.Log(what)
		stop()
		end := h.runFlannelUDP(peer.peer())
		n.pingAll()
		end()
		h.start()
		h.waitReady()
		n.pingAll()
		h.wantTUNs("flannel0=flanneld 10.5.0.0/16")
	}

	t.Log("an earlier version of this daemon left its route with metric 0")
	h.restart(func() {
		h.run("ip", "route", "add", "10.5.0.0/16", "dev", tunDevice, "proto", "70")
		h.run("ip", "route", "del", "10.5.0.0/16", "dev", tunDevice, "proto", "70", "metric", "1")
	})
	if got, want := h.routes(), []string{"10.5.0.0/16 dev flannel0 metric 1"}; !slices.Equal(got, want) {
		t.Errorf("the routes are %q, not %q", got, want)
	}

	t.Log("someone else's route comes before ours")
	h.obstructed(
		func() { h.run("ip", "route", "add", "10.5.0.0/16", "via", peer.Addr.String(), "proto", "static") },
		func() { h.run("ip", "route", "del", "10.5.0.0/16", "via", peer.Addr.String()) },
		"10.5.0.0/16 via "+peer.Addr.String()+" dev eth0 proto static")
}

// runFlannelUDP carries packets as flannel's backend udp does, until end is called.
func (h *node) runFlannelUDP(peers ...peer) (end func()) {
	t := h.n.t
	t.Helper()
	var fd int
	var dev string
	var conn *net.UDPConn
	check(t, h.Do(func() (err error) {
		if fd, err = unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0); err != nil {
			return err
		}
		req, err := unix.NewIfreq("flannel%d")
		if err != nil {
			return err
		}
		req.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI)
		if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, req); err != nil {
			return err
		}
		dev = req.Name()
		conn, err = net.ListenUDP("udp4", net.UDPAddrFromAddrPort(netip.AddrPortFrom(h.Addr, 8285)))
		return err
	}))
	tun := os.NewFile(uintptr(fd), dev)
	h.run("ip", "link", "set", dev, "mtu", "1472")
	h.run("ip", "addr", "add", h.subnet().Addr().String()+"/32", "dev", dev)
	h.run("ip", "link", "set", dev, "up")
	p, err := h.Start("route", []string{"ip", "route", "add", "10.5.0.0/16", "dev", dev, "scope", "global"}, nil, lab.ProcessOptions{})
	check(t, err)
	code, err := p.Wait(h.n.ctx)
	check(t, err)
	if code != 0 && !strings.Contains(p.Log(), "File exists") { // which is fine with flannel
		t.Fatal(p.Log())
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		b := make([]byte, 1<<16)
		for {
			size, err := tun.Read(b)
			if err != nil {
				return
			}
			if size < 20 || b[0]>>4 != 4 {
				continue
			}
			to := netip.AddrFrom4([4]byte(b[16:20]))
			for _, p := range peers {
				if p.subnet.Contains(to) {
					_, _ = conn.WriteToUDPAddrPort(b[:size], netip.AddrPortFrom(p.public, 8285))
				}
			}
		}
	})
	wg.Go(func() {
		b := make([]byte, 1<<16)
		for {
			size, err := conn.Read(b)
			if err != nil {
				return
			}
			_, _ = tun.Write(b[:size])
		}
	})
	return func() {
		check(t, tun.Close()) // the device goes with it
		check(t, conn.Close())
		wg.Wait()
	}
}

// With vxlan and host-gw no packet is lost over that.
func TestRollBackToFlannelUnnoticed(t *testing.T) {
	for _, v := range []variant{vxlan, hostGW} {
		t.Run(v.name(), func(t *testing.T) {
			n := newNetwork(t, 2, v, nil)
			h, peer := n.nodes[0], n.nodes[1]
			h.waitPeers(soon, peer.peer())
			n.witness(peer, h, func() {
				n.witness(h, peer, func() {
					h.restart(func() {
						if v.backend.name == vxlan.backend.name {
							h.actAsFlannelVXLAN(peer.peer())
						} else {
							h.actAsFlannelHostGW(peer.peer())
						}
						n.pingAll()
					})
				})
			})
			h.waitPeers(soon, peer.peer())
			n.pingAll()
		})
	}
}

// actAsFlannelVXLAN does what flannel does about its device and a peer.
func (h *node) actAsFlannelVXLAN(p peer) {
	t := h.n.t
	t.Helper()
	// A device that differs in any of these it would make anew, with another MAC.
	link := h.run("ip", "-d", "link", "show", vtep)
	for _, want := range []string{"vxlan id 1 local " + h.Addr.String() + " dev eth0 ", "dstport 8472 "} {
		if !strings.Contains(link, want) {
			t.Errorf("the device is %s, not %s", link, want)
		}
	}
	for _, other := range []string{"group ", "remote ", "l2miss", "gbp"} {
		if strings.Contains(strings.ReplaceAll(link, "group default", ""), other) {
			t.Errorf("the device is %s, with %s", link, other)
		}
	}
	base := netip.PrefixFrom(h.subnet().Addr(), 32)
	if addrs := must(h.Addrs(vtep))(t); !slices.Equal(addrs, []netip.Prefix{base}) {
		t.Errorf("it has the addresses %v", addrs) // of which it would delete all but one
	}
	h.run("ip", "link", "set", vtep, "up")
	to := p.subnet.Addr()
	check(t, h.AddNeighbour(vtep, to, p.vtepMAC()))
	check(t, h.AddFDB(vtep, p.vtepMAC(), p.public))
	h.run("ip", "route", "replace", p.subnet.String(), "via", to.String(), "dev", vtep, "onlink")
}

// actAsFlannelHostGW does what flannel does about a peer: nothing, if the route is
// there, whosever it is.
func (h *node) actAsFlannelHostGW(p peer) {
	t := h.n.t
	t.Helper()
	if got := h.run("ip", "route", "show", "exact", p.subnet.String()); !strings.Contains(got, "via "+p.public.String()+" dev eth0 ") {
		t.Errorf("the route is %s", got)
	}
}
