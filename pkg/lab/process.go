package lab

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// ProcessOptions are the ways in which a process may be special.
type ProcessOptions struct {
	// Dir is its working directory; empty is the namespace's Dir.
	Dir string
}

// Process is a program that runs in a namespace. It dies with the lab, and
// what it started in its process group dies with it.
type Process struct {
	Name string
	// LogFile has everything that it wrote to its standard output and error.
	LogFile string

	ns     *Namespace
	cmd    *exec.Cmd
	exited chan struct{}

	mu   sync.Mutex
	told time.Time // to end
}

// Start runs argv in the namespace. Of this process's environment it gets
// PATH, HOME, TMPDIR and what is for the Go runtime, and env on top. Its log
// is named after it; a second process of the same name gets a log of its own.
func (ns *Namespace) Start(name string, argv, env []string, opts ProcessOptions) (*Process, error) {
	if opts.Dir == "" {
		opts.Dir = ns.Dir
	}
	log, err := createLog(ns.Dir, name)
	if err != nil {
		return nil, fmt.Errorf("starting %s on %s: %w", name, ns.Name, err)
	}
	defer log.Close()
	cmd := exec.CommandContext(context.Background(), argv[0], argv[1:]...)
	cmd.Dir = opts.Dir
	cmd.Env = append(plainEnv(), env...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
	p := &Process{Name: name, LogFile: log.Name(), ns: ns, cmd: cmd, exited: make(chan struct{})}

	err = ns.Do(func() error {
		ns.mu.Lock()
		defer ns.mu.Unlock()
		if ns.closed {
			return ErrClosed
		}
		if err := cmd.Start(); err != nil {
			return err
		}
		ns.processes = append(ns.processes, p)
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("starting %s on %s: %w", name, ns.Name, err)
	}
	ns.lab.mu.Lock()
	ns.lab.processes = append(ns.lab.processes, p)
	ns.lab.mu.Unlock()
	go p.reap()
	return p, nil
}

// reap waits for the process's end. While it is dead but not yet waited for,
// its process group is still its own, so what is left there can be killed.
func (p *Process) reap() {
	defer close(p.exited)
	_ = waitid(p.Pid(), unix.WEXITED|unix.WNOWAIT)
	_ = unix.Kill(-p.Pid(), unix.SIGKILL)
	_ = p.cmd.Wait()
}

// waitid blocks until the child has changed its state in the given way.
func waitid(pid, options int) error {
	for {
		err := unix.Waitid(unix.P_PID, pid, nil, options, nil)
		if !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

// Pid is the process's number.
func (p *Process) Pid() int { return p.cmd.Process.Pid }

// Signal sends a signal. It fails if the process has ended.
func (p *Process) Signal(sig syscall.Signal) error {
	if sig == syscall.SIGKILL || sig == syscall.SIGTERM {
		p.mu.Lock()
		if p.told.IsZero() {
			p.told = time.Now()
		}
		p.mu.Unlock()
	}
	if err := p.cmd.Process.Signal(sig); err != nil {
		return fmt.Errorf("sending %s to %s on %s: %w", sig, p.Name, p.ns.Name, err)
	}
	return nil
}

// ToldToEnd is when the process first was sent SIGTERM or SIGKILL; zero if it was
// not.
func (p *Process) ToldToEnd() time.Time {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.told
}

// Kill ends the process as kill -9 does, and waits for that. One that has
// ended already is no error.
func (p *Process) Kill() {
	_ = p.Signal(syscall.SIGKILL)
	<-p.exited
}

// Stop asks the process to end with SIGTERM and returns its exit code. One
// that is still there after the timeout is killed, and that is an error.
func (p *Process) Stop(timeout time.Duration) (int, error) {
	if err := p.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return -1, err
	}
	timer := time.NewTimer(timeout)
	defer timer.Stop()
	select {
	case <-p.exited:
		return p.ExitCode(), nil
	case <-timer.C:
		p.Kill()
		return p.ExitCode(), fmt.Errorf("stopping %s on %s: still there %s after SIGTERM", p.Name, p.ns.Name, timeout)
	}
}

// Freeze stops the process with SIGSTOP and waits until it has stopped.
func (p *Process) Freeze() error {
	if err := p.Signal(syscall.SIGSTOP); err != nil {
		return err
	}
	if err := waitid(p.Pid(), unix.WSTOPPED|unix.WEXITED|unix.WNOWAIT); err != nil {
		return fmt.Errorf("freezing %s on %s: %w", p.Name, p.ns.Name, err)
	}
	return nil
}

// Thaw lets a frozen process go on.
func (p *Process) Thaw() error { return p.Signal(syscall.SIGCONT) }

// Exited is closed when the process has ended.
func (p *Process) Exited() <-chan struct{} { return p.exited }

// Wait waits for the process's end and returns its exit code.
func (p *Process) Wait(ctx context.Context) (int, error) {
	select {
	case <-p.exited:
		return p.ExitCode(), nil
	case <-ctx.Done():
		return -1, fmt.Errorf("waiting for the end of %s on %s: %w", p.Name, p.ns.Name, ctx.Err())
	}
}

// ExitCode is the process's exit code, 128 and the signal's number if a signal
// ended it, and -1 while it runs.
func (p *Process) ExitCode() int {
	select {
	case <-p.exited:
	default:
		return -1
	}
	status := p.cmd.ProcessState.Sys().(syscall.WaitStatus)
	if status.Signaled() {
		return 128 + int(status.Signal())
	}
	return status.ExitStatus()
}

// Log is what the process has written so far.
func (p *Process) Log() string {
	text, err := os.ReadFile(p.LogFile)
	if err != nil {
		return ""
	}
	return string(text)
}

// WaitLog waits until the process has written a text. It fails at once when
// the process ends without that.
func (p *Process) WaitLog(ctx context.Context, text string) error {
	file, err := os.Open(p.LogFile)
	if err != nil {
		return fmt.Errorf("waiting for %q: %w", text, err)
	}
	defer file.Close()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	var unseen string // where the text may have begun
	for {
		ended := p.ExitCode() >= 0 // asked first: the log is complete then
		more, err := io.ReadAll(file)
		if err != nil {
			return fmt.Errorf("waiting for %q: %w", text, err)
		}
		unseen += string(more)
		if strings.Contains(unseen, text) {
			return nil
		}
		unseen = unseen[max(0, len(unseen)-len(text)):]
		if ended {
			return fmt.Errorf("waiting for %q: %w", text, p.endedError())
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("waiting for %q of %s on %s: %w; its log ends with:\n%s",
				text, p.Name, p.ns.Name, ctx.Err(), p.logTail())
		}
	}
}

// endedError tells how the process ended and the last that it said.
func (p *Process) endedError() error {
	return fmt.Errorf("%s on %s has ended with code %d; its log ends with:\n%s",
		p.Name, p.ns.Name, p.ExitCode(), p.logTail())
}

func (p *Process) logTail() string {
	const most = 2000
	log := p.Log()
	if len(log) > most {
		return "…" + log[len(log)-most:]
	}
	return log
}

// createLog makes NAME.log, or NAME-2.log and so on if that is taken.
func createLog(dir, name string) (*os.File, error) {
	path := filepath.Join(dir, name+".log")
	for n := 2; ; n++ {
		file, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY|os.O_APPEND, 0o644)
		if !errors.Is(err, os.ErrExist) {
			return file, err
		}
		path = filepath.Join(dir, fmt.Sprintf("%s-%d.log", name, n))
	}
}

// plainEnv is the part of the environment that does not make a process behave
// differently from one user to the next.
func plainEnv() []string {
	var env []string
	for _, kv := range os.Environ() {
		name, _, _ := strings.Cut(kv, "=")
		if name == "PATH" || name == "HOME" || name == "TMPDIR" || strings.HasPrefix(name, "GO") {
			env = append(env, kv)
		}
	}
	return env
}
