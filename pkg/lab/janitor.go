package lab

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"syscall"
)

// janitor is a process that removes the lab's directory when its standard
// input ends: at Close, or when the lab's process dies, in whatever way. It
// tries for half a minute, since dying processes may still write, and on a busy
// machine take long to die.
type janitor struct {
	cmd   *exec.Cmd
	input io.Closer
}

const janitorScript = `read -r _; try=0; until rm -rf "$0"; do try=$((try + 1)); [ $try -lt 150 ] || exit 1; sleep 0.2; done`

// TempDir makes a directory, for what many labs have in common. It is removed when this
// process ends, in whatever way, or by the function that is returned.
func TempDir(pattern string) (dir string, remove func() error, err error) {
	dir, err = os.MkdirTemp("", pattern)
	if err != nil {
		return "", nil, err
	}
	j, err := startJanitor(dir)
	if err != nil {
		return "", nil, errors.Join(err, os.RemoveAll(dir))
	}
	return dir, j.clean, nil
}

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
