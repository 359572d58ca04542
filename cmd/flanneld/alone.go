package main

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
	"k8s.io/klog/v2"
)

// A daemon and its subnet file belong together, so whoever works for a file binds
// a socket with a name made of the file's. The kernel frees it when the process
// ends, in whatever way; it is known in one network namespace, as are routes.

// errTaken is why a subnet file can't be had.
var errTaken = errors.New("another flanneld works for it")

// claim binds the name of a subnet file, until release is called.
func claim(file string) (release func(), err error) {
	path, err := resolve(file)
	if err != nil {
		return nil, fmt.Errorf("claiming %s: %w", file, err)
	}
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("claiming %s: %w", file, err)
	}
	// A path may be longer than a socket's name.
	name := fmt.Sprintf("@flanneld/subnet-file/%x", sha256.Sum256([]byte(path)))
	if err := unix.Bind(fd, &unix.SockaddrUnix{Name: name}); err != nil {
		if errors.Is(err, unix.EADDRINUSE) {
			err = errTaken
		}
		return nil, errors.Join(fmt.Errorf("claiming %s: %w", file, err), unix.Close(fd))
	}
	return func() { _ = unix.Close(fd) }, nil
}

// resolve returns the one path of a file that has several: /var/run is /run on most
// machines. What is not there, or can't be looked at, has no links. The file itself is replaced, never
// written through a link.
func resolve(file string) (string, error) {
	path, err := filepath.Abs(file)
	if err != nil {
		return "", err
	}
	for dir, rest := filepath.Dir(path), filepath.Base(path); ; dir, rest = filepath.Dir(dir), filepath.Join(filepath.Base(dir), rest) {
		if known, err := filepath.EvalSymlinks(dir); err == nil || dir == filepath.Dir(dir) {
			return filepath.Join(known, rest), nil
		}
	}
}

// awaitClaim claims a subnet file once whoever works for it has ended.
func awaitClaim(ctx context.Context, file string, tell func(string)) (release func(), err error) {
	for said := false; ; {
		release, err := claim(file)
		if !errors.Is(err, errTaken) {
			return release, err
		}
		if !said {
			said = true
			klog.Warningf("waiting: %v", err)
			tell("waiting: " + err.Error())
		}
		if err := sleep(ctx, 100*time.Millisecond); err != nil {
			return nil, err
		}
	}
}
