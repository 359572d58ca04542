package main

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// A subnet file is one, by whatever path.
func TestClaimByOtherPath(t *testing.T) {
	dir := t.TempDir()
	must(t, os.Mkdir(filepath.Join(dir, "run"), 0o755))
	must(t, os.Symlink("run", filepath.Join(dir, "var-run")))
	must(t, os.WriteFile(filepath.Join(dir, "file"), nil, 0o600))
	for _, name := range []string{"subnet.env", "flannel/subnet.env"} { // the folder is not there yet
		release, err := make(sockets).claim(filepath.Join(dir, "run", name))
		must(t, err)
		for path, taken := range map[string]bool{
			filepath.Join(dir, "var-run", name):               true,
			filepath.Join(dir, "run") + "/../run/./" + name:   true,
			filepath.Join(dir, "run", "other.env"):            false,
			filepath.Join(dir, "var-run", "flannel", "other"): false,
			filepath.Join(dir, "file", name):                  false,
		} {
			other, err := make(sockets).claim(path)
			if errors.Is(err, errTaken) != taken {
				t.Errorf("%s: %v, want it to be taken: %t", path, err, taken)
			}
			if err == nil {
				other()
			}
		}
		release()
	}
}

// A socket that anyone bound with the name of a former network, and that does not answer,
// does not hold up each desired state.
func TestFormerNetworkThatDoesNotAnswer(t *testing.T) {
	n := netip.MustParsePrefix("198.51.100.0/24")
	socket := func() int {
		fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
		must(t, err)
		t.Cleanup(func() { _ = unix.Close(fd) })
		return fd
	}
	name := &unix.SockaddrUnix{Name: fmt.Sprintf("%s%s/%d", socketPrefix, networkName(n), os.Getpid())}
	l := socket()
	must(t, unix.Bind(l, name))
	must(t, unix.Listen(l, 0))
	for unix.Connect(socket(), name) == nil {
	}
	s := networks{sockets: make(sockets)}
	start := time.Now()
	for range 50 {
		if s.taken(n) {
			t.Fatal("it is taken")
		}
	}
	if took := time.Since(start); took > 20*answerTime {
		t.Errorf("it took %s to look 50 times", took)
	}
	release, err := make(sockets).bindAlone(networkName(n))
	must(t, err)
	defer release()
	time.Sleep(takenAgain)
	if !s.taken(n) {
		t.Error("it is not taken by a daemon that has it")
	}
}
