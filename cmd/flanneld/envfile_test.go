package main_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"flanneld/pkg/lab"
)

// The daemon is not ready before subnet.env is in place, and says why.
func TestSubnetFileInTrouble(t *testing.T) { inParallel(t, everyVariant, testSubnetFileInTrouble) }

func testSubnetFileInTrouble(t *testing.T, v variant) {
	n := newConfigured(t, v, nil)
	for i, c := range []struct {
		name string
		// mount is a command that a shell runs first, in a mount namespace of
		// the daemon's own; $1 is the folder.
		mount string
		// spoil and mend work on the folder.
		spoil, mend func(t *testing.T, folder string)
		want        string
	}{
		{
			name:  "a folder in its place",
			spoil: func(t *testing.T, f string) { check(t, os.MkdirAll(filepath.Join(f, "subnet.env"), 0o755)) },
			mend:  func(t *testing.T, f string) { check(t, os.Remove(filepath.Join(f, "subnet.env"))) },
			want:  "file exists",
		},
		{
			name: "a file in the place of its folder",
			spoil: func(t *testing.T, f string) {
				check(t, os.Remove(f))
				check(t, os.WriteFile(f, nil, 0o644))
			},
			mend: func(t *testing.T, f string) { check(t, os.Remove(f)) },
			want: "not a directory",
		},
		{
			name:  "a folder that is read-only",
			mount: `mount -t tmpfs -o ro none "$1"`,
			want:  "read-only file system",
		},
		{
			name:  "a disk that is full",
			mount: `mount -t tmpfs -o size=4k none "$1" && { head -c 8k /dev/zero > "$1/ballast" || true; } 2> "$1/../full"`,
			want:  "no space left on device",
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			h := n.addNode(lab.HostOptions{})
			folder := filepath.Join(h.Dir, fmt.Sprintf("run%d", i))
			check(t, os.Mkdir(folder, 0o755))
			if c.spoil != nil {
				c.spoil(t, folder)
			}
			notify, err := h.NewNotifySocket()
			check(t, err)
			file := filepath.Join(folder, "subnet.env")
			argv := []string{daemonBinary, "-etcd-endpoints=" + n.etcd.Endpoint(), "-subnet-file=" + file}
			if c.mount != "" {
				argv = append([]string{"unshare", "-m", "sh", "-c", c.mount + ` && shift && exec "$@"`, "sh", folder}, argv...)
			}
			p, err := h.Start("flanneld", argv, []string{"NOTIFY_SOCKET=" + notify.Path}, lab.ProcessOptions{})
			check(t, err)
			check(t, p.WaitLog(n.ctx, "not ready, trying again: writing "+file))
			check(t, p.WaitLog(n.ctx, c.want))
			n.wait(soon, "the status to say so", func() string {
				if s := notify.Status(); !strings.Contains(s, c.want) {
					return "status is " + s
				}
				return ""
			})
			select {
			case <-notify.Ready():
				t.Error("it is ready all the same")
			default:
			}
			n.pause(2200 * time.Millisecond) // it is tried each second
			if said := strings.Count(p.Log(), "not ready, trying again"); said != 1 {
				t.Errorf("it is said %d times: %s", said, p.Log())
			}
			if c.mend != nil {
				c.mend(t, folder)
				check(t, notify.WaitReady(n.ctx))
				if _, err := os.Stat(file); err != nil {
					t.Error(err)
				}
			}
			code, err := p.Stop(soon)
			if code != 0 || err != nil {
				t.Errorf("exit status %d, %v", code, err)
			}
			if left, _ := filepath.Glob(filepath.Join(folder, ".*")); len(left) > 0 {
				t.Errorf("left behind: %q", left)
			}
		})
	}
}

// A file that can't be written any more, of a daemon that has long been ready, is
// called just that, and written as soon as it can be.
func TestSubnetFileOutOfDate(t *testing.T) {
	n := newNetwork(t, 1, hostGW, nil)
	h := n.nodes[0]
	check(t, os.Remove(h.daemon.SubnetFile))
	inTheWay := filepath.Join(h.daemon.SubnetFile, "x")
	check(t, os.MkdirAll(inTheWay, 0o755))
	check(t, h.SetMTU("eth0", 1400))
	h.waitLog("what it says is out of date, trying again: writing " + h.daemon.SubnetFile)
	if log := h.daemon.Log(); strings.Contains(log, "not ready") {
		t.Errorf("it was ready: %s", log)
	}
	check(t, os.RemoveAll(filepath.Dir(inTheWay)))
	n.wait(soon, "the new MTU", func() string {
		if mtu := h.daemon.Env()["FLANNEL_MTU"]; mtu != "1400" {
			return mtu
		}
		return ""
	})
}

// Whoever reads subnet.env while it is rewritten sees all of it.
func TestSubnetFileIsWhole(t *testing.T) { inParallel(t, everyVariant, testSubnetFileIsWhole) }

func testSubnetFileIsWhole(t *testing.T, v variant) {
	n := newNetwork(t, 1, v, nil)
	h := n.nodes[0]
	seen := make(map[string]bool)
	for i := range 20 {
		mtu := 1400 + i%2*50
		check(t, h.SetMTU("eth0", mtu))
		n.wait(soon, "subnet.env", func() string {
			text := h.daemon.EnvText()
			seen[text] = true
			if !strings.Contains(text, fmt.Sprintf("FLANNEL_MTU=%d\n", mtu-n.backend.overhead)) {
				return text
			}
			return ""
		})
	}
	for text := range seen {
		if !strings.HasSuffix(text, "FLANNEL_IPMASQ=false\n") {
			t.Errorf("a reader saw %q", text)
		}
	}
}

// Others keep lines of their own in the subnet file: Docker's options, as many guides have
// them written there. They stay, at a start and while the daemon runs, and so do ours.
func TestSubnetFileHasLinesOfOthers(t *testing.T) {
	t.Parallel()
	n := newNetwork(t, 1, vxlan, nil)
	h := n.nodes[0]
	ours, file := h.daemon.EnvText(), h.daemon.SubnetFile
	script := must(filepath.Abs("../../dist/mk-docker-opts.sh"))(t)
	options := func() {
		t.Helper()
		if out, err := exec.Command("sh", script, "-k", "DOCKER_NETWORK_OPTIONS", "-f", file, "-d", file).CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
	env := h.daemon.Env()
	docker := fmt.Sprintf("DOCKER_NETWORK_OPTIONS=\" --bip=%s --ip-masq=true --mtu=%s\"\n", env["FLANNEL_SUBNET"], env["FLANNEL_MTU"])
	whole := func() string {
		text := h.daemon.EnvText()
		for _, part := range append(strings.SplitAfter(ours, "\n"), docker) {
			if !strings.Contains(text, part) {
				return fmt.Sprintf("it holds %q, without %q", text, part)
			}
		}
		return ""
	}
	options()
	n.wait(2*soon, "all lines", whole)
	n.pause(12 * time.Second) // longer than the daemon waits between looks
	n.wait(0, "all lines", whole)

	t.Log("what flannel's script does: it leaves its own lines alone")
	check(t, os.WriteFile(file, []byte(docker), 0o600))
	n.wait(2*soon, "all lines", whole)

	t.Log("at a start")
	for range 3 {
		must(h.daemon.Stop(soon))(t)
		inode := must(os.Stat(file))(t)
		h.start()
		h.waitReady()
		if now := must(os.Stat(file))(t); !os.SameFile(now, inode) {
			t.Error("a start that changes nothing has written the file")
		}
		options()
		n.wait(0, "all lines", whole)
	}

	t.Log("when a value of ours is another")
	check(t, h.SetMTU("eth0", 1400))
	n.wait(2*soon, "the new MTU among the others' lines", func() string {
		text := h.daemon.EnvText()
		if !strings.Contains(text, "\nFLANNEL_MTU=1350\n") && !strings.HasPrefix(text, "FLANNEL_MTU=1350\n") || !strings.Contains(text, docker) || strings.Count(text, "FLANNEL_MTU=") != 1 {
			return text
		}
		return ""
	})
	check(t, os.WriteFile(file, []byte("A=1\nFLANNEL_MTU=9000\nB='2\n3'\n"), 0o644))
	must(h.daemon.Stop(soon))(t)
	h.start()
	h.waitReady()
	if text := h.daemon.EnvText(); !strings.HasPrefix(text, "A=1\nFLANNEL_MTU=1350\nB='2\n3'\nFLANNEL_NETWORK=") {
		t.Errorf("it holds %q", text)
	}

	t.Log("when the host leaves the network")
	must(h.daemon.Stop(soon))(t)
	for range 2 {
		if code, out := h.act("-cleanup"); code != 0 || h.daemon.EnvText() != "A=1\nB='2\n3'\n" {
			t.Errorf("status %d, %s\nit holds %q", code, out, h.daemon.EnvText())
		}
	}
}

// In a folder where others may write, what they left is neither waited for nor written
// to, whatever it is.
func TestSubnetFileAmongTraps(t *testing.T) {
	t.Parallel()
	n := newConfigured(t, vxlan, nil)
	h := n.addNode(lab.HostOptions{})
	victim := filepath.Join(h.Dir, "victim")
	check(t, os.WriteFile(victim, []byte("SECRET=1\n"), 0o600))
	subnetFile, stateFile := filepath.Join(h.Dir, "subnet.env"), h.stateFile()
	check(t, os.Mkdir(filepath.Dir(stateFile), 0o755))
	for name, trap := range map[string]func(at string) error{
		"FIFO":      func(at string) error { return unix.Mkfifo(at, 0o666) },
		"hard link": func(at string) error { return os.Link(victim, at) },
		"link":      func(at string) error { return os.Symlink(victim, at) },
	} {
		t.Run(name, func(t *testing.T) {
			for _, file := range []string{subnetFile, stateFile} {
				check(t, os.RemoveAll(file))
				temp := filepath.Join(filepath.Dir(file), "."+filepath.Base(file)+".tmp")
				check(t, os.RemoveAll(temp))
				check(t, trap(temp))
				if name != "hard link" { // of this user: it may be read
					check(t, trap(file))
				}
			}
			h.start()
			h.waitReady()
			h.waitSaved(h.peer().name())
			for _, file := range []string{subnetFile, stateFile} {
				if info := must(os.Lstat(file))(t); info.Mode() != 0o644 || info.Sys().(*syscall.Stat_t).Nlink != 1 {
					t.Errorf("%s is %s", file, info.Mode())
				}
				if text := string(must(os.ReadFile(file))(t)); strings.Contains(text, "SECRET") {
					t.Errorf("%s holds %q", file, text)
				}
			}
			if text := string(must(os.ReadFile(victim))(t)); text != "SECRET=1\n" {
				t.Errorf("what is linked to holds %q", text)
			}
			if code, err := h.daemon.Stop(soon); code != 0 || err != nil {
				t.Errorf("exit status %d, %v", code, err)
			}
		})
	}
}

func TestSubnetFileDeleted(t *testing.T) { inParallel(t, everyVariant, testSubnetFileDeleted) }

func testSubnetFileDeleted(t *testing.T, v variant) {
	n := newNetwork(t, 1, v, nil)
	h := n.nodes[0]
	before := h.daemon.EnvText()
	check(t, os.Remove(h.daemon.SubnetFile))
	n.wait(20*time.Second, "subnet.env to be back", func() string {
		if text := h.daemon.EnvText(); text != before {
			return fmt.Sprintf("it is %q", text)
		}
		return ""
	})
}
