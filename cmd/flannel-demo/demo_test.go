package main_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
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
	if err := link("etcd-3.6", "kube-apiserver", "kubectl"); err != nil {
		return 0, err
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

// link has programs in binDir that not every user needs, if they are there.
func link(programs ...string) error {
	for _, name := range programs {
		path, err := filepath.Abs("../../build/" + name)
		if err != nil {
			return err
		}
		if err := os.Symlink(path, filepath.Join(binDir, name)); err != nil {
			return err
		}
	}
	return nil
}

func demo(t *testing.T, args ...string) *exec.Cmd {
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
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

// running is a demo that stays up.
type running struct {
	*exec.Cmd

	stdout     io.Reader
	out        bytes.Buffer
	complaints bytes.Buffer
}

// stayUp starts a demo and reads what it says, up to what matches last.
func stayUp(t *testing.T, last string, args ...string) *running {
	t.Helper()
	r := &running{Cmd: demo(t, args...)}
	var err error
	if r.stdout, err = r.StdoutPipe(); err != nil {
		t.Fatal(err)
	}
	r.Stderr = &r.complaints
	if err := r.Start(); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 1<<16)
	for end := regexp.MustCompile("(?m)" + last); !end.Match(r.out.Bytes()); {
		n, err := r.stdout.Read(buf)
		r.out.Write(buf[:n])
		if err != nil {
			t.Fatalf("%v; %v\n%s%s", err, r.Wait(), &r.out, &r.complaints)
		}
	}
	return r
}

// find returns what the demo says in the place of the group in re.
func (r *running) find(t *testing.T, re string) string {
	t.Helper()
	found := regexp.MustCompile("(?m)" + re).FindSubmatch(r.out.Bytes())
	if found == nil {
		t.Fatalf("nothing matches %s:\n%s", re, &r.out)
	}
	return string(found[1])
}

// end ends the demo, of whose hosts dir has the files. Nothing may be left.
func (r *running) end(t *testing.T, sig syscall.Signal, dir string) {
	t.Helper()
	if n := processes(t, dir); n == 0 {
		t.Errorf("no process has to do with %s", dir)
	}
	if err := r.Process.Signal(sig); err != nil {
		t.Fatal(err)
	}
	if err := r.Wait(); err != nil {
		t.Errorf("after %v: %v\n%s%s", sig, err, &r.out, &r.complaints)
	}
	if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("files are left behind: %v", err)
	}
	if n := processes(t, dir); n > 0 {
		t.Errorf("%d processes are left behind", n)
	}
}

// processes counts those that were started with files of a folder.
func processes(t *testing.T, dir string) (n int) {
	t.Helper()
	all, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range all {
		// One that has just ended has none.
		if text, err := os.ReadFile(file); err == nil && bytes.Contains(text, []byte(dir)) {
			n++
		}
	}
	return n
}

func TestInterrupt(t *testing.T) {
	r := stayUp(t, "curl .*\n")
	log := r.find(t, `cat (/\S+\.log)`)
	if _, err := os.Stat(log); err != nil {
		t.Error(err)
	}
	r.end(t, syscall.SIGINT, filepath.Dir(filepath.Dir(log)))
}

// With Kubernetes the picture is the same, and what is suggested works.
func TestKube(t *testing.T) {
	r := stayUp(t, "curl .*\n", "-store=kube")
	picture, _, _ := strings.Cut(r.out.String(), "until Ctrl-C")
	checkPicture(t, picture, 3)
	for i := 1; i <= 3; i++ {
		r.find(t, fmt.Sprintf(`^  host%d +192\.168\.0\.%d +(10\.5\.%[1]d\.0/24) `, i, i+2))
	}
	config := r.find(t, `^  cat (/\S+/kubeconfig)$`)
	if text, err := os.ReadFile(config); err != nil || !strings.Contains(string(text), "server: https://192.168.0.2:6443\n") {
		t.Errorf("the kubeconfig is %q (%v)", text, err)
	}
	run := func(command string) string {
		cmd := exec.CommandContext(t.Context(), "sh", "-c", command)
		cmd.Env = append(os.Environ(), "HOME="+t.TempDir()) // kubectl caches there
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%s: %v\n%s", command, err, out)
		}
		return string(out)
	}
	const enter = `^  .*(nsenter --net=\S+ `
	show := r.find(t, enter+`\S*kubectl --kubeconfig=`+config+` get nodes .*)$`)
	published := func() int {
		return len(regexp.MustCompile(`(?m)^host(\d) +10\.5\.\d\.0/24 +192\.168\.0\.\d$`).FindAllString(run(show), -1))
	}
	if published() != 3 {
		t.Errorf("the Nodes are\n%s", run(show))
	}
	run(r.find(t, enter+`\S*kubectl .* annotate node host1 .*-)$`))
	for deadline := time.Now().Add(time.Minute); published() != 3; {
		if time.Now().After(deadline) {
			t.Fatalf("an annotation does not come back:\n%s", run(show))
		}
	}
	if node := run(r.find(t, enter+`curl .*)$`)); !strings.Contains(node, `"podCIDR": "10.5.1.0/24"`) {
		t.Errorf("without kubectl:\n%s", node)
	}
	r.end(t, syscall.SIGTERM, filepath.Dir(config))
}

func TestUsage(t *testing.T) {
	for _, c := range []struct{ arg, want string }{
		{"-backend=alloc", `no backend "alloc" that carries packets; there are host-gw, udp, vxlan`},
		{"-store=consul", `no store "consul"; there are etcd, kube`},
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
