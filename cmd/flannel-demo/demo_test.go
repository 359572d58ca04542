package main_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"flanneld/pkg/lab"
)

// binDir has the daemon, etcd and the demo, where any user can read them.
var binDir string

func TestMain(m *testing.M) {
	if err := lab.Enter(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	code, err := setUp(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

func setUp(m *testing.M) (code int, err error) {
	var remove func() error
	binDir, remove, err = lab.TempDir("flannel-demo-test-")
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, remove()) }()
	if err := os.Chmod(binDir, 0o755); err != nil {
		return 0, err
	}
	build := exec.Command("go", "build", "-o", binDir, "flanneld/cmd/flanneld", "flanneld/cmd/flannel-demo")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return 0, fmt.Errorf("building: %w\n%s", err, out)
	}
	etcd, err := os.ReadFile("../../build/etcd")
	if errors.Is(err, os.ErrNotExist) {
		return 0, errors.New("build/etcd is missing: run `make build/etcd`")
	}
	if err != nil {
		return 0, err
	}
	if err := os.WriteFile(filepath.Join(binDir, "etcd"), etcd, 0o755); err != nil {
		return 0, err
	}
	return m.Run(), nil
}

func demo(t *testing.T, args ...string) *exec.Cmd {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	cmd := exec.CommandContext(ctx, filepath.Join(binDir, "flannel-demo"), append([]string{"-bin", binDir}, args...)...)
	cmd.Dir = "/"
	return cmd
}

var table = regexp.MustCompile(`(?m)^  host\d +192\.168\.0\.\d+ +10\.5\.\d+\.0/24 +(host-gw +1500|udp +1472|vxlan +1450)$`)

func checkPicture(t *testing.T, out string, hosts int) {
	t.Helper()
	if n := len(table.FindAllString(out, -1)); n != hosts {
		t.Errorf("%d hosts in the table, want %d:\n%s", n, hosts, out)
	}
	if strings.Contains(out, "lost") {
		t.Errorf("pings were lost:\n%s", out)
	}
}

func TestOnce(t *testing.T) {
	out, err := demo(t, "-once", "-hosts=4").CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	checkPicture(t, string(out), 4)
}

func TestOnceTunnels(t *testing.T) {
	for _, backend := range []string{"udp", "vxlan"} {
		out, err := demo(t, "-once", "-backend="+backend).CombinedOutput()
		if err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		checkPicture(t, string(out), 3)
		if !strings.Contains(string(out), " "+backend+" ") {
			t.Errorf("it is not %s:\n%s", backend, out)
		}
	}
}

func TestOnceWithoutRoot(t *testing.T) {
	if os.Getuid() != 0 || !isInitialRoot(t) {
		t.Skip("all other tests run without root then: this process has no right to become another user")
	}
	cmd := demo(t, "-once")
	cmd.Env = []string{"PATH=/usr/bin:/bin", "HOME=/nonexistent"}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	checkPicture(t, string(out), 3)
}

func isInitialRoot(t *testing.T) bool {
	uids, err := os.ReadFile("/proc/self/uid_map")
	if err != nil {
		t.Fatal(err)
	}
	return strings.Contains(string(uids), "4294967295")
}

func TestInterrupt(t *testing.T) {
	cmd := demo(t)
	var out, complaints bytes.Buffer
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stderr = &complaints
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 1<<16)
	for !strings.Contains(out.String(), "until Ctrl-C") {
		n, err := stdout.Read(buf)
		out.Write(buf[:n])
		if err != nil {
			t.Fatalf("%v\n%s", err, out.String())
		}
	}
	log := regexp.MustCompile(`cat (/\S+\.log)`).FindStringSubmatch(out.String())
	if log == nil {
		t.Fatalf("no log file is suggested:\n%s", out.String())
	}
	if _, err := os.Stat(log[1]); err != nil {
		t.Error(err)
	}
	if err := cmd.Process.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Errorf("after Ctrl-C: %v\n%s%s", err, out.String(), complaints.String())
	}
	if _, err := os.Stat(filepath.Dir(log[1])); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("files are left behind: %v", err)
	}
}

func TestUsage(t *testing.T) {
	for _, c := range []struct{ arg, want string }{
		{"-backend=alloc", `no backend "alloc" that carries packets; there are host-gw, udp, vxlan`},
		{"-hosts=1", "1 hosts can't be shown"},
		{"-hosts=x", "invalid value"},
		{"more", `unexpected argument "more"`},
	} {
		out, err := demo(t, c.arg).CombinedOutput()
		var exit *exec.ExitError
		if !errors.As(err, &exit) || exit.ExitCode() != 2 || !strings.Contains(string(out), c.want) {
			t.Errorf("%s: %v, %q; want exit status 2 and %q", c.arg, err, out, c.want)
		}
	}
}
