package udptunnel

import (
	"fmt"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"
)

// link is a way to the other hosts. One goroutine may send and another receive.
type link interface {
	// FD is what to poll until there is something to receive.
	FD() int
	// Send sends the outbox. What can't be sent is counted and lost.
	Send(o *outbox, t *tally)
	// Recv receives so many messages at most. It does not wait: there may be none.
	Recv(in *inbox, most int) error
}

// abilities are what the kernel can do for a UDP socket.
type abilities struct {
	segment bool // cut up what is sent
	join    bool // join what is received
}

// socket is a UDP socket, as a link.
type socket struct {
	fd   int
	port uint16
	able abilities
	say  func(string) // what happened and lasts

	out    [len(outbox{}.trains)]outMessage
	msgs   [len(outbox{}.trains)]mmsghdr
	send   func([]mmsghdr) (int, unix.Errno) // is sendmmsg
	waited bool                              // for room, since Send was called
}

// outMessage is what a message to be sent refers to.
type outMessage struct {
	name    unix.RawSockaddrInet4
	control control
}

const (
	receiveBuf = 8 << 20
	// Packets to hosts that are gone wait in the kernel for seconds until it gives
	// them up. Those to the living must not have to wait for that: what limits the
	// queues there are their own bounds.
	sendBuf = 1 << 28
)

// listen opens count sockets at one address. The kernel gives all that one peer
// sends to the same of them. Anyone else's socket at that address is an error.
func listen(local netip.AddrPort, count int, offload bool, say func(string)) (_ []*socket, err error) {
	var all []*socket
	defer func() {
		if err != nil {
			for _, s := range all {
				_ = s.Close()
			}
			err = fmt.Errorf("listening on UDP %s: %w", local, err)
		}
	}()
	for i := range count {
		s := &socket{port: local.Port(), say: say}
		if s.fd, err = unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0); err != nil {
			return nil, err
		}
		all = append(all, s)
		if i > 0 {
			if err := s.setInt(unix.SOL_SOCKET, unix.SO_REUSEPORT, 1); err != nil {
				return nil, err
			}
		}
		if err := unix.Bind(s.fd, &unix.SockaddrInet4{Port: int(local.Port()), Addr: local.Addr().As4()}); err != nil {
			return nil, err
		}
		// Had the first one this from the start, it would not notice others.
		if i == 0 && count > 1 {
			if err := s.setInt(unix.SOL_SOCKET, unix.SO_REUSEPORT, 1); err != nil {
				return nil, err
			}
		}
		s.prepare(offload)
	}
	return all, nil
}

func (s *socket) prepare(offload bool) {
	for _, o := range [...]struct{ force, ask, size int }{
		{unix.SO_RCVBUFFORCE, unix.SO_RCVBUF, receiveBuf}, {unix.SO_SNDBUFFORCE, unix.SO_SNDBUF, sendBuf},
	} {
		if s.setInt(unix.SOL_SOCKET, o.force, o.size) != nil {
			_ = s.setInt(unix.SOL_SOCKET, o.ask, o.size)
		}
	}
	if offload {
		_, err := unix.GetsockoptInt(s.fd, unix.IPPROTO_UDP, unix.UDP_SEGMENT)
		s.able.segment = err == nil
		s.able.join = s.setInt(unix.IPPROTO_UDP, unix.UDP_GRO, 1) == nil
	}
	s.send = func(msgs []mmsghdr) (int, unix.Errno) { return mmsg(unix.SYS_SENDMMSG, s.fd, msgs) }
	for i := range s.out {
		m, h := &s.out[i], &s.msgs[i].hdr
		m.name = s.name(0)
		setCmsg(&m.control)
		h.Name = (*byte)(ptr(&m.name))
		h.Namelen = unix.SizeofSockaddrInet4
	}
}

func (s *socket) setInt(level, opt, value int) error {
	return unix.SetsockoptInt(s.fd, level, opt, value)
}

// name is a peer's address as the kernel takes it.
func (s *socket) name(peer uint32) unix.RawSockaddrInet4 {
	n := unix.RawSockaddrInet4{Family: unix.AF_INET}
	p := (*[2]byte)(ptr(&n.Port))
	p[0], p[1] = byte(s.port>>8), byte(s.port)
	n.Addr = uintToAddr(peer).As4()
	return n
}

func (s *socket) Send(o *outbox, t *tally) {
	for i := range o.n {
		m, h, train := &s.out[i], &s.msgs[i].hdr, &o.trains[i]
		m.name.Addr = uintToAddr(train.peer).As4()
		h.Iov = &train.iov[0]
		h.SetIovlen(train.pieces)
		h.Control = nil
		h.SetControllen(0)
		if train.n > 1 {
			setSegment(&m.control, train.size)
			h.Control = (*byte)(ptr(&m.control))
			h.SetControllen(controlLen)
		}
	}
	s.waited = false
	for i := 0; i < o.n; {
		n, errno := s.sendmmsg(s.msgs[i:o.n])
		t.add(OutCalls, 1)
		for ; n > 0; n-- {
			train := &o.trains[i]
			t.add(OutPackets, train.n)
			t.add(OutBytes, train.bytes)
			i++
		}
		if errno == 0 {
			continue
		}
		if train := &o.trains[i]; train.n > 1 && s.refused(o, errno) {
			s.sendSingly(train, t)
		} else {
			t.add(OutSendErrors, train.n)
		}
		i++
	}
}

// refused tells whether an error is one that sending each datagram by itself may
// avoid. The kernel has EIO if the interface can't add checksums, which is so for
// good. EINVAL and EMSGSIZE are about the path to one peer.
func (s *socket) refused(o *outbox, errno unix.Errno) bool {
	switch errno {
	case unix.EIO:
		o.limit = 1
		s.say(fmt.Sprintf("sending joined datagrams: %v; each is sent by itself from now on", errno))
	case unix.EINVAL, unix.EMSGSIZE:
	default:
		return false
	}
	return true
}

// sendSingly sends a train as messages of one datagram each.
func (s *socket) sendSingly(train *train, t *tally) {
	var m outMessage
	m.name = s.name(train.peer)
	for i := range train.n {
		msgs := [1]mmsghdr{}
		h := &msgs[0].hdr
		h.Name, h.Namelen = (*byte)(ptr(&m.name)), unix.SizeofSockaddrInet4
		pieces := train.datagram(i)
		h.Iov = &pieces[0]
		h.SetIovlen(len(pieces))
		t.add(OutCalls, 1)
		if _, errno := s.sendmmsg(msgs[:]); errno != 0 {
			t.add(OutSendErrors, 1)
			continue
		}
		t.add(OutPackets, 1)
		t.add(OutBytes, train.datagramLen(i))
	}
}

// sendmmsg sends messages until one fails. For room in a full buffer it waits, but
// once in a Send and not for long: pods send again what they miss.
func (s *socket) sendmmsg(msgs []mmsghdr) (int, unix.Errno) {
	for {
		n, errno := s.send(msgs)
		if errno == unix.EINTR {
			continue
		}
		if errno == unix.EAGAIN && !s.waited {
			s.waited = true
			fds := []unix.PollFd{{Fd: int32(s.fd), Events: unix.POLLOUT}}
			_, _ = unix.Poll(fds, int(sendPatience/time.Millisecond))
			continue
		}
		return n, errno
	}
}

const sendPatience = 10 * time.Millisecond

func (s *socket) Recv(in *inbox, most int) error {
	for {
		n, errno := in.fill(s.fd, most)
		switch errno {
		case 0, unix.EAGAIN:
			in.n = n
			return nil
		case unix.EINTR:
		default:
			in.n = 0
			return errno
		}
	}
}

func (s *socket) FD() int { return s.fd }

func (s *socket) Close() error { return unix.Close(s.fd) }
