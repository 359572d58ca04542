package netfilter

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"flanneld/pkg/dataplane"
	"flanneld/pkg/dataplane/dataplanetest"
	"flanneld/pkg/ip"
	"flanneld/pkg/state"
)

const (
	// sameSize is not seen by the size of the table.
	sameSize  = `-R FLANNEL-FWD 1 -s 10.1.0.0/15 -m comment --comment "flanneld forward" -j ACCEPT`
	otherSize = "-F FLANNEL-FWD"
)

// Changes are noticed by the lock file, whatever happened to that; if others lock another
// one, by the size of the table; and if it cannot be watched, by what the table holds.
func TestIPTablesLockFile(t *testing.T) {
	lock := func(t *testing.T, elements ...string) {
		t.Setenv("XTABLES_LOCKFILE", filepath.Join(append([]string{t.TempDir()}, elements...)...))
	}
	for name, c := range map[string]struct {
		before, spoil func(*testing.T, iptHost)
	}{
		"there": {spoil: func(t *testing.T, h iptHost) { h.do(t, sameSize) }},
		"not there yet": {
			before: func(t *testing.T, _ iptHost) { lock(t, "lock") },
			spoil:  func(t *testing.T, h iptHost) { h.do(t, sameSize) },
		},
		"replaced": {spoil: func(t *testing.T, h iptHost) {
			path := os.Getenv("XTABLES_LOCKFILE")
			for _, name := range []string{path, path + ".new"} {
				if err := os.WriteFile(name, nil, 0o600); err != nil {
					t.Fatal(err)
				}
			}
			if err := os.Rename(path+".new", path); err != nil {
				t.Fatal(err)
			}
			time.Sleep(100 * time.Millisecond) // that the new one is seen is no news by itself
			h.do(t, sameSize)
		}},
		"of a container": {
			// The same file by another name, in another folder.
			before: func(t *testing.T, _ iptHost) {
				outside := os.Getenv("XTABLES_LOCKFILE")
				lock(t, "lock")
				if err := os.Link(outside, os.Getenv("XTABLES_LOCKFILE")); err != nil {
					t.Fatal(err)
				}
				t.Setenv("OUTSIDE", outside)
			},
			spoil: func(t *testing.T, h iptHost) { h.doLocking(t, os.Getenv("OUTSIDE"), sameSize) },
		},
		"another one": {spoil: func(t *testing.T, h iptHost) {
			h.doLocking(t, filepath.Join(t.TempDir(), "another"), otherSize)
		}},
		"no folder": {
			before: func(t *testing.T, _ iptHost) { lock(t, "missing", "lock") },
			spoil: func(t *testing.T, h iptHost) {
				h.doLocking(t, filepath.Join(t.TempDir(), "lock"), otherSize)
			},
		},
		"no folder, and the same size": {
			before: func(t *testing.T, _ iptHost) { lock(t, "missing", "lock") },
			spoil: func(t *testing.T, h iptHost) {
				h.doLocking(t, filepath.Join(t.TempDir(), "lock"), sameSize)
			},
		},
		"a folder that comes later": {
			before: func(t *testing.T, _ iptHost) { lock(t, "missing", "lock") },
			spoil: func(t *testing.T, h iptHost) {
				if err := os.Mkdir(filepath.Dir(os.Getenv("XTABLES_LOCKFILE")), 0o700); err != nil {
					t.Fatal(err)
				}
				time.Sleep(2 * infoEvery)
				h.do(t, sameSize)
			},
		},
	} {
		t.Run(name, func(t *testing.T) {
			dataplanetest.NeedNetns(t)
			h := freshIPTables(t, wayKey{state.IPTablesLegacy, ip.V4})
			want := h.way.wish()
			settle(t, New(true), want)
			if c.before != nil {
				c.before(t, h)
			}
			noticed := make(chan struct{}, 1)
			watch(t, New(true), func(e dataplane.Event) {
				if e.Key.Kind == state.KindForward && wayOf(e.Key) == h.way && e.Entry.Object != want[e.Key] {
					select {
					case noticed <- struct{}{}:
					default:
					}
				}
			})
			c.spoil(t, h)
			select {
			case <-noticed:
			case <-time.After(20 * time.Second):
				t.Fatal("nothing is noticed")
			}
		})
	}
}

// doLocking is do by someone with another lock file.
func (h iptHost) doLocking(t *testing.T, file, line string) {
	t.Helper()
	c := exec.Command(program(t, h.way, ""), splitWords(line)...)
	c.Env = []string{"XTABLES_LOCKFILE=" + file}
	if out, err := c.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
}
