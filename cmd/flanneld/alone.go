package main

import (
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
	"k8s.io/klog/v2"

	"flanneld/pkg/once"
)

// A daemon and its subnet file belong together, so whoever works for a file binds
// a socket with a name made of the file's. The kernel frees it when the process
// ends, in whatever way; it is known in one network namespace, as are routes. So is
// which network a daemon has: to another one that had it before, what there is of it
// is not its own any more.
//
// Everyone may bind such names. So nothing depends on one of them being free: each process
// adds a number of its own, and counts only what the kernel says is a socket of root's, or
// of its own user.

// errTaken is why a subnet file can't be had.
var errTaken = errors.New("another flanneld works for it")

// claim binds the name of a subnet file, until release is called, if no other process has.
// Of two that claim it at once, both may be told that the other one has it.
func (s sockets) claim(file string) (release func(), err error) {
	path, err := resolve(file)
	if err == nil {
		// A path may be longer than a socket's name.
		release, err = s.bindAlone(fmt.Sprintf("subnet-file/%x", sha256.Sum256([]byte(path))))
	}
	if err != nil {
		return nil, fmt.Errorf("claiming %s: %w", file, err)
	}
	return release, nil
}

func (s sockets) bindAlone(name string) (release func(), err error) {
	if taken, err := s.bound(name, ""); taken || err != nil {
		return nil, cmp.Or(err, errTaken)
	}
	own, release, err := bind(name)
	if err != nil {
		return nil, err
	}
	if taken, err := s.bound(name, own); taken || err != nil {
		release()
		return nil, cmp.Or(err, errTaken)
	}
	return release, nil
}

const socketPrefix = "@flanneld/"

// bind binds a socket with a name until release is called, and returns all of the name.
func bind(name string) (own string, release func(), err error) {
	own = fmt.Sprintf("%s%s/%016x", socketPrefix, name, rand.Uint64())
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: own, Net: "unix"})
	if err != nil {
		return "", nil, err
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for {
			c, err := l.Accept() // of whoever asks whose it is
			switch {
			case err == nil:
				_ = c.Close()
			case errors.Is(err, net.ErrClosed):
				return
			default:
				time.Sleep(time.Millisecond)
			}
		}
	}()
	return own, func() { _ = l.Close(); <-ended }, nil
}

// sockets are those that were seen to be a daemon's, by name, and then by their inode and
// all of their name.
type sockets map[string]map[string]bool

// answerTime is how long a socket is asked whose it is. If the process runs, it answers at
// once, or soon if many others ask, too.
const answerTime = 100 * time.Millisecond

// bound reports whether a process has bound a name, other than as own.
func (s sockets) bound(name, own string) (bool, error) {
	content, err := os.ReadFile("/proc/net/unix")
	if err != nil {
		return false, err
	}
	const listening = "00010000"
	daemons, unknown := make(map[string]bool), make(map[string]string)
	for line := range strings.Lines(string(content)) {
		f := strings.Fields(line) // the last five are flags, type, state, inode and name
		if len(f) != 8 || f[3] != listening || f[7] == own || !strings.HasPrefix(f[7], socketPrefix+name+"/") {
			continue
		}
		if id := f[6] + f[7]; s[name][id] {
			daemons[id] = true
		} else {
			unknown[id] = f[7]
		}
	}
	for end := time.Now().Add(answerTime); ; time.Sleep(time.Millisecond) {
		for id, socket := range unknown {
			uid, err := ownerOf(socket)
			if errors.Is(err, unix.EAGAIN) {
				continue
			}
			delete(unknown, id)
			if err == nil && (uid == 0 || int(uid) == os.Geteuid()) {
				daemons[id] = true
			}
		}
		if len(unknown) == 0 || len(daemons) > 0 || time.Now().After(end) {
			break
		}
	}
	s[name] = daemons
	return len(daemons) > 0, nil
}

// ownerOf returns the user who listens at a socket. The error is EAGAIN if too many others
// ask at this moment.
func ownerOf(socket string) (uid uint32, err error) {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return 0, err
	}
	defer func() { _ = unix.Close(fd) }()
	if err := unix.Connect(fd, &unix.SockaddrUnix{Name: socket}); err != nil {
		return 0, err
	}
	c, err := unix.GetsockoptUcred(fd, unix.SOL_SOCKET, unix.SO_PEERCRED)
	if err != nil {
		return 0, err
	}
	return c.Uid, nil
}

// resolve returns the one path of a file that has several: /var/run is /run on most
// machines. What is not there, or can't be looked at, has no links. The file itself is
// replaced, never written through a link.
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
	seen := make(sockets)
	return awaitTurn(ctx, tell, func() (func(), error) { return seen.claim(file) })
}

// awaitAlone binds the name of something once no other process has it.
func awaitAlone(ctx context.Context, name, what string, tell func(string)) (release func(), err error) {
	seen := make(sockets)
	return awaitTurn(ctx, tell, func() (release func(), err error) {
		if release, err = seen.bindAlone(name); err != nil {
			err = fmt.Errorf("claiming %s: %w", what, err)
		}
		return release, err
	})
}

// awaitTurn claims something once nobody else has it.
func awaitTurn(ctx context.Context, tell func(string), claim func() (release func(), err error)) (release func(), err error) {
	for said := false; ; {
		release, err := claim()
		if !errors.Is(err, errTaken) {
			return release, err
		}
		if !said {
			said = true
			klog.Warningf("waiting: %v", err)
			tell("waiting: " + err.Error())
		}
		// Two that wait should not look in the same moment again.
		if err := once.Sleep(ctx, 100*time.Millisecond+rand.N(50*time.Millisecond)); err != nil {
			return nil, err
		}
	}
}
