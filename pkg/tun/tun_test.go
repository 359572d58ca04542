package tun_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"syscall"
	"testing"

	"github.com/songgao/water"
	"github.com/vishvananda/netlink"
	"go.uber.org/goleak"

	"flanneld/pkg/lab"
	"flanneld/pkg/tun"
)

// holderEnv makes the test binary attach to a device, say so and wait.
const holderEnv = "TUN_TEST_HOLDER"

func TestMain(m *testing.M) {
	if name := os.Getenv(holderEnv); name != "" {
		d, err := tun.Open(name, tun.Options{Queues: 2, Offload: true})
		if err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		fmt.Println("attached")
		_, _ = io.Copy(io.Discard, os.Stdin)
		_ = d.Close()
		os.Exit(0)
	}
	if err := lab.Enter(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	goleak.VerifyTestMain(m)
}

// inHost runs a test in the network namespace of a host.
func inHost(t *testing.T, fn func(t *testing.T)) {
	t.Helper()
	l, err := lab.New(lab.Options{})
	check(t, err)
	t.Cleanup(func() { check(t, l.Close()) })
	sw, err := l.AddSwitch("lan", netip.MustParsePrefix("192.168.61.0/24"))
	check(t, err)
	h, err := l.AddHost("h", sw, lab.HostOptions{})
	check(t, err)
	check(t, h.Do(func() error { fn(t); return nil }))
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func create(t *testing.T, pattern string, several bool) string {
	t.Helper()
	name, err := tun.Create(pattern, several)
	check(t, err)
	return name
}

func up(t *testing.T, name string) {
	t.Helper()
	link, err := netlink.LinkByName(name)
	check(t, err)
	check(t, netlink.LinkSetUp(link))
}

func open(t *testing.T, name string, opts tun.Options) *tun.Device {
	t.Helper()
	d, err := tun.Open(name, opts)
	check(t, err)
	t.Cleanup(func() { _ = d.Close() })
	return d
}

func TestCreate(t *testing.T) {
	inHost(t, func(t *testing.T) {
		for i, want := range []string{"flannel0", "flannel1", "flannel2"} {
			if name := create(t, "flannel%d", i != 1); name != want {
				t.Errorf("the name is %s, want %s", name, want)
			}
		}
		check(t, tun.Delete("flannel1"))
		if name := create(t, "flannel%d", true); name != "flannel1" {
			t.Errorf("the name is %s, want the lowest that is free", name)
		}
		if name := create(t, "other", false); name != "other" {
			t.Errorf("the name is %s", name)
		}
		if _, err := tun.Create("other", false); !errors.Is(err, os.ErrExist) {
			t.Errorf("a name that is taken: %v", err)
		}
	})
}

func TestQueuesAndFeatures(t *testing.T) {
	inHost(t, func(t *testing.T) {
		several, single := create(t, "flannel%d", true), create(t, "flannel%d", false)
		for _, test := range []struct {
			name    string
			offload bool
			queues  int
		}{{several, true, 3}, {several, false, 3}, {single, true, 1}, {single, false, 1}, {several, true, 3}} {
			d, err := tun.Open(test.name, tun.Options{Queues: 3, Offload: test.offload})
			check(t, err)
			if len(d.Queues) != test.queues || d.Features.Header != test.offload || d.Features.TSO != test.offload {
				t.Errorf("%+v: %d queues, %+v", test, len(d.Queues), d.Features)
			}
			check(t, d.Close())
		}
		if _, err := tun.Open("eth0", tun.Options{}); err == nil {
			t.Error("eth0 was opened as a TUN device")
		}
		if _, err := tun.Open("flannel7", tun.Options{}); err == nil {
			t.Error("a device was opened that is not there")
		}
		if _, err := tun.Open("a name that is too long", tun.Options{}); err == nil {
			t.Error("a device was opened that can't be")
		}
	})
}

// TestHeld has a device belong to one process at a time, whatever kind it is.
func TestHeld(t *testing.T) {
	inHost(t, func(t *testing.T) {
		for _, several := range []bool{true, false} {
			name := create(t, "flannel%d", several)
			if several {
				up(t, name)
			}
			kill := hold(t, name)
			if _, err := tun.Open(name, tun.Options{Queues: 2}); !errors.Is(err, tun.ErrHeld) {
				t.Errorf("%s is held by another process, and opening it gives: %v", name, err)
			}
			if found, ok, err := tun.Abandoned("flannel%d"); err != nil || ok && found == name {
				t.Errorf("%s passes as abandoned: %v", name, err)
			}
			kill()
			found, ok, err := tun.Abandoned("flannel%d")
			if err != nil || !ok || found != "flannel0" {
				t.Errorf("after the end of that process: %q %v %v", found, ok, err)
			}
			check(t, open(t, name, tun.Options{Queues: 2, Offload: true}).Close())
		}
	})
}

// TestHeldByOther notices who doesn't know of the lock, as other programs.
func TestHeldByOther(t *testing.T) {
	inHost(t, func(t *testing.T) {
		name := create(t, "flannel%d", true)
		up(t, name)
		other, err := water.New(water.Config{
			DeviceType:             water.TUN,
			PlatformSpecificParams: water.PlatformSpecificParams{Name: name, Persist: true, MultiQueue: true},
		})
		check(t, err)
		if _, err := tun.Open(name, tun.Options{}); !errors.Is(err, tun.ErrHeld) {
			t.Errorf("opening a device of another program gives: %v", err)
		}
		check(t, other.Close())
		check(t, open(t, name, tun.Options{}).Close())
	})
}

// hold has another process attach to a device. The function kills it.
func hold(t *testing.T, name string) (kill func()) {
	t.Helper()
	c := exec.CommandContext(context.Background(), "/proc/self/exe")
	c.Env = append(os.Environ(), holderEnv+"="+name)
	c.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	in, err := c.StdinPipe()
	check(t, err)
	out, err := c.StdoutPipe()
	check(t, err)
	check(t, c.Start())
	line, err := bufio.NewReader(out).ReadString('\n')
	if line != "attached\n" {
		t.Fatalf("the holder says %q: %v", line, err)
	}
	return func() {
		_ = c.Process.Kill()
		_ = c.Wait()
		_ = in.Close()
	}
}

func TestHeader(t *testing.T) {
	var b [tun.HeaderLen]byte
	want := tun.Header{Flags: 1, GSO: 0x81, HeadLen: 52, Size: 1420, CsumStart: 20, CsumOffset: 16}
	want.Encode(b[:])
	var got tun.Header
	got.Decode(b[:])
	if got != want {
		t.Errorf("%+v became %+v", want, got)
	}
}
