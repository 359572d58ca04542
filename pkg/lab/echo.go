package lab

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"syscall"

	"golang.org/x/sys/unix"

	"flanneld/pkg/ip"
)

// echoSocket sends ICMP echo requests and receives the replies to them.
type echoSocket struct {
	echoKind
	conn *net.IPConn
	id   uint16
}

// echoKind is what differs between ICMP of IPv4 and of IPv6.
type echoKind struct {
	network        string
	request, reply byte
	// filter has the kernel drop all that is no reply.
	filter func(fd int) error
}

var echoKinds = map[ip.Family]echoKind{
	ip.V4: {"ip4:icmp", 8, 0, func(fd int) error {
		const icmpFilter = 1 // ICMP_FILTER of level SOL_RAW
		return unix.SetsockoptInt(fd, syscall.SOL_RAW, icmpFilter, ^(1 << 0))
	}},
	ip.V6: {"ip6:ipv6-icmp", 128, 129, func(fd int) error {
		var f unix.ICMPv6Filter
		for i := range f.Data {
			f.Data[i] = ^uint32(0)
		}
		f.Data[129/32] &^= 1 << (129 % 32)
		return unix.SetsockoptICMPv6Filter(fd, unix.IPPROTO_ICMPV6, unix.ICMPV6_FILTER, &f)
	}},
}

// An ICMP echo message has a payload that repeats the sequence number in
// 64 bits: the header's 16 wrap too soon.
const (
	echoLen       = 8 + 8
	echoSocketBuf = 8 << 20
)

// openEcho opens a socket inside the namespace, for a family.
func (ns *Namespace) openEcho(f ip.Family) (*echoSocket, error) {
	s := &echoSocket{echoKind: echoKinds[f], id: uint16(ns.lab.probeID.Add(1))}
	err := ns.Do(func() error {
		conn, err := net.ListenIP(s.network, nil)
		if err != nil {
			return err
		}
		s.conn = conn
		return s.configure()
	})
	if err != nil {
		if s.conn != nil {
			_ = s.conn.Close()
		}
		return nil, fmt.Errorf("opening an ICMP socket on %s: %w", ns.Name, err)
	}
	return s, nil
}

// configure makes the socket's buffers big, bigger than the system's limit
// where that is allowed, and has the kernel drop all that is no reply.
func (s *echoSocket) configure() error {
	raw, err := s.conn.SyscallConn()
	if err != nil {
		return err
	}
	var failed error
	buffer := func(fd, force, limited int) error {
		err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, force, echoSocketBuf)
		if errors.Is(err, unix.EPERM) {
			err = unix.SetsockoptInt(fd, unix.SOL_SOCKET, limited, echoSocketBuf)
		}
		return err
	}
	err = raw.Control(func(fd uintptr) {
		failed = errors.Join(
			buffer(int(fd), unix.SO_RCVBUFFORCE, unix.SO_RCVBUF),
			buffer(int(fd), unix.SO_SNDBUFFORCE, unix.SO_SNDBUF),
			s.filter(int(fd)),
		)
	})
	if err != nil {
		return err
	}
	return failed
}

// send sends request number seq. The kernel writes the checksum of ICMPv6 itself.
func (s *echoSocket) send(to netip.Addr, seq uint64) error {
	var msg [echoLen]byte
	msg[0] = s.request
	binary.BigEndian.PutUint16(msg[4:], s.id)
	binary.BigEndian.PutUint16(msg[6:], uint16(seq))
	binary.BigEndian.PutUint64(msg[8:], seq)
	binary.BigEndian.PutUint16(msg[2:], checksum(msg[:]))
	_, err := s.conn.WriteToIP(msg[:], &net.IPAddr{IP: to.AsSlice()})
	return err
}

// receive waits for a reply to a request of this socket, sent to addr, and
// returns its number.
func (s *echoSocket) receive(from netip.Addr) (uint64, error) {
	var buf [1500]byte
	for {
		n, sender, err := s.conn.ReadFromIP(buf[:])
		if err != nil {
			return 0, err
		}
		if n != echoLen || buf[0] != s.reply || binary.BigEndian.Uint16(buf[4:]) != s.id {
			continue
		}
		if a, _ := netip.AddrFromSlice(sender.IP); a.Unmap() != from {
			continue
		}
		seq := binary.BigEndian.Uint64(buf[8:])
		if uint16(seq) == binary.BigEndian.Uint16(buf[6:]) {
			return seq, nil
		}
	}
}

// checksum is the one's complement sum of an even number of bytes.
func checksum(msg []byte) uint16 {
	var sum uint32
	for i := 0; i < len(msg); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(msg[i:]))
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}
