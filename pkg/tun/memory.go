package tun

import (
	"os"
	"slices"
	"sync"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Memory is a Queue without a device: what is fed to it can be read, and what is
// written is kept.
type Memory struct {
	mu          sync.Mutex
	change      *sync.Cond
	in, out     [][]byte
	fail        error
	interrupted bool
}

// NewMemory makes one that is empty.
func NewMemory() *Memory {
	m := &Memory{}
	m.change = sync.NewCond(&m.mu)
	return m
}

// Feed adds a packet to be read.
func (m *Memory) Feed(b []byte) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.in = append(m.in, slices.Clone(b))
	m.change.Broadcast()
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

// Fail makes writes fail, or work again if err is nil.
func (m *Memory) Fail(err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.fail = err
}

// Read is as Queue has it.
func (m *Memory) Read(b []byte) (int, error) { return m.read(b, true) }

// TryRead is as Queue has it.
func (m *Memory) TryRead(b []byte) (int, error) { return m.read(b, false) }

func (m *Memory) read(b []byte, wait bool) (int, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for wait && len(m.in) == 0 && !m.interrupted {
		m.change.Wait()
	}
	switch {
	case m.interrupted:
		return 0, os.ErrDeadlineExceeded
	case len(m.in) == 0:
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
	if m.fail != nil {
		return m.fail
	}
	m.out = append(m.out, Gather(pieces))
	m.change.Broadcast()
	return nil
}

// Interrupt is as Queue has it.
func (m *Memory) Interrupt() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.interrupted = true
	m.change.Broadcast()
}

// Close is as Queue has it.
func (m *Memory) Close() error { return nil }

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
