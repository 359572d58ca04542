package main

import (
	"context"
	"net"
	"os"
	"strings"
	"sync"
	"time"

	sd "github.com/coreos/go-systemd/v22/daemon"
	"k8s.io/klog/v2"

	"flanneld/pkg/printable"
)

// systemd tells the service manager how the daemon is, if one asks for it.
type systemd struct {
	mu        sync.Mutex
	isReady   bool
	said      string // what there is to tell, told or not
	toldReady bool
	last      string // that it was told
	failed    string // why it could not be told; empty if it could
}

// notReady is what a status begins with while there is no network.
const notReady = "not ready: "

// status says what is going on.
func (s *systemd) status(text string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.said = text
	s.tell(text)
}

// latest returns what is going on.
func (s *systemd) latest() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.said
}

// ready says that the daemon does its work, and how that goes. What could not be said
// is said at the next call.
func (s *systemd) ready(text string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.said = text
	if !s.isReady {
		s.isReady = true
		klog.Infof("ready: %s", text)
		klog.Info("bootstrap done") // flannel's words, which other programs wait for
	}
	if s.toldReady {
		s.tell(text)
	} else if s.notify(sd.SdNotifyReady + "\nSTATUS=" + line(text)) {
		s.toldReady, s.last = true, text
	}
}

// alive says that the daemon is not stuck.
func (s *systemd) alive() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.notify(sd.SdNotifyWatchdog)
}

// watchdog tells systemd that the daemon is alive, twice in the time that its unit's
// WatchdogSec allows. One that is frozen does not, nor one that is stuck in a lock:
// awaitLock waits for what all parts of the daemon need now and then.
func (s *systemd) watchdog(ctx context.Context, awaitLock func()) error {
	allowed, err := sd.SdWatchdogEnabled(false)
	if err != nil {
		klog.Warningf("systemd will not be told that this daemon is alive: %v", err)
	}
	if allowed <= 0 {
		return nil
	}
	tick := time.NewTicker(allowed / 2)
	defer tick.Stop()
	for {
		awaitLock()
		s.alive()
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
	}
}

func (s *systemd) tell(text string) {
	if text != s.last && s.notify("STATUS="+line(text)) {
		s.last = text
	}
}

// longest is the length of a status in bytes: systemd throws away messages of more than
// 4 KiB, and with a status what else the message says.
const longest = 2 << 10

// line makes a status one line, for a second one would be another message.
func line(text string) string {
	text = printable.Line(text)
	if len(text) > longest {
		text = strings.ToValidUTF8(text[:longest], "") + " …"
	}
	return text
}

// notifyTimeout is how long to wait for a service manager that does not take messages,
// which may be frozen. The daemon has better things to do.
const notifyTimeout = time.Second

// notify sends a message. It reports whether it arrived, or nobody wants one.
func (s *systemd) notify(text string) bool {
	socket := os.Getenv("NOTIFY_SOCKET")
	if socket == "" {
		return true
	}
	err := send(socket, text)
	if err == nil {
		s.failed = ""
		return true
	}
	if err.Error() != s.failed {
		s.failed = err.Error()
		klog.Warningf("notifying systemd, trying again: %v", err)
	}
	return false
}

func send(socket, text string) error {
	conn, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: socket, Net: "unixgram"})
	if err != nil {
		return err
	}
	defer conn.Close()
	if err := conn.SetWriteDeadline(time.Now().Add(notifyTimeout)); err != nil {
		return err
	}
	_, err = conn.Write([]byte(text))
	return err
}
