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
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/songgao/water"
	"github.com/vishvananda/netlink"
	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

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

func newHost(t *testing.T) *lab.Host {
	t.Helper()
	l, err := lab.New(lab.Options{})
	check(t, err)
	t.Cleanup(func() { check(t, l.Close()) })
	sw, err := l.AddSwitch("lan", netip.MustParsePrefix("192.168.61.0/24"))
	check(t, err)
	h, err := l.AddHost("h", sw, lab.HostOptions{})
	check(t, err)
	return h
}

// inHost runs a test in the network namespace of a host.
func inHost(t *testing.T, fn func(t *testing.T)) {
	t.Helper()
	check(t, newHost(t).Do(func() error { fn(t); return nil }))
}

// atOnce runs so many functions at once in the network namespace of a host, and
// returns what those got that did not fail.
func atOnce[T any](h *lab.Host, n int, fn func() (T, error)) []T {
	var mu sync.Mutex
	var all []T
	var wg sync.WaitGroup
	for range n {
		wg.Go(func() {
			_ = h.Do(func() error {
				x, err := fn()
				if err == nil {
					mu.Lock()
					defer mu.Unlock()
					all = append(all, x)
				}
				return err
			})
		})
	}
	wg.Wait()
	return all
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

const alias = "flanneld 10.5.0.0/16"

func create(t *testing.T, pattern string) string {
	t.Helper()
	name, err := tun.Create(pattern, alias)
	check(t, err)
	return name
}

// createSingle makes a device for one queue, as other programs do.
func createSingle(t *testing.T, name string) {
	t.Helper()
	check(t, attach(t, name, true, false).Close())
}

// attach attaches as another program, which may make the device.
func attach(t *testing.T, name string, persist, several bool) *water.Interface {
	t.Helper()
	i, err := water.New(water.Config{
		DeviceType:             water.TUN,
		PlatformSpecificParams: water.PlatformSpecificParams{Name: name, Persist: persist, MultiQueue: several},
	})
	check(t, err)
	t.Cleanup(func() { _ = i.Close() })
	return i
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
		for _, want := range []string{"flannel0", "flannel1", "flannel2"} {
			if name := create(t, "flannel%d"); name != want {
				t.Errorf("the name is %s, want %s", name, want)
			}
		}
		check(t, tun.Delete("flannel1"))
		if name := create(t, "flannel%d"); name != "flannel1" {
			t.Errorf("the name is %s, want the lowest that is free", name)
		}
		l, err := netlink.LinkByName("flannel1")
		check(t, err)
		if is := l.(*netlink.Tuntap); is.Alias != alias || is.NonPersist || is.Queues+is.DisabledQueues != 0 {
			t.Errorf("it is %+v", is)
		}
		if name := create(t, "other"); name != "other" {
			t.Errorf("the name is %s", name)
		}
		for _, name := range []string{"other", "eth0"} {
			if _, err := tun.Create(name, alias); !errors.Is(err, os.ErrExist) {
				t.Errorf("a name that is taken: %v", err)
			}
		}
		if _, err := tun.Create("flannel%d", strings.Repeat("x", 256)); err == nil {
			t.Error("a device has an alias that can't be")
		}
		if _, err := netlink.LinkByName("flannel3"); err == nil {
			t.Error("a device stays without its alias")
		}
	})
}

// TestCreateAtOnce has no two devices get one name.
func TestCreateAtOnce(t *testing.T) {
	h := newHost(t)
	names := atOnce(h, 8, func() (string, error) { return tun.Create("flannel%d", alias) })
	slices.Sort(names)
	if want := []string{"flannel0", "flannel1", "flannel2", "flannel3", "flannel4", "flannel5", "flannel6", "flannel7"}; !slices.Equal(names, want) {
		t.Errorf("the names are %v", names)
	}
	if names := atOnce(h, 8, func() (string, error) { return tun.Create("flannel8", alias) }); len(names) != 1 {
		t.Errorf("one name is had %d times", len(names))
	}
}

// A program that is started meanwhile does not hold a device.
func TestCreateIsNotInherited(t *testing.T) {
	stop, ended := make(chan struct{}), make(chan struct{})
	started := 0
	go func() {
		defer close(ended)
		for ; ; started++ {
			select {
			case <-stop:
				return
			default:
			}
			out, err := exec.Command("sh", "-c", "for f in /proc/$$/fd/*; do readlink $f; done; true").CombinedOutput()
			if err != nil || strings.Contains(string(out), "/dev/net/tun") {
				t.Errorf("%v: it has\n%s", err, out)
				return
			}
		}
	}()
	inHost(t, func(t *testing.T) {
		for range 200 {
			name, err := tun.Create("flannel%d", alias)
			check(t, err)
			check(t, tun.Delete(name))
		}
	})
	close(stop)
	<-ended
	if started < 10 {
		t.Errorf("only %d programs were started", started)
	}
}

func TestQueuesAndFeatures(t *testing.T) {
	inHost(t, func(t *testing.T) {
		several, single := create(t, "flannel%d"), "flannel1"
		createSingle(t, single)
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
			if own := tun.Own(); len(own) != 1 || own[test.name] != test.queues {
				t.Errorf("%+v: this process has the queues %v", test, own)
			}
			check(t, d.Close())
		}
		if own := tun.Own(); len(own) != 0 {
			t.Errorf("this process has the queues %v", own)
		}
		for _, name := range []string{"eth0", "flannel7", "a name that is too long", ""} {
			if _, err := tun.Open(name, tun.Options{}); err == nil {
				t.Errorf("%q was opened as a TUN device", name)
			}
		}
	})
}

// TestGone neither makes a device nor takes one that goes with its process.
func TestGone(t *testing.T) {
	inHost(t, func(t *testing.T) {
		other := attach(t, "flannel0", false, true)
		for _, f := range []func(string) error{
			func(name string) error { _, err := tun.Open(name, tun.Options{}); return err },
			tun.Delete,
		} {
			if err := f("flannel0"); !errors.Is(err, tun.ErrHeld) {
				t.Errorf("a device of another program gives: %v", err)
			}
			if err := f("flannel1"); !errors.Is(err, unix.ENODEV) {
				t.Errorf("a device that is not there gives: %v", err)
			}
		}
		if fd, err := tun.AttachTo("flannel1", unix.IFF_TUN|unix.IFF_MULTI_QUEUE); !errors.Is(err, unix.ENODEV) {
			t.Errorf("a device that went a moment ago gives: %d, %v", fd, err)
		}
		check(t, other.Close())
		for _, name := range []string{"flannel0", "flannel1"} {
			if _, err := netlink.LinkByName(name); err == nil {
				t.Errorf("%s is there", name)
			}
		}
	})
}

// TestReadOfGone reads from a device that was deleted before, or while it was polled. Which of the two
// it was is no matter: the error is the same.
func TestReadOfGone(t *testing.T) {
	inHost(t, func(t *testing.T) {
		for _, before := range []bool{true, false} {
			name := create(t, "flannel%d")
			d, err := tun.Open(name, tun.Options{})
			check(t, err)
			q := d.Queues[0]
			gone := func() { check(t, netlink.LinkDel(&netlink.GenericLink{LinkAttrs: netlink.LinkAttrs{Name: name}})) }
			ended := make(chan error, 1)
			if before {
				gone()
			}
			go func() {
				b := make([]byte, 1<<16)
				n, err := q.Read(b)
				for ; n == 0 && err == nil; n, err = q.Read(b) {
					_, _ = unix.Poll([]unix.PollFd{{Fd: int32(q.FD()), Events: unix.POLLIN}}, -1)
				}
				ended <- err
			}()
			if !before {
				time.Sleep(100 * time.Millisecond)
				gone()
			}
			select {
			case err := <-ended:
				if !errors.Is(err, tun.ErrGone) {
					t.Errorf("deleted before: %v; reading gives: %v", before, err)
				}
			case <-time.After(10 * time.Second):
				t.Errorf("deleted before: %v; reading does not end", before)
			}
			for _, q := range d.Queues {
				_ = q.Close()
			}
		}
	})
}

// TestHeld has a device belong to one process at a time, whatever kind it is, be
// it up or down.
func TestHeld(t *testing.T) {
	inHost(t, func(t *testing.T) {
		create(t, "flannel0")
		create(t, "flannel1")
		createSingle(t, "flannel2")
		createSingle(t, "flannel3")
		up(t, "flannel0")
		up(t, "flannel2")
		for _, name := range []string{"flannel0", "flannel1", "flannel2", "flannel3"} {
			kill := hold(t, name)
			if _, err := tun.Open(name, tun.Options{Queues: 2}); !errors.Is(err, tun.ErrHeld) {
				t.Errorf("%s is held by another process, and opening it gives: %v", name, err)
			}
			if err := tun.Delete(name); !errors.Is(err, tun.ErrHeld) {
				t.Errorf("%s is held by another process, and deleting it gives: %v", name, err)
			}
			kill()
			check(t, open(t, name, tun.Options{Queues: 2, Offload: true}).Close())
			check(t, tun.Delete(name))
			if _, err := netlink.LinkByName(name); err == nil {
				t.Errorf("%s is still there", name)
			}
		}
	})
}

// TestHeldByOther notices any other program.
func TestHeldByOther(t *testing.T) {
	inHost(t, func(t *testing.T) {
		name := create(t, "flannel%d")
		other := attach(t, name, true, true)
		if _, err := tun.Open(name, tun.Options{}); !errors.Is(err, tun.ErrHeld) {
			t.Errorf("opening a device of another program gives: %v", err)
		}
		check(t, other.Close())
		check(t, open(t, name, tun.Options{}).Close())
	})
}

// TestHeldAtOnce has some try to open one device: never do two succeed, and it
// is free after that.
func TestHeldAtOnce(t *testing.T) {
	h := newHost(t)
	check(t, h.Do(func() error { create(t, "flannel0"); return nil }))
	won := 0
	for range 10 {
		devices := atOnce(h, 3, func() (*tun.Device, error) { return tun.Open("flannel0", tun.Options{Queues: 2}) })
		won += len(devices)
		if len(devices) > 1 {
			t.Errorf("%d have the device", len(devices))
		}
		for _, d := range devices {
			check(t, d.Close())
		}
		check(t, h.Do(func() error { return open(t, "flannel0", tun.Options{}).Close() }))
	}
	t.Logf("in %d of 10 rounds one had it", won)
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

// TUN devices that stay without a process are listed, of whatever name, with whether there
// is a process.
func TestList(t *testing.T) {
	inHost(t, func(t *testing.T) {
		ours := create(t, "flannel%d")
		attach(t, "tun0", false, false)
		createSingle(t, "tun1")
		up(t, "tun1")
		check(t, netlink.LinkAdd(&netlink.Tuntap{LinkAttrs: netlink.LinkAttrs{Name: "tap0"}, Mode: netlink.TUNTAP_MODE_TAP}))
		want := func(all ...tun.Info) {
			t.Helper()
			got, err := tun.List(t.Context())
			check(t, err)
			slices.SortFunc(got, func(a, b tun.Info) int { return strings.Compare(a.Name, b.Name) })
			if !slices.Equal(got, all) {
				t.Errorf("the list is %+v, want %+v", got, all)
			}
		}
		want(tun.Info{Name: ours, Alias: alias}, tun.Info{Name: "tun1"})
		held := attach(t, ours, true, true)
		want(tun.Info{Name: ours, Alias: alias, Held: true}, tun.Info{Name: "tun1"})
		check(t, held.Close())
		single := open(t, "tun1", tun.Options{})
		want(tun.Info{Name: ours, Alias: alias}, tun.Info{Name: "tun1", Held: true})
		check(t, single.Close())
		want(tun.Info{Name: ours, Alias: alias}, tun.Info{Name: "tun1"})
	})
}
