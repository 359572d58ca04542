package udptunnel

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"flanneld/pkg/lab"
	"flanneld/pkg/tun"
)

func testContext(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	t.Cleanup(cancel)
	return ctx
}

// bothWays runs a test with a tunnel as it is and one that has no offload.
func bothWays(t *testing.T, fn func(t *testing.T, way string)) {
	t.Helper()
	for _, way := range []string{byTunnel, byPackets} {
		t.Run(way, func(t *testing.T) { fn(t, way) })
	}
}

func TestTransfer(t *testing.T) {
	bothWays(t, func(t *testing.T, way string) {
		p := newPair(t, way, nil)
		for i := range p.pods {
			if _, err := p.pods[i].Transfer(testContext(t), p.pods[1-i], 30<<20); err != nil {
				t.Error(err)
			}
		}
		if way == byTunnel {
			p.wantJoined(t)
		}
	})
}

// wantJoined checks that packets went together through both tunnels.
func (p *pair) wantJoined(t *testing.T) {
	t.Helper()
	for _, proc := range p.procs {
		_, err := proc.Stop(5 * time.Second)
		check(t, err)
		count := func(name string) int {
			_, rest, _ := strings.Cut(proc.Log(), " "+name+"=")
			var n int
			_, err := fmt.Sscan(rest, &n)
			check(t, err)
			return n
		}
		for _, dir := range []string{"out", "in"} {
			if packets, calls := count(dir+"_packets"), count(dir+"_calls"); calls*2 > packets {
				t.Errorf("%s: %d packets in %d calls", dir, packets, calls)
			}
		}
	}
}

// TestFeaturesMissing mixes hosts that have offload with ones that have not.
func TestFeaturesMissing(t *testing.T) {
	p := newPair(t, byTunnel, func(e *engine) { e.Offload = e.Own == subnets[0]; e.Queues = 2 })
	for i := range p.pods {
		if _, err := p.pods[i].Transfer(testContext(t), p.pods[1-i], 20<<20); err != nil {
			t.Error(err)
		}
	}
}

// opened is a tunnel of this process on a host, with a device.
func opened(t *testing.T, change func(*Config)) (*lab.Host, *Tunnel, chan string) {
	t.Helper()
	l, err := lab.New(lab.Options{})
	check(t, err)
	t.Cleanup(func() { check(t, l.Close()) })
	sw, err := l.AddSwitch("lan", lan)
	check(t, err)
	h, err := l.AddHost("h1", sw, lab.HostOptions{})
	check(t, err)
	log := make(chan string, 100)
	c := Config{
		Device: makeDevice(t, h, 0, 1472), Local: netip.AddrPortFrom(h.Addr, 8285), Own: subnets[0],
		Network: network, Addr: subnets[0].Addr(), MTU: 1472, SourceCheck: true, Offload: true, Queues: 2,
		Log: func(s string) { log <- s },
	}
	if change != nil {
		change(&c)
	}
	var tunnel *Tunnel
	check(t, h.Do(func() error { tunnel, err = Open(c); return err }))
	t.Cleanup(tunnel.Close)
	return h, tunnel, log
}

func running(t *testing.T, tunnel *Tunnel) (stop func() error) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- tunnel.Run(ctx) }()
	stop = func() error {
		cancel()
		select {
		case err := <-done:
			done <- err
			return err
		case <-time.After(5 * time.Second):
			return errors.New("Run does not end")
		}
	}
	t.Cleanup(func() { _ = stop() })
	return stop
}

func TestRunEnds(t *testing.T) {
	_, tunnel, _ := opened(t, nil)
	stop := running(t, tunnel)
	time.Sleep(50 * time.Millisecond)
	start := time.Now()
	check(t, stop())
	if took := time.Since(start); took > time.Second {
		t.Errorf("Run took %s to end", took)
	}
	if tunnel.Run(t.Context()) == nil {
		t.Error("Run runs twice")
	}
}

// TestAtRest has threads be woken by packets alone, also after there was much to do.
func TestAtRest(t *testing.T) {
	p := newPair(t, byTunnel, nil)
	if _, err := p.pods[0].Transfer(testContext(t), p.pods[1], 10<<20); err != nil {
		t.Fatal(err)
	}
	switches := func() (n int) {
		dir := fmt.Sprintf("/proc/%d/task", p.procs[0].Pid())
		threads, err := os.ReadDir(dir)
		check(t, err)
		for _, thread := range threads {
			status, err := os.ReadFile(filepath.Join(dir, thread.Name(), "status"))
			check(t, err)
			_, rest, _ := strings.Cut(string(status), "\nvoluntary_ctxt_switches:")
			var of int
			_, err = fmt.Sscan(rest, &of)
			check(t, err)
			n += of
		}
		return n
	}
	// The kernel may have something to send once in a while, and the runtime something to do.
	least := 1000
	for range 5 {
		before := switches()
		time.Sleep(500 * time.Millisecond)
		least = min(least, switches()-before)
	}
	if least > 5 {
		t.Errorf("its threads are woken %d times in half a second in which nothing is sent", least)
	}
}

func TestDeviceGone(t *testing.T) {
	h, tunnel, _ := opened(t, nil)
	stop := running(t, tunnel)
	time.Sleep(50 * time.Millisecond)
	done := make(chan error, 1)
	check(t, h.Do(func() error {
		link, err := netlink.LinkByName("flannel0")
		if err != nil {
			return err
		}
		return netlink.LinkDel(link)
	}))
	time.Sleep(200 * time.Millisecond)
	go func() { done <- stop() }()
	if err := <-done; !errors.Is(err, tun.ErrGone) {
		t.Errorf("Run ended with %v", err)
	}
}

func TestAddressTaken(t *testing.T) {
	h, tunnel, _ := opened(t, func(c *Config) { c.Queues = 1 })
	defer tunnel.Close()
	name := makeSecondDevice(t, h)
	for _, queues := range []int{1, 3} {
		check(t, h.Do(func() error {
			_, err := Open(Config{
				Device: name, Local: netip.AddrPortFrom(h.Addr, 8285), Own: subnets[0], Network: network,
				Addr: subnets[0].Addr(), MTU: 1472, Queues: queues,
			})
			if !errors.Is(err, unix.EADDRINUSE) || !strings.Contains(err.Error(), "192.168.60.2:8285") {
				t.Errorf("with %d queues: %v", queues, err)
			}
			return nil
		}))
	}
}

func makeSecondDevice(t *testing.T, h *lab.Host) (name string) {
	t.Helper()
	check(t, h.Do(func() (err error) { name, err = tun.Create("flannel%d", ""); return err }))
	return name
}

// stranger sends datagrams to a tunnel from outside.
type stranger struct {
	conn *net.UDPConn
	to   *net.UDPAddr
}

func (s stranger) send(t *testing.T, b []byte) {
	t.Helper()
	if _, err := s.conn.WriteToUDP(b, s.to); err != nil {
		t.Fatal(err)
	}
}

// TestDrops sends a host all that it must not take.
func TestDrops(t *testing.T) {
	h, tunnel, log := opened(t, nil)
	check(t, h.AddAddr("eth0", netip.MustParsePrefix("192.168.60.77/24")))
	check(t, h.AddAddr("eth0", netip.MustParsePrefix("192.168.60.78/24")))
	peer, other := netip.MustParseAddr("192.168.60.77"), netip.MustParseAddr("192.168.60.78")
	check(t, tunnel.Table().Set(subnets[1], peer))
	running(t, tunnel)
	from := func(a netip.Addr) (s stranger) {
		check(t, h.Do(func() (err error) {
			s.conn, err = net.ListenUDP("udp4", &net.UDPAddr{IP: a.AsSlice()})
			return err
		}))
		t.Cleanup(func() { _ = s.conn.Close() })
		s.to = &net.UDPAddr{IP: h.Addr.AsSlice(), Port: 8285}
		return s
	}
	good := func(change func([]byte)) []byte {
		p := make([]byte, 60)
		p[0], p[8], p[9] = 0x45, 9, protoICMP
		copy(p[12:], host(subnets[1], 5).AsSlice())
		copy(p[16:], host(subnets[0], 0).AsSlice())
		if change != nil {
			change(p)
		}
		if p[0]>>4 == 4 {
			seal(p, true, false)
		}
		return p
	}
	dst := func(a string) func([]byte) {
		return func(p []byte) { copy(p[16:], netip.MustParseAddr(a).AsSlice()) }
	}
	src := func(a string) func([]byte) {
		return func(p []byte) { copy(p[12:], netip.MustParseAddr(a).AsSlice()) }
	}
	bad := good(nil)
	bad[11] ^= 1
	for _, test := range []struct {
		name string
		from netip.Addr
		b    []byte
		want Counter
	}{
		{"good", peer, good(nil), InPackets},
		{"from outside the network", peer, good(src("203.0.113.9")), InPackets},
		{"from outside the network by a stranger", other, good(src("203.0.113.9")), InStranger},
		{"TTL 1 by a stranger", other, good(func(p []byte) { src("203.0.113.9")(p); p[8] = 1 }), InStranger},
		{"loopback by a stranger", other, good(src("127.0.0.1")), InStranger},
		{"with bytes behind it", peer, append(good(nil), 1, 2, 3), InPackets},
		{"source of another host", other, good(nil), InSpoofed},
		{"our own source", peer, good(src("10.60.1.9")), InSpoofed},
		{"source of no lease", peer, good(src("10.60.77.9")), InSpoofed},
		{"for another host", peer, good(dst("10.60.2.9")), InForeign},
		{"for the world", peer, good(dst("203.0.113.9")), InForeign},
		{"multicast", peer, good(dst("224.0.0.5")), InForeign},
		{"broadcast", peer, good(dst("255.255.255.255")), InForeign},
		{"truncated", peer, good(nil)[:40], InMalformed},
		{"short", peer, []byte{0x45, 0}, InMalformed},
		{"empty", peer, nil, InMalformed},
		{"IPv6", peer, good(func(p []byte) { p[0] = 0x60 }), InMalformed},
		{"bad checksum", peer, bad, InMalformed},
		{"TTL 0", peer, good(func(p []byte) { p[8] = 0 }), InExpired},
		{"TTL 1", peer, good(func(p []byte) { p[8] = 1 }), InExpired},
	} {
		before := tunnel.Counters()
		from(test.from).send(t, test.b)
		waitFor(t, test.name, func() bool { return tunnel.Counters()[test.want] == before[test.want]+1 })
		if now := tunnel.Counters(); test.want != InPackets && now[InPackets] != before[InPackets] {
			t.Errorf("%s was taken: %s", test.name, now)
		}
	}
	var said []string
	for len(log) > 0 {
		said = append(said, <-log)
	}
	if len(said) != 2 || !strings.Contains(said[1], "NAT") || !strings.Contains(said[1], other.String()) {
		t.Errorf("it said %q", said)
	}
	// Of two packets whose time to live ended one was answered: the other had none.
	want := "in_malformed=5 in_foreign=4 in_spoofed=3 in_stranger=3 in_expired=2 icmp_sent=1"
	if s := tunnel.Counters().String(); !strings.HasSuffix(s, want) {
		t.Errorf("counters: %s, want %s", s, want)
	}
}

func waitFor(t *testing.T, what string, done func() bool) {
	t.Helper()
	for deadline := time.Now().Add(5 * time.Second); !done(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain for %s", what)
		}
	}
}

// TestNoSourceCheck takes what comes from behind NAT, if told to.
func TestNoSourceCheck(t *testing.T) {
	h, tunnel, _ := opened(t, func(c *Config) { c.SourceCheck = false })
	check(t, tunnel.Table().Set(subnets[1], netip.MustParseAddr("192.168.60.77")))
	running(t, tunnel)
	send := func(src netip.Addr, ttl byte) {
		t.Helper()
		p := make([]byte, 60)
		p[0], p[8], p[9] = 0x45, ttl, protoUDP
		copy(p[12:], src.AsSlice())
		copy(p[16:], host(subnets[0], 0).AsSlice())
		check(t, h.Do(func() error {
			conn, err := net.DialUDP("udp4", nil, &net.UDPAddr{IP: h.Addr.AsSlice(), Port: 8285})
			if err != nil {
				return err
			}
			defer conn.Close()
			_, err = conn.Write(seal(p, true, false))
			return err
		}))
	}
	pod, outside := host(subnets[1], 5), netip.MustParseAddr("203.0.113.9")
	send(pod, 9)
	send(outside, 9)
	waitFor(t, "the packets", func() bool { return tunnel.Counters()[InPackets] == 2 })

	// Answers go to pods only: nobody knows who wrote the source.
	send(outside, 1)
	send(pod, 1)
	waitFor(t, "the answer", func() bool { return tunnel.Counters()[InExpired] == 2 })
	if c := tunnel.Counters(); c[ICMPSent] != 1 {
		t.Errorf("counters: %s", c)
	}
}

// What comes from other hosts cannot use up the answers to this host's pods.
func TestAnswersToEachDirectionHaveALimitOfTheirOwn(t *testing.T) {
	h, tunnel, _ := opened(t, nil)
	check(t, h.AddAddr("eth0", netip.MustParsePrefix("192.168.60.77/24")))
	check(t, tunnel.Table().Set(subnets[1], netip.MustParseAddr("192.168.60.77")))
	running(t, tunnel)
	expired := make([]byte, 60)
	expired[0], expired[8], expired[9] = 0x45, 1, protoUDP
	copy(expired[12:], host(subnets[1], 5).AsSlice())
	copy(expired[16:], host(subnets[0], 5).AsSlice())
	seal(expired, true, false)
	var peer, pod *net.UDPConn
	check(t, h.Do(func() (err error) {
		peer, err = net.DialUDP("udp4", &net.UDPAddr{IP: net.IPv4(192, 168, 60, 77)}, &net.UDPAddr{IP: h.Addr.AsSlice(), Port: 8285})
		if err != nil {
			return err
		}
		pod, err = net.ListenUDP("udp4", &net.UDPAddr{IP: subnets[0].Addr().AsSlice()})
		return err
	}))
	defer peer.Close()
	defer pod.Close()
	limited := func() bool { return tunnel.Counters()[ICMPLimited] > 0 }
	waitFor(t, "the limit", func() bool {
		for range 4 * icmpBurst {
			_, err := peer.Write(expired)
			check(t, err)
		}
		return limited()
	})
	before := tunnel.Counters()
	_, err := pod.WriteToUDP([]byte{1}, &net.UDPAddr{IP: host(network, 9).AsSlice(), Port: 9})
	check(t, err)
	waitFor(t, "the packet to nowhere", func() bool { return tunnel.Counters()[OutNoRoute] > before[OutNoRoute] })
	var sent uint64
	for _, l := range tunnel.lanes {
		sent += l.outTally.shown[ICMPSent].Load()
	}
	if sent != 1 {
		t.Errorf("%d answers were sent to this host's pods; counters: %s", sent, tunnel.Counters())
	}
}

// TestNarrowPath has a path to the peer that is narrower than the interface: the
// kernel refuses joined datagrams then, and takes each by itself.
func TestNarrowPath(t *testing.T) {
	p := newPair(t, byTunnel, nil)
	check(t, p.hosts[0].Do(func() error {
		link, err := netlink.LinkByName("eth0")
		if err != nil {
			return err
		}
		_, dst, err := net.ParseCIDR(p.hosts[1].Addr.String() + "/32")
		if err != nil {
			return err
		}
		return netlink.RouteReplace(&netlink.Route{
			LinkIndex: link.Attrs().Index, Dst: dst, MTU: 1200, Scope: netlink.SCOPE_LINK,
		})
	}))
	if _, err := p.pods[0].Transfer(testContext(t), p.pods[1], 5<<20); err != nil {
		t.Error(err)
	}
	_, err := p.procs[0].Stop(5 * time.Second)
	check(t, err)
	if log := p.procs[0].Log(); strings.Contains(log, "send_errors") {
		t.Error(log)
	}
}

// TestRefusals has pods told why their packets don't arrive.
func TestRefusals(t *testing.T) {
	bothWays(t, func(t *testing.T, way string) {
		p := newPair(t, way, nil)
		for _, test := range []struct {
			name      string
			dst       netip.Addr
			ttl       int
			typ, code byte
			from      netip.Addr
		}{
			{"no lease", netip.MustParseAddr("10.60.77.1"), 64, icmpUnreachable, icmpNetwork, subnets[0].Addr()},
			{"one hop", p.pods[1].Addr, 1, icmpTimeExceeded, 0, subnets[0].Addr().Next()},
			{"two hops", p.pods[1].Addr, 2, icmpTimeExceeded, 0, subnets[0].Addr()},
			{"three hops", p.pods[1].Addr, 3, icmpTimeExceeded, 0, subnets[1].Addr()},
		} {
			got := p.refusal(t, test.dst, test.ttl)
			if got.typ != test.typ || got.code != test.code || got.from != test.from {
				t.Errorf("%s: %+v, want %+v", test.name, got, test)
			}
		}
		if rtt, err := p.pods[0].Ping(testContext(t), p.pods[1].Addr, 5*time.Second); err != nil {
			t.Error(rtt, err)
		}
	})
}

type icmpAnswer struct {
	typ, code byte
	from      netip.Addr
}

// refusal sends a UDP datagram from the first pod and returns the ICMP answer.
func (p *pair) refusal(t *testing.T, dst netip.Addr, ttl int) (a icmpAnswer) {
	t.Helper()
	var conn *net.IPConn
	var out *net.UDPConn
	check(t, p.pods[0].Do(func() (err error) {
		if conn, err = net.ListenIP("ip4:icmp", nil); err != nil {
			return err
		}
		out, err = net.DialUDP("udp4", nil, &net.UDPAddr{IP: dst.AsSlice(), Port: 7})
		return err
	}))
	defer conn.Close()
	defer out.Close()
	withFD(t, out, func(fd int) error { return unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_TTL, ttl) })
	_, _ = out.Write([]byte("who is there?"))
	_ = conn.SetReadDeadline(time.Now().Add(5 * time.Second))
	b := make([]byte, 1500)
	n, from, err := conn.ReadFromIP(b)
	if err != nil {
		t.Fatalf("to %s with TTL %d: %v\n%s", dst, ttl, err, p.logs())
	}
	if !bytes.Contains(b[:n], []byte("who is there?")) {
		t.Errorf("the answer quotes %x", b[:n])
	}
	a.typ, a.code = b[0], b[1]
	a.from, _ = netip.AddrFromSlice(from.IP.To4())
	return a
}
