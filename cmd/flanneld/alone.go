package main

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sys/unix"
	"k8s.io/klog/v2"
)

// A daemon and its subnet file belong together, so whoever works for a file binds
// a socket with a name made of the file's. The kernel frees it when the process
// ends, in whatever way; it is known in one network namespace, as are routes. So is
// which network a daemon has: to another one that had it before, what there is of it
// is not its own any more.

// errTaken is why a subnet file can't be had.
var errTaken = errors.New("another flanneld works for it")

// claim binds the name of a subnet file, until release is called.
func claim(file string) (release func(), err error) {
	path, err := resolve(file)
	if err != nil {
		return nil, fmt.Errorf("claiming %s: %w", file, err)
	}
	// A path may be longer than a socket's name.
	release, err = bind(fmt.Sprintf("subnet-file/%x", sha256.Sum256([]byte(path))))
	if err != nil {
		return nil, fmt.Errorf("claiming %s: %w", file, err)
	}
	return release, nil
}

// bind takes a name until release is called. The error is errTaken if another process
// has it.
func bind(name string) (release func(), err error) {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	if err := unix.Bind(fd, &unix.SockaddrUnix{Name: "@flanneld/" + name}); err != nil {
		if errors.Is(err, unix.EADDRINUSE) {
			err = errTaken
		}
		return nil, errors.Join(err, unix.Close(fd))
	}
	return func() { _ = unix.Close(fd) }, nil
}

func networkName(n netip.Prefix) string { return "network/" + n.String() }

// taken reports whether some process has bound a network.
func taken(n netip.Prefix) bool {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return false
	}
	err = unix.Connect(fd, &unix.SockaddrUnix{Name: "@flanneld/" + networkName(n)})
	return errors.Join(err, unix.Close(fd)) == nil
}

// claimNetworks binds the networks that this host is in now, and no others. That another
// daemon has one, too, is no trouble of its own.
func (d *daemon) claimNetworks(current []netip.Prefix) {
	for n, release := range d.claims {
		if !slices.Contains(current, n) {
			release()
			delete(d.claims, n)
		}
	}
	for _, n := range current {
		if d.claims[n] != nil {
			continue
		}
		if release, err := bind(networkName(n)); err == nil {
			if d.claims == nil {
				d.claims = make(map[netip.Prefix]func())
			}
			d.claims[n] = release
		}
	}
}

// formerly returns the networks that this host is in or was in, without those that
// another daemon has now.
func (d *daemon) formerly(current []netip.Prefix) []netip.Prefix {
	if d.options.rules == nil {
		return d.networks // not a real host
	}
	return slices.DeleteFunc(slices.Clone(d.networks), func(n netip.Prefix) bool {
		return !slices.Contains(current, n) && taken(n)
	})
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
