package lab

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// FirewallOptions are the ways in which a host's firewalls may be special.
type FirewallOptions struct {
	// IPTables is what is called iptables there: iptables-nft, which is the default, or
	// iptables-legacy.
	IPTables string
	// Env is added to the environment of all commands, such as XTABLES_LOCKFILE.
	Env []string
}

// Firewalls is a part of a host where firewalld and ufw are, as Debian delivers them:
// neither is active. Their files are their own, also those below /etc and /run; the
// network is the host's.
type Firewalls struct {
	*Process // what keeps it

	env  []string
	init int // PID of its first process
}

// The firewalls find what is theirs below /usr and /etc, and may write there. firewalld asks
// for nobody's permission, as without polkit.
const firewallsScript = `set -e
mount -t tmpfs none /run
mount -t tmpfs none /var/log
mkdir -p /run/dbus
for dir in usr etc; do
	mkdir -p /run/lab/$dir/upper /run/lab/$dir/work
	mount -t overlay none -o lowerdir="$0"/$dir:/$dir,upperdir=/run/lab/$dir/upper,workdir=/run/lab/$dir/work /$dir
done
rm -f /usr/share/dbus-1/system-services/org.freedesktop.PolicyKit1.service
for name in iptables ip6tables; do
	for suffix in '' -save -restore; do
		ln -sf /usr/sbin/$name-"$1"$suffix /etc/alternatives/$name$suffix
	done
done
dbus-daemon --system
echo ready
exec sleep infinity`

// AddFirewalls makes the part of the host with the firewalls. It needs root, not only that of
// a user namespace. It ends with the host.
func (h *Host) AddFirewalls(ctx context.Context, opts FirewallOptions) (*Firewalls, error) {
	fail := func(err error) (*Firewalls, error) {
		return nil, fmt.Errorf("adding firewalls to %s: %w", h.Name, err)
	}
	if err := needTools("unshare", "nsenter", "dbus-daemon", "ufw"); err != nil {
		return fail(err)
	}
	dir, err := filepath.Abs(filepath.Join(h.lab.binDir, "firewalld"))
	if err != nil {
		return fail(err)
	}
	if _, err := os.Stat(dir); errors.Is(err, os.ErrNotExist) {
		return fail(errors.New("build/firewalld is missing: run `make build/firewalld`"))
	} else if err != nil {
		return fail(err)
	}
	variant := strings.TrimPrefix(opts.IPTables, "iptables-")
	if variant == "" {
		variant = "nft"
	}
	f := &Firewalls{env: opts.Env}
	argv := slices.Concat(contained, []string{"/bin/sh", "-c", firewallsScript, dir, variant})
	if f.Process, err = h.Start("firewalls", argv, opts.Env, ProcessOptions{}); err != nil {
		return fail(err)
	}
	if err := f.WaitLog(ctx, "ready\n"); err != nil {
		return fail(err)
	}
	if all := children(strconv.Itoa(f.Pid())); len(all) > 0 {
		f.init, _ = strconv.Atoi(all[0])
	}
	return f, nil
}

// Run runs a program where the firewalls are, such as ufw or firewall-cmd, and returns what
// it wrote to its standard output. If it fails the error has what it wrote to its standard
// error.
func (f *Firewalls) Run(ctx context.Context, argv ...string) (string, error) {
	enter := []string{"nsenter", "--target", strconv.Itoa(f.init), "--mount", "--net", "--pid", "--", "env"}
	return output(ctx, slices.Concat(enter, f.env, argv))
}

// StartFirewalld starts firewalld and waits until its rules are there. backend is nftables
// or iptables.
func (f *Firewalls) StartFirewalld(ctx context.Context, backend string) error {
	fail := func(err error) error { return fmt.Errorf("starting firewalld on %s: %w", f.ns.Name, err) }
	_, err := f.Run(ctx, "sed", "-i", "s/^FirewallBackend=.*/FirewallBackend="+backend+"/", "/etc/firewalld/firewalld.conf")
	if err == nil {
		_, err = f.Run(ctx, "firewalld")
	}
	if err != nil {
		return fail(err)
	}
	for tick := time.NewTicker(50 * time.Millisecond); ; {
		_, why := f.Run(ctx, "firewall-cmd", "--state")
		if why == nil {
			return nil
		}
		select {
		case <-tick.C:
		case <-f.Exited():
			return fail(f.endedError())
		case <-ctx.Done():
			log, _ := f.Run(context.WithoutCancel(ctx), "cat", "/var/log/firewalld")
			return fail(fmt.Errorf("%w: %w; its log is:\n%s", ctx.Err(), why, log))
		}
	}
}
