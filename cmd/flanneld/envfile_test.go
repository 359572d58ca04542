package main_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

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
	inTheWay := filepath.Join(filepath.Dir(h.daemon.SubnetFile), ".subnet.env.tmp", "x")
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
