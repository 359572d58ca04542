package main_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"flanneld/pkg/ip"
	"flanneld/pkg/lab"
)

// newMasqueraded returns a lab of two hosts that masquerade, with a pod each, and
// two hosts outside. What goes to the second of these is not masqueraded.
func newMasqueraded(t *testing.T, v variant) (n *network, outside, excluded *lab.Host) {
	t.Helper()
	n = newLab(t, v)
	n.startEtcd(lab.EtcdOptions{})
	outside = must(n.lab.AddHost("outside", n.sw, lab.HostOptions{NoDefaultRoute: true}))(t)
	excluded = must(n.lab.AddHost("excluded", n.sw, lab.HostOptions{NoDefaultRoute: true}))(t)
	var exclude []string
	for _, f := range v.families.list() {
		exclude = append(exclude, netip.PrefixFrom(excluded.Of(f), f.Bits()).String())
	}
	n.put("config", n.config(settings{"MasqExclude": exclude}))
	for range 2 {
		n.addNode(lab.HostOptions{}, "-ip-masq").start()
	}
	for _, h := range n.nodes {
		h.waitReady()
		if rules := h.packetRules(); !strings.Contains(rules, "masquerade fully-random") || !strings.Contains(rules, "accept") {
			t.Errorf("%s is ready with these rules:\n%s", h.Name, rules)
		}
	}
	n.readyWithPods()
	return n, outside, excluded
}

// packetRules are what nft lists on the host.
func (h *node) packetRules() string {
	h.n.t.Helper()
	return h.run("nft", "list", "ruleset")
}

// source returns the address that datagrams come from at a listener. They are sent
// from a local address by eth0, or from any.
func (n *network) source(from *lab.Namespace, local netip.Addr, at *lab.Host, to netip.Addr) netip.Addr {
	n.t.Helper()
	listener := must(listenUDP(at, to))(n.t)
	defer listener.Close()
	port := listener.LocalAddr().(*net.UDPAddr).AddrPort().Port()
	var conn net.Conn
	check(n.t, from.Do(func() (err error) {
		d := net.Dialer{}
		if local.IsValid() {
			d.LocalAddr = net.UDPAddrFromAddrPort(netip.AddrPortFrom(local, 0))
			d.Control = func(_, _ string, raw syscall.RawConn) error {
				return raw.Control(func(fd uintptr) { _ = unix.BindToDevice(int(fd), "eth0") })
			}
		}
		conn, err = d.DialContext(n.ctx, "udp", netip.AddrPortFrom(to, port).String())
		return err
	}))
	defer conn.Close()
	buffer := make([]byte, 16)
	for range 50 {
		_, err := conn.Write([]byte("hello"))
		check(n.t, err)
		check(n.t, listener.SetReadDeadline(time.Now().Add(100*time.Millisecond)))
		_, source, err := listener.ReadFrom(buffer)
		if err == nil {
			return source.(*net.UDPAddr).AddrPort().Addr().Unmap()
		}
	}
	n.t.Fatalf("nothing that is sent to %s arrives at %s", to, at.Name)
	return netip.Addr{}
}

// listenUDP listens on eth0 of a host, or in a group there.
func listenUDP(at *lab.Host, addr netip.Addr) (conn net.PacketConn, err error) {
	err = at.Do(func() error {
		if !addr.IsMulticast() {
			conn, err = net.ListenPacket("udp", netip.AddrPortFrom(addr, 0).String())
			return err
		}
		eth0, err := net.InterfaceByName("eth0")
		if err == nil {
			conn, err = net.ListenMulticastUDP("udp", eth0, net.UDPAddrFromAddrPort(netip.AddrPortFrom(addr, 0)))
		}
		return err
	})
	return conn, err
}

func (n *network) wantSource(what string, got, want netip.Addr) {
	n.t.Helper()
	if got != want {
		n.t.Errorf("%s comes from %s, want %s", what, got, want)
	}
}

// What pods send to the outside comes from their host; what they send to each
// other, or where it was asked for, from them.
func TestMasquerade(t *testing.T) { everyFamily(t, testMasquerade) }

func testMasquerade(t *testing.T, v variant) {
	n, outside, excluded := newMasqueraded(t, v)
	for i, h := range n.nodes {
		other := n.nodes[1-i]
		if h.daemon.Env()["FLANNEL_IPMASQ"] != "true" {
			t.Errorf("the subnet file of %s is %s", h.Name, h.daemon.EnvText())
		}
		for _, f := range v.families.list() {
			pod, far := h.pod.In(f), &lab.Host{Namespace: other.pod.Namespace, Addr: other.pod.In(f).Addr}
			n.wantSource("pod to pod", n.source(pod.Namespace, netip.Addr{}, far, far.Addr), pod.Addr)
			n.wantSource("pod to the outside", n.source(pod.Namespace, netip.Addr{}, outside, outside.Of(f)), h.Of(f))
			n.wantSource("pod to what is excluded", n.source(pod.Namespace, netip.Addr{}, excluded, excluded.Of(f)), pod.Addr)
		}
	}
	// The host has an address among the pods, on the bridge.
	h := n.nodes[0]
	groups := map[ip.Family]netip.Addr{ip.V4: netip.MustParseAddr("239.1.2.3"), ip.V6: netip.MustParseAddr("ff15::1:2:3")}
	for _, own := range h.peer().views() {
		f, bridge := ip.FamilyOf(own.public), own.subnet.Addr().Next()
		n.wantSource("the bridge to the outside", n.source(h.Namespace, bridge, outside, outside.Of(f)), own.public)
		n.wantSource("the bridge to a group", n.source(h.Namespace, bridge, outside, groups[f]), bridge)
	}
}

// conversation is a TCP connection on which a word goes to and fro all the time.
type conversation struct {
	t    *testing.T
	from string // its source, as its listener sees it
	stop func()
	mu   sync.Mutex
	said int
	err  error
}

func (n *network) converse(t *testing.T, from *lab.Pod, to *lab.Host) *conversation {
	t.Helper()
	var listener net.Listener
	check(t, to.Do(func() (err error) {
		listener, err = net.Listen("tcp4", netip.AddrPortFrom(to.Addr, 0).String())
		return err
	}))
	defer listener.Close()
	conn := must(from.DialContext(n.ctx, "tcp4", listener.Addr().String()))(t)
	peer := must(listener.Accept())(t)
	source, _, err := net.SplitHostPort(peer.RemoteAddr().String())
	check(t, err)
	c := &conversation{t: t, from: source}
	ctx, cancel := context.WithCancel(n.ctx)
	var ended sync.WaitGroup
	ended.Go(func() { _, _ = io.Copy(peer, peer) })
	ended.Go(func() {
		word := []byte("word")
		for ctx.Err() == nil {
			err := conn.SetDeadline(time.Now().Add(5 * time.Second))
			if err == nil {
				_, err = conn.Write(word)
			}
			if err == nil {
				_, err = io.ReadFull(conn, word)
			}
			c.mu.Lock()
			c.said++
			c.err = errors.Join(c.err, err)
			c.mu.Unlock()
			if err != nil {
				return
			}
			time.Sleep(2 * time.Millisecond)
		}
	})
	c.stop = sync.OnceFunc(func() {
		cancel()
		_ = conn.Close()
		_ = peer.Close()
		ended.Wait()
	})
	t.Cleanup(c.stop)
	return c
}

// goesOn checks that the connection works still.
func (c *conversation) goesOn(n *network) {
	c.t.Helper()
	count := func() (int, error) {
		c.mu.Lock()
		defer c.mu.Unlock()
		return c.said, c.err
	}
	before, _ := count()
	n.wait(soon, "the conversation to go on", func() string {
		now, err := count()
		check(c.t, err)
		if now < before+5 {
			return fmt.Sprintf("%d words, and then %d", before, now)
		}
		return ""
	})
}

// oldRules are what flannel 0.28 leaves on a host that has nftables.
const oldRules = `
add table ip flannel-ipv4 { comment "rules for flannel-ipv4"; }
add chain ip flannel-ipv4 forward { type filter hook forward priority filter; }
add chain ip flannel-ipv4 postrtg { type nat hook postrouting priority srcnat; }
add rule ip flannel-ipv4 forward ip saddr 10.5.0.0/16 accept
add rule ip flannel-ipv4 forward ip daddr 10.5.0.0/16 accept
add rule ip flannel-ipv4 postrtg meta mark 0x4000 return
add rule ip flannel-ipv4 postrtg ip saddr SUBNET ip daddr 10.5.0.0/16 return
add rule ip flannel-ipv4 postrtg ip saddr 10.5.0.0/16 ip daddr SUBNET return
add rule ip flannel-ipv4 postrtg ip saddr != SUBNET ip daddr 10.5.0.0/16 return
add rule ip flannel-ipv4 postrtg ip saddr 10.5.0.0/16 ip daddr != 224.0.0.0/4 masquerade fully-random
add rule ip flannel-ipv4 postrtg ip saddr != 10.5.0.0/16 ip daddr 10.5.0.0/16 masquerade fully-random
`

// nft has nft do what a script says.
func (h *node) nft(script string) {
	h.n.t.Helper()
	file := filepath.Join(h.Dir, "script.nft")
	check(h.n.t, os.WriteFile(file, []byte(script), 0o600))
	h.run("nft", "-f", file)
}

// Masqueraded traffic goes on while the daemon is started again, dies, and takes
// over from a flannel; pods answer pings all the while.
func TestMasqueradeSurvives(t *testing.T) { withWitness(t, everyVariant, testMasqueradeSurvives) }

func testMasqueradeSurvives(t *testing.T, v variant) {
	n, outside, _ := newMasqueraded(t, v)
	h := n.nodes[0]
	rules := h.packetRules()
	c := n.converse(t, h.pod, outside)
	if c.from != h.Addr.String() {
		t.Errorf("the connection comes from %s", c.from)
	}
	pings := must(h.pod.StartPinger(outside.Addr, pingPeriod))(t)
	n.witness(n.nodes[1], h, func() {
		must(h.daemon.Stop(soon))(t)
		c.goesOn(n)
		h.start()
		h.waitReady()
		c.goesOn(n)
		h.restart(func() { c.goesOn(n) })
		c.goesOn(n)
		h.restart(func() {
			h.nft("delete table ip flannel-ipv4" + strings.ReplaceAll(oldRules, "SUBNET", h.subnet().String()))
			c.goesOn(n)
		})
		c.goesOn(n)
		for _, iptables := range []string{"iptables-nft", "iptables-legacy"} {
			h.restart(func() {
				for _, script := range []string{rulesOf17, rulesOf28} {
					file := filepath.Join(h.Dir, iptables)
					check(t, os.WriteFile(file, []byte(strings.ReplaceAll(script, "SUBNET", h.subnet().String())), 0o600))
					h.run(iptables+"-restore", "--noflush", file)
				}
				h.nft("delete table ip flannel-ipv4")
				c.goesOn(n)
			})
			if left := h.run(iptables + "-save"); strings.Contains(left, "10.5.") || strings.Contains(left, "FLANNEL") {
				t.Errorf("of flannel's rules by %s there is left\n%s", iptables, left)
			}
			c.goesOn(n)
		}
	})
	if report := pings.Stop(); report.Lost > 0 {
		t.Errorf("pings to the outside: %s", report)
	}
	c.stop()
	// Chains of iptables, empty ones, may stay.
	now := h.run("nft", "list", "table", "ip", "flannel-ipv4")
	if !sameRules(now, rules) {
		t.Errorf("there was\n%s\nand is\n%s", rules, now)
	}
}

var comments = regexp.MustCompile(`\s*comment "[^"]*"\n?`)

// sameRules compares lists of rules, in which tables and chains may be in any
// order, and those that a flannel left as they should be have no comments.
func sameRules(a, b string) bool {
	lines := func(rules string) []string {
		var all []string
		for line := range strings.Lines(comments.ReplaceAllString(rules, "\n")) {
			if line = strings.TrimSpace(line); line != "" {
				all = append(all, line)
			}
		}
		return sorted(all...)
	}
	return slices.Equal(lines(a), lines(b))
}
