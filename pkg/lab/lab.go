// Package lab builds small networks out of the kernel's own parts: hosts are
// network namespaces on one or more switches, with a real etcd, processes, pods
// and the faults that happen to all of them. Tests and the demo stand on it.
//
// Nothing in a lab has a name outside the process that made it. A namespace
// lives as long as a thread of the process is in it, and the processes of a
// lab are killed by the kernel when that thread ends, so a lab is gone with
// the process that made it, however that ended.
package lab

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"

	"flanneld/pkg/ip"
)

// Options are the things a lab needs to know about the world outside it.
type Options struct {
	// BinDir is the directory that holds the etcd binary. Empty means the
	// directory build of the module around the current directory.
	BinDir string
}

// Lab is a set of namespaces and what runs in them.
type Lab struct {
	// Dir holds the logs and data of everything in the lab, in a directory
	// for each host. Close removes it.
	Dir string

	binDir  string
	janitor *janitor
	probeID atomic.Uint32 // last ICMP echo identifier given out
	serial  atomic.Uint32 // last number given to a thing without an address

	mu         sync.Mutex
	closed     bool
	namespaces []*Namespace
	etcd       *Etcd // the last one started
	processes  []*Process
	races      []string // as they were at Close
}

// New makes an empty lab. Call Enter first, at the start of the program.
func New(opts Options) (*Lab, error) {
	if err := checkCapable(); err != nil {
		return nil, err
	}
	if opts.BinDir == "" {
		root, err := moduleRoot()
		if err != nil {
			return nil, err
		}
		opts.BinDir = filepath.Join(root, "build")
	}
	dir, err := os.MkdirTemp("", "lab-")
	if err != nil {
		return nil, fmt.Errorf("making the lab's directory: %w", err)
	}
	j, err := startJanitor(dir)
	if err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	return &Lab{Dir: dir, binDir: opts.BinDir, janitor: j}, nil
}

// Close kills every process of the lab, ends its namespaces and removes its
// directory. It may be called more than once.
func (l *Lab) Close() error {
	l.mu.Lock()
	if l.closed {
		l.mu.Unlock()
		return nil
	}
	l.closed = true
	namespaces := l.namespaces
	etcd := l.etcd
	l.mu.Unlock()

	for _, ns := range namespaces {
		ns.killAll()
	}
	for i := len(namespaces) - 1; i >= 0; i-- {
		namespaces[i].end()
	}
	if etcd != nil {
		etcd.transport.CloseIdleConnections()
	}
	races := l.findRaces() // while the logs are there
	l.mu.Lock()
	l.races = races
	l.mu.Unlock()
	return l.janitor.clean()
}

// Races lists the data races that the processes of the lab have reported so
// far, one entry for each process with a race, if it was built with -race.
// After Close it lists what there was.
func (l *Lab) Races() []string {
	races := l.findRaces()
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return l.races
	}
	return races
}

func (l *Lab) findRaces() []string {
	l.mu.Lock()
	processes := append([]*Process(nil), l.processes...)
	l.mu.Unlock()
	var races []string
	for _, p := range processes {
		log := p.Log()
		if i := strings.Index(log, "WARNING: DATA RACE"); i >= 0 {
			races = append(races, fmt.Sprintf("%s on %s:\n%s", p.Name, p.ns.Name, log[i:]))
		}
	}
	return races
}

// moduleRoot walks up from the current directory to this module's go.mod.
func moduleRoot() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", fmt.Errorf("finding the module's directory: %w", err)
	}
	for start := dir; ; dir = filepath.Dir(dir) {
		text, err := os.ReadFile(filepath.Join(dir, "go.mod"))
		if err == nil && strings.HasPrefix(string(text), "module flanneld\n") {
			return dir, nil
		}
		if dir == filepath.Dir(dir) {
			return "", fmt.Errorf("finding the module's directory: no go.mod of flanneld above %s", start)
		}
	}
}

// hardwareAddr is the MAC address of an interface: made from its IPv4
// address, so that it is the same in every run, else from a counter.
func (l *Lab) hardwareAddr(addrs ip.Addrs) []byte {
	if addrs.V4.IsValid() {
		a := addrs.V4.As4()
		return append([]byte{0x02, 0x00}, a[:]...)
	}
	n := l.serial.Add(1)
	return []byte{0x02, 0x01, byte(n >> 24), byte(n >> 16), byte(n >> 8), byte(n)}
}
