package main_test

import (
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"flanneld/pkg/lab"
)

// What does not come from where it should, or is no packet at all, is dropped
// and counted; the log says what looks like an address that was rewritten.
func TestUDPDrops(t *testing.T) {
	t.Parallel()
	v := udp
	n := newNetwork(t, 2, v, nil)
	h, peer := n.nodes[0], n.nodes[1]
	stranger, err := n.lab.AddHost("stranger", n.sw, lab.HostOptions{})
	check(t, err)
	inside, outside := peer.subnet().Addr().Next(), netip.MustParseAddr("203.0.113.7")
	pod := h.pod.Addr
	good := innerPacket(outside, pod)
	multicast := innerPacket(outside, netip.MustParseAddr("224.0.0.5"))
	wrongSum := innerPacket(outside, pod)
	wrongSum[10] ^= 1
	long := innerPacket(outside, pod)
	long[3]++
	var conn net.PacketConn
	check(t, stranger.Do(func() (err error) {
		conn, err = net.ListenPacket("udp4", ":8285")
		return err
	}))
	defer conn.Close()
	send := func(b []byte) {
		t.Helper()
		_, err := conn.WriteTo(b, &net.UDPAddr{IP: h.Addr.AsSlice(), Port: 8285})
		check(t, err)
	}
	for _, b := range [][]byte{
		good,                     // routed, but not by a peer
		innerPacket(inside, pod), // of peer's, but not from there
		innerPacket(outside, netip.MustParseAddr("10.5.255.1")), multicast, // not for here
		{}, {0x45}, good[:19], long, wrongSum, append([]byte{0x60}, good[1:]...), // no IPv4
	} {
		send(b)
	}
	h.waitLog(fmt.Sprintf("packets from %s are dropped: they come from %s, which has no lease, while %s has it", inside, stranger.Addr, peer.Addr))
	n.wait(soon, "the counters", func() string {
		got := h.counters()
		for _, want := range []string{"in_malformed=6", "in_foreign=2", "in_spoofed=1", "in_stranger=1"} {
			if !strings.Contains(got, want+" ") {
				return "there is no " + want + " in " + got
			}
		}
		return ""
	})
	n.pingAll()

	t.Log("without the check, sources count for nothing")
	n.put("config", n.config(settings{"Backend": map[string]any{"Type": "udp", "SourceCheck": false}}))
	h.restart(func() {})
	send(innerPacket(inside, pod))
	send(innerPacket(inside, pod)[:27])
	n.wait(soon, "the counters", func() string {
		got := h.counters()
		if !strings.Contains(got, "in_packets=1 ") || !strings.Contains(got, "in_malformed=1") || strings.Contains(got, "spoofed") {
			return got
		}
		return ""
	})
}

// A machine without a lease reaches no pod whatever source it writes into a packet,
// and has the host answer nobody on its behalf. What peers route from outside the
// network arrives, and is answered.
func TestUDPStrangersReachNobody(t *testing.T) {
	t.Parallel()
	n := newNetwork(t, 2, udp, nil)
	h, peer := n.nodes[0], n.nodes[1]
	stranger, err := n.lab.AddHost("stranger", n.sw, lab.HostOptions{})
	check(t, err)
	victim, err := n.lab.AddHost("victim", n.sw, lab.HostOptions{})
	check(t, err)
	var icmp net.PacketConn
	check(t, victim.Do(func() (err error) {
		icmp, err = net.ListenPacket("ip4:icmp", victim.Addr.String())
		return err
	}))
	defer icmp.Close()
	var pod net.PacketConn
	check(t, h.pod.Do(func() (err error) {
		pod, err = net.ListenPacket("udp4", ":12288")
		return err
	}))
	defer pod.Close()
	send := func(from *lab.Host, port int, ttl byte) {
		t.Helper()
		check(t, from.Do(func() error {
			conn, err := net.ListenPacket("udp4", fmt.Sprintf(":%d", port))
			if err != nil {
				return err
			}
			defer conn.Close()
			_, err = conn.WriteTo(innerPacketTTL(victim.Addr, h.pod.Addr, ttl), &net.UDPAddr{IP: h.Addr.AsSlice(), Port: 8285})
			return err
		}))
	}
	got := func(conn net.PacketConn, within time.Duration) bool {
		t.Helper()
		check(t, conn.SetReadDeadline(time.Now().Add(within)))
		_, _, err := conn.ReadFrom(make([]byte, 1500))
		return err == nil
	}
	send(stranger, 8285, 64)
	send(stranger, 8285, 1)
	var c string
	n.wait(soon, "a stranger's packets to be dropped", func() string {
		if c = h.counters(); !strings.Contains(c, "in_stranger=2 ") {
			return "the counters are " + c
		}
		return ""
	})
	if strings.Contains(c, "icmp") || got(pod, 100*time.Millisecond) || got(icmp, 100*time.Millisecond) {
		t.Errorf("a stranger's packet was delivered or answered; the counters are %s", c)
	}
	// The port may have been rewritten on the way.
	send(peer.Host, 9999, 64)
	if !got(pod, soon) {
		t.Error("what a peer routes was not delivered")
	}
	send(peer.Host, 9999, 1)
	if !got(icmp, soon) {
		t.Error("what a peer routes was not answered")
	}
	n.pingAll()
}

// innerPacket is a UDP datagram without a payload.
func innerPacket(from, to netip.Addr) []byte { return innerPacketTTL(from, to, 64) }

// innerPacketTTL is an innerPacket with a time to live.
func innerPacketTTL(from, to netip.Addr, ttl byte) []byte {
	b := []byte{0x45, 0, 0, 28, 0, 1, 0, 0, ttl, unix.IPPROTO_UDP, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x30, 0, 0x30, 0, 0, 8, 0, 0}
	copy(b[12:], from.AsSlice())
	copy(b[16:], to.AsSlice())
	var sum uint32
	for i := 0; i < 20; i += 2 {
		sum += uint32(b[i])<<8 | uint32(b[i+1])
	}
	sum = sum>>16 + sum&0xffff
	sum = ^(sum>>16 + sum)
	b[10], b[11] = byte(sum>>8), byte(sum)
	return b
}

// lastLine is the last line with some text in it, and a space at its end.
func lastLine(log, text string) (last string) {
	for line := range strings.Lines(log) {
		if strings.Contains(line, text) {
			last = strings.TrimSpace(line) + " "
		}
	}
	return last
}
