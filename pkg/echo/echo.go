// Package echo sends ICMP echo requests, which any kernel answers, and tells the answers to
// its own from everything else.
package echo

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"syscall"

	"golang.org/x/net/bpf"
	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
	"golang.org/x/sys/unix"

	"flanneld/pkg/ip"
)

// The headers of a request: that of IP, which has no options, and of ICMP.
const (
	header4, header6 = 20, 40
	headerICMP       = 8
	token            = 8 // bytes behind them
	// enough of an answer has all that is looked at, and the longest header of IPv4.
	enough = 60 + headerICMP + token
)

// Least is the size of the smallest packet that Send makes, in either family.
const Least = header6 + headerICMP + token

// Socket sends requests in one address family. Send is for one goroutine at a time, and so
// is Receive.
type Socket struct {
	family ip.Family
	conn   net.PacketConn
	send   syscall.RawConn // of conn
	raw    bool
	id     uint16 // of the requests; the kernel chooses it if the socket is not raw
	buf    []byte
	out    []byte // the latest request, and room for larger ones
}

// Answer is what came back for a request.
type Answer struct {
	From  netip.Addr
	Seq   uint16
	Token uint64
}

// kinds are the kinds of sockets, the best first: a raw one needs CAP_NET_RAW, and one for
// pings alone that net.ipv4.ping_group_range has the group of this process.
var kinds = []int{unix.SOCK_RAW, unix.SOCK_DGRAM}

// Open returns a socket of a family.
func Open(f ip.Family) (*Socket, error) {
	var failed error
	for _, kind := range kinds {
		s, err := open(f, kind)
		if err == nil {
			return s, nil
		}
		failed = errors.Join(failed, err)
	}
	if errors.Is(failed, os.ErrPermission) {
		return nil, fmt.Errorf("opening a socket for %s pings: %w; it takes the capability CAP_NET_RAW, or a group of this process in net.ipv4.ping_group_range", f, os.ErrPermission)
	}
	return nil, fmt.Errorf("opening a socket for %s pings: %w", f, failed)
}

func open(f ip.Family, kind int) (*Socket, error) {
	domain, proto := unix.AF_INET, unix.IPPROTO_ICMP
	if f == ip.V6 {
		domain, proto = unix.AF_INET6, unix.IPPROTO_ICMPV6
	}
	fd, err := unix.Socket(domain, kind|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, proto)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	file := os.NewFile(uintptr(fd), "icmp")
	defer file.Close()
	if err := unfragmented(fd, f); err != nil {
		return nil, os.NewSyscallError("setsockopt", err)
	}
	conn, err := net.FilePacketConn(file)
	if err != nil {
		return nil, err
	}
	send, err := conn.(syscall.Conn).SyscallConn()
	if err != nil {
		_ = conn.Close()
		return nil, err
	}
	s := &Socket{family: f, conn: conn, send: send, raw: kind == unix.SOCK_RAW, id: uint16(rand.Uint32()), buf: make([]byte, enough)}
	if s.raw {
		if err := s.filter(); err != nil {
			_ = conn.Close()
			return nil, err
		}
	}
	return s, nil
}

// unfragmented has each packet arrive in one piece or not at all, and the kernel try whatever
// fits into its device, however little it believes to pass.
func unfragmented(fd int, f ip.Family) error {
	if f == ip.V4 {
		return unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_MTU_DISCOVER, unix.IP_PMTUDISC_PROBE)
	}
	return errors.Join(
		unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_MTU_DISCOVER, unix.IPV6_PMTUDISC_PROBE),
		unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_DONTFRAG, 1))
}

// filter has the kernel keep from a raw socket what answers no request of it: another program
// on this host may ping a lot.
func (s *Socket) filter() error {
	// From where on the packet is seen, in X.
	program := []bpf.Instruction{bpf.LoadMemShift{Off: 0}}
	if s.family == ip.V6 {
		program = []bpf.Instruction{bpf.LoadConstant{Dst: bpf.RegX, Val: 0}}
	}
	program = append(program,
		bpf.LoadIndirect{Off: 4, Size: 2},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: uint32(s.id), SkipFalse: 1},
		bpf.RetConstant{Val: enough},
		bpf.RetConstant{Val: 0},
	)
	assembled, err := bpf.Assemble(program)
	if err != nil {
		return err
	}
	if s.family == ip.V4 {
		var only ipv4.ICMPFilter
		only.SetAll(true)
		only.Accept(ipv4.ICMPTypeEchoReply)
		c := ipv4.NewPacketConn(s.conn)
		return errors.Join(c.SetICMPFilter(&only), c.SetBPF(assembled))
	}
	var only ipv6.ICMPFilter
	only.SetAll(true)
	only.Accept(ipv6.ICMPTypeEchoReply)
	c := ipv6.NewPacketConn(s.conn)
	return errors.Join(c.SetICMPFilter(&only), c.SetBPF(assembled))
}

// Send sends a request in a packet of a size, with the headers, and does not wait. What is the same in an Answer
// tells that it is for this one.
func (s *Socket) Send(to netip.Addr, seq uint16, tok uint64, size int) error {
	packet := s.request(seq, tok, size)
	var at unix.Sockaddr = &unix.SockaddrInet6{Addr: to.As16()}
	if s.family == ip.V4 {
		at = &unix.SockaddrInet4{Addr: to.As4()}
	}
	// Where the socket is full the request is not sent: nobody waits for that.
	var failed error
	if err := s.send.Write(func(fd uintptr) bool {
		failed = unix.Sendto(int(fd), packet, unix.MSG_DONTWAIT, at)
		return true
	}); err != nil {
		return err
	}
	return os.NewSyscallError("sendto", failed)
}

// request makes a request, which is valid until the next one. The kernel makes the checksum of
// those of IPv6. There may be many, and behind the token all is zero.
func (s *Socket) request(seq uint16, tok uint64, size int) []byte {
	kind, header := byte(ipv4.ICMPTypeEcho), header4
	if s.family == ip.V6 {
		kind, header = byte(ipv6.ICMPTypeEchoRequest), header6
	}
	size = max(size-header, headerICMP+token)
	if size > len(s.out) {
		s.out = make([]byte, size)
	}
	b := s.out[:size]
	b[0], b[2], b[3] = kind, 0, 0
	binary.BigEndian.PutUint16(b[4:], s.id)
	binary.BigEndian.PutUint16(b[6:], seq)
	binary.BigEndian.PutUint64(b[headerICMP:], tok)
	if s.family == ip.V4 {
		sum := uint32(0)
		for i := 0; i < headerICMP+token; i += 2 {
			sum += uint32(binary.BigEndian.Uint16(b[i:]))
		}
		for sum > 0xffff {
			sum = sum>>16 + sum&0xffff
		}
		binary.BigEndian.PutUint16(b[2:], ^uint16(sum))
	}
	return b
}

// Receive waits for an answer, until the socket is closed. It may be anybody's.
func (s *Socket) Receive() (Answer, error) {
	for {
		n, from, err := s.conn.ReadFrom(s.buf)
		if err != nil {
			return Answer{}, err
		}
		if a, ok := s.parse(s.buf[:n]); ok {
			a.From = addrOf(from)
			return a, nil
		}
	}
}

// parse reads an answer.
func (s *Socket) parse(b []byte) (Answer, bool) {
	if len(b) < headerICMP+token {
		return Answer{}, false
	}
	reply := byte(ipv4.ICMPTypeEchoReply)
	if s.family == ip.V6 {
		reply = byte(ipv6.ICMPTypeEchoReply)
	}
	if b[0] != reply || b[1] != 0 || s.raw && binary.BigEndian.Uint16(b[4:]) != s.id {
		return Answer{}, false
	}
	return Answer{Seq: binary.BigEndian.Uint16(b[6:]), Token: binary.BigEndian.Uint64(b[headerICMP:])}, true
}

func addrOf(a net.Addr) netip.Addr {
	var raw net.IP
	switch a := a.(type) {
	case *net.IPAddr:
		raw = a.IP
	case *net.UDPAddr:
		raw = a.IP
	}
	addr, _ := netip.AddrFromSlice(raw)
	return addr.Unmap()
}

// Close closes the socket.
func (s *Socket) Close() error { return s.conn.Close() }
