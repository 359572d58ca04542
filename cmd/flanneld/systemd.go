package main

import (
	"sync"

	sd "github.com/coreos/go-systemd/v22/daemon"
	"k8s.io/klog/v2"
)

// systemd tells the service manager how the daemon is, if one asks for it.
type systemd struct {
	mu      sync.Mutex
	isReady bool
	last    string
}

// status says what is going on.
func (s *systemd) status(text string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.tell(text)
}

// ready says that the daemon does its work, and how that goes.
func (s *systemd) ready(text string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.isReady {
		s.tell(text)
		return
	}
	s.isReady = true
	s.last = text
	klog.Infof("ready: %s", text)
	s.notify(sd.SdNotifyReady + "\nSTATUS=" + text)
}

func (s *systemd) tell(text string) {
	if text != s.last {
		s.last = text
		s.notify("STATUS=" + text)
	}
}

func (s *systemd) notify(text string) {
	if _, err := sd.SdNotify(false, text); err != nil {
		klog.Warningf("notifying systemd: %v", err)
	}
}
