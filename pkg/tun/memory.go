package tun

import (
	"encoding/binary"
	"fmt"
	"slices"
	"sync"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Memory is a Queue without a device: what is fed to it can be read, and what is
// written is kept.
type Memory struct {
	fd int // an eventfd that counts what can be read

	mu      sync.Mutex
	change  *sync.Cond
	in, out [][]byte
}

// NewMemory makes one that is empty.
func NewMemory() (*Memory, error) {
	fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK|unix.EFD_SEMAPHORE)
	if err != nil {
		return nil, fmt.Errorf("making a queue in memory: %w", err)
	}
	m := &Memory{fd: fd}
	m.change = sync.NewCond(&m.mu)
	return m, nil
}

// Feed adds a packet to be read.
func (m *Memory) Feed(b []byte) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.in = append(m.in, slices.Clone(b))
	_, _ = unix.Write(m.fd, binary.NativeEndian.AppendUint64(nil, 1))
}

// Written waits until so many packets have been written, and takes them.
func (m *Memory) Written(n int) [][]byte {
	m.mu.Lock()
	defer m.mu.Unlock()
	for len(m.out) < n {
		m.change.Wait()
	}
	out := m.out
	m.out = nil
	return out
}

// FD is as Queue has it.
func (m *Memory) FD() int { return m.fd }

// Read is as Queue has it.
func (m *Memory) Read(b []byte) (int, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if _, err := unix.Read(m.fd, make([]byte, 8)); err != nil {
		return 0, nil
	}
	n := copy(b, m.in[0])
	m.in = m.in[1:]
	return n, nil
}

// Write is as Queue has it.
func (m *Memory) Write(pieces []unix.Iovec) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.out = append(m.out, Gather(pieces))
	m.change.Broadcast()
	return nil
}

// Close is as Queue has it.
func (m *Memory) Close() error { return unix.Close(m.fd) }

// Gather copies pieces into one.
func Gather(pieces []unix.Iovec) []byte {
	var all []byte
	for _, p := range pieces {
		if p.Len > 0 {
			all = append(all, unsafe.Slice(p.Base, p.Len)...)
		}
	}
	return all
}
