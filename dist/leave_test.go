package dist_test

import (
	"bufio"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"flanneld/pkg/lab"
)

// childEnv makes the test binary build a lab, tell its directory and wait.
const childEnv = "DIST_TEST_CHILD"

// beChild makes all that is to vanish.
func beChild(t *testing.T) {
	t.Helper()
	n := newNetwork(t)
	n.hosts[0].boot(nil)
	d, err := n.hosts[1].StartDocker(n.ctx)
	check(t, err)
	image := filepath.Join(n.lab.Dir, "image.tar")
	check(t, lab.WriteImage(n.ctx, image))
	n.startContainer(n.client(d), image)
	fmt.Println("\n" + n.lab.Dir)
	_, _ = io.Copy(io.Discard, os.Stdin)
}

// Not even a killed test leaves a systemd or a Docker behind, nor what they made.
func TestNothingIsLeft(t *testing.T) {
	t.Parallel()
	if os.Getenv(childEnv) != "" {
		beChild(t)
		return
	}
	cmd := exec.Command("/proc/self/exe", "-test.run=^TestNothingIsLeft$", "-test.v")
	cmd.Env = append(os.Environ(), childEnv+"="+daemonBinary)
	stdin, err := cmd.StdinPipe()
	check(t, err)
	defer stdin.Close()
	stdout, err := cmd.StdoutPipe()
	check(t, err)
	check(t, cmd.Start())
	defer func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }()
	var dir string
	var said strings.Builder
	for lines := bufio.NewScanner(stdout); dir == "" && lines.Scan(); {
		fmt.Fprintln(&said, lines.Text())
		if strings.HasPrefix(lines.Text(), "/") {
			dir = lines.Text()
		}
	}
	if dir == "" {
		if strings.Contains(said.String(), "--- SKIP") {
			t.Skip(lab.ErrNotRoot)
		}
		t.Fatalf("the child says:\n%s", said.String())
	}
	groups, pids := cgroups(t, filepath.Base(dir))
	if len(groups) == 0 || len(pids) == 0 {
		t.Fatalf("the child has the control groups %q with the processes %q", groups, pids)
	}
	check(t, cmd.Process.Kill())
	n := network{t: t, ctx: t.Context()}
	n.wait(soon, "the end of all", func() string {
		if groups, _ := cgroups(t, filepath.Base(dir)); len(groups) > 0 {
			return fmt.Sprintf("there are %q", groups)
		}
		for _, pid := range pids {
			if _, err := os.Stat("/proc/" + pid); err == nil {
				return "process " + pid + " is there"
			}
		}
		if _, err := os.Stat(dir); err == nil {
			return dir + " is there"
		}
		return ""
	})
	if mounts := read(t, "/proc/self/mounts"); strings.Contains(mounts, dir) {
		t.Errorf("something of %s is mounted:\n%s", dir, mounts)
	}
}

// cgroups are the control groups of a lab, and the processes in them.
func cgroups(t *testing.T, name string) (dirs, pids []string) {
	t.Helper()
	err := filepath.WalkDir("/sys/fs/cgroup", func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.IsDir() || !strings.Contains(path, name+"-") {
			return nil //nolint:nilerr // what goes while we look is not there
		}
		dirs = append(dirs, path)
		text, _ := os.ReadFile(filepath.Join(path, "cgroup.procs"))
		pids = append(pids, strings.Fields(string(text))...)
		return nil
	})
	check(t, err)
	return dirs, pids
}
