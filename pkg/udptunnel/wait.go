package udptunnel

import (
	"encoding/binary"
	"errors"
	"fmt"
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// wait sleeps until one of the files is ready, of which those below 0 are none, or for a
// time, if that is not below 0. It may end sooner.
//
// The thread sleeps in this call, and the kernel wakes no other. Where goroutines wait in the
// runtime's poller, a packet wakes the thread that polls, and that one another to poll in its place.
func wait(files []unix.PollFd, most time.Duration) error {
	n, err := nap(files)
	if n == 0 && err == nil {
		_, err = unix.Poll(files, int(most/time.Millisecond))
	}
	if err != nil && !errors.Is(err, unix.EINTR) {
		return fmt.Errorf("waiting for packets: %w", err)
	}
	return nil
}

// brief is how long a thread sleeps without telling the scheduler. While packets come more often
// than that, none has the runtime's monitor look after all sleepers, which it does each 20 µs. While they
// come less often, what the scheduler is told costs little.
const brief = 2 * time.Millisecond

// nap is wait for a brief time. To the scheduler the goroutine runs: what wants it to stop, such
// as the garbage collector, interrupts the call by a signal, as it does with all that runs.
func nap(files []unix.PollFd) (int, error) {
	for i := range files {
		files[i].Revents = 0
	}
	most := unix.NsecToTimespec(int64(brief))
	n, _, errno := unix.RawSyscall6(unix.SYS_PPOLL, uintptr(unsafe.Pointer(unsafe.SliceData(files))),
		uintptr(len(files)), uintptr(unsafe.Pointer(&most)), 0, 0, 0)
	if errno != 0 {
		return 0, errno
	}
	return int(n), nil
}

// forever is how long wait sleeps at most if nothing but files ends it.
const forever = -time.Millisecond

func pollFor(fd int) unix.PollFd { return unix.PollFd{Fd: int32(fd), Events: unix.POLLIN} }

// bell is a file that is ready from when it is rung.
type bell struct {
	fd   int
	rung atomic.Bool
}

func newBell() (*bell, error) {
	fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		return nil, fmt.Errorf("making an eventfd: %w", err)
	}
	return &bell{fd: fd}, nil
}

func (b *bell) ring() {
	b.rung.Store(true)
	_, _ = unix.Write(b.fd, binary.NativeEndian.AppendUint64(nil, 1))
}

// silence has it be ready no more, and tells whether it was rung.
func (b *bell) silence() bool {
	var count [8]byte
	_, _ = unix.Read(b.fd, count[:])
	return b.rung.Swap(false)
}

func (b *bell) Close() error { return unix.Close(b.fd) }
