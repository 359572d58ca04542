package main_test

import (
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// udpPort is where daemons with udp send to.
const udpPort = 8285

// tunnelTo is what probed lists for a peer.
func (h *node) tunnelTo(p peer) []string {
	h.n.t.Helper()
	h.n.named[p.subnet] = true
	if p.node == nil && !h.resolved[p.public] {
		// Nobody would answer for a stranger's address, and nothing would leave.
		check(h.n.t, h.AddNeighbour("eth0", p.public, net.HardwareAddr{2, 0, 0, 0, 0, 9}))
		if h.resolved == nil {
			h.resolved = make(map[netip.Addr]bool)
		}
		h.resolved[p.public] = true
	}
	return []string{fmt.Sprintf("%s at %s", p.subnet, p.public)}
}

// probed lists to which hosts the daemon carries packets for the subnets that
// the test has named so far: it sends one to each, and looks at what leaves eth0.
func (h *node) probed() []string {
	h.n.t.Helper()
	var got []string
	subnets := maps.Clone(h.n.named)
	delete(subnets, h.subnet())
	check(h.n.t, h.Do(func() (err error) {
		got, err = probe(subnets)
		return err
	}))
	return got
}

// probe does that in the namespace of the calling thread.
func probe(subnets map[netip.Prefix]bool) ([]string, error) {
	eth0, err := net.InterfaceByName("eth0")
	if err != nil {
		return nil, nil // nothing leaves a host without its NIC
	}
	wire, err := unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	defer unix.Close(wire)
	all := binary.NativeEndian.Uint16(binary.BigEndian.AppendUint16(nil, unix.ETH_P_ALL))
	if err := unix.Bind(wire, &unix.SockaddrLinklayer{Protocol: all, Ifindex: eth0.Index}); err != nil {
		return nil, err
	}
	sender, err := net.ListenUDP("udp4", nil)
	if err != nil {
		return nil, err
	}
	defer sender.Close()
	port := uint16(sender.LocalAddr().(*net.UDPAddr).Port)
	var got []string
	// A device's queue has room for 500 packets.
	for some := range slices.Chunk(slices.Collect(maps.Keys(subnets)), 100) {
		missing := make(map[netip.Addr]netip.Prefix)
		for _, s := range some {
			to := s.Addr().Next()
			missing[to] = s
			// No way to it is an answer, too.
			_, _ = sender.WriteToUDPAddrPort([]byte{0}, netip.AddrPortFrom(to, 9))
		}
		found, err := capture(wire, port, missing)
		if err != nil {
			return nil, err
		}
		got = append(got, found...)
	}
	return got, nil
}

// capture looks on the wire for packets from a UDP port to these addresses, until
// it has seen all or no more come.
func capture(wire int, port uint16, missing map[netip.Addr]netip.Prefix) (got []string, err error) {
	buf := make([]byte, 70_000)
	for end := time.Now().Add(slow(100 * time.Millisecond)); len(missing) > 0; {
		left := unix.NsecToTimeval(max(0, int64(time.Until(end))))
		if left == (unix.Timeval{}) { // which would be to wait for ever
			return got, nil
		}
		if err := unix.SetsockoptTimeval(wire, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &left); err != nil {
			return nil, err
		}
		n, from, err := unix.Recvfrom(wire, buf, 0)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case errors.Is(err, unix.EAGAIN), errors.Is(err, unix.ENETDOWN):
			return got, nil
		case err != nil:
			return nil, err
		}
		if ll, ok := from.(*unix.SockaddrLinklayer); !ok || ll.Pkttype != unix.PACKET_OUTGOING {
			continue
		}
		for to, host := range tunnelled(buf[:n], port) {
			if s, ok := missing[to]; ok {
				delete(missing, to)
				got = append(got, fmt.Sprintf("%s at %s", s, host))
			}
		}
	}
	return got, nil
}

// tunnelled returns where the packets from a UDP port are going that travel in a
// packet of the udp backend, and at which host each will get out. The kernel may
// show several datagrams as one.
func tunnelled(b []byte, port uint16) map[netip.Addr]netip.Addr {
	const ipLen, udpLen = 20, 8
	if len(b) < ipLen+udpLen || b[0] != 0x45 || b[9] != unix.IPPROTO_UDP || binary.BigEndian.Uint16(b[ipLen+2:]) != udpPort {
		return nil
	}
	all := make(map[netip.Addr]netip.Addr)
	host := netip.AddrFrom4([4]byte(b[16:20]))
	for b = b[ipLen+udpLen:]; len(b) >= ipLen+udpLen && b[0] == 0x45; {
		length := int(binary.BigEndian.Uint16(b[2:]))
		if length < ipLen+udpLen || length > len(b) {
			break
		}
		if b[9] == unix.IPPROTO_UDP && binary.BigEndian.Uint16(b[ipLen:]) == port {
			all[netip.AddrFrom4([4]byte(b[16:20]))] = host
		}
		b = b[length:]
	}
	return all
}
