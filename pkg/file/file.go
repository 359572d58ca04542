// Package file writes files that others read at any time, and reads them back. The
// folder of such a file may be one in which others can write, too: nothing that they
// put there is followed, waited for or believed.
package file

import (
	"bufio"
	"bytes"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Write puts a file in place, for all to read, with its folder if need be. A reader
// sees all of the old content or all of the new one, also after a crash of the host.
func Write(path string, content []byte) error {
	return WriteParts(path, all(content))
}

// WriteParts is Write of content that is made part by part, and need not be in memory as a
// whole. If write returns an error, the file stays as it was.
func WriteParts(path string, write func(io.Writer) error) error {
	_, err := replace(path, write, access{mode: forAll}, func() bool { return true })
	return err
}

// all writes the content as a whole.
func all(content []byte) func(io.Writer) error {
	return func(w io.Writer) error {
		_, err := w.Write(content)
		return err
	}
}

// access says who may read a file. The group counts if its mode is not for all.
type access struct {
	mode  fs.FileMode
	group int
}

const forAll = 0o644

// Update replaces the content of a file, as Write does, by what edit makes of it, unless
// that is the same, or nil. edit is called again if another process changes the file meanwhile.
// It gets nil where there is no file, or one that is not to be trusted. If it keeps what it
// did not write, that is shown to no more users than before: someone may have put another
// file there.
func Update(path string, edit func(before []byte) (now []byte, kept bool)) (changed bool, err error) {
	const tries = 10 // against a process that keeps writing
	for try := 1; ; try++ {
		before, readers, err := current(path)
		if err != nil {
			return false, err
		}
		now, kept := edit(before)
		if !kept {
			readers = access{mode: forAll}
		}
		if now == nil || before != nil && bytes.Equal(before, now) {
			return false, nil
		}
		done, err := replace(path, all(now), readers, func() bool {
			again, _, err := current(path)
			return try == tries || err == nil && bytes.Equal(before, again)
		})
		if done || err != nil {
			return done, err
		}
	}
}

// current returns what is to be kept of a file, and who may read that.
func current(path string) ([]byte, access, error) {
	content, info, err := readOwn(path, unix.O_NOFOLLOW)
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.As(err, new(UntrustedError)):
		return nil, access{mode: forAll}, nil
	case err != nil:
		return nil, access{}, fmt.Errorf("writing %s: %w", path, err)
	}
	a := access{mode: info.Mode().Perm() & forAll}
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		a.group = int(st.Gid)
	}
	return content, a, nil
}

// replace puts a file in place if that is still wanted once it can be done at once.
func replace(path string, write func(io.Writer) error, readers access, wanted func() bool) (done bool, err error) {
	if done, err = tryReplace(path, write, readers, wanted); err != nil {
		return false, fmt.Errorf("writing %s: %w", path, err)
	}
	return done, nil
}

func tryReplace(path string, write func(io.Writer) error, readers access, wanted func() bool) (done bool, err error) {
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return false, err
	}
	clearLeftovers(path)
	// The name is one that nobody can be waiting at, and the file is a new one: no link
	// is followed, no FIFO waited for, and the owner is this process's user.
	temp := filepath.Join(dir, tempPrefix(path)+randomHex()+tempSuffix)
	f, err := os.OpenFile(temp, os.O_WRONLY|os.O_CREATE|os.O_EXCL|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return false, unnamed(err, path)
	}
	defer f.Close()
	err = writeSynced(f, write, readers)
	if err == nil && wanted() {
		err = os.Rename(temp, path)
		done = err == nil
	}
	if !done {
		return false, errors.Join(unnamed(err, path), unnamed(os.Remove(temp), path))
	}
	if err := isAt(f, path); err != nil {
		return false, err
	}
	d, err := os.Open(dir)
	if err != nil {
		return false, err
	}
	defer d.Close()
	if err := d.Sync(); err != nil && !errors.Is(err, unix.EINVAL) { // some file systems have none
		return false, err
	}
	return true, nil
}

// unnamed returns an error about the temporary file as one about its folder: it is the
// same at each try, so whoever tries again can say it once.
func unnamed(err error, path string) error {
	var p *fs.PathError
	var l *os.LinkError
	switch {
	case errors.As(err, &p):
		return &fs.PathError{Op: p.Op, Path: filepath.Dir(path), Err: p.Err}
	case errors.As(err, &l):
		return &fs.PathError{Op: l.Op, Path: l.New, Err: l.Err}
	}
	return err
}

func writeSynced(f *os.File, write func(io.Writer) error, readers access) error {
	w := bufio.NewWriterSize(f, 64<<10)
	if err := write(w); err != nil {
		return err
	}
	if err := w.Flush(); err != nil {
		return err
	}
	if readers.mode != forAll {
		if err := f.Chown(-1, readers.group); err != nil {
			return err
		}
	}
	if err := f.Chmod(readers.mode); err != nil { // whatever the umask
		return err
	}
	return f.Sync()
}

// isAt checks that a file is what a path leads to. In a folder of another user, that
// one can put something else in the place of the temporary file.
func isAt(f *os.File, path string) error {
	ours, err := f.Stat()
	if err != nil {
		return err
	}
	there, err := os.Lstat(path)
	if err != nil {
		return err
	}
	if !os.SameFile(ours, there) {
		return errors.New("another process put a file of its own in its place")
	}
	return nil
}

const (
	tempSuffix = ".tmp"
	randomLen  = 8 // bytes
	// leftAfter is how old a temporary file is that nobody is about to put in place.
	leftAfter = time.Minute
)

func tempPrefix(path string) string { return "." + filepath.Base(path) + "." }

func randomHex() string {
	var b [randomLen]byte
	_, _ = rand.Read(b[:]) // it never fails
	return hex.EncodeToString(b[:])
}

// clearLeftovers removes the temporary files of this user's writes to a path that were
// interrupted. What cannot be removed does no harm.
func clearLeftovers(path string) {
	dir := filepath.Dir(path)
	entries, _ := os.ReadDir(dir)
	for _, e := range entries {
		old := "." + filepath.Base(path) + tempSuffix // as older versions named it
		if e.Name() != old && !isTemp(path, e.Name()) {
			continue
		}
		info, err := e.Info()
		if err != nil || !info.Mode().IsRegular() || !ownedBy(info, os.Geteuid()) {
			continue
		}
		if e.Name() == old || time.Since(info.ModTime()).Abs() > leftAfter {
			_ = os.Remove(filepath.Join(dir, e.Name()))
		}
	}
}

func isTemp(path, name string) bool {
	random, hasPrefix := strings.CutPrefix(name, tempPrefix(path))
	random, hasSuffix := strings.CutSuffix(random, tempSuffix)
	b, err := hex.DecodeString(random)
	return hasPrefix && hasSuffix && err == nil && len(b) == randomLen
}

// IsRemoved reports whether a path leads to a folder that has no name any more, and so never
// has anything in it. A mount leads there, such as that of a container which was given one.
func IsRemoved(folder string) bool {
	info, err := os.Stat(folder)
	if err != nil {
		return false
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	return ok && st.Nlink == 0
}

func ownedBy(info fs.FileInfo, uid int) bool {
	st, ok := info.Sys().(*syscall.Stat_t)
	return ok && int(st.Uid) == uid
}

// UntrustedError says why the content of a file means nothing.
type UntrustedError struct{ Path, Reason string }

func (e UntrustedError) Error() string { return e.Path + " " + e.Reason }

// maxSize is more than any file of ours has: 50,000 leases take 15 MB.
const maxSize = 256 << 20

// ReadOwn reads a regular file of this process's user or of root, and does not wait. Of
// any other one the error is an UntrustedError. flags are more of open's, such as
// O_NOFOLLOW.
func ReadOwn(path string, flags int) ([]byte, error) {
	content, _, err := readOwn(path, flags)
	return content, err
}

func readOwn(path string, flags int) ([]byte, fs.FileInfo, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK|flags, 0)
	switch {
	case errors.Is(err, unix.ELOOP):
		return nil, nil, UntrustedError{path, "is a symbolic link"}
	case errors.Is(err, unix.ENXIO):
		return nil, nil, UntrustedError{path, "is not a regular file"}
	case errors.Is(err, fs.ErrPermission):
		if info, lerr := os.Lstat(path); lerr == nil && !trusted(info) {
			return nil, nil, UntrustedError{path, "belongs to another user"}
		}
		return nil, nil, err
	case err != nil:
		return nil, nil, err
	}
	defer f.Close()
	return readOpen(f, trusted)
}

// readOpen reads a regular file of an owner who is trusted.
func readOpen(f *os.File, trusted func(fs.FileInfo) bool) ([]byte, fs.FileInfo, error) {
	path := f.Name()
	info, err := f.Stat()
	switch {
	case err != nil:
		return nil, nil, err
	case info.IsDir():
		return nil, nil, UntrustedError{path, "is a directory"}
	case !info.Mode().IsRegular():
		return nil, nil, UntrustedError{path, "is not a regular file"}
	case !trusted(info):
		return nil, nil, UntrustedError{path, fmt.Sprintf("belongs to the user with ID %d, not to the one that runs this program", owner(info))}
	case info.Size() > maxSize:
		return nil, nil, UntrustedError{path, fmt.Sprintf("has %d bytes, more than any file of this program", info.Size())}
	}
	content, err := io.ReadAll(io.LimitReader(f, maxSize))
	if err != nil {
		return nil, nil, fmt.Errorf("reading %s: %w", path, err)
	}
	return content, info, nil
}

// Read reads a regular file of any user. Of any other file the error is an UntrustedError.
func Read(path string) ([]byte, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	content, _, err := readOpen(f, func(fs.FileInfo) bool { return true })
	return content, err
}

func trusted(info fs.FileInfo) bool { return ownedBy(info, 0) || ownedBy(info, os.Geteuid()) }

func owner(info fs.FileInfo) int64 {
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		return int64(st.Uid)
	}
	return -1
}
