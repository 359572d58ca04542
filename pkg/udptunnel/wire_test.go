package udptunnel

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"flanneld/pkg/lab"
	"flanneld/pkg/tun"
)

// wire is a host with a pod and a tunnel, and in place of the other host a socket
// that sees each datagram by itself, just as it is on the wire.
type wire struct {
	pod   *lab.Pod
	local netip.Addr // the host
	port  int        // packet socket in the pod
	head  []byte     // Ethernet header of what the pod sends
	peer  *net.UDPConn
	to    *unix.SockaddrInet4
	proc  *lab.Process
}

func newWire(t *testing.T, way string) *wire {
	t.Helper()
	l, err := lab.New(lab.Options{})
	check(t, err)
	t.Cleanup(func() { check(t, l.Close()) })
	sw, err := l.AddSwitch("lan", lan)
	check(t, err)
	h1, err := l.AddHost("h1", sw, lab.HostOptions{})
	check(t, err)
	h2, err := l.AddHost("h2", sw, lab.HostOptions{})
	check(t, err)
	w := &wire{local: h1.Addr, to: &unix.SockaddrInet4{Port: 8285, Addr: h1.Addr.As4()}}
	w.proc = startEngine(t, h1, engine{
		Device: makeDevice(t, h1, 0, 1472), Local: netip.AddrPortFrom(h1.Addr, 8285), Own: subnets[0],
		Network: network, Addr: subnets[0].Addr(), MTU: 1472, SourceCheck: true, Offload: way == byTunnel, Queues: 1,
		Peers: map[netip.Prefix]netip.Addr{subnets[1]: h2.Addr},
	})
	w.pod, err = h1.AddPod("pod", map[string]string{"FLANNEL_SUBNET": "10.60.1.1/24", "FLANNEL_MTU": "1472"})
	check(t, err)
	// An interface that has just come up loses packets.
	check(t, w.pod.WaitPing(testContext(t), subnets[0].Addr().Next()))
	check(t, h1.WaitPing(testContext(t), h2.Addr))
	check(t, h2.Do(func() error {
		w.peer, err = net.ListenUDP("udp4", &net.UDPAddr{IP: h2.Addr.AsSlice(), Port: 8285})
		return err
	}))
	t.Cleanup(func() { _ = w.peer.Close() })
	withFD(t, w.peer, func(fd int) error {
		return unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 8<<20)
	})
	var gateway net.HardwareAddr
	check(t, h1.Do(func() error {
		link, err := netlink.LinkByName("docker0")
		gateway = link.Attrs().HardwareAddr
		return err
	}))
	check(t, w.pod.Do(func() error { return w.openPort(gateway) }))
	t.Cleanup(func() { _ = unix.Close(w.port) })
	return w
}

func (w *wire) openPort(gateway net.HardwareAddr) error {
	link, err := netlink.LinkByName("eth0")
	if err != nil {
		return err
	}
	w.head = slices.Concat(gateway, link.Attrs().HardwareAddr, []byte{8, 0})
	const ethIP = 0x0008 // in the order of the network
	if w.port, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, ethIP); err != nil {
		return err
	}
	return errors.Join(
		unix.SetsockoptInt(w.port, unix.SOL_PACKET, unix.PACKET_VNET_HDR, 1),
		unix.SetsockoptTimeval(w.port, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Usec: 500000}),
		unix.SetsockoptInt(w.port, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 8<<20),
		unix.Bind(w.port, &unix.SockaddrLinklayer{Protocol: ethIP, Ifindex: link.Attrs().Index}))
}

// inject sends what the pod's kernel would, joined or not.
func (w *wire) inject(t *testing.T, b []byte) {
	t.Helper()
	var h tun.Header
	h.Decode(b)
	if h.Flags&tun.NeedsChecksum != 0 {
		h.CsumStart += uint16(len(w.head))
		h.HeadLen += uint16(len(w.head))
	}
	front := make([]byte, tun.HeaderLen)
	h.Encode(front)
	if _, err := unix.Write(w.port, slices.Concat(front, w.head, b[tun.HeaderLen:])); err != nil {
		t.Fatalf("sending %d bytes with %+v: %v", len(b), h, err)
	}
}

// sent returns so many datagrams as the peer gets them.
func (w *wire) sent(t *testing.T, n int) (all [][]byte) {
	t.Helper()
	b := make([]byte, maxPacket)
	for len(all) < n {
		_ = w.peer.SetReadDeadline(time.Now().Add(3 * time.Second))
		size, from, err := w.peer.ReadFromUDPAddrPort(b)
		if err != nil {
			t.Errorf("after %d of %d datagrams: %v", len(all), n, err)
			return all
		}
		if from != netip.AddrPortFrom(w.local, 8285) {
			t.Errorf("a datagram comes from %s", from)
		}
		all = append(all, slices.Clone(b[:size]))
	}
	return all
}

// got returns what arrives in the pod from an address, cut up.
func (w *wire) got(t *testing.T, from netip.Addr, n int) (all [][]byte) {
	t.Helper()
	b := make([]byte, tun.HeaderLen+14+maxPacket)
	for len(all) < n {
		size, err := unix.Read(w.port, b)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			t.Errorf("after %d of %d packets: %v", len(all), n, err)
			return all
		}
		var h tun.Header
		h.Decode(b)
		packet := b[tun.HeaderLen+14 : size]
		if !bytes.Equal(packet[12:16], from.AsSlice()) {
			continue
		}
		if h.Flags&tun.NeedsChecksum != 0 {
			h.CsumStart -= 14
		}
		front := make([]byte, tun.HeaderLen)
		h.Encode(front)
		cut, ok := slowSegments(slices.Concat(front, packet))
		if !ok {
			t.Fatalf("the pod got %+v %x", h, packet)
		}
		all = append(all, cut...)
	}
	return all
}

// kinds are packets of all kinds, as they are when one host hands them to another.
func kinds(g gen, src, dst netip.Addr) map[string][]byte {
	l4 := func(proto byte, options, n int) []byte {
		p := make([]byte, 20+options+n)
		p[0], p[1], p[8], p[9] = 4<<4|byte(5+options/4), byte(g.Uint32())&0xfc, 64, proto
		binary.BigEndian.PutUint16(p[4:], uint16(g.Uint32()))
		copy(p[12:], src.AsSlice())
		copy(p[16:], dst.AsSlice())
		for i := 20; i < 20+options; i++ {
			p[i] = 1 // no operation
		}
		for i := 20 + options; i < len(p); i++ {
			p[i] = byte(g.Uint32())
		}
		return p
	}
	tcp := func(flags byte, options, n int) []byte {
		p := l4(protoTCP, 0, 20+options+n)
		p[6], p[32], p[33] = 0x40, byte(5+options/4)<<4, flags
		for i := range options {
			p[40+i] = 1
		}
		return p
	}
	sack := tcp(tcpACK, 12, 0)
	copy(sack[40:], []byte{1, 1, 5, 10, 0, 0, 1, 0, 0, 0, 2, 0})
	zero := tcp(tcpACK, 12, 0)
	zero[34], zero[35] = 0, 0
	ecn := tcp(tcpACK|tcpECE|tcpCWR, 0, 100)
	ecn[1] |= 3
	udp := func(n int) []byte {
		p := l4(protoUDP, 0, 8+n)
		binary.BigEndian.PutUint16(p[24:], uint16(8+n))
		return p
	}
	first, later := l4(protoUDP, 0, 800), l4(protoUDP, 0, 333)
	first[6], later[7] = 0x20, 100
	all := map[string][]byte{
		"SYN": tcp(2, 20, 0), "RST": tcp(4, 0, 0), "FIN": tcp(tcpACK|tcpFIN, 12, 0), "URG": tcp(tcpACK|0x20, 0, 9),
		"SACK": sack, "zero window": zero, "ECN": ecn, "odd TCP": tcp(tcpACK|tcpPSH, 12, 333),
		"full TCP": tcp(tcpACK, 12, 1420), "UDP of 1": udp(1), "UDP of 0": udp(0), "full UDP": udp(1444),
		"ICMP": append(l4(protoICMP, 0, 0), 8, 0, 0, 0, 1, 2, 3, 4, 5), "IP options": l4(protoUDP, 8, 100),
		"first fragment": first, "later fragment": later, "GRE": l4(47, 0, 77),
	}
	for name, p := range all {
		if name == "IP options" {
			binary.BigEndian.PutUint16(p[32:], uint16(len(p)-28))
		}
		seal(p, true, name != "first fragment" && name != "later fragment")
	}
	none := udp(50)
	all["UDP without checksum"] = seal(none, true, false)
	none[26], none[27] = 0, 0
	wrong := udp(60)
	seal(wrong, true, true)[30] ^= 1
	all["UDP with wrong checksum"] = wrong
	return all
}

// joinedKinds are packets that the kernel left joined.
func joinedKinds(g gen, src, dst netip.Addr) map[string][]byte {
	all := map[string][]byte{}
	for i := range 40 {
		udp := i%4 == 3
		options := 4 * g.IntN(11)
		heads := 40 + options
		h := tun.Header{Flags: tun.NeedsChecksum, GSO: tun.GSOTCP4, CsumStart: 20, CsumOffset: 16}
		if udp {
			heads = 28
			h.GSO, h.CsumOffset = tun.GSOUDP, 6
		}
		size := 200 + g.IntN(1472-heads-200+1)
		most := 65535 - heads
		if udp {
			most = size * 60
		}
		p := make([]byte, heads+size+1+g.IntN(min(most, 65535-heads)-size-1))
		for k := 20; k < len(p); k++ {
			p[k] = byte(g.Uint32())
		}
		h.Size, h.HeadLen = uint16(size), uint16(heads)
		p[0], p[6], p[8], p[9] = 0x45, 0x40, 64, protoTCP
		binary.BigEndian.PutUint16(p[4:], uint16(g.Uint32()))
		copy(p[12:], src.AsSlice())
		copy(p[16:], dst.AsSlice())
		if udp {
			p[9] = protoUDP
			binary.BigEndian.PutUint16(p[24:], uint16(len(p)-20))
			p[26], p[27] = 0, 0
		} else {
			p[32], p[33] = byte(5+options/4)<<4, tcpACK|byte(g.Uint32())&(tcpPSH|tcpFIN|tcpECE)
			if g.chance(4) {
				p[33] |= tcpCWR
				h.GSO |= tun.GSOWithCWR
			}
			p[36], p[37] = 0, 0
		}
		seal(p, true, false)
		// The field of the checksum has the sum of the pseudo header.
		pseudo := slices.Concat(p[12:20], []byte{0, p[9]}, binary.BigEndian.AppendUint16(nil, uint16(len(p)-20)))
		binary.BigEndian.PutUint16(p[20+h.CsumOffset:], ^slowSum(pseudo))
		b := make([]byte, tun.HeaderLen)
		h.Encode(b)
		all[fmt.Sprintf("joined %d: %+v, %d bytes", i, h, len(p))] = slices.Concat(b, p)
	}
	return all
}

func twoHops(p []byte) []byte {
	p = slices.Clone(p)
	slowHop(p)
	slowHop(p)
	return p
}

// TestWireOut compares, byte for byte, what is on the wire with what a sender would
// have sent that takes one packet after the other.
func TestWireOut(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	bothWays(t, func(t *testing.T, way string) {
		w := newWire(t, way)
		g := gen{rand.New(rand.NewPCG(seed, 0))}
		src, dst := w.pod.Addr, host(subnets[1], 7)
		for name, p := range kinds(g, src, dst) {
			w.inject(t, append(make([]byte, tun.HeaderLen), p...))
			compare(t, name, w.sent(t, 1), [][]byte{twoHops(p)})
		}
		for name, b := range joinedKinds(g, src, dst) {
			want, ok := slowSegments(b)
			if !ok {
				t.Fatal(name)
			}
			for i := range want {
				want[i] = twoHops(want[i])
				if want[i][9] == protoTCP && slowSum(slices.Concat(want[i][12:20], []byte{0, protoTCP},
					binary.BigEndian.AppendUint16(nil, uint16(len(want[i])-20)), want[i][20:])) != 0 {
					t.Fatalf("%s: the oracle's checksum is wrong", name)
				}
			}
			w.inject(t, b)
			compare(t, name, w.sent(t, len(want)), want)
		}
		if t.Failed() {
			t.Log(w.proc.Log())
		}
	})
}

// TestWireIn sends datagrams as other hosts do, apart and joined, and compares
// what the pod gets.
func TestWireIn(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	bothWays(t, func(t *testing.T, way string) {
		w := newWire(t, way)
		g := gen{rand.New(rand.NewPCG(seed, 0))}
		src := host(subnets[1], 7)
		withFD(t, w.peer, func(fd int) error {
			for name, p := range kinds(g, src, w.pod.Addr) {
				check(t, unix.Sendto(fd, p, 0, w.to))
				compare(t, name, w.got(t, src, 1), [][]byte{twoHops(p)})
			}
			for name, b := range joinedKinds(g, src, w.pod.Addr) {
				cut, _ := slowSegments(b)
				var want [][]byte
				for _, p := range cut {
					want = append(want, twoHops(p))
				}
				for some := range slices.Chunk(cut, min(maxSegments, maxDatagram/len(cut[0]))) {
					check(t, unix.SetsockoptInt(fd, unix.IPPROTO_UDP, unix.UDP_SEGMENT, len(cut[0])))
					check(t, unix.Sendto(fd, slices.Concat(some...), 0, w.to))
				}
				check(t, unix.SetsockoptInt(fd, unix.IPPROTO_UDP, unix.UDP_SEGMENT, 0))
				compare(t, name, w.got(t, src, len(want)), want)
			}
			return nil
		})
	})
}
