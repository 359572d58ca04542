package lab

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// Docker is a Docker daemon of a host. It shares nothing with one of this machine.
type Docker struct {
	*Process

	dir string
}

// StartDocker starts a Docker daemon on a host, with these options, and waits until
// it answers. It needs root, not only that of a user namespace. It ends with the host.
func (h *Host) StartDocker(ctx context.Context, options ...string) (*Docker, error) {
	d := &Docker{dir: filepath.Join(h.Dir, fmt.Sprintf("docker%d", h.lab.serial.Add(1)))}
	fail := func(err error) (*Docker, error) {
		return nil, fmt.Errorf("starting Docker on %s: %w", h.Name, err)
	}
	if err := needTools("unshare", "dockerd", "docker"); err != nil {
		return fail(err)
	}
	group, err := h.newCgroup()
	if err != nil {
		return fail(err)
	}
	if err := os.MkdirAll(d.dir, 0o755); err != nil {
		return fail(err)
	}
	config := filepath.Join(d.dir, "daemon.json") // in place of that of this machine
	if err := os.WriteFile(config, []byte("{}"), 0o644); err != nil {
		return fail(err)
	}
	argv := slices.Concat(contained, []string{
		// It has its sockets, a key and the lock of iptables there.
		"/bin/sh", "-c", `mount -t tmpfs none /run && mount -t tmpfs none /etc/docker && exec "$@"`, "sh",
		"dockerd",
		"--config-file=" + config,
		"--host=" + d.endpoint(),
		"--data-root=" + filepath.Join(d.dir, "data"),
		"--cgroup-parent=/" + group,
		"--storage-driver=vfs", // works on any file system
	}, options)
	if d.Process, err = h.Start("dockerd", argv, nil, ProcessOptions{}); err != nil {
		return fail(err)
	}
	if err := d.await(ctx); err != nil {
		return fail(err)
	}
	return d, nil
}

// endpoint is the socket that the daemon listens at.
func (d *Docker) endpoint() string { return "unix://" + filepath.Join(d.dir, "sock") }

func (d *Docker) await(ctx context.Context) error {
	for tick := time.NewTicker(50 * time.Millisecond); ; {
		_, why := d.Run(ctx, "version")
		if why == nil {
			return nil
		}
		select {
		case <-tick.C:
		case <-d.Exited():
			return d.endedError()
		case <-ctx.Done():
			return fmt.Errorf("%w: %w; its log ends with:\n%s", ctx.Err(), why, d.logTail())
		}
	}
}

// Run runs a command of the Docker client and returns what it wrote to its standard
// output. If it fails the error has what it wrote to its standard error.
func (d *Docker) Run(ctx context.Context, args ...string) (string, error) {
	return output(ctx, append([]string{"docker", "--config=" + d.dir, "--host=" + d.endpoint()}, args...))
}

// Stop ends the daemon and its containers in order, and waits for that. One that is
// still there after the timeout is killed, and that is an error.
func (d *Docker) Stop(timeout time.Duration) error {
	for _, child := range children(strconv.Itoa(d.Pid())) { // it does not pass signals on
		pid, _ := strconv.Atoi(child)
		if err := unix.Kill(pid, unix.SIGTERM); err != nil {
			return fmt.Errorf("stopping Docker on %s: %w", d.ns.Name, err)
		}
	}
	select {
	case <-d.Exited():
		return nil
	case <-time.After(timeout):
		d.Kill()
		return fmt.Errorf("stopping Docker on %s: still there %s after SIGTERM", d.ns.Name, timeout)
	}
}

// WriteImage writes an archive for `docker import`: a system with the machine's
// static busybox and its commands.
func WriteImage(ctx context.Context, path string) error {
	if err := needTools("busybox"); err != nil {
		return err
	}
	fail := func(err error) error { return fmt.Errorf("making an image of busybox: %w", err) }
	from, err := exec.LookPath("busybox")
	if err != nil {
		return fail(err)
	}
	commands, err := output(ctx, []string{from, "--list"})
	if err != nil {
		return fail(err)
	}
	content, err := os.ReadFile(from)
	if err != nil {
		return fail(err)
	}
	var archive bytes.Buffer
	w := tar.NewWriter(&archive)
	err = w.WriteHeader(&tar.Header{Name: "bin/busybox", Mode: 0o755, Size: int64(len(content))})
	if err == nil {
		_, err = w.Write(content)
	}
	for _, command := range bytes.Fields([]byte(commands)) {
		if err == nil && string(command) != "busybox" {
			err = w.WriteHeader(&tar.Header{Typeflag: tar.TypeSymlink, Name: "bin/" + string(command), Linkname: "busybox"})
		}
	}
	if err := errors.Join(err, w.Close()); err != nil {
		return fail(err)
	}
	return os.WriteFile(path, archive.Bytes(), 0o644)
}
