package main_test

import (
	"encoding/json"
	"fmt"
	"net"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"flanneld/pkg/lab"
)

const tunDevice = "flannel0"

// What the host has is what flannel makes; without a backend in the
// configuration it is made as well.
func TestUDP(t *testing.T) {
	t.Parallel()
	for _, config := range []string{udp.config(nil), `{"Network":"10.5.0.0/16"}`} {
		t.Run(config, func(t *testing.T) {
			n := newLab(t, udp)
			n.startEtcd(lab.EtcdOptions{})
			n.put("config", config)
			h, peer := n.addNode(lab.HostOptions{}), n.addNode(lab.HostOptions{})
			h.start()
			peer.start()
			n.readyWithPods()
			link := h.run("ip", "-d", "link", "show", tunDevice)
			for _, want := range []string{"mtu 1472 ", "UP", "tun type tun pi off", "persist on"} {
				if !strings.Contains(link, want) {
					t.Errorf("the device is %s, not %s", link, want)
				}
			}
			addrs := must(h.Addrs(tunDevice))(t)
			if want := []netip.Prefix{netip.PrefixFrom(h.subnet().Addr(), 32)}; !slices.Equal(addrs, want) {
				t.Errorf("its addresses are %v, not %v", addrs, want)
			}
			if got, want := h.routes(), []string{"10.5.0.0/16 dev flannel0 metric 1"}; !slices.Equal(got, want) {
				t.Errorf("the routes are %q, not %q", got, want)
			}
			must(h.Ping(n.ctx, peer.subnet().Addr(), 2*time.Second))(t)
			n.pingAll()
		})
	}
}

func TestUDPHeals(t *testing.T) {
	n := newNetwork(t, 3, udp, nil)
	h, peer := n.nodes[0], n.nodes[1]
	want := h.others()
	all := mustPrefix("10.5.0.0/16")
	base := netip.PrefixFrom(h.subnet().Addr(), 32)
	healed := func() string {
		if mtu, err := h.MTU(tunDevice); err != nil || mtu != 1472 {
			return fmt.Sprintf("it has the MTU %d, %v", mtu, err)
		}
		if addrs, _ := h.Addrs(tunDevice); len(addrs) != 1 || addrs[0] != base {
			return fmt.Sprintf("it has %v", addrs)
		}
		if got := h.routes(); !slices.Equal(got, []string{"10.5.0.0/16 dev flannel0 metric 1"}) {
			return fmt.Sprintf("there are the routes %q", got)
		}
		return ""
	}
	for _, c := range []struct {
		name string
		hurt func()
	}{
		{"the route deleted", func() { check(t, h.DelRoute(all)) }},
		{"the route changed", func() {
			check(t, h.ReplaceRoute(lab.Route{Dst: all, Via: peer.Addr, Dev: "eth0", Protocol: ourRoutes}))
		}},
		{"the address flushed", func() { check(t, h.FlushAddrs(tunDevice)) }},
		{"the MTU changed", func() { h.run("ip", "link", "set", tunDevice, "mtu", "1200") }},
		{"the device down", func() { check(t, h.LinkDown(tunDevice)) }},
		{"the device deleted", func() { check(t, h.DelLink(tunDevice)) }},
		{"eth0 down and up", func() { check(t, h.LinkDown("eth0")); check(t, h.LinkUp("eth0")) }},
		{"eth0 made anew", func() { check(t, h.RecreateNIC("eth0")) }},
	} {
		c.hurt()
		begin := time.Now()
		n.wait(slow(time.Second), "the device after: "+c.name, healed)
		h.waitPeers(slow(time.Second), want...)
		must(h.pod.Ping(n.ctx, peer.pod.Addr, 2*time.Second))(t)
		took := time.Since(begin)
		t.Logf("%s: right and pinging after %s", c.name, took)
		if took > slow(time.Second) {
			t.Errorf("%s: that took %s", c.name, took)
		}
	}

	t.Log("something else gets the device's name, until it is removed by hand")
	check(t, h.daemon.Freeze())
	check(t, h.DelLink(tunDevice))
	h.run("ip", "link", "add", tunDevice, "type", "bridge")
	check(t, h.daemon.Thaw())
	h.waitLog("device flannel0 tun mtu 1472 alias \"flanneld 10.5.0.0/16\": in its place is something that is not ours, to be removed by hand: device flannel0 of kind bridge")
	check(t, h.DelLink(tunDevice))
	n.wait(slow(time.Second), "the device", healed)
	h.waitPeers(slow(time.Second), want...)
	n.pingAll()
}

// Daemons come and go; device, address, routes and what pods have begun stay.
func TestUDPRestart(t *testing.T) {
	n := newNetwork(t, 2, udp, nil)
	h, peer := n.nodes[0], n.nodes[1]
	subnet := h.subnet()
	_, index, err := h.HardwareAddr(tunDevice)
	check(t, err)
	for name, stop := range map[string]func(){
		"kill -9": func() { h.daemon.Kill() },
		"SIGTERM": func() { must(h.daemon.Stop(soon))(t) },
	} {
		t.Log(name)
		n.witness(peer, h, func() {
			n.witness(h, peer, func() {
				h.stream(peer, func() {
					stop()
					h.start()
					h.waitReady()
					h.waitPeers(0, peer.peer())
				})
			})
		})
		_, now, err := h.HardwareAddr(tunDevice)
		check(t, err)
		if h.subnet() != subnet || now != index {
			t.Errorf("%s: subnet %s, device %d; before %s, %d", name, h.subnet(), now, subnet, index)
		}
		// It carried no packet before it knew all peers.
		if c := h.counters(); strings.Contains(c, "no_route") || strings.Contains(c, "spoofed") {
			t.Errorf("%s: the counters are %s", name, c)
		}
	}
}

// counters has the daemon log them.
func (h *node) counters() string {
	h.n.t.Helper()
	const line = "counted by the tunnel of flannel0: "
	before := strings.Count(h.daemon.Log(), line)
	check(h.n.t, h.daemon.Signal(syscall.SIGUSR1))
	h.n.wait(soon, "the counters", func() string {
		if strings.Count(h.daemon.Log(), line) == before {
			return "nothing is logged"
		}
		return ""
	})
	return lastLine(h.daemon.Log(), line)
}

// The interface's MTU changes, and with it the device's: nothing is lost.
func TestUDPChangesMTUUnseen(t *testing.T) {
	n := newNetwork(t, 2, udp, nil)
	h, peer := n.nodes[0], n.nodes[1]
	n.witness(peer, h, func() {
		n.witness(h, peer, func() {
			for _, mtu := range []int{1400, 9000, 1500} {
				check(t, h.SetMTU("eth0", mtu))
				n.wait(slow(2*time.Second), "the MTU to follow", func() string {
					if now, err := h.MTU(tunDevice); err != nil || now != mtu-28 {
						return fmt.Sprint(now, err)
					}
					return ""
				})
			}
		})
	})
	if c := h.counters(); strings.Contains(c, "errors") {
		t.Error(c)
	}
}

// Many hosts have died, and pods keep sending to them: those to the living do not
// notice.
func TestUDPDeadPeers(t *testing.T) {
	const dead = 150
	n := newNetwork(t, 2, udp, settings{"SubnetMax": "10.5.100.0"})
	h, peer := n.nodes[0], n.nodes[1]
	for i := range dead {
		n.putPeer(stranger(fmt.Sprintf("10.5.%d.0/24", 101+i), fmt.Sprintf("192.168.0.%d", 50+i)))
	}
	n.wait(soon, "the leases", func() string {
		if s := h.daemon.Status(); !strings.Contains(s, fmt.Sprintf(", %d peers", dead+1)) {
			return s
		}
		return ""
	})
	var conn *net.UDPConn
	check(t, h.pod.Do(func() (err error) {
		conn, err = net.ListenUDP("udp4", nil)
		return err
	}))
	stop := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		defer conn.Close()
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			case <-time.After(200 * time.Microsecond):
			}
			to := netip.AddrFrom4([4]byte{10, 5, byte(101 + i%dead), 9})
			_, _ = conn.WriteToUDPAddrPort(make([]byte, 1400), netip.AddrPortFrom(to, 9)) // errors come back for earlier ones
		}
	})
	n.witness(h, peer, func() { n.pause(4 * time.Second) })
	close(stop)
	wg.Wait()
}

// A device that is renamed is another one.
func TestUDPDeviceRenamed(t *testing.T) {
	n := newNetwork(t, 2, udp, nil)
	h, peer := n.nodes[0], n.nodes[1]
	check(t, h.LinkDown(tunDevice))
	check(t, h.RenameLink(tunDevice, "other"))
	n.wait(slow(time.Second), "a ping", func() string {
		if _, err := h.pod.Ping(n.ctx, peer.pod.Addr, 100*time.Millisecond); err != nil {
			return err.Error()
		}
		return ""
	})
}

// An interface may carry more than a datagram can hold.
func TestUDPOnLoopback(t *testing.T) {
	n := newConfigured(t, udp, nil)
	h := n.addNode(lab.HostOptions{})
	check(t, h.AddAddr("lo", mustPrefix("192.168.200.7/32")))
	h.start("-iface=lo", "-public-ip="+h.Addr.String())
	h.waitReady()
	if mtu := h.daemon.Env()["FLANNEL_MTU"]; mtu != "65507" {
		t.Errorf("FLANNEL_MTU=%s", mtu)
	}
}

// Two networks on the same hosts have a device each. Neither takes the other's,
// also where the other's daemon does not run.
func TestUDPTwoNetworks(t *testing.T) {
	n := newNetwork(t, 2, udp, nil)
	h, peer := n.nodes[0], n.nodes[1]
	other := n.config(settings{"Network": "10.6.0.0/16", "Backend": map[string]any{"Type": "udp", "Port": 8286}})
	check(t, n.admin.put(n.ctx, "/other/config", other, 0))
	second := func(h *node) *lab.Daemon {
		t.Helper()
		d, err := h.StartFlanneld(daemonBinary, "-etcd-prefix=/other", "-subnet-file="+filepath.Join(h.Dir, "other.env"))
		check(t, err)
		check(t, d.WaitReady(n.ctx))
		return d
	}
	address := func(d *lab.Daemon) netip.Addr {
		return netip.MustParsePrefix(d.Env()["FLANNEL_SUBNET"]).Masked().Addr()
	}
	var here *lab.Daemon
	n.witness(h, peer, func() {
		here = second(h)
		there := second(peer)
		n.wait(soon, "the second tunnel to lead to the other host", func() string {
			if _, err := h.Ping(n.ctx, address(there), time.Second); err != nil {
				return err.Error()
			}
			return ""
		})
	})
	want := []netip.Prefix{netip.PrefixFrom(address(here), 32)}
	h.restart(func() { here.Kill() })
	here = second(h)
	if got := must(h.Addrs("flannel1"))(t); !slices.Equal(got, want) {
		t.Errorf("flannel1 has the addresses %v, not %v", got, want)
	}
	if strings.Contains(h.run("ip", "link"), "flannel2") {
		t.Error("there is a third device")
	}
	n.pingAll()
}

// A port that another program has is said, and had as soon as it is free.
func TestUDPPortTaken(t *testing.T) {
	t.Parallel()
	n := newConfigured(t, udp, nil)
	h := n.addNode(lab.HostOptions{})
	var conn net.PacketConn
	check(t, h.Do(func() (err error) {
		conn, err = net.ListenPacket("udp4", ":8285")
		return err
	}))
	h.start()
	h.waitLog(fmt.Sprintf("listening on UDP %s:8285: address already in use", h.Addr))
	n.pause(time.Second)
	select {
	case <-h.daemon.Notify.Ready():
		t.Error("it is ready all the same")
	default:
	}
	check(t, conn.Close())
	h.waitReady()
}

// Values that cannot be are named.
func TestUDPInvalidConfig(t *testing.T) {
	t.Parallel()
	for value, want := range map[string]string{
		`{"Type":"udp","Port":0}`:           "Backend.Port 0 is not between 1 and 65535",
		`{"Type":"udp","Port":65536}`:       "Backend.Port 65536 is not between 1 and 65535",
		`{"Type":"udp","Port":"x"}`:         "Backend.Port (a JSON string) is not a whole number",
		`{"Type":"udp","SourceCheck":"no"}`: "Backend.SourceCheck (a JSON string) is not true or false",
	} {
		n := newConfigured(t, udp, settings{"Backend": json.RawMessage(value)})
		h := n.addNode(lab.HostOptions{})
		h.start()
		h.waitLog(want)
		n.put("config", n.config(nil))
		h.waitReady()
	}
}
