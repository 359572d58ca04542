package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"flanneld/pkg/file"
	"flanneld/pkg/ip"
	"flanneld/subnet"
)

// A folder of saved state whose file system gives no answer is waited for once, and not for long,
// at the start and at the end.
// What is there is read as soon as it answers.
func TestStateFolderHangs(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "state")
	must(t, os.Mkdir(dir, 0o755))
	answer := hang(t, dir)
	o := &options{stateDir: dir, recall: new(file.Patient[subnet.Saved]), subnetFile: filepath.Join(t.TempDir(), "subnet.env")}
	o.etcd.Prefix = "/net"
	config, err := subnet.ParseConfig([]byte(`{"Network":"10.5.0.0/16"}`))
	must(t, err)
	s := newSaver(o)
	s.set(subnet.Holding{Config: config, Own: &subnet.Lease{Subnet: ip.SubnetOf(netip.MustParsePrefix("10.5.1.0/24"))}}, nil)
	ctx, cancel := context.WithCancel(t.Context())
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		_ = s.Run(ctx)
	}()
	cancel()
	began := time.Now()
	if env := o.previous(); env.Subnet.IsValid() {
		t.Errorf("there was a subnet %s", env.Subnet)
	}
	took := time.Since(began)
	if took < file.Patience || took > file.Patience+2*time.Second {
		t.Errorf("it was waited for %s", took)
	}
	began = time.Now()
	for range 10 {
		if _, err := o.saved(); !errors.Is(err, subnet.ErrUnread) {
			t.Fatalf("what was saved: %v", err)
		}
	}
	if took := time.Since(began); took > time.Second {
		t.Errorf("the same read was waited for again, for %s", took)
	}
	select {
	case <-stopped:
	case <-time.After(5 * time.Second):
		t.Error("writing it does not end")
	}
	answer()
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		_, err := o.saved()
		if errors.Is(err, unix.ENOTCONN) {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("it is not read again: %v", err)
		}
	}
}

// Commands do not wait for it any longer, and name it.
func TestCommandsWithStateFolderThatHangs(t *testing.T) {
	t.Parallel()
	own := ip.SubnetOf(netip.MustParsePrefix("10.5.1.0/24"))
	for name, command := range map[string]func(o *options) error{
		"what is saved": func(o *options) error { return removeState(t.Context(), o, own, io.Discard) },
		"what is saved of a lease that is released": func(o *options) error {
			return forget(t.Context(), o, ip.Addrs{}, own, "name 0123456789ab", io.Discard)
		},
		"the API that was used": func(o *options) error {
			u := usedAPI{path: o.usedAPIFile()}
			if is := u.Used(); is != 0 {
				t.Errorf("version %d was used", is)
			}
			u.Use(3)
			return fmt.Errorf("%s: %w", o.stateDir, file.ErrNoAnswer)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := filepath.Join(t.TempDir(), "state")
			must(t, os.Mkdir(dir, 0o755))
			hang(t, dir)
			o := &options{stateDir: dir}
			o.etcd.Prefix = "/net"
			began := time.Now()
			err := command(o)
			if !errors.Is(err, file.ErrNoAnswer) || !strings.Contains(fmt.Sprint(err), dir) {
				t.Errorf("the error is %v", err)
			}
			if took := time.Since(began); took > 4*file.Patience {
				t.Errorf("it was waited for %s", took)
			}
		})
	}
}

// hang mounts a file system whose server never answers, until the test ends. From answer on all
// get an error.
func hang(t *testing.T, dir string) (answer func()) {
	t.Helper()
	answer, err := Hang(t, dir)
	if err != nil {
		t.Skipf("this needs FUSE: %v", err)
	}
	return answer
}

// Hang is hang, which returns an error where there is no FUSE.
func Hang(t *testing.T, dir string) (answer func(), err error) {
	t.Helper()
	server, err := unix.Open("/dev/fuse", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	if err := unix.Mount("hangs", dir, "fuse", 0, fmt.Sprintf("fd=%d,rootmode=40000,user_id=0,group_id=0", server)); err != nil {
		_ = unix.Close(server)
		return nil, err
	}
	answer = sync.OnceFunc(func() { _ = unix.Close(server) })
	t.Cleanup(func() {
		answer()
		time.Sleep(100 * time.Millisecond) // whoever waited gets the error, and writes nothing beneath
		must(t, unix.Unmount(dir, unix.MNT_DETACH))
	})
	return answer, nil
}
