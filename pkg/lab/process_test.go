package lab_test

import (
	"errors"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"flanneld/pkg/lab"
)

func sh(t *testing.T, ns *lab.Namespace, script string) *lab.Process {
	t.Helper()
	return must(ns.Start("sh", []string{"/bin/sh", "-c", script}, []string{"WHO=world"}, lab.ProcessOptions{}))(t)
}

func TestProcess(t *testing.T) {
	t.Parallel()
	_, h1, _ := twoHosts(t)
	ctx := testContext(t)
	p := sh(t, h1.Namespace, `echo hello $WHO; readlink /proc/self/ns/net; trap 'exit 7' TERM; while :; do sleep 0.02; done`)
	check(t, p.WaitLog(ctx, "hello world\n"))
	check(t, p.WaitLog(ctx, "]\n"))
	if want := "net:[" + itoa(h1.Inode()) + "]"; !strings.Contains(p.Log(), want) {
		t.Errorf("not in %s:\n%s", want, p.Log())
	}
	check(t, p.Freeze())
	check(t, p.Freeze())
	if code := p.ExitCode(); code != -1 {
		t.Errorf("it runs with exit code %d", code)
	}
	if _, err := p.Stop(50 * time.Millisecond); err == nil || p.ExitCode() != 128+9 {
		t.Errorf("stopping a frozen process: %v, code %d", err, p.ExitCode())
	}

	p = sh(t, h1.Namespace, `trap 'exit 7' TERM; echo set; while :; do sleep 0.02; done`)
	check(t, p.WaitLog(ctx, "set"))
	check(t, p.Freeze())
	check(t, p.Thaw())
	if code := must(p.Stop(5 * time.Second))(t); code != 7 {
		t.Errorf("it ended with %d, want 7", code)
	}
	if code := must(p.Stop(time.Second))(t); code != 7 {
		t.Errorf("stopped again: %d, want 7", code)
	}
	if err := p.WaitLog(ctx, "never"); err == nil || !strings.Contains(err.Error(), "ended with code 7") {
		t.Errorf("unexpected: %v", err)
	}
	if err := p.Signal(syscall.SIGHUP); !errors.Is(err, os.ErrProcessDone) {
		t.Errorf("unexpected: %v", err)
	}
	if _, err := h1.Start("none", []string{"/does/not/exist"}, nil, lab.ProcessOptions{}); err == nil {
		t.Error("a program that is not there was started")
	}
}

func TestProcessGroupEndsWithItsLeader(t *testing.T) {
	t.Parallel()
	_, h1, _ := twoHosts(t)
	p := sh(t, h1.Namespace, `sleep 1000 & echo child $!`)
	must(p.Wait(testContext(t)))(t)
	pid := strings.Fields(p.Log())[1]
	waitFor(t, "the end of what the process started", func() bool { return !alive(pid) })
}

func TestRaces(t *testing.T) {
	t.Parallel()
	l, h1, _ := twoHosts(t)
	p := sh(t, h1.Namespace, `echo fine`)
	must(p.Wait(testContext(t)))(t)
	if races := l.Races(); races != nil {
		t.Errorf("unexpected: %q", races)
	}
	p = sh(t, h1.Namespace, `echo WARNING: DATA RACE`)
	must(p.Wait(testContext(t)))(t)
	if races := l.Races(); len(races) != 1 || !strings.HasPrefix(races[0], "sh on h1:\n") {
		t.Errorf("unexpected: %q", races)
	}
	check(t, l.Close())
	if races := l.Races(); len(races) != 1 {
		t.Errorf("after Close: %q", races)
	}
}

// TestDaemon has a script in flanneld's place, so it shows what such a
// daemon is given.
func TestDaemon(t *testing.T) {
	t.Parallel()
	l, h1, _ := twoHosts(t)
	ctx := testContext(t)
	e := must(l.StartEtcd(ctx, h1, lab.EtcdOptions{}))(t)
	script := h1.Dir + "/fake"
	text := `#!/bin/sh
echo "$@"
echo FLANNEL_MTU=1472 > "${1#-subnet-file=}"
echo "socket $NOTIFY_SOCKET"
while :; do sleep 0.02; done
`
	check(t, lab.WriteProgram(script, []byte(text), 0o755))
	d := must(h1.StartFlanneld(script, "-v=1"))(t)
	check(t, d.WaitLog(ctx, "socket "))
	want := "-subnet-file=" + d.SubnetFile + " -state-dir=" + filepath.Join(h1.Dir, "state") + " -etcd-endpoints=" + e.Endpoint() + " -v=1\n"
	if !strings.HasPrefix(d.Log(), want) {
		t.Errorf("arguments %q, want %q", d.Log(), want)
	}
	if mtu := d.Env()["FLANNEL_MTU"]; mtu != "1472" {
		t.Errorf("FLANNEL_MTU is %q", mtu)
	}
	conn := must(net.Dial("unixgram", d.Notify.Path))(t)
	defer conn.Close()
	must(conn.Write([]byte("STATUS=waiting")))(t)
	must(conn.Write([]byte("READY=1\nSTATUS=10.1.2.0/24")))(t)
	check(t, d.WaitReady(ctx))
	if s := d.Status(); s != "10.1.2.0/24" {
		t.Errorf("the status is %q", s)
	}
	must(conn.Write([]byte("STOPPING=1")))(t)
	d.Kill()
	waitFor(t, "the last message", func() bool { return len(d.Notify.Messages()) == 3 })

	d = must(h1.StartFlanneld("/bin/false", "-etcd-endpoints", "http://10.0.0.1:1", "-subnet-file=/x"))(t)
	if err := d.WaitReady(ctx); err == nil || !strings.Contains(err.Error(), "ended with code 1") {
		t.Errorf("unexpected: %v", err)
	}
	if d.SubnetFile != "/x" {
		t.Errorf("the subnet file is %s", d.SubnetFile)
	}
}

func TestDo(t *testing.T) {
	t.Parallel()
	l, h1, _ := twoHosts(t)
	ns := h1.Namespace
	bad := errors.New("bad")
	if err := ns.Do(func() error { return ns.Do(func() error { return bad }) }); !errors.Is(err, bad) {
		t.Errorf("a call in a call: %v", err)
	}
	func() {
		defer func() {
			if v := recover(); v == nil || !strings.Contains(v.(string), "ouch") {
				t.Errorf("recovered %v", v)
			}
		}()
		_ = ns.Do(func() error { panic("ouch") })
		t.Error("the panic was lost")
	}()
	p := sh(t, ns, `echo on; sleep 1000`)
	check(t, p.WaitLog(testContext(t), "on"))
	for range 3 {
		ended := make(chan bool)
		go func() {
			returned := false
			defer func() { ended <- !returned }()
			_ = ns.Do(func() error { runtime.Goexit(); return nil })
			returned = true
		}()
		if !<-ended {
			t.Error("the end of the goroutine was lost")
		}
	}
	var inode string
	check(t, ns.Do(func() (err error) { inode, err = os.Readlink("/proc/thread-self/ns/net"); return err }))
	if want := "net:[" + itoa(ns.Inode()) + "]"; inode != want {
		t.Errorf("the thread is in %s, want %s", inode, want)
	}
	select {
	case <-p.Exited():
		t.Error("a process of the namespace has died")
	default:
	}
	check(t, l.Close())
	if err := ns.Do(func() error { return nil }); !errors.Is(err, lab.ErrClosed) {
		t.Errorf("after Close: %v", err)
	}
	// On the user's own network these would succeed.
	if _, err := ns.Addrs("lo"); !errors.Is(err, lab.ErrClosed) {
		t.Errorf("listing addresses after Close: %v", err)
	}
	if _, err := ns.Routes(); !errors.Is(err, lab.ErrClosed) {
		t.Errorf("listing routes after Close: %v", err)
	}
	if _, err := ns.Start("x", []string{"/bin/true"}, nil, lab.ProcessOptions{}); err == nil {
		t.Error("a process was started in a closed namespace")
	}
	if _, err := ns.DialContext(testContext(t), "tcp", "127.0.0.1:1"); !errors.Is(err, lab.ErrClosed) {
		t.Errorf("dialling after Close: %v", err)
	}
	if p.ExitCode() != 128+9 {
		t.Errorf("the process ended with %d", p.ExitCode())
	}
}
