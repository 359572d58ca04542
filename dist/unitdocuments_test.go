package dist_test

import (
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"flanneld/pkg/lab"
)

// followSystemd installs the unit while etcd is away, as it is for who begins here.
func followSystemd(g *guide) {
	g.lay("192.168.0.2", 2, nil)
	h := g.nodes[0]
	commands := g.text("install")
	installing := g.terminal(h, commands)
	installing.wait("a status that tells of etcd", func() string {
		status, _ := h.sys.Run(g.ctx, "systemctl", "show", "--value", "--property=StatusText", "flanneld")
		if !strings.Contains(status, "http://192.168.0.2:2379") {
			return "it is " + status
		}
		return ""
	})
	waiting, _ := h.try("systemctl status flanneld || true")
	g.startEtcd()
	g.configure("10.5.0.0/16", "host-gw")
	installing.waitEnd()
	for _, h := range g.nodes[1:] {
		g.follow(h, commands)
	}
	g.addPods("pod")

	g.run("mkdir -p /etc/systemd/system/containerd", g.nodes...)
	h.wantVerified("containerd.service")
	g.output("Active: ", waiting+g.run("systemctl status", h))

	check(g.t, h.sys.WriteFile(unitDir+"own.service", g.text("[Unit]\nWants=")+`[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=cp /run/flannel/subnet.env /seen
`))
	h.wantVerified("own.service")
	h.run("systemctl", "stop", "flanneld")
	h.run("rm", "-r", "/run/flannel")
	h.run("systemctl", "start", "own")
	if seen := h.run("cat", "/seen"); !strings.Contains(seen, "FLANNEL_SUBNET=10.5.") {
		g.t.Errorf("a unit with this has seen the subnet file %q", seen)
	}
	if level := g.run("systemd-analyze security", h); !strings.Contains(level, "OK") {
		g.t.Errorf("systemd says of the unit:\n%s", level)
	}
	g.testAnotherFile(g.text("[Service]\n"))
}

// testAnotherFile checks that a folder which is not the unit's own has to be given to it, by
// a drop-in.
func (n *network) testAnotherFile(dropIn string) {
	h := n.hosts[0]
	h.run("mkdir", "/run/other")
	check(n.t, h.sys.WriteFile(optionsFile, n.options()+"FLANNELD_SUBNET_FILE=/run/other/subnet.env\n"))
	h.run("systemctl", "restart", "--no-block", "flanneld")
	n.wait(soon, "a status that tells of the file", func() string {
		if status := h.show("flanneld", "StatusText"); !strings.Contains(status, "/run/other") || !strings.Contains(status, "read-only file system") {
			return "it is " + status
		}
		return ""
	})
	check(n.t, h.sys.WriteFile(unitDir+"flanneld.service.d/override.conf", dropIn))
	h.run("systemctl", "daemon-reload")
	h.run("systemctl", "restart", "flanneld")
	h.run("test", "-s", "/run/other/subnet.env")
}

// followFromScratch has the hosts' units installed before, by systemd.md: they wait for an
// etcd that there is not yet.
func followFromScratch(g *guide) {
	g.lay("192.168.0.2", 3, nil)
	server := g.bootServer(map[string]string{
		"/etc/ssl/openssl.cnf": read(g.t, "/etc/ssl/openssl.cnf"),
	}, "../build/etcd-3.6")
	server.standIn("scp")
	for _, h := range g.nodes {
		g.terminal(h, "cd "+source+"\n"+g.other("systemd.md", "install"))
		h.waitShow("flanneld", "ActiveState", "activating")
	}
	g.run("mkdir -p /etc/etcd")
	g.run("cd /etc/etcd\nfor host in")
	deliver(g.t, server.sys, g.places)
	g.run("cat >/etc/systemd/system/etcd.service")
	if limit := server.show("etcd", "StartLimitIntervalUSec"); limit != "0" {
		g.t.Errorf("etcd is not started any more if it failed too often within %s", limit)
	}
	g.run("cd /etc/etcd\netcdctl")
	g.run("cat >/etc/flannel/options.env")
	shows, where := g.next("cat /run/flannel/subnet.env")
	for _, h := range g.places[where] {
		seen := g.follow(h, shows)
		if !strings.Contains(seen, "FLANNEL_SUBNET=10.5.") || !strings.Contains(seen, "Active: active (running)") {
			g.t.Errorf("%s showed %s", h.Addr, seen)
		}
		if routes := strings.Count(h.run("ip", "route", "show", "dev", "flannel.1"), " via "); routes != len(g.nodes)-1 {
			g.t.Errorf("%s has %d routes to others", h.Addr, routes)
		}
	}
	leases := g.run("cd /etc/etcd\netcdctl")
	var pods []*lab.Pod
	for _, h := range g.nodes {
		if !strings.Contains(leases, `"PublicIP":"`+h.Addr.String()+`"`) {
			g.t.Errorf("the lease of %s was not shown", h.Addr)
		}
		h.addPod("pod")
		pods = append(pods, h.pod)
	}
	for _, from := range pods {
		for _, to := range pods {
			check(g.t, from.WaitPing(g.ctx, to.Addr))
		}
	}
}

// deliver brings the files that a system has copied to where they are for.
func deliver(t testing.TB, from *lab.System, to map[string][]*host) {
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
		target := filepath.Join(to[addr][0].sys.Root, file)
		if _, err := os.Stat(filepath.Dir(target)); err != nil {
			return err
		}
		return os.Rename(path, target)
	}))
}
