package dataplanetest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// inNetns is set in the environment of a process that has a network namespace
// of its own.
const inNetns = "FLANNELD_TEST_NETNS"

// InNetns is for TestMain: it runs the tests in a process that was born into a
// network namespace of its own: so all its threads are there, and whatever they
// do to the network is gone with the process.
func InNetns(m *testing.M) {
	if os.Getenv(inNetns) != "" {
		os.Exit(m.Run())
	}
	runtime.LockOSThread() // the child dies with the thread that started it
	c := exec.CommandContext(context.Background(), os.Args[0], os.Args[1:]...)
	c.Stdin, c.Stdout, c.Stderr = os.Stdin, os.Stdout, os.Stderr
	c.Env = append(os.Environ(), inNetns+"=yes")
	c.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET, Pdeathsig: unix.SIGKILL}
	err := c.Run()
	var exit *exec.ExitError
	switch {
	case errors.Is(err, unix.EPERM):
		os.Exit(m.Run()) // what needs the namespace skips
	case errors.As(err, &exit) && exit.Exited():
		os.Exit(exit.ExitCode())
	case err != nil:
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// NeedNetns skips a test in a process that InNetns could not run so.
func NeedNetns(t *testing.T) {
	t.Helper()
	if os.Getenv(inNetns) == "" {
		t.Skip("needs CAP_SYS_ADMIN, to make a network namespace")
	}
}
