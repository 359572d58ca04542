package lab

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"syscall"

	"golang.org/x/sys/unix"
)

// echoSocket sends ICMP echo requests and receives the replies to them.
type echoSocket struct {
	conn *net.IPConn
	id   uint16
}

// Parts of an ICMP echo message, whose payload repeats the sequence number in
// 64 bits: the header's 16 wrap too soon.
const (
	echoReply   = 0
	echoRequest = 8
	echoLen     = 8 + 8

	icmpFilter    = 1 // ICMP_FILTER of level SOL_RAW
	echoSocketBuf = 8 << 20
)

// openEcho opens a socket inside the namespace.
func (ns *Namespace) openEcho() (*echoSocket, error) {
	s := &echoSocket{id: uint16(ns.lab.probeID.Add(1))}
	err := ns.Do(func() error {
		conn, err := net.ListenIP("ip4:icmp", nil)
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
	set := func(fd, level, opt, fallback, value int) {
		err := unix.SetsockoptInt(fd, level, opt, value)
		if errors.Is(err, unix.EPERM) && fallback != 0 {
			err = unix.SetsockoptInt(fd, level, fallback, value)
		}
		if err != nil && failed == nil {
			failed = err
		}
	}
	const onlyReplies = ^(1 << echoReply)
	err = raw.Control(func(fd uintptr) {
		set(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, unix.SO_RCVBUF, echoSocketBuf)
		set(int(fd), unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, unix.SO_SNDBUF, echoSocketBuf)
		set(int(fd), syscall.SOL_RAW, icmpFilter, 0, onlyReplies)
	})
	if err != nil {
		return err
	}
	return failed
}

// send sends request number seq.
func (s *echoSocket) send(to netip.Addr, seq uint64) error {
	var msg [echoLen]byte
	msg[0] = echoRequest
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
		if n != echoLen || buf[0] != echoReply || binary.BigEndian.Uint16(buf[4:]) != s.id {
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
