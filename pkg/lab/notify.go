package lab

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"
)

// NotifySocket stands for the service manager that a daemon tells its state
// to, in the protocol of systemd's sd_notify.
type NotifySocket struct {
	// Path is the value for NOTIFY_SOCKET.
	Path string

	conn   *net.UnixConn
	done   chan struct{}
	ready  chan struct{}
	forget func()

	mu       sync.Mutex
	messages []string
	status   string
	readyAt  time.Time
}

// NewNotifySocket makes a socket that lives until the namespace is closed or
// Close is called.
func (ns *Namespace) NewNotifySocket() (*NotifySocket, error) {
	n := ns.lab.serial.Add(1)
	path := filepath.Join(ns.lab.Dir, fmt.Sprintf("n%d", n))
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		return nil, fmt.Errorf("making a notify socket for %s: %w", ns.Name, err)
	}
	s := &NotifySocket{Path: path, conn: conn, done: make(chan struct{}), ready: make(chan struct{})}
	go s.read()
	if s.forget, err = ns.onClose(s.end); err != nil {
		s.end()
		return nil, err
	}
	return s, nil
}

func (s *NotifySocket) read() {
	defer close(s.done)
	buf := make([]byte, 64<<10)
	for {
		n, err := s.conn.Read(buf)
		if err != nil {
			return
		}
		if string(buf[:n]) == endOfNotify {
			return
		}
		s.take(string(buf[:n]))
	}
}

func (s *NotifySocket) take(message string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.messages = append(s.messages, message)
	for line := range strings.SplitSeq(message, "\n") {
		if status, ok := strings.CutPrefix(line, "STATUS="); ok {
			s.status = status
		}
		if line == "READY=1" && s.readyAt.IsZero() {
			s.readyAt = time.Now()
			close(s.ready)
		}
	}
}

// Messages are all messages so far, each with its lines.
func (s *NotifySocket) Messages() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]string(nil), s.messages...)
}

// Status is the last STATUS= so far.
func (s *NotifySocket) Status() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.status
}

// Ready is closed when READY=1 has come.
func (s *NotifySocket) Ready() <-chan struct{} { return s.ready }

// ReadyAt is when READY=1 came; zero if it did not.
func (s *NotifySocket) ReadyAt() time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.readyAt
}

// WaitReady waits for READY=1.
func (s *NotifySocket) WaitReady(ctx context.Context) error {
	select {
	case <-s.ready:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("waiting for READY=1: %w; the last status is %q", ctx.Err(), s.Status())
	}
}

// Close ends the socket, after the messages that are in it have been read.
func (s *NotifySocket) Close() {
	s.end()
	s.forget()
}

// endOfNotify is no message of the protocol: it comes from the socket itself,
// behind all others.
const endOfNotify = "\x00end"

func (s *NotifySocket) end() {
	_, err := s.conn.WriteToUnix([]byte(endOfNotify), &net.UnixAddr{Name: s.Path, Net: "unixgram"})
	if err != nil {
		_ = s.conn.Close()
	}
	<-s.done
	_ = s.conn.Close()
	_ = os.Remove(s.Path)
}
