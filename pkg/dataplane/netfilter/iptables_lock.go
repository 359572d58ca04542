package netfilter

import (
	"context"
	"os"
	"path/filepath"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"flanneld/pkg/once"
)

// infoEvery is how often the kernel is asked for the sizes of its tables: who has
// another /run than this program, in a container, locks another file.
const infoEvery = time.Second

// lockFile is what iptables-legacy locks while it is at work.
func lockFile() string {
	if path := os.Getenv("XTABLES_LOCKFILE"); path != "" {
		return path
	}
	return "/run/xtables.lock"
}

// watch implements iptKernel. The kernel does not tell of changes. But who makes
// them holds a lock file meanwhile, and closes it in the end. While that cannot be
// watched, as where other programs have all inotify instances of this user, the tables
// are read every second.
func (k ipTables) watch(ctx context.Context, ready, changed func()) error {
	closed := make(chan struct{}, 1)
	var stop func()
	begin := func() {
		stop, _ = watchClosing(lockFile(), func() { once.Wake(closed) })
	}
	begin()
	defer func() {
		if stop != nil {
			stop()
		}
	}()
	was := k.sizes()
	var read iptDigest
	if stop == nil {
		read, _ = k.digest()
	}
	ready()
	tick := time.NewTicker(infoEvery)
	defer tick.Stop()
	for {
		select {
		case <-closed:
			was = k.sizes()
			changed()
		case <-tick.C:
			now := k.sizes()
			differs := now != was
			if stop == nil {
				begin()
				if content, err := k.digest(); err == nil {
					differs = differs || content != read
					read = content
				}
			}
			if was = now; differs {
				changed()
			}
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// watchClosing calls closed after a file was closed by anyone, and when there is a
// new one of its name. It need not exist yet.
func watchClosing(path string, closed func()) (stop func(), err error) {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return nil, err
	}
	events := os.NewFile(uintptr(fd), "inotify")
	raw, err := events.SyscallConn()
	if err != nil {
		return nil, err
	}
	dir, err := unix.InotifyAddWatch(fd, filepath.Dir(path), unix.IN_CREATE|unix.IN_MOVED_TO|unix.IN_ONLYDIR)
	if err != nil {
		_ = events.Close()
		return nil, err
	}
	// In a container the file may be one of the host's, whose folder is another.
	watch := func() {
		_ = raw.Control(func(fd uintptr) { _, _ = unix.InotifyAddWatch(int(fd), path, unix.IN_CLOSE) })
	}
	watch()
	done := make(chan struct{})
	go func() {
		defer close(done)
		b := make([]byte, 64*(unix.SizeofInotifyEvent+unix.NAME_MAX+1))
		for {
			n, err := events.Read(b)
			if err != nil {
				return
			}
			for b := b[:n]; len(b) >= unix.SizeofInotifyEvent; {
				e := (*unix.InotifyEvent)(unsafe.Pointer(&b[0]))
				name := unix.ByteSliceToString(b[unix.SizeofInotifyEvent:][:e.Len])
				switch {
				case e.Mask&unix.IN_Q_OVERFLOW != 0, int(e.Wd) == dir && name == filepath.Base(path):
					watch()
					closed()
				case e.Mask&unix.IN_CLOSE != 0:
					closed()
				}
				b = b[unix.SizeofInotifyEvent+int(e.Len):]
			}
		}
	}()
	return func() {
		_ = events.Close()
		<-done
	}, nil
}
