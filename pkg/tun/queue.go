package tun

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// queue is a Queue in the kernel. None of its calls waits, so the scheduler is told of none:
// that would wake a thread of the runtime that watches how long calls take. Nor does the
// runtime's poller know the file, which would have each packet wake a thread of its own.
type queue struct{ fd int }

func (q *queue) FD() int { return q.fd }

func (q *queue) Read(b []byte) (int, error) {
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

// Close closes it once: the number may be another file's soon.
func (q *queue) Close() error {
	fd := q.fd
	q.fd = -1
	return closeQueue(descriptor(fd))
}
