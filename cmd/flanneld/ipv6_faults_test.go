package main_test

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"flanneld/pkg/ip"
	"flanneld/pkg/lab"
)

// A host's router announces another prefix: there is an address of the new one, which is looked for
// on the link before it can be used, and the old one is deprecated and goes. No packet of IPv4 is
// lost meanwhile.
func TestRenumbered(t *testing.T) {
	t.Parallel()
	n := newNetwork(t, 2, vxlan.in(dualStack), nil)
	h, other := n.nodes[0], n.nodes[1]
	subnets := h.peer().subnets()
	four := n.startWitnessIn(ip.V4, h, other)
	check(t, h.Sysctl("net.ipv6.conf.eth0.accept_dad", "1"))
	old := netip.PrefixFrom(h.Of(ip.V6), 64)
	check(t, other.AddRoute(lab.Route{Dst: mustPrefix("fd00:0:0:9::/64"), Dev: "eth0"}))
	h.run("ip", "addr", "add", "fd00:0:0:9::3/64", "dev", "eth0")
	h.run("ip", "addr", "change", old.String(), "dev", "eth0", "preferred_lft", "0", "valid_lft", "5")
	h.run("ip", "route", "add", "fd00::/64", "dev", "eth0", "metric", "300")
	h.waitAddress(soon, "fd00:0:0:9::3")
	n.waitPings()
	n.wait(soon, "the old address to go", func() string {
		if out := h.run("ip", "-6", "addr", "show", "dev", "eth0"); strings.Contains(out, old.Addr().String()+"/") {
			return out
		}
		return ""
	})
	four()
	n.waitPings()
	if now := h.peer().subnets(); now != subnets {
		t.Errorf("the host had %s and has %s", subnets, now)
	}
}

// IPv6 is switched off on what carries it, and comes back by itself where it is the daemon's.
func TestIPv6Disabled(t *testing.T) {
	t.Parallel()
	n := newNetwork(t, 2, vxlan.in(dualStack), nil)
	h := n.nodes[0]
	four := n.startWitnessIn(ip.V4, h, n.nodes[1])
	h.run("sh", "-c", "echo 1 >/proc/sys/net/ipv6/conf/"+vtep6+"/disable_ipv6")
	begin := time.Now()
	n.wait(soon, "the address to be back", func() string {
		addrs, err := h.Addrs(vtep6, ip.V6)
		if err != nil || len(addrs) != 1 {
			return fmt.Sprint(addrs, err)
		}
		return ""
	})
	h.waitPeers(soon, h.others()...)
	t.Logf("all is back after %s", time.Since(begin))
	n.waitPings()
	four()
}

// Two machines say that they have one IPv6 address: the second is refused, whatever their IPv4
// addresses are.
func TestOneIPv6Address(t *testing.T) {
	t.Parallel()
	n := newConfigured(t, vxlan.in(dualStack), nil)
	first, second := n.addNode(lab.HostOptions{}), n.addNode(lab.HostOptions{})
	first.become("1111", "node")
	first.start()
	first.waitReady()
	lease := n.get(first.key()).value
	second.become("2222", "node")
	second.start("-public-ipv6=" + first.Of(ip.V6).String())
	second.waitLog("is also that of the machine")
	n.pause(time.Second)
	if now := n.get(first.key()).value; now != lease {
		t.Errorf("the lease was %s and is %s", lease, now)
	}
	select {
	case <-second.daemon.Notify.Ready():
		t.Error("the second is ready all the same")
	default:
	}
}

// What IPv6 needs on the host cannot be had, as another program has it: a configuration with IPv6 is
// not followed, and no lease says that the host has it, until it can.
func TestIPv6DeviceCannotBeHad(t *testing.T) {
	t.Parallel()
	n := newLab(t, vxlan.in(dualStack))
	n.families = ipv4Only
	n.startEtcd(lab.EtcdOptions{})
	n.put("config", n.config(nil))
	h := n.addNode(lab.HostOptions{})
	h.start()
	h.waitReady()
	key := h.key()
	h.run("ip", "link", "add", "other6", "type", "vxlan", "id", "1", "dstport", "8472", "local", h.Of(ip.V6).String(), "dev", "eth0")
	check(t, h.LinkUp("other6"))
	n.put("config", n.in(dualStack).config(nil))
	h.waitLine("the former one stays in force: ", vtep6, "another VXLAN device has the VNI 1 and the UDP port 8472")
	if n.get(key) == nil || h.has(ip.V6) {
		t.Errorf("the host has %s", h.peer().subnets())
	}
	check(t, h.DelLink("other6"))
	h.waitFamilies(dualStack)
}

// The interface's MTU is too small for IPv6: that is said, IPv4 goes on, also if the daemon is
// started again, and IPv6 is back with the MTU.
func TestMTUTooSmallForIPv6(t *testing.T) {
	t.Parallel()
	n := newNetwork(t, 2, vxlan.in(dualStack), nil)
	h, other := n.nodes[0], n.nodes[1]
	subnets, env := h.peer().subnets(), h.daemon.EnvText()
	const why = "the interface eth0 has the MTU 1340, and the backend takes 70 bytes of it: pods would get an MTU of 1270, and IPv6 needs 1280"
	h.run("ip", "link", "set", "eth0", "mtu", "1340")
	h.waitStatus("the lease cannot say what it should: "+why, true)
	awaitPing(h, other, ip.V4)
	awaitPing(other, h, ip.V4)
	if now := h.daemon.EnvText(); now != env {
		t.Errorf("subnet.env was %q and is %q", env, now) // with less than 1280, pods would not start
	}
	h.restart(func() {})
	h.waitLog("going on without IPv6 until it can be had: " + why)
	h.waitFamilies(ipv4Only)
	h.waitEnv("FLANNEL_MTU=1290")
	awaitPing(h, other, ip.V4)
	awaitPing(other, h, ip.V4)
	h.run("ip", "link", "set", "eth0", "mtu", "1500")
	h.waitFamilies(dualStack)
	h.waitEnv("FLANNEL_MTU=1430")
	if now := h.peer().subnets(); now != subnets {
		t.Errorf("the host had %s and has %s", subnets, now)
	}
	if now := h.daemon.EnvText(); now != env {
		t.Errorf("subnet.env was %q and is %q", env, now)
	}
}

// Two routers are on the link in each family: the interface that leads to both is the external one,
// and no option has to name it.
func TestTwoRouters(t *testing.T) {
	t.Parallel()
	n := newConfigured(t, vxlan.in(dualStack), nil)
	h := n.addNode(lab.HostOptions{})
	h.run("ip", "-6", "route", "append", "default", "via", "fe80::9", "dev", "eth0", "metric", "5")
	h.run("ip", "-6", "route", "append", "default", "via", "fe80::8", "dev", "eth0", "metric", "5")
	h.run("ip", "-4", "route", "replace", "default", "nexthop", "via", "192.168.0.250", "dev", "eth0", "nexthop", "via", "192.168.0.251", "dev", "eth0")
	h.start()
	h.waitReady()
	h.waitFamilies(dualStack)
}

// A host of both families starts while its interface has no IPv6 address, as where the router's
// announcement comes late: IPv4 is there at once, and IPv6 when the address comes. Its lease is
// what it was, with the store and without it, and after a boot; a host that had none gets one of
// IPv4 for the time being.
func TestIPv6AddressIsLate(t *testing.T) {
	t.Parallel()
	for _, v := range dualVariants {
		t.Run(v.name(), func(t *testing.T) {
			t.Parallel()
			n := newNetwork(t, 2, v, nil)
			h, other := n.nodes[0], n.nodes[1]
			lease, subnets := n.get(h.key()).value, h.peer().subnets()
			h.waitSaved(strings.ReplaceAll(other.subnet().String(), "/", "-"))
			addr := netip.PrefixFrom(h.Of(ip.V6), 64)
			for _, step := range []struct {
				what      string
				meanwhile func()
			}{
				{"a restart", func() {}},
				{"a boot", func() {
					for _, dev := range []string{vtep, vtep6} {
						_ = h.DelLink(dev) // host-gw has none
					}
				}},
				{"a restart without the store", n.etcd.Kill},
			} {
				t.Log(step.what)
				check(t, h.FlushAddrs("eth0", ip.V6))
				h.restart(step.meanwhile)
				h.addPod()
				awaitPing(h, other, ip.V4)
				awaitPing(other, h, ip.V4)
				h.waitLog("the external interface of IPv6: interface eth0 no longer has the address " + addr.Addr().String())
				n.wait(soon, "the status to say so", func() string {
					return lacks(h.daemon.Status(), "no longer has the address "+addr.Addr().String())
				})
				check(t, h.AddAddr("eth0", addr))
				awaitPing(h, other, ip.V6)
				awaitPing(other, h, ip.V6)
				n.wait(soon, "the status to say nothing of it", func() string {
					if s := h.daemon.Status(); strings.Contains(s, "no longer has") {
						return s
					}
					return ""
				})
				if now := h.peer().subnets(); now != subnets {
					t.Errorf("the host had %s and has %s", subnets, now)
				}
			}
			check(t, n.etcd.Start(n.ctx))
			h.waitLog("etcd reachable again")
			if now := n.get(h.key()).value; now != lease {
				t.Errorf("the lease was %s and is %s", lease, now)
			}

			t.Log("a host that is new")
			fresh := n.addNode(lab.HostOptions{})
			check(t, fresh.FlushAddrs("eth0", ip.V6))
			fresh.start()
			fresh.waitReady()
			fresh.addPod()
			awaitPing(fresh, other, ip.V4)
			four := fresh.subnet()
			fresh.waitLog("going on without IPv6 until it can be had: the external interface of IPv6: ")
			check(t, fresh.AddAddr("eth0", netip.PrefixFrom(fresh.Of(ip.V6), 64)))
			fresh.waitFamilies(dualStack)
			fresh.addPod()
			awaitPing(fresh, other, ip.V6)
			if fresh.subnet() != four {
				t.Errorf("the host had %s and has %s", four, fresh.peer().subnets())
			}
		})
	}
}

// A host without IPv6 in a network of both families loses its subnet to another host: it gets another
// one of IPv4, and IPv6 when the address comes.
func TestSubnetTakenWithoutIPv6(t *testing.T) {
	t.Parallel()
	n := newNetwork(t, 1, vxlan.in(dualStack), nil)
	other, h := n.nodes[0], n.addNode(lab.HostOptions{})
	addr := netip.PrefixFrom(h.Of(ip.V6), 64)
	check(t, h.FlushAddrs("eth0", ip.V6))
	h.start()
	h.waitReady()
	old := h.subnet()
	n.putPeer(peer{subnet: old, public: mustPrefix("192.168.0.200/32").Addr()})
	h.waitLog(fmt.Sprintf("this host's subnet changed from %s to ", old))
	n.wait(soon, "a new subnet.env", func() string {
		if s := h.subnet(); s == old {
			return "subnet is still " + s.String()
		}
		return ""
	})
	h.waitFamilies(ipv4Only)
	h.addPod()
	awaitPing(h, other, ip.V4)
	awaitPing(other, h, ip.V4)
	check(t, h.AddAddr("eth0", addr))
	h.waitFamilies(dualStack)
	h.addPod()
	awaitPing(other, h, ip.V6)
}
