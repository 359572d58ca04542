package lab

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"strings"
	"sync"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// ErrClosed is what a closed namespace answers.
var ErrClosed = errors.New("the namespace is closed")

// Namespace is a network namespace without a name in the file system: it is
// held by one thread of this process and vanishes with it.
type Namespace struct {
	// Name is unique in the lab.
	Name string
	// Dir holds the files of the namespace's processes.
	Dir string

	lab   *Lab
	tid   int
	file  *os.File // keeps the namespace reachable by Path
	inode uint64
	nl    rtnl

	calls chan *call
	quit  chan struct{}
	done  chan struct{}

	mu        sync.Mutex
	closed    bool
	processes []*Process
	closers   map[int]func() // by the order of their registration
	lastClose int
}

// call is a function on its way through the namespace's thread.
type call struct {
	fn       func() error
	done     chan struct{}
	err      error
	panicked string
	exited   bool
}

// dadSysctl is whether interfaces that are made from now on look for duplicates of their IPv6
// addresses before they use them, which takes a second or two.
const dadSysctl = "net.ipv6.conf.default.accept_dad"

// addNamespace makes a namespace with its loopback interface up, in which IPv6 addresses can
// be used at once.
func (l *Lab) addNamespace(name string) (*Namespace, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return nil, fmt.Errorf("adding namespace %s: the lab is closed", name)
	}
	ns := &Namespace{
		Name:    name,
		Dir:     filepath.Join(l.Dir, name),
		lab:     l,
		calls:   make(chan *call),
		quit:    make(chan struct{}),
		done:    make(chan struct{}),
		closers: map[int]func(){},
	}
	if err := os.Mkdir(ns.Dir, 0o755); err != nil {
		return nil, fmt.Errorf("adding namespace %s: %w", name, err)
	}
	started := make(chan error)
	goOnOwnThread(func() {
		defer close(ns.done)
		err := ns.unshare()
		started <- err
		if err == nil {
			ns.serve()
		}
	})
	if err := <-started; err != nil {
		return nil, fmt.Errorf("adding namespace %s: %w", name, err)
	}
	l.namespaces = append(l.namespaces, ns)
	return ns, ns.Sysctl(dadSysctl, "0")
}

// unshare puts the calling thread into a new network namespace.
func (ns *Namespace) unshare() error {
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("making a network namespace: %w", err)
	}
	ns.tid = unix.Gettid()
	file, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		return err
	}
	var stat unix.Stat_t
	if err := unix.Fstat(int(file.Fd()), &stat); err != nil {
		return errors.Join(err, file.Close())
	}
	handle, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return errors.Join(fmt.Errorf("opening a netlink socket: %w", err), file.Close())
	}
	ns.file, ns.inode, ns.nl = file, stat.Ino, rtnl{ns: ns, handle: handle}
	if err := ns.setUp("lo"); err != nil {
		handle.Close()
		return errors.Join(err, file.Close())
	}
	return nil
}

// serve runs the calls that come in until the namespace is closed.
func (ns *Namespace) serve() {
	for {
		select {
		case <-ns.quit:
			return
		case c := <-ns.calls:
			ns.run(c)
		}
	}
}

// run makes one call. When fn ends its goroutine, as t.Fatal does, the thread
// must stay: the deferred function goes on serving in its place.
func (ns *Namespace) run(c *call) {
	returned := false
	defer func() {
		if !returned {
			if v := recover(); v != nil {
				c.panicked = fmt.Sprintf("%v\n\n%s", v, debug.Stack())
			} else {
				c.exited = true
			}
		}
		close(c.done)
		if c.exited {
			ns.serve()
		}
	}()
	c.err = c.fn()
	returned = true
}

// Do runs fn on the namespace's thread: sockets that it opens and processes
// that it starts are in the namespace. Calls run one at a time, so fn must not
// block for long. A panic in fn, or the end of its goroutine, becomes the
// caller's. Do answers ErrClosed once the namespace is closed.
func (ns *Namespace) Do(fn func() error) error {
	select {
	case <-ns.done:
		return fmt.Errorf("namespace %s: %w", ns.Name, ErrClosed)
	default:
	}
	if unix.Gettid() == ns.tid { // a call from within a call
		return fn()
	}
	c := &call{fn: fn, done: make(chan struct{})}
	select {
	case <-ns.done:
		return fmt.Errorf("namespace %s: %w", ns.Name, ErrClosed)
	case ns.calls <- c:
	}
	<-c.done
	if c.exited {
		runtime.Goexit()
	}
	if c.panicked != "" {
		panic(c.panicked)
	}
	return c.err
}

// Path is a file that stands for the namespace while it exists and this
// process runs, to be given to nsenter --net=.
func (ns *Namespace) Path() string {
	return fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), ns.file.Fd())
}

// Inode identifies the namespace, as in the link /proc/PID/ns/net.
func (ns *Namespace) Inode() uint64 { return ns.inode }

// Sysctl sets a kernel parameter of the namespace, named like
// net.ipv4.ip_forward.
func (ns *Namespace) Sysctl(name, value string) error {
	path := "/proc/sys/" + strings.ReplaceAll(name, ".", "/")
	err := ns.Do(func() error { return os.WriteFile(path, []byte(value), 0) })
	if err != nil {
		return fmt.Errorf("setting %s of %s: %w", name, ns.Name, err)
	}
	return nil
}

// DialContext opens a connection from inside the namespace. It has a thread
// of its own, so one that hangs holds up nothing else.
func (ns *Namespace) DialContext(ctx context.Context, network, addr string) (net.Conn, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	done := make(chan struct{})
	forget, err := ns.onClose(func() { cancel(); <-done })
	if err != nil {
		return nil, err
	}
	defer forget()
	var conn net.Conn
	goOnOwnThread(func() {
		defer close(done)
		if err = unix.Setns(int(ns.file.Fd()), unix.CLONE_NEWNET); err != nil {
			err = fmt.Errorf("entering namespace %s: %w", ns.Name, err)
			return
		}
		conn, err = (&net.Dialer{}).DialContext(ctx, network, addr)
	})
	<-done
	return conn, err
}

// Close kills the processes of the namespace, waits for them, and ends it.
// When it returns no packet can reach the namespace any more. It waits for a
// Do that is under way.
func (ns *Namespace) Close() {
	ns.killAll()
	ns.unplug()
	ns.end()
}

// unplug deletes the namespace's ends of all cables. The kernel does that as
// well, but some time after the namespace has ended.
func (ns *Namespace) unplug() {
	links, err := ns.nl.LinkList()
	if err != nil {
		return
	}
	for _, link := range links {
		if link.Type() == "veth" {
			_ = ns.nl.LinkDel(link)
		}
	}
}

// end is Close for when nobody is left to send packets.
func (ns *Namespace) end() {
	ns.mu.Lock()
	closed := ns.closed
	ns.closed = true
	closers := ns.closers
	ns.closers = nil
	processes := ns.processes
	ns.mu.Unlock()
	if closed {
		<-ns.done
		return
	}
	ns.killAll()
	for _, fn := range closers {
		fn()
	}
	for _, p := range processes {
		<-p.exited
	}
	close(ns.quit)
	<-ns.done
	ns.nl.handle.Close()
	_ = ns.file.Close()
}

// killAll sends SIGKILL to everything that runs in the namespace.
func (ns *Namespace) killAll() {
	ns.mu.Lock()
	defer ns.mu.Unlock()
	for _, p := range ns.processes {
		_ = p.Signal(unix.SIGKILL)
	}
}

// onClose has fn called when the namespace is closed, unless the function
// that it returns is called before.
func (ns *Namespace) onClose(fn func()) (forget func(), err error) {
	ns.mu.Lock()
	defer ns.mu.Unlock()
	if ns.closed {
		return nil, fmt.Errorf("namespace %s: %w", ns.Name, ErrClosed)
	}
	ns.lastClose++
	id := ns.lastClose
	ns.closers[id] = fn
	return func() {
		ns.mu.Lock()
		defer ns.mu.Unlock()
		delete(ns.closers, id)
	}, nil
}

// setUp brings an interface up.
func (ns *Namespace) setUp(name string) error {
	link, err := ns.nl.LinkByName(name)
	if err != nil {
		return fmt.Errorf("looking up %s of %s: %w", name, ns.Name, err)
	}
	if err := ns.nl.LinkSetUp(link); err != nil {
		return fmt.Errorf("bringing %s of %s up: %w", name, ns.Name, err)
	}
	return nil
}
