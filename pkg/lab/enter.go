package lab

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// enteredEnv marks a process that Enter has put into a user namespace.
const enteredEnv = "FLANNEL_LAB_ENTERED"

// Enter is to be called first in main or TestMain. If the process may not make
// network namespaces, Enter runs it again as root of a user namespace of its
// own, and ends with the same exit code. It returns an error that says what to
// do where the kernel refuses.
func Enter() error {
	if checkCapable() == nil {
		return nil
	}
	if os.Getenv(enteredEnv) != "" {
		return fmt.Errorf("entering a user namespace gave no right to make network namespaces. %s", whatToDo())
	}
	cmd := exec.CommandContext(context.Background(), "/proc/self/exe", os.Args[1:]...)
	cmd.Args[0] = os.Args[0]
	cmd.Env = append(os.Environ(), enteredEnv+"=1")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWNET,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Geteuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getegid(), Size: 1}},
		Pdeathsig:   syscall.SIGKILL,
	}
	runtime.LockOSThread() // the child dies with this thread
	signals := make(chan os.Signal, 16)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGQUIT)
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("making a user namespace: %w. %s", err, whatToDo())
	}
	go forward(signals, cmd.Process)
	err := cmd.Wait()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		return fmt.Errorf("running in a user namespace: %w", err)
	}
	status := cmd.ProcessState.Sys().(syscall.WaitStatus)
	if status.Signaled() {
		os.Exit(128 + int(status.Signal()))
	}
	os.Exit(status.ExitStatus())
	return nil
}

// forward passes signals on, except those that the terminal has sent to the
// child as well, being in the same process group.
func forward(signals <-chan os.Signal, child *os.Process) {
	for sig := range signals {
		fromTerminal := (sig == syscall.SIGINT || sig == syscall.SIGQUIT) && inForeground()
		if !fromTerminal {
			_ = child.Signal(sig)
		}
	}
}

// inForeground tells whether a terminal's interrupt key reaches this process.
func inForeground() bool {
	tty, err := os.Open("/dev/tty")
	if err != nil {
		return false
	}
	defer tty.Close()
	group, err := unix.IoctlGetInt(int(tty.Fd()), unix.TIOCGPGRP)
	return err == nil && group == unix.Getpgrp()
}

// checkCapable tells whether the process may make network namespaces and
// configure them.
func checkCapable() error {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&header, &data[0]); err != nil {
		return fmt.Errorf("asking for this process's capabilities: %w", err)
	}
	for _, c := range []struct {
		bit  int
		name string
	}{{unix.CAP_NET_ADMIN, "CAP_NET_ADMIN"}, {unix.CAP_NET_RAW, "CAP_NET_RAW"}, {unix.CAP_SYS_ADMIN, "CAP_SYS_ADMIN"}} {
		if data[0].Effective&(1<<c.bit) == 0 {
			return fmt.Errorf("this process lacks %s, which a lab needs. %s", c.name, whatToDo())
		}
	}
	return nil
}

// whatToDo names the settings that keep users from making namespaces, if they
// are there and on.
func whatToDo() string {
	var settings []string
	for _, s := range []struct{ file, refusing, cure string }{
		{"kernel/unprivileged_userns_clone", "0", "kernel.unprivileged_userns_clone=1"},
		{"kernel/apparmor_restrict_unprivileged_userns", "1", "kernel.apparmor_restrict_unprivileged_userns=0"},
		{"user/max_user_namespaces", "0", "user.max_user_namespaces=10000"},
		{"user/max_net_namespaces", "0", "user.max_net_namespaces=10000"},
	} {
		text, err := os.ReadFile("/proc/sys/" + s.file)
		if err == nil && strings.TrimSpace(string(text)) == s.refusing {
			settings = append(settings, "sysctl -w "+s.cure)
		}
	}
	if settings == nil {
		return "Run this as root, for example with sudo"
	}
	return "Run this as root, for example with sudo, or let users make namespaces: " + strings.Join(settings, " && ")
}
