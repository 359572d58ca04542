package lab_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"flanneld/pkg/lab"
)

// childEnv makes the test binary build a lab, tell about it and wait.
const childEnv = "LAB_TEST_CHILD"

type childReport struct {
	Dir    string
	Temp   string // beside the lab
	Inodes []uint64
	Pids   []int
}

func childMain() {
	report, err := buildChild()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(3)
	}
	if err := json.NewEncoder(os.Stdout).Encode(report); err != nil {
		os.Exit(4)
	}
	_, _ = io.Copy(io.Discard, os.Stdin)
	os.Exit(0) // without Close, as a failed test would
}

func buildChild() (*childReport, error) {
	l, err := lab.New(lab.Options{BinDir: os.Getenv(childEnv)})
	if err != nil {
		return nil, err
	}
	sw, err := l.AddSwitch("lan", netip.MustParsePrefix("192.168.50.0/24"))
	if err != nil {
		return nil, err
	}
	temp, _, err := lab.TempDir("lab-test-")
	if err != nil {
		return nil, err
	}
	report := &childReport{Dir: l.Dir, Temp: temp, Inodes: []uint64{sw.Inode()}}
	var hosts []*lab.Host
	for _, name := range []string{"h1", "h2"} {
		h, err := l.AddHost(name, sw, lab.HostOptions{})
		if err != nil {
			return nil, err
		}
		hosts = append(hosts, h)
		report.Inodes = append(report.Inodes, h.Inode())
	}
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	e, err := l.StartEtcd(ctx, hosts[0], lab.EtcdOptions{})
	if err != nil {
		return nil, err
	}
	p, err := hosts[1].Start("sleep", []string{"sleep", "1000"}, nil, lab.ProcessOptions{})
	if err != nil {
		return nil, err
	}
	report.Pids = []int{e.Pid(), p.Pid()}
	if err := p.Freeze(); err != nil {
		return nil, err
	}
	return report, hosts[0].WaitPing(ctx, hosts[1].Addr)
}

// startChild runs this test binary as a lab of its own.
func startChild(t *testing.T, cmd *exec.Cmd, binDir string) (*childReport, io.Closer) {
	t.Helper()
	cmd.Env = append(os.Environ(), childEnv+"="+binDir)
	cmd.Stderr = os.Stderr
	stdin := must(cmd.StdinPipe())(t)
	stdout := must(cmd.StdoutPipe())(t)
	check(t, cmd.Start())
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	line, err := bufio.NewReader(stdout).ReadBytes('\n')
	if err != nil {
		t.Fatalf("the child says %q: %v", line, err)
	}
	report := &childReport{}
	check(t, json.Unmarshal(line, report))
	for _, pid := range report.Pids {
		if !alive(strconv.Itoa(pid)) {
			t.Fatalf("process %d is not there", pid)
		}
	}
	threads := threadsIn(report.Inodes)
	if len(threads) == 0 {
		t.Fatal("no thread is in the child's namespaces")
	}
	for _, link := range threads { // the kernel gives the number of one that ended to the next
		if f, err := os.Open(link); err == nil {
			t.Cleanup(func() { _ = f.Close() })
		}
	}
	return report, stdin
}

func wantNothingLeft(t *testing.T, r *childReport) {
	t.Helper()
	waitFor(t, "the end of the child's processes", func() bool {
		for _, pid := range r.Pids {
			if alive(strconv.Itoa(pid)) {
				return false
			}
		}
		return true
	})
	defer func() {
		for _, link := range threadsIn(r.Inodes) {
			status, _ := os.ReadFile(filepath.Join(filepath.Dir(filepath.Dir(link)), "status"))
			t.Logf("%s is left: %s", link, status)
		}
	}()
	waitFor(t, "the end of the child's namespaces", func() bool { return len(threadsIn(r.Inodes)) == 0 })
	for _, dir := range []string{r.Dir, r.Temp} {
		waitFor(t, "the removal of "+dir, func() bool { _, err := os.Stat(dir); return os.IsNotExist(err) })
	}
}

func TestNothingIsLeftBehind(t *testing.T) {
	t.Parallel()
	build := must(filepath.Abs("../../build"))(t)
	for name, end := range map[string]func(*exec.Cmd, io.Closer) error{
		"killed":      func(c *exec.Cmd, _ io.Closer) error { return c.Process.Kill() },
		"interrupted": func(c *exec.Cmd, _ io.Closer) error { return c.Process.Signal(syscall.SIGINT) },
		"failed":      func(_ *exec.Cmd, stdin io.Closer) error { return stdin.Close() },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cmd := exec.Command("/proc/self/exe")
			report, stdin := startChild(t, cmd, build)
			check(t, end(cmd, stdin))
			wantNothingLeft(t, report)
		})
	}
}

func TestClose(t *testing.T) {
	t.Parallel()
	h1, h2, p1, p2 := podsOnHosts(t)
	wantPing(t, p1.Namespace, p2.Addr)
	must(p1.StartPinger(p2.Addr, time.Millisecond))(t)
	must(h1.NewNotifySocket())(t)
	p := sh(t, p1.Namespace, `trap '' TERM; sleep 1000`)
	inodes := []uint64{h1.Inode(), h2.Inode(), p1.Inode(), p2.Inode()}
	if len(threadsIn(inodes)) == 0 {
		t.Error("no thread is in the namespaces")
	}
	p2.Close() // one by itself, and then again with all
	wantNoPing(t, p1.Namespace, p2.Addr)
	for _, ns := range []*lab.Namespace{h1.Namespace, p1.Namespace, h2.Namespace} {
		ns.Close()
		ns.Close()
	}
	if p.ExitCode() != 128+9 {
		t.Errorf("the process has exit code %d", p.ExitCode())
	}
	waitFor(t, "the end of the namespaces", func() bool { return len(threadsIn(inodes)) == 0 })
}

// TestUnprivileged runs a lab as a user without rights. It copies what that
// user may not be able to reach.
func TestUnprivileged(t *testing.T) {
	if os.Geteuid() != 0 || os.Getenv("FLANNEL_LAB_ENTERED") != "" {
		t.Skip("this is the run without rights already")
	}
	const nobody = 65534
	dir := must(os.MkdirTemp("", "lab-nobody-"))(t) //nolint:usetesting // the user must reach it
	t.Cleanup(func() { check(t, os.RemoveAll(dir)) })
	check(t, os.Chmod(dir, 0o755))
	copyFile(t, "/proc/self/exe", dir+"/test")
	copyFile(t, "../../build/etcd", dir+"/etcd")
	check(t, os.Mkdir(dir+"/tmp", 0o755))
	check(t, os.Chown(dir+"/tmp", nobody, nobody))
	cmd := exec.Command(dir + "/test")
	cmd.Dir = dir
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
	t.Setenv("TMPDIR", dir+"/tmp") // so this test is not parallel
	report, _ := startChild(t, cmd, dir)
	if !strings.HasPrefix(report.Dir, dir) {
		t.Fatalf("the lab's directory is %s", report.Dir)
	}
	check(t, cmd.Process.Kill()) // the outer process: the inner one must follow
	wantNothingLeft(t, report)
}

func copyFile(t *testing.T, from, to string) {
	t.Helper()
	in := must(os.Open(from))(t)
	defer in.Close()
	out := must(os.OpenFile(to, os.O_CREATE|os.O_WRONLY, 0o755))(t)
	must(io.Copy(out, in))(t)
	check(t, out.Close())
}

func waitFor(t *testing.T, what string, done func() bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !done(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain for %s", what)
		}
	}
}

// alive tells whether a process is there and more than a zombie.
func alive(pid string) bool {
	stat, err := os.ReadFile("/proc/" + pid + "/stat")
	if err != nil {
		return false
	}
	_, state, _ := strings.Cut(string(stat), ") ")
	return !strings.HasPrefix(state, "Z")
}

// threadsIn returns the links, in /proc, of all threads in some network namespaces.
func threadsIn(inodes []uint64) (found []string) {
	want := map[string]bool{}
	for _, i := range inodes {
		want["net:["+itoa(i)+"]"] = true
	}
	links, _ := filepath.Glob("/proc/[0-9]*/task/[0-9]*/ns/net")
	for _, link := range links {
		if ns, err := os.Readlink(link); err == nil && want[ns] {
			found = append(found, link)
		}
	}
	return found
}

func itoa(n uint64) string { return strconv.FormatUint(n, 10) }
