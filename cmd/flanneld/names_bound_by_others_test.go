package main_test

import (
	"crypto/sha256"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"flanneld/pkg/lab"
)

// squat has a user who is not root bind sockets on the host, with abstract names. Each is
// one that nobody answers at, in one of the ways that there are.
func (h *node) squat(names ...string) {
	h.n.t.Helper()
	const nobody = 65534
	check(h.n.t, h.Do(func() error {
		// Of this thread alone.
		if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, ^uintptr(0), nobody, ^uintptr(0)); errno != 0 {
			h.n.t.Skipf("becoming another user, which needs CAP_SETUID and a user namespace that has it: %v", errno)
		}
		defer func() { _, _, _ = unix.RawSyscall(unix.SYS_SETRESUID, ^uintptr(0), 0, ^uintptr(0)) }()
		for _, name := range names {
			for i, kind := range []int{unix.SOCK_DGRAM, unix.SOCK_STREAM, unix.SOCK_STREAM, unix.SOCK_SEQPACKET} {
				fd, err := unix.Socket(unix.AF_UNIX, kind|unix.SOCK_CLOEXEC, 0)
				if err != nil {
					return err
				}
				h.n.t.Cleanup(func() { _ = unix.Close(fd) })
				a := &unix.SockaddrUnix{Name: name}
				if i > 0 {
					a.Name = fmt.Sprintf("%s/%016x", name, i)
				}
				if err := unix.Bind(fd, a); err != nil {
					return fmt.Errorf("binding %q: %w", a.Name, err)
				}
				if kind == unix.SOCK_DGRAM {
					continue
				}
				if err := unix.Listen(fd, 0); err != nil {
					return err
				}
				if i == 1 {
					continue
				}
				// One whose queue is full never tells whose it is.
				for {
					c, err := unix.Socket(unix.AF_UNIX, kind|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
					if err != nil {
						return err
					}
					h.n.t.Cleanup(func() { _ = unix.Close(c) })
					if err := unix.Connect(c, a); err != nil {
						break
					}
				}
			}
		}
		return nil
	}))
}

// Names that any user may bind first keep no daemon from its work, nor anyone from taking
// the host off the network; and the daemons see each other all the same.
func TestNamesBoundByOthers(t *testing.T) {
	t.Parallel()
	n := newConfigured(t, hostGW, nil)
	h := n.addNode(lab.HostOptions{})
	file := filepath.Join(h.Dir, "subnet.env")
	h.squat(fmt.Sprintf("@flanneld/subnet-file/%x", sha256.Sum256([]byte(must(filepath.EvalSymlinks(h.Dir))(t)+"/subnet.env"))),
		"@flanneld/network/10.5.0.0/16", "@flanneld/network/10.6.0.0/16")
	check(t, os.WriteFile(file, []byte("FLANNEL_NETWORK=10.6.0.0/16\nFLANNEL_SUBNET=10.6.1.1/24\n"), 0o644))
	former := lab.Route{Dst: mustPrefix("10.6.2.0/24"), Via: n.server.Addr, Dev: "eth0", Protocol: ourRoutes}
	check(t, h.AddRoute(former))
	h.start()
	h.waitReady()
	h.waitPeers(soon) // of the network that the host was in before nothing is left
	first := h.daemon
	second, err := h.StartFlanneld(daemonBinary)
	check(t, err)
	check(t, second.WaitLog(n.ctx, "another flanneld works for it"))
	for _, action := range []string{"-cleanup", "-release"} {
		if code, out := h.act(action); code != 1 || !strings.Contains(out, "another flanneld works for it; stop it first") {
			t.Errorf("%s: status %d, %s", action, code, out)
		}
	}
	n.pause(500 * time.Millisecond)
	select {
	case <-second.Notify.Ready():
		t.Error("the second daemon is ready all the same")
	default:
	}
	first.Kill()
	check(t, second.WaitReady(n.ctx))
	must(second.Stop(soon))(t)
	for _, action := range []string{"-release", "-cleanup"} {
		if code, out := h.act(action); code != 0 {
			t.Errorf("%s: status %d, %s", action, code, out)
		}
	}
}
