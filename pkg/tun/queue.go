package tun

import (
	"errors"
	"os"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// queue is a Queue in the kernel. No call of it waits but in the runtime's poller,
// so the scheduler is told of none: that would wake a thread of the runtime that
// watches how long calls take, which costs a lone packet a third of its time.
type queue struct {
	fd   int
	file *os.File
	raw  syscall.RawConn

	// Of the Read under way.
	try  func(uintptr) bool
	into []byte
	n    int
	err  error
}

func newQueue(fd int, name string) (*queue, error) {
	q := &queue{fd: fd, file: os.NewFile(uintptr(fd), name)}
	var err error
	if q.raw, err = q.file.SyscallConn(); err != nil {
		return nil, err
	}
	q.try = func(uintptr) bool {
		q.n, q.err = q.TryRead(q.into)
		return q.n != 0 || q.err != nil
	}
	return q, nil
}

func (q *queue) Read(b []byte) (int, error) {
	q.into = b
	if err := q.raw.Read(q.try); err != nil {
		// Where the poller saw first that the device is gone, it has another word for it.
		if !errors.Is(err, os.ErrDeadlineExceeded) && !errors.Is(err, os.ErrClosed) {
			if _, now := q.TryRead(b); errors.Is(now, ErrGone) {
				return 0, ErrGone
			}
		}
		return 0, err
	}
	return q.n, q.err
}

func (q *queue) TryRead(b []byte) (int, error) {
	for {
		n, _, errno := unix.RawSyscall(unix.SYS_READ, uintptr(q.fd), uintptr(unsafe.Pointer(unsafe.SliceData(b))), uintptr(len(b)))
		switch errno {
		case 0:
			return int(n), nil
		case unix.EAGAIN:
			return 0, nil
		case unix.EINTR:
		case unix.EBADFD:
			return 0, ErrGone
		default:
			return 0, errno
		}
	}
}

func (q *queue) Write(pieces []unix.Iovec) error {
	for {
		_, _, errno := unix.RawSyscall(unix.SYS_WRITEV, uintptr(q.fd),
			uintptr(unsafe.Pointer(unsafe.SliceData(pieces))), uintptr(len(pieces)))
		switch errno {
		case 0:
			return nil
		case unix.EINTR:
		case unix.EBADFD:
			return ErrGone
		default:
			return errno
		}
	}
}

func (q *queue) Interrupt() { _ = q.file.SetReadDeadline(time.Unix(1, 0)) }

func (q *queue) Close() error { return closeQueue(q.file) }
