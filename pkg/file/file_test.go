package file

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// within fails a test whose step blocks, as opening a FIFO does.
func within(t *testing.T, d time.Duration, f func()) {
	t.Helper()
	done := make(chan struct{})
	go func() {
		defer close(done)
		f()
	}()
	select {
	case <-done:
	case <-time.After(d):
		t.Fatalf("it is not done after %s", d)
	}
}

// Whatever someone left in the folder, under the names that a write might use, is
// neither written to nor waited for.
func TestWriteBesideTraps(t *testing.T) {
	for name, trap := range map[string]func(t *testing.T, at, victim string){
		"FIFO":         func(t *testing.T, at, _ string) { check(t, unix.Mkfifo(at, 0o666)) },
		"hard link":    func(t *testing.T, at, victim string) { check(t, os.Link(victim, at)) },
		"link":         func(t *testing.T, at, victim string) { check(t, os.Symlink(victim, at)) },
		"foreign file": func(t *testing.T, at, _ string) { check(t, os.WriteFile(at, []byte("theirs"), 0o666)); disown(t, at) },
		"folder":       func(t *testing.T, at, _ string) { check(t, os.MkdirAll(filepath.Join(at, "x"), 0o755)) },
	} {
		for _, at := range []string{".subnet.env.tmp", "subnet.env"} {
			if name == "folder" && at == "subnet.env" {
				continue // it cannot be replaced
			}
			t.Run(name+" at "+at, func(t *testing.T) {
				dir := t.TempDir()
				victim := filepath.Join(dir, "victim")
				check(t, os.WriteFile(victim, []byte("untouched"), 0o600))
				trap(t, filepath.Join(dir, at), victim)
				path := filepath.Join(dir, "subnet.env")
				within(t, 10*time.Second, func() {
					if err := Write(path, []byte("content")); err != nil {
						t.Error(err)
					}
				})
				wantFile(t, path, "content")
				if b, err := os.ReadFile(victim); err != nil || string(b) != "untouched" {
					t.Errorf("the file that is linked to holds %q, %v", b, err)
				}
			})
		}
	}
}

// disown gives a file to another user. Who may not do that has nothing to test.
func disown(t *testing.T, path string) {
	t.Helper()
	if err := os.Chown(path, 65534, 65534); errors.Is(err, fs.ErrPermission) || errors.Is(err, unix.EINVAL) {
		t.Skipf("giving a file to another user needs CAP_CHOWN: %v", err)
	} else {
		check(t, err)
	}
}

// wantFile checks that a path is a plain file of this user with just this content.
func wantFile(t *testing.T, path, content string) {
	t.Helper()
	var st unix.Stat_t
	check(t, unix.Lstat(path, &st))
	if st.Mode != unix.S_IFREG|0o644 || int(st.Uid) != os.Geteuid() || st.Nlink != 1 {
		t.Errorf("%s has mode %o, owner %d and %d links", path, st.Mode, st.Uid, st.Nlink)
	}
	if b, err := os.ReadFile(path); err != nil || string(b) != content {
		t.Errorf("%s holds %q, %v", path, b, err)
	}
}

// What writes that were interrupted left behind does not pile up.
func TestWriteClearsLeftovers(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "subnet.env")
	long := time.Now().Add(-time.Hour)
	for name, gone := range map[string]bool{
		".subnet.env.tmp":                    true, // of an older version
		".subnet.env.0123456789abcdef.tmp":   true,
		".subnet.env.0123456789abcdeg.tmp":   false,
		".subnet.env.old.tmp":                false,
		".other.env.0123456789abcdef.tmp":    false,
		".subnet.env.0123456789abcdef00.tmp": false,
	} {
		left := filepath.Join(dir, name)
		check(t, os.WriteFile(left, nil, 0o600))
		check(t, os.Chtimes(left, long, long))
		defer func() {
			if _, err := os.Lstat(left); (err != nil) != gone {
				t.Errorf("%s: %v, want it to be gone: %t", name, err, gone)
			}
		}()
	}
	young := filepath.Join(dir, ".subnet.env.00000000000000aa.tmp")
	check(t, os.WriteFile(young, nil, 0o600))
	check(t, Write(path, []byte("content")))
	if _, err := os.Lstat(young); err != nil {
		t.Errorf("another write's file was taken away: %v", err)
	}
}

func TestReadOwn(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "file")
	if _, err := ReadOwn(path, 0); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("without a file: %v", err)
	}
	check(t, os.WriteFile(path, []byte("content"), 0o600))
	if b, err := ReadOwn(path, unix.O_NOFOLLOW); err != nil || string(b) != "content" {
		t.Errorf("%q, %v", b, err)
	}
	link := filepath.Join(dir, "link")
	check(t, os.Symlink("file", link))
	if b, err := ReadOwn(link, 0); err != nil || string(b) != "content" {
		t.Errorf("by a link: %q, %v", b, err)
	}
	if _, err := ReadOwn(link, unix.O_NOFOLLOW); !errors.As(err, new(UntrustedError)) {
		t.Errorf("a link: %v", err)
	}
	fifo := filepath.Join(dir, "fifo")
	check(t, unix.Mkfifo(fifo, 0o666))
	within(t, 10*time.Second, func() {
		if _, err := ReadOwn(fifo, 0); !errors.As(err, new(UntrustedError)) || !strings.Contains(err.Error(), fifo) {
			t.Errorf("a FIFO: %v", err)
		}
	})
	if _, err := ReadOwn(dir, 0); !errors.As(err, new(UntrustedError)) {
		t.Errorf("a folder: %v", err)
	}
	check(t, os.Truncate(path, 1<<40))
	if _, err := ReadOwn(path, 0); !errors.As(err, new(UntrustedError)) {
		t.Errorf("a file of a terabyte: %v", err)
	}
	check(t, os.Truncate(path, 0))
	disown(t, path)
	if _, err := ReadOwn(path, 0); !errors.As(err, new(UntrustedError)) || !strings.Contains(err.Error(), "65534") {
		t.Errorf("another user's file: %v", err)
	}
}

// Someone else changes the file while it is being rewritten: their change stays.
func TestUpdateMeetsAnother(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	check(t, os.WriteFile(path, []byte("a"), 0o644))
	calls := 0
	changed, err := Update(path, func(before []byte) ([]byte, bool) {
		if calls++; calls == 1 {
			check(t, os.WriteFile(path, []byte("b"), 0o644))
		}
		return append(bytes.Clone(before), 'x'), true
	})
	if err != nil || !changed || calls != 2 {
		t.Errorf("changed %t, %v, after %d calls", changed, err, calls)
	}
	wantFile(t, path, "bx")
	if changed, err := Update(path, func(before []byte) ([]byte, bool) { return before, true }); changed || err != nil {
		t.Errorf("nothing to do: changed %t, %v", changed, err)
	}
	check(t, os.Remove(path))
	if changed, err := Update(path, func(before []byte) ([]byte, bool) { return before, true }); changed || err != nil {
		t.Errorf("no file, and none wanted: changed %t, %v", changed, err)
	}
	if changed, err := Update(path, func([]byte) ([]byte, bool) { return []byte{}, false }); !changed || err != nil {
		t.Errorf("an empty file in the place of none: changed %t, %v", changed, err)
	}
	wantFile(t, path, "")
}

// A write that fails for the same reason fails with the same words: whoever tries again
// says them once.
func TestWriteFailsInTheSameWords(t *testing.T) {
	for name, flags := range map[string]uintptr{"read-only": unix.MS_RDONLY, "full": 0} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			// The mounts end with the thread, and that with this goroutine, even if it is killed.
			runtime.LockOSThread()
			check(t, unix.Unshare(unix.CLONE_NEWNS))
			check(t, unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""))
			check(t, unix.Mount("tmpfs", dir, "tmpfs", 0, "size=64k"))
			defer func() { _ = unix.Unmount(dir, unix.MNT_DETACH) }()
			path := filepath.Join(dir, "subnet.env")
			check(t, Write(path, []byte("before")))
			check(t, unix.Mount("tmpfs", dir, "tmpfs", unix.MS_REMOUNT|flags, ""))
			content := bytes.Repeat([]byte("x"), 1<<20)
			first, again := Write(path, content), Write(path, content)
			if first == nil || again == nil || first.Error() != again.Error() {
				t.Errorf("it failed with %q, and then with %q", first, again)
			}
			wantFile(t, path, "before")
		})
	}
}

// What is kept of a file is not shown to more users than before: someone may have put
// another one there.
func TestUpdateShowsNoSecrets(t *testing.T) {
	dir := t.TempDir()
	secret := filepath.Join(dir, "secret")
	check(t, os.WriteFile(secret, []byte("secret\n"), 0o600))
	check(t, os.Chown(secret, -1, 7))
	path := filepath.Join(dir, "subnet.env")
	check(t, os.Link(secret, path))
	_, err := Update(path, func(before []byte) ([]byte, bool) { return append(before, "ours\n"...), true })
	check(t, err)
	if b, err := os.ReadFile(secret); err != nil || string(b) != "secret\n" {
		t.Errorf("the other file is %q, %v", b, err)
	}
	want := func(content string, mode os.FileMode) {
		t.Helper()
		info, err := os.Stat(path)
		check(t, err)
		b, err := os.ReadFile(path)
		check(t, err)
		if is := info.Mode().Perm(); is != mode || info.Sys().(*syscall.Stat_t).Gid != 7 || string(b) != content {
			t.Errorf("it is %q, has mode %v, want %v, and group %d", b, is, mode, info.Sys().(*syscall.Stat_t).Gid)
		}
	}
	want("secret\nours\n", 0o600)
	check(t, os.Chmod(path, 0o640))
	_, err = Update(path, func(before []byte) ([]byte, bool) { return append(before, "more\n"...), true })
	check(t, err)
	want("secret\nours\nmore\n", 0o640)
}
