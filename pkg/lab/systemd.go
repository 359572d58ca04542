package lab

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// SystemOptions are what is special about a host's systemd.
type SystemOptions struct {
	// Files are texts by the absolute path that they get in the system.
	Files map[string]string
	// Copies are paths of this machine by the absolute path that they get in the
	// system. Those in /usr/local/bin are found as programs.
	Copies map[string]string
	// Binds are directories that the system has in common with this machine.
	Binds []string
	// Enable are the units that are enabled before the system boots.
	Enable []string
	// Devices lets udevd work: it sees and changes the network's devices.
	Devices bool
}

// System is a systemd with process number 1 in a container that has the host's
// network, this machine's /usr, and nothing else in common with it.
type System struct {
	*Process // systemd-nspawn

	// Root is the directory that is the system's /.
	Root string

	init int // PID of its systemd
}

// Boot starts a systemd on the host and waits until it takes commands. It needs
// root, not only that of a user namespace. It ends with the host.
func (h *Host) Boot(ctx context.Context, opts SystemOptions) (*System, error) {
	s := &System{Root: filepath.Join(h.Dir, "system")}
	fail := func(err error) (*System, error) {
		return nil, fmt.Errorf("booting systemd on %s: %w", h.Name, err)
	}
	if err := needTools("unshare", "systemd-nspawn", "nsenter", "systemctl"); err != nil {
		return fail(err)
	}
	if err := s.makeRoot(ctx, opts); err != nil {
		return fail(err)
	}
	group, err := h.newCgroup()
	if err != nil {
		return fail(err)
	}
	script := []string{"mount -t tmpfs none /run"} // systemd-nspawn leaves files there
	for _, hierarchy := range systemHierarchies() {
		dir := filepath.Join(hierarchy, group)
		if err := os.Mkdir(dir, 0o755); err != nil {
			return fail(err)
		}
		script = append(script, fmt.Sprintf("echo $$ >%s/cgroup.procs", dir))
	}
	argv := slices.Concat(contained, []string{
		"/bin/sh", "-c", strings.Join(append(script, `exec "$@"`), " && "), "sh",
		"systemd-nspawn", "--directory=" + s.Root, "--bind-ro=/usr",
		"--bind=" + s.path("/usr/local/bin") + ":/usr/local/bin",
		"--network-namespace-path=/proc/self/ns/net",
		"--boot", "--resolv-conf=off", "--register=no", "--keep-unit", "--machine=" + group,
		"--capability=all", "--system-call-filter=bpf keyctl add_key", // for Docker
	})
	for _, dir := range opts.Binds {
		argv = append(argv, "--bind="+dir)
	}
	writable := "network"
	if opts.Devices {
		writable = "yes"
	}
	env := []string{"SYSTEMD_NSPAWN_UNIFIED_HIERARCHY=1", "SYSTEMD_NSPAWN_API_VFS_WRITABLE=" + writable}
	if s.Process, err = h.Start("systemd", argv, env, ProcessOptions{}); err != nil {
		return fail(err)
	}
	if err := s.await(ctx); err != nil {
		return fail(err)
	}
	return s, nil
}

// makeRoot makes the files of the system.
func (s *System) makeRoot(ctx context.Context, opts SystemOptions) error {
	for _, dir := range []string{"usr", "etc/systemd/system", "var/lib", "run", "proc", "sys", "dev", "tmp", "root", "programs"} {
		if err := os.MkdirAll(filepath.Join(s.Root, dir), 0o755); err != nil {
			return err
		}
	}
	for _, dir := range []string{"bin", "sbin", "lib", "lib64"} {
		if err := os.Symlink("usr/"+dir, filepath.Join(s.Root, dir)); err != nil {
			return err
		}
	}
	if err := os.CopyFS(filepath.Join(s.Root, "etc/alternatives"), os.DirFS("/etc/alternatives")); err != nil {
		return err
	}
	for _, file := range []string{"passwd", "group", "nsswitch.conf", "ld.so.cache", "os-release"} {
		if err := copyFile(filepath.Join("/etc", file), filepath.Join(s.Root, "etc", file)); err != nil {
			return err
		}
	}
	for path, text := range map[string]string{
		"/etc/machine-id": "",                      // not missing, as on a first boot
		"/etc/hosts":      "127.0.0.1 localhost\n", // which nobody is to be asked for
	} {
		if err := s.WriteFile(path, text); err != nil {
			return err
		}
	}
	for _, unit := range unneeded {
		if err := os.Symlink("/dev/null", filepath.Join(s.Root, "etc/systemd/system", unit)); err != nil {
			return err
		}
	}
	for path, text := range opts.Files {
		if err := s.WriteFile(path, text); err != nil {
			return err
		}
	}
	for to, from := range opts.Copies {
		if err := os.MkdirAll(filepath.Dir(s.path(to)), 0o755); err != nil {
			return err
		}
		if err := copyFile(from, s.path(to)); err != nil {
			return err
		}
	}
	for _, unit := range opts.Enable {
		out, err := exec.CommandContext(ctx, "systemctl", "--root="+s.Root, "enable", unit).CombinedOutput()
		if err != nil {
			return fmt.Errorf("enabling %s: %w: %s", unit, err, out)
		}
	}
	return nil
}

// unneeded are units that would take a part of the time until the system is up.
var unneeded = []string{
	"console-getty.service", "dev-hugepages.mount", "dev-mqueue.mount", "sys-kernel-debug.mount",
	"sys-kernel-tracing.mount", "systemd-logind.service", "systemd-update-utmp.service",
	// They would be about all devices of this machine.
	"systemd-hwdb-update.service", "systemd-modules-load.service", "systemd-udev-trigger.service",
}

// path is where a path of the system is on this machine.
func (s *System) path(path string) string {
	if name, ok := strings.CutPrefix(path, "/usr/local/bin"); ok {
		path = "programs" + name // what is below /usr is the machine's own
	}
	return filepath.Join(s.Root, path)
}

// WriteFile writes a file of the system, with the directories above it.
func (s *System) WriteFile(path, text string) error {
	path = s.path(path)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	return os.WriteFile(path, []byte(text), 0o644)
}

// await waits until the system takes commands.
func (s *System) await(ctx context.Context) error {
	for tick := time.NewTicker(20 * time.Millisecond); ; {
		if s.init == 0 {
			s.init = s.findInit()
		}
		var why error
		if s.init != 0 {
			var state string
			state, why = s.Run(ctx, "systemctl", "is-system-running")
			if slices.Contains([]string{"starting", "running", "degraded"}, strings.TrimSpace(state)) {
				return nil
			}
		}
		select {
		case <-tick.C:
		case <-s.Exited():
			return s.endedError()
		case <-ctx.Done():
			return fmt.Errorf("%w: %w; its log ends with:\n%s", ctx.Err(), why, s.logTail())
		}
	}
}

// findInit is the PID of the system's process number 1, a child of systemd-nspawn,
// which is one of unshare; 0 while there is none.
func (s *System) findInit() int {
	for _, nspawn := range children(strconv.Itoa(s.Pid())) {
		for _, child := range children(nspawn) {
			status, err := os.ReadFile(filepath.Join("/proc", child, "status"))
			if err == nil && strings.HasPrefix(string(status), "Name:\tsystemd\n") {
				init, _ := strconv.Atoi(child)
				return init
			}
		}
	}
	return 0
}

// children are the PIDs of a process's children, of its first thread.
func children(pid string) []string {
	all, _ := os.ReadFile(filepath.Join("/proc", pid, "task", pid, "children"))
	return strings.Fields(string(all))
}

// Run runs a program in the system and returns what it wrote to its standard
// output. If it fails the error has what it wrote to its standard error.
func (s *System) Run(ctx context.Context, argv ...string) (string, error) {
	return output(ctx, append(s.Enter(), argv...))
}

// Enter is the beginning of a command of this machine that runs a program in the system.
func (s *System) Enter() []string {
	return []string{"nsenter", "--target", strconv.Itoa(s.init), "--mount", "--uts", "--ipc", "--net", "--pid", "--"}
}

// contained is what to start a program with that leaves processes and mounts behind:
// they end with it.
var contained = []string{"unshare", "--pid", "--fork", "--kill-child", "--mount", "--mount-proc", "--"}

// output runs a program outside of the lab.
func output(ctx context.Context, argv []string) (string, error) {
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Env = plainEnv()
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return string(out), fmt.Errorf("running %q: %w: %s", argv, err, stderr.String())
	}
	return string(out), nil
}

// needTools says what to do if programs are missing, or the right to use them.
func needTools(names ...string) error {
	if os.Getenv(enteredEnv) != "" {
		return ErrNotRoot
	}
	for _, name := range names {
		if _, err := exec.LookPath(name); err != nil {
			return fmt.Errorf("%s is missing: run `make tools`", name)
		}
	}
	return nil
}

// ErrNotRoot is returned where root is needed and there is that of a user namespace
// at most.
var ErrNotRoot = errors.New("this needs root, not only in a user namespace")

func copyFile(from, to string) error {
	info, err := os.Stat(from)
	if err != nil {
		return err
	}
	content, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	return os.WriteFile(to, content, info.Mode().Perm())
}
