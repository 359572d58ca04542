// Package etcdtest runs real etcd servers on loopback, for tests of the stores,
// and what comes between a store and a server.
package etcdtest

import (
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// Patience is how long anything that must happen may take.
const Patience = 20 * time.Second

// The servers that `make test` builds. Old is the last one with the v2 API.
const (
	Old   = "etcd"
	Etcd6 = "etcd-3.6"
	Etcd7 = "etcd-3.7"
)

// Config is what may be special about a server.
type Config struct {
	Binary string      // Old if empty
	TLS    *tls.Config // for a client that it lets in, if it is to be a server with TLS
	Args   []string
}

// Server is a real server.
type Server struct {
	URL  string // of clients
	Dir  string // of its data
	Args []string
	// Client is one that it lets in.
	Client *http.Client

	binary string
	name   string
	peer   string
	peers  string // the whole cluster
	cmd    *exec.Cmd
	output bytes.Buffer
}

// Start starts a server and waits until it serves. It ends with the test.
func Start(t testing.TB, c Config) *Server {
	t.Helper()
	s := newServer(t, c, "test")
	s.peers = s.name + "=" + s.peer
	s.Launch(t)
	s.WaitHealthy(t)
	return s
}

// StartCluster starts the members of a cluster and waits until all of them serve.
func StartCluster(t testing.TB, c Config, members int) []*Server {
	t.Helper()
	var cluster []*Server
	var peers []string
	for i := range members {
		s := newServer(t, c, fmt.Sprint("member", i))
		cluster = append(cluster, s)
		peers = append(peers, s.name+"="+s.peer)
	}
	for _, s := range cluster {
		s.peers = strings.Join(peers, ",")
		s.Launch(t)
	}
	for _, s := range cluster {
		s.WaitHealthy(t)
	}
	return cluster
}

func newServer(t testing.TB, c Config, name string) *Server {
	t.Helper()
	if c.Binary == "" {
		c.Binary = Old
	}
	scheme, client := "http", http.DefaultClient
	if c.TLS != nil {
		tr := &http.Transport{TLSClientConfig: c.TLS}
		t.Cleanup(tr.CloseIdleConnections)
		scheme, client = "https", &http.Client{Transport: tr}
	}
	s := &Server{
		URL:    scheme + "://" + FreeAddr(t),
		Dir:    t.TempDir(),
		Args:   c.Args,
		Client: client,
		binary: c.Binary,
		name:   name,
		peer:   "http://" + FreeAddr(t),
	}
	t.Cleanup(s.Kill)
	return s
}

// given are the ports that FreeAddr has returned.
var given sync.Map

// FreeAddr returns an address where nobody listens, and will not by chance: the
// kernel does not take such a port by itself.
func FreeAddr(t testing.TB) string {
	t.Helper()
	for range 1000 {
		port := 10_000 + rand.IntN(20_000)
		if _, taken := given.LoadOrStore(port, true); taken {
			continue
		}
		addr := fmt.Sprintf("127.0.0.1:%d", port)
		if l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", addr); err == nil {
			_ = l.Close()
			return addr
		}
	}
	t.Fatal("no free port was found")
	return ""
}

// Restart starts the server again after a Kill, and waits until it serves.
func (s *Server) Restart(t testing.TB) {
	t.Helper()
	s.Launch(t)
	s.WaitHealthy(t)
}

// Launch starts the server, again if it ran before.
func (s *Server) Launch(t testing.TB) {
	t.Helper()
	binary, err := filepath.Abs("../../build/" + s.binary)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(binary); err != nil {
		t.Fatalf("build/%s is missing: run `make build/%[1]s`", s.binary)
	}
	s.output.Reset()
	s.cmd = exec.CommandContext(context.Background(), binary, append([]string{
		"--name=" + s.name,
		"--data-dir=" + s.Dir,
		"--listen-client-urls=" + s.URL,
		"--advertise-client-urls=" + s.URL,
		"--listen-peer-urls=" + s.peer,
		"--initial-advertise-peer-urls=" + s.peer,
		"--initial-cluster=" + s.peers,
		"--unsafe-no-fsync",
		"--bcrypt-cost=4", // passwords are checked often, on busy machines
		"--log-level=error",
	}, s.Args...)...)
	s.cmd.Stdout, s.cmd.Stderr = &s.output, &s.output
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := s.cmd.Start(); err != nil {
		t.Fatal(err)
	}
}

// WaitHealthy waits until the server serves.
func (s *Server) WaitHealthy(t testing.TB) {
	t.Helper()
	for deadline := time.Now().Add(Patience); !s.healthy(t); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			s.Kill()
			t.Fatalf("waited in vain until etcd is healthy; it says:\n%s", s.output.String())
		}
	}
}

func (s *Server) healthy(t testing.TB) bool {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, s.URL+"/health", nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := s.Client.Do(req)
	if err != nil {
		return false
	}
	defer resp.Body.Close()
	return resp.StatusCode == http.StatusOK
}

// Kill ends the server; its data stays.
func (s *Server) Kill() {
	if s.cmd != nil {
		_ = s.cmd.Process.Kill()
		_ = s.cmd.Wait()
		s.cmd = nil
	}
}

// Eventually waits until something is the case.
func Eventually(t testing.TB, what string, is func() bool) {
	t.Helper()
	for deadline := time.Now().Add(Patience); !is(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain until %s", what)
		}
	}
}
