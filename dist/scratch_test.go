package dist_test

import (
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"flanneld/pkg/lab"
)

// copyScript stands for scp: it puts a file where the test finds it, and brings it
// to the host that it is for.
const copyScript = `#!/bin/sh
to=${2#root@}
mkdir -p "/copied/${to%%:*}/$(dirname "${to#*:}")"
cp "$1" "/copied/${to%%:*}/${to#*:}"
`

// Whoever runs the commands of from-scratch.md has what it says.
func TestFromScratch(t *testing.T) {
	t.Parallel()
	n := newLab(t)
	sw, err := n.lab.AddSwitch("switch", netip.MustParsePrefix("192.168.0.0/24"))
	check(t, err)

	openssl := read(t, "/etc/ssl/openssl.cnf")
	scp := filepath.Join(t.TempDir(), "scp")
	check(t, os.WriteFile(scp, []byte(copyScript), 0o755))
	systems := make(map[string]*host) // by address
	add := func(name string, opts lab.SystemOptions) {
		t.Helper()
		h, err := n.lab.AddHost(name, sw, lab.HostOptions{})
		check(t, err)
		sys, err := h.Boot(n.ctx, opts)
		check(t, err)
		systems[h.Addr.String()] = &host{Host: h, n: n, sys: sys}
	}
	add("server", lab.SystemOptions{
		Files:  map[string]string{"/etc/ssl/openssl.cnf": openssl, "/etc/hosts": "127.0.0.1 localhost\n"},
		Copies: map[string]string{"/usr/local/bin/scp": scp, "/usr/local/bin/etcd": "../build/etcd-3.6"},
	})
	hosts := []string{"192.168.0.3", "192.168.0.4", "192.168.0.5"}
	for i := range hosts {
		add(fmt.Sprintf("host%d", i+1), lab.SystemOptions{
			Files: map[string]string{
				"/etc/systemd/system/flanneld.service": read(t, "flanneld.service"),
				"/etc/flannel/.keep":                   "",
			},
			Copies: map[string]string{"/usr/local/bin/flanneld": daemonBinary},
		})
	}

	seen := make(map[string]string) // by address, what the commands there said
	for _, b := range blocks(t, "../Documentation/from-scratch.md") {
		where := []string{b.where}
		if b.where == "each host" {
			where = hosts
		}
		for _, addr := range where {
			h := systems[addr]
			if h == nil {
				t.Fatalf("there is no %q, where this is to be run:\n%s", addr, b.script)
			}
			out, err := h.sys.Run(n.ctx, "/bin/sh", "-euc", b.script)
			if err != nil {
				journal, _ := h.sys.Run(n.ctx, "journalctl", "--no-pager", "-n", "50")
				t.Fatalf("on %s: %v\n%s\n%s", addr, err, b.script, journal)
			}
			t.Logf("%s:\n%s%s", addr, b.script, out)
			seen[addr] += out
			deliver(t, h.sys, systems)
		}
	}
	if limit := systems["192.168.0.2"].show("etcd", "StartLimitIntervalUSec"); limit != "0" {
		t.Errorf("etcd is not started any more if it failed too often within %s", limit)
	}
	var pods []*lab.Pod
	for _, addr := range hosts {
		pod, err := systems[addr].AddPod("pod", env(systems[addr].run("cat", "/run/flannel/subnet.env")))
		check(t, err)
		pods = append(pods, pod)
	}
	for _, from := range pods {
		for _, to := range pods {
			check(t, from.WaitPing(n.ctx, to.Addr))
		}
	}
	for _, addr := range hosts {
		if !strings.Contains(seen["192.168.0.2"], `"PublicIP":"`+addr+`"`) {
			t.Errorf("the lease of %s was not shown", addr)
		}
		if !strings.Contains(seen[addr], "FLANNEL_SUBNET=10.5.") || !strings.Contains(seen[addr], "Active: active (running)") {
			t.Errorf("%s showed %s", addr, seen[addr])
		}
		h := systems[addr]
		if routes := strings.Count(h.run("ip", "route", "show", "dev", "flannel.1"), " via "); routes != len(hosts)-1 {
			t.Errorf("%s has %d routes to others", addr, routes)
		}
	}
}

// deliver brings the files that a system has copied to where they are for.
func deliver(t testing.TB, from *lab.System, systems map[string]*host) {
	t.Helper()
	copied := filepath.Join(from.Root, "copied")
	check(t, filepath.WalkDir(copied, func(path string, d fs.DirEntry, err error) error {
		if os.IsNotExist(err) {
			return fs.SkipAll
		}
		if err != nil || d.IsDir() {
			return err
		}
		addr, file, _ := strings.Cut(strings.TrimPrefix(path, copied+"/"), "/")
		to := filepath.Join(systems[addr].sys.Root, file)
		if _, err := os.Stat(filepath.Dir(to)); err != nil {
			return err
		}
		return os.Rename(path, to)
	}))
}
