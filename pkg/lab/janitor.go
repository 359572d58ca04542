package lab

import (
	"context"
	"fmt"
	"io"
	"os/exec"
	"syscall"
)

// janitor is a process that removes the lab's directory when its standard
// input ends: at Close, or when the lab's process dies, in whatever way. It
// tries for some time, since dying processes may still write.
type janitor struct {
	cmd   *exec.Cmd
	input io.Closer
}

const janitorScript = `read -r _; for try in 1 2 3 4 5 6 7 8 9 10; do rm -rf "$0" && exit 0; sleep 0.2; done; exit 1`

// startJanitor starts one in a session of its own, out of reach of the
// terminal's signals.
func startJanitor(dir string) (*janitor, error) { return startJanitorWith(janitorScript, dir) }

// startJanitorWith is startJanitor with a script that removes something else.
func startJanitorWith(script, what string) (*janitor, error) {
	cmd := exec.CommandContext(context.Background(), "/bin/sh", "-c", script, what)
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	input, err := cmd.StdinPipe()
	if err != nil {
		return nil, fmt.Errorf("starting the lab's janitor: %w", err)
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("starting the lab's janitor: %w", err)
	}
	return &janitor{cmd: cmd, input: input}, nil
}

// clean has the directory removed and waits for that.
func (j *janitor) clean() error {
	_ = j.input.Close()
	if err := j.cmd.Wait(); err != nil {
		return fmt.Errorf("removing the lab's %s: %w", j.cmd.Args[3], err)
	}
	return nil
}
