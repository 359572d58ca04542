package kernel

import (
	"cmp"
	"errors"
	"fmt"
	"iter"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// answerTimeout is how long the kernel may take over one batch, or one part
	// of a dump.
	answerTimeout = 10 * time.Second
	// receiveSize holds the longest message of a dump: a kernel makes them as
	// long as it is given room, up to 32 KB.
	receiveSize = 64 << 10
)

// socket is a route netlink socket. It keeps one buffer for all that it
// receives, which may be hundreds of thousands of messages.
type socket struct {
	file *os.File
	conn syscall.RawConn
	buf  []byte
}

// open returns a socket that the notifications of the given groups come to.
func open(groups ...uint) (*socket, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("opening a netlink socket: %w", err)
	}
	addr := &unix.SockaddrNetlink{Family: unix.AF_NETLINK}
	for _, g := range groups {
		addr.Groups |= 1 << (g - 1)
	}
	if err := unix.Bind(fd, addr); err != nil {
		_ = unix.Close(fd)
		return nil, fmt.Errorf("binding a netlink socket: %w", err)
	}
	s := &socket{file: os.NewFile(uintptr(fd), "netlink"), buf: make([]byte, receiveSize)}
	if s.conn, err = s.file.SyscallConn(); err != nil {
		s.close()
		return nil, err
	}
	return s, nil
}

func (s *socket) close() { _ = s.file.Close() }

// set sets an option, where the kernel knows it.
func (s *socket) set(level, option, value int) (err error) {
	control := s.conn.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), level, option, value) })
	return errors.Join(err, control)
}

func (s *socket) send(messages []byte) (err error) {
	control := s.conn.Write(func(fd uintptr) bool {
		err = unix.Sendto(int(fd), messages, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK})
		return !errors.Is(err, unix.EAGAIN)
	})
	if err := errors.Join(err, control); err != nil {
		return fmt.Errorf("sending netlink messages: %w", err)
	}
	return nil
}

// receive returns the kernel's next messages. They are valid until the next
// call.
func (s *socket) receive() ([]byte, error) {
	for {
		var n int
		var err error
		control := s.conn.Read(func(fd uintptr) bool {
			n, err = unix.Read(int(fd), s.buf)
			return !errors.Is(err, unix.EAGAIN)
		})
		switch {
		case control != nil:
			return nil, control
		case err == nil:
			return s.buf[:n], nil
		case !errors.Is(err, unix.EINTR):
			return nil, err
		}
	}
}

var errAnswerLost = errors.New("the kernel's answer was lost")

// answers calls f with the messages that come, until f has what it waited for.
func (s *socket) answers(f func(message) (done bool)) error {
	for {
		_ = s.file.SetReadDeadline(time.Now().Add(answerTimeout))
		part, err := s.receive()
		if err != nil {
			return fmt.Errorf("%w: %w", errAnswerLost, err)
		}
		for m := range messages(part) {
			if f(m) {
				return nil
			}
		}
	}
}

// message is one netlink message.
type message struct {
	typ, flags uint16
	seq        uint32
	data       []byte
}

// messages yields the messages in b. It stops at the first that is malformed.
func messages(b []byte) iter.Seq[message] {
	return func(yield func(message) bool) {
		for len(b) >= unix.SizeofNlMsghdr {
			n := int(native.Uint32(b))
			if n < unix.SizeofNlMsghdr || n > len(b) {
				return
			}
			m := message{native.Uint16(b[4:]), native.Uint16(b[6:]), native.Uint32(b[8:]), b[unix.SizeofNlMsghdr:n]}
			if !yield(m) {
				return
			}
			b = b[min((n+unix.NLMSG_ALIGNTO-1)&^(unix.NLMSG_ALIGNTO-1), len(b)):]
		}
	}
}

// ask sends a request and calls f with the payload of each answer, which is valid during
// the call only.
func ask(request, flags uint16, header []byte, f func([]byte)) error {
	answer := request - 2 // as all types of messages are numbered
	s, err := open()
	if err != nil {
		return err
	}
	defer s.close()
	// With strict checking the kernel leaves out what was not asked for, such as
	// the other tables. A kernel before 4.20 can't, and sends it all: decoders
	// look themselves.
	_ = s.set(unix.SOL_NETLINK, unix.NETLINK_GET_STRICT_CHK, 1)
	var b batch
	b.begin(request, flags, 1, header)
	b.end()
	if err := s.send(b.buf); err != nil {
		return err
	}
	interrupted := false
	var refused error
	lost := s.answers(func(m message) (done bool) {
		interrupted = interrupted || m.flags&unix.NLM_F_DUMP_INTR != 0
		switch m.typ {
		case unix.NLMSG_DONE, unix.NLMSG_ERROR:
			if errno := -int32(u32(m.data)); errno != 0 {
				refused = syscall.Errno(errno)
			} else if interrupted {
				refused = errInterrupted
			}
			return true
		case answer:
			f(m.data)
		}
		return m.flags&unix.NLM_F_MULTI == 0
	})
	return cmp.Or(lost, refused)
}
