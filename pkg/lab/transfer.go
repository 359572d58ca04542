package lab

import (
	"context"
	"encoding/binary"
	"fmt"
	"hash"
	"hash/crc32"
	"io"
	"math"
	"math/rand/v2"
	"net"
	"net/netip"
	"sync/atomic"
	"time"
)

// Transfer sends an amount of data over TCP to another pod, compares the
// checksums of both ends and returns how long it took.
func (p *Pod) Transfer(ctx context.Context, to *Pod, bytes int64) (time.Duration, error) {
	took, err := p.transfer(ctx, to, &counterReader{most: bytes})
	if err != nil {
		return 0, fmt.Errorf("transferring %d bytes from %s to %s: %w", bytes, p.Name, to.Name, err)
	}
	return took, nil
}

// Stream is a transfer that goes on until it is told to finish.
type Stream struct {
	source counterReader
	done   chan struct{}
	err    error
}

// StartStream begins to send data over TCP to another pod.
func (p *Pod) StartStream(ctx context.Context, to *Pod) *Stream {
	s := &Stream{source: counterReader{most: math.MaxInt64}, done: make(chan struct{})}
	go func() {
		defer close(s.done)
		if _, err := p.transfer(ctx, to, &s.source); err != nil {
			s.err = fmt.Errorf("sending a stream from %s to %s: after %d bytes: %w", p.Name, to.Name, s.Sent(), err)
		}
	}()
	return s
}

// Sent is how many bytes have been given to the connection so far.
func (s *Stream) Sent() int64 { return s.source.sent.Load() }

// Finish ends the sending, waits until all has arrived and compares the checksums
// of both ends. It tells as well if the transfer failed before.
func (s *Stream) Finish() error {
	s.source.enough.Store(true)
	<-s.done
	return s.err
}

func (p *Pod) transfer(ctx context.Context, to *Pod, source *counterReader) (time.Duration, error) {
	var listener net.Listener
	err := to.Do(func() error {
		var err error
		listener, err = (&net.ListenConfig{}).Listen(ctx, "tcp", netip.AddrPortFrom(to.Addr, 0).String())
		return err
	})
	if err != nil {
		return 0, err
	}
	ctx, cancel := context.WithCancel(ctx)
	sinkDone := make(chan struct{})
	go func() {
		defer close(sinkDone)
		sink(ctx, listener)
	}()
	defer func() {
		cancel()
		_ = listener.Close()
		<-sinkDone
	}()

	conn, err := p.DialContext(ctx, "tcp", listener.Addr().String())
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	defer closeOnDone(ctx, conn)()
	start := time.Now()
	sum := crc32.New(crcTable)
	if _, err := io.Copy(io.MultiWriter(conn, sum), source); err != nil {
		return 0, orContext(ctx, err)
	}
	if err := conn.(*net.TCPConn).CloseWrite(); err != nil {
		return 0, orContext(ctx, err)
	}
	var answer [12]byte
	if _, err := io.ReadFull(conn, answer[:]); err != nil {
		return 0, orContext(ctx, fmt.Errorf("reading the checksum: %w", err))
	}
	if want := encodeSum(source.sent.Load(), sum); answer != want {
		return 0, fmt.Errorf("count and checksum %x, want %x", answer, want)
	}
	return time.Since(start), nil
}

var crcTable = crc32.MakeTable(crc32.Castagnoli)

// sink takes one connection, reads all of it and answers with its length and
// checksum. Its errors show at the sender.
func sink(ctx context.Context, listener net.Listener) {
	conn, err := listener.Accept()
	if err != nil {
		return
	}
	defer conn.Close()
	defer closeOnDone(ctx, conn)()
	sum := crc32.New(crcTable)
	n, err := io.Copy(sum, conn)
	if err != nil {
		return
	}
	answer := encodeSum(n, sum)
	_, _ = conn.Write(answer[:])
}

// closeOnDone breaks a connection off when the context ends, until the
// function that it returns is called.
func closeOnDone(ctx context.Context, conn net.Conn) func() bool {
	return context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
}

// orContext prefers the context's error, which is the cause, to what it made
// of the connection.
func orContext(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return err
}

func encodeSum(n int64, sum hash.Hash32) (b [12]byte) {
	binary.BigEndian.PutUint64(b[:8], uint64(n))
	binary.BigEndian.PutUint32(b[8:], sum.Sum32())
	return b
}

// counterReader yields data in which no two blocks are the same.
type counterReader struct {
	most   int64
	enough atomic.Bool // ends it before that
	sent   atomic.Int64
	block  uint64
}

// noise is what blocks are made of, each with its number in front.
var noise = func() []byte {
	b := make([]byte, blockLen)
	for i := range b {
		b[i] = byte(rand.Uint32()) //nolint:gosec // no secret
	}
	return b
}()

const blockLen = 1 << 10

func (r *counterReader) Read(b []byte) (int, error) {
	n := int(min(int64(len(b)), r.most-r.sent.Load()))
	if n == 0 || r.enough.Load() {
		return 0, io.EOF
	}
	for i := 0; i < n; i += blockLen {
		r.block++
		var number [8]byte
		binary.BigEndian.PutUint64(number[:], r.block)
		copy(b[i:n], noise)
		copy(b[i:n], number[:])
	}
	r.sent.Add(int64(n))
	return n, nil
}
