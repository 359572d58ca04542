package main_test

import (
	"context"
	"debug/elf"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"flanneld/pkg/lab"
)

// output runs the daemon to its end and returns its exit status and what it
// wrote to stderr; it may write nothing to stdout.
func output(t *testing.T, env []string, args ...string) (int, string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), soon)
	defer cancel()
	cmd := exec.CommandContext(ctx, daemonBinary, args...)
	cmd.Env = env
	var stderr strings.Builder
	cmd.Stderr = &stderr
	stdout, err := cmd.Output()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	if len(stdout) > 0 {
		t.Errorf("%q on stdout", stdout)
	}
	return cmd.ProcessState.ExitCode(), stderr.String()
}

func TestUsage(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		env, args []string
		code      int
		want      string
	}{
		{nil, []string{"-version"}, 0, "dev\n"},
		{nil, []string{"--version", "-iface-regex=("}, 2, "iface-regex"},
		{nil, []string{"-help"}, 0, "Usage: " + daemonBinary + " [OPTION]..."},
		{nil, []string{"-h"}, 0, "-subnet-file"},
		{nil, []string{"-no-such-flag"}, 2, "flag provided but not defined: -no-such-flag"},
		{nil, []string{"-ip-blackhole-route"}, 2, "flag ip-blackhole-route: this version adds no blackhole route; leave it out"},
		{nil, []string{"-masq-mode=nft"}, 2, `invalid value "nft" for flag -masq-mode: is not auto, iptables or nftables`},
		{nil, []string{"-subnet-lease-renew-margin=1440"}, 2, `invalid value "1440" for flag -subnet-lease-renew-margin`},
		{nil, []string{"-public-ip=fc00::1"}, 2, `invalid value "fc00::1" for flag -public-ip`},
		{nil, []string{"-etcd-endpoints=ftp://localhost:2379"}, 2, `"ftp://localhost:2379" is not the URL of an etcd server`},
		{nil, []string{"-etcd-api=v3"}, 2, `invalid value "v3" for flag -etcd-api: is not auto, 2 or 3`},
		{[]string{"FLANNELD_ETCD_API=1"}, nil, 2, `invalid value "1" for environment variable FLANNELD_ETCD_API: is not auto, 2 or 3`},
		{nil, []string{"-release", "-cleanup"}, 2, "only one of -check-config, -cleanup, -doctor, -etcd-migrate, -release and -status can be done at a time"},
		{nil, []string{"-cni-conf-file=/etc/cni/net.d/10-flannel.conf"}, 2, `-cni-conf-file "/etc/cni/net.d/10-flannel.conf" must end in .conflist`},
		{[]string{"FLANNELD_CNI_CONF_TEMPLATE=vlan"}, nil, 2, `-cni-conf-template "vlan" is neither bridge nor ipvlan nor macvlan nor a path`},
		{nil, []string{"-dry-run"}, 2, "-dry-run is for -etcd-migrate alone"},
		{nil, []string{"start"}, 2, `unexpected argument "start"`},
		{[]string{"FLANNELD_PUBLIC_IP=x"}, nil, 2, `invalid value "x" for environment variable FLANNELD_PUBLIC_IP`},
		{[]string{"FLANNELD_V=x"}, nil, 2, "FLANNELD_V"},
		{[]string{"FLANNELD_IP_BLACKHOLE_ROUTE=true"}, nil, 2, "FLANNELD_IP_BLACKHOLE_ROUTE: this version adds no blackhole route; leave it out"},
	} {
		code, text := output(t, c.env, c.args...)
		if code != c.code || !strings.Contains(text, c.want) {
			t.Errorf("%q %q: exit status %d and %q, want %d and %q", c.env, c.args, code, text, c.code, c.want)
		}
		if code == 2 && (!strings.Contains(text, "Usage: ") || strings.Count(text, "\n") != 2) {
			t.Errorf("%q %q: want the error and a usage line, got %q", c.env, c.args, text)
		}
	}
}

// Options work from the environment as from the command line.
func TestEnvironment(t *testing.T) {
	t.Parallel()
	n := newLab(t, hostGW)
	n.startEtcd(lab.EtcdOptions{})
	check(t, n.admin.put(n.ctx, "/other/config", n.config(nil), 0))
	h := n.addNode(lab.HostOptions{})
	file := filepath.Join(h.Dir, "deep", "folder", "subnet.env")
	p, err := h.Start("flanneld", []string{daemonBinary}, []string{
		"FLANNELD_ETCD_ENDPOINTS=" + n.etcd.Endpoint(),
		"FLANNELD_ETCD_PREFIX=/other",
		"FLANNELD_SUBNET_FILE=" + file,
		"FLANNELD_IFACE=eth0",
		"FLANNELD_IP_MASQ=false",
		"FLANNELD_NONSENSE=1",
	}, lab.ProcessOptions{})
	check(t, err)
	n.wait(soon, "subnet.env", func() string {
		if _, err := os.Stat(file); err != nil {
			return err.Error()
		}
		return ""
	})
	if !strings.Contains(p.Log(), "ignoring the environment variable FLANNELD_NONSENSE: there is no such option") {
		t.Errorf("the unknown variable is not mentioned:\n%s", p.Log())
	}
}

// The signal stops the daemon in every phase, at once.
func TestStopWhileWaiting(t *testing.T) {
	n := newLab(t, hostGW)
	noAddress := n.addNode(lab.HostOptions{NoAddress: true})
	noEtcd := n.addNode(lab.HostOptions{}, "-etcd-endpoints=http://192.168.0.99:2379")
	for _, h := range n.nodes {
		h.start()
	}
	noAddress.waitLog("waiting for the external interface")
	noEtcd.waitLog("192.168.0.99")
	n.startEtcd(lab.EtcdOptions{})
	noConfig := n.addNode(lab.HostOptions{})
	noConfig.start()
	noConfig.waitLog("no network configuration")
	for _, h := range n.nodes {
		start := time.Now()
		code, err := h.daemon.Stop(soon)
		if took := time.Since(start); err != nil || code != 0 || took > slow(time.Second) {
			t.Errorf("%s: exit status %d after %s, %v", h.Name, code, took, err)
		}
	}
}

// A program that is installed by copying one file must need no other.
func TestStaticBinary(t *testing.T) {
	out := filepath.Join(t.TempDir(), "flanneld")
	check(t, build(out, false))
	f, err := elf.Open(out)
	check(t, err)
	defer f.Close()
	if libs, err := f.ImportedLibraries(); err != nil || len(libs) > 0 {
		t.Errorf("it needs %q, %v", libs, err)
	}
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP {
			t.Error("it needs a dynamic loader")
		}
	}
}
